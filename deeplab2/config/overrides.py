"""Overrides of single options: `--set a.b.c=value`.

model_options.backbone.name=kmax_resnet50       text, with or without quotes
train_dataset_options.crop_size=[65,65]         a list, with or without brackets; it replaces
evaluator_options.maskwise_postprocessing={}    a message, replaced by the one in braces
model_options.kmax.pixel_decoder_stages=[{filters: 64 num_blocks: 1 type: AXIAL}]
model_options.kmax.pixel_decoder_stages[0].filters=32
model_options.initial_checkpoint=               nothing: the option is unset
"""

import re

from google.protobuf import text_format

from deeplab2 import errors
from deeplab2.config import textproto

ORIGIN = '--set'


def apply(override: str, options, origins: dict[str, str]) -> None:
  """Applies one override.

  Args:
    override: 'a.b.c=value'.
    options: ExperimentOptions to change.
    origins: where each field is from; the overridden ones become ORIGIN.

  Raises:
    UserError: if the path does not exist or the value does not fit.
  """
  path, equals, value = override.partition('=')
  path, value = path.strip(), value.strip()
  if not equals or not path:
    raise errors.UserError(f'{ORIGIN} {override}: write field.of.a.message=value.')
  message, field, path = _find(override, path, options)
  message.ClearField(field.name)
  for known in [known for known in origins if re.match(rf'{re.escape(path)}($|[.\[])', known)]:
    del origins[known]
  if not value:
    return
  text = f'{field.name}: {_text(value, field)}'
  prefix = path.rpartition('.')[0]
  try:
    found, text = textproto.fields(text, message.DESCRIPTOR, prefix)
    text_format.Merge(text, message)
  except textproto.UnknownField as error:
    raise errors.UserError(f'{ORIGIN} {override}: {error}') from error
  except text_format.ParseError as error:
    wanted = textproto.meaning(field)
    if textproto.is_repeated(field):
      wanted = f'a list [...], each {wanted}'
    raise errors.UserError(f'{ORIGIN} {override}: {field.name} takes {wanted}.') from error
  origins.update((entry.path, ORIGIN) for entry in found)
  origins[path] = ORIGIN


def _find(override, path, options):
  """Returns the message that holds the last field of `path`, the field, and its current path."""
  message = options
  parts = path.split('.')
  current = []
  for number, part in enumerate(parts):
    match = re.fullmatch(r'(\w+)(?:\[(\d+)\])?', part)
    name, index = match.groups() if match else (part, None)
    name = textproto.current_name(name, message.DESCRIPTOR)
    current.append(name if index is None else f'{name}[{index}]')
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
      hint = textproto.suggestion(name, message.DESCRIPTOR)
      raise errors.UserError(f'{ORIGIN} {override}: there is no {name!r}; {hint}')
    if number == len(parts) - 1:
      if index is not None:
        raise errors.UserError(f'{ORIGIN} {override}: give the whole list, {name}=[...].')
      return message, field, '.'.join(current)
    if field.message_type is None:
      raise errors.UserError(f'{ORIGIN} {override}: {name} holds no fields.')
    message = getattr(message, name)
    if textproto.is_repeated(field):
      if index is None or int(index) >= len(message):
        raise errors.UserError(
          f'{ORIGIN} {override}: {name} has {len(message)} entries; name one by its number '
          f'from 0, {name}[0], or give the whole list, {name}=[...].'
        )
      message = message[int(index)]
  raise ValueError(f'{path!r} is no path.')


def _text(value, field):
  """Returns `value` of the command line as the text form of `field`."""
  if field.message_type is not None:
    return value
  if not textproto.is_repeated(field):
    return _scalar(value, field)
  inner = value[1:-1] if value.startswith('[') and value.endswith(']') else value
  entries = re.findall(r'(?:"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[^,])+', inner)
  return '[' + ', '.join(_scalar(entry.strip(), field) for entry in entries) + ']'


def _scalar(value, field):
  quoted = len(value) > 1 and value[0] == value[-1] and value[0] in '"\''
  if field.cpp_type != field.CPPTYPE_STRING or quoted:
    return value
  escaped = value.replace('\\', '\\\\').replace('"', '\\"')
  return f'"{escaped}"'
