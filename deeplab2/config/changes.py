"""A configuration as complete text, and what has changed since such a text was written."""

from google.protobuf import text_format

from deeplab2 import errors
from deeplab2 import files
from deeplab2.config import config_pb2
from deeplab2.config import textproto
from deeplab2.config.experiment import Config

# The configuration of the last start of a run, complete, in its directory.
OF_RUN = 'config.textproto'


def as_text(config: Config) -> str:
  """Returns a textproto of all that is set, with overrides, environment and defaults filled in."""
  return text_format.MessageToString(config.options)


def since(config: Config, path: str) -> dict[str, tuple[str, str]]:
  """Returns how `config` differs from the text in the file `path`, as `differences` does.

  Raises:
    UserError: the file cannot be read.
  """
  try:
    before = text_format.Parse(files.read_text(path), config_pb2.ExperimentOptions())
  except text_format.ParseError as error:
    raise errors.UserError(
      f'{path}: cannot be read ({error}); it is the configuration that this run was started with. '
      'Put it right, or delete it to go on without comparing.'
    ) from error
  return differences(before, config.options)


def differences(before, after) -> dict[str, tuple[str, str]]:
  """Returns {path of a field: (shown before, shown after)} of two messages of one type.

  A field that is not set counts as its default; a message that is set differs from one that is not.
  """
  one, other = dict(_leaves(before, '')), dict(_leaves(after, ''))
  nothing = '(not set)'
  return {
    path: (one.get(path, nothing), other.get(path, nothing))
    for path in sorted({*one, *other})
    if one.get(path) != other.get(path)
  }


def _leaves(message, prefix):
  """Yields (path, shown value) of all fields that hold values, defaults included."""
  for field in message.DESCRIPTOR.fields:
    path = f'{prefix}{field.name}'
    if field.message_type is None:
      yield path, textproto.show(message, field)
    elif textproto.is_repeated(field):
      for index, entry in enumerate(getattr(message, field.name)):
        yield from _leaves(entry, f'{path}[{index}].')
    elif message.HasField(field.name):
      yield path, '{ ... }'
      yield from _leaves(getattr(message, field.name), f'{path}.')
