"""The configuration of one experiment, with the place in the file that each value is from."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from deeplab2 import errors
from deeplab2.config import config_pb2
from deeplab2.config import textproto

_PLACEHOLDER = re.compile(r'\$\{([A-Za-z_]\w*)\}')


@dataclasses.dataclass(frozen=True)
class Config:
  """Options as `load.load` returns them.

  Attributes:
    options: the experiment. Placeholders `${VAR}` of variables that the environment lacks are
      still in it; `resolved` and `require` refuse those, so that only what is used must resolve.
    path: the file that was read.
    text: its text.
    origins: where each field that is set comes from: path of the field -> 'file:line', '--set' or
      the default of a dataset.
  """

  options: config_pb2.ExperimentOptions
  path: str
  text: str
  origins: Mapping[str, str]

  def error(self, field_path: str, message: str) -> errors.UserError:
    """Returns the error of a wrong field: 'file:line: field = value: message'.

    Args:
      field_path: the field, like 'train_dataset_options.crop_size'. It need not be set.
      message: what is wrong, and what would be right.
    """
    parent, field = textproto.lookup(self.options, field_path)
    value = textproto.show(parent, field)
    if value and field_path not in self.origins:
      value += ' (default)'
    shown = f'{field_path} = {value}' if value else field_path
    return errors.UserError(f'{self.origin(field_path)}: {shown}: {message}')

  def value(self, field_path: str) -> Any:
    """Returns the value of a field, by its path."""
    parent, field = textproto.lookup(self.options, field_path)
    return getattr(parent, field.name)

  def resolved(self, field_path: str) -> Any:
    """Returns the value of a field.

    Raises:
      UserError: if it is text, or a list of texts, with an environment variable that is not set.
    """
    parent, field = textproto.lookup(self.options, field_path)
    value = getattr(parent, field.name)
    if field.cpp_type != field.CPPTYPE_STRING:
      return value
    for text in value if textproto.is_repeated(field) else [value]:
      placeholder = _PLACEHOLDER.search(text)
      if placeholder:
        raise self.error(
          field_path,
          f'the environment variable {placeholder[1]} is not set; export it, or '
          f'give the value by --set {field_path}=...',
        )
    return value

  def unresolved(self) -> dict[str, str]:
    """Returns {path of a field: environment variable that it needs and that is not set}."""
    found = {}
    for path, value in _texts(self.options, ''):
      placeholder = _PLACEHOLDER.search(value)
      if placeholder:
        found[path] = placeholder[1]
    return found

  def require(self, field_path: str) -> Any:
    """Returns the value of a field as `resolved` does.

    Raises:
      UserError: also if it is empty, 0 or false.
    """
    value = self.resolved(field_path)
    if not value:
      raise self.error(field_path, 'is missing.')
    return value

  def origin(self, field_path: str) -> str:
    """Returns where the field, or else the nearest message around it, is from."""
    while field_path:
      if field_path in self.origins:
        return self.origins[field_path]
      field_path = field_path.rpartition('.')[0]
    return self.path


def substitute(message, environment: Mapping[str, str]) -> None:
  """Replaces `${VAR}` in every text of `message` by its value, where `environment` has one."""

  def replace(text):
    return _PLACEHOLDER.sub(lambda match: environment.get(match[1], match[0]), text)

  for field, value in message.ListFields():
    if field.message_type is not None:
      for entry in value if textproto.is_repeated(field) else [value]:
        substitute(entry, environment)
    elif field.cpp_type == field.CPPTYPE_STRING:
      if textproto.is_repeated(field):
        value[:] = [replace(entry) for entry in value]
      else:
        setattr(message, field.name, replace(value))


def _texts(message, prefix):
  """Yields (path of the field, text) of every text in a message."""
  for field, value in message.ListFields():
    path = f'{prefix}{field.name}'
    repeated = textproto.is_repeated(field)
    if field.message_type is not None:
      for index, entry in enumerate(value if repeated else [value]):
        yield from _texts(entry, f'{path}[{index}].' if repeated else f'{path}.')
    elif field.cpp_type == field.CPPTYPE_STRING:
      yield from ((path, text) for text in (value if repeated else [value]))
