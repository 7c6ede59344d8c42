"""Reads protocol buffers in text form, and knows on which line each field stands.

A field is named by its path from the top: `model_options.backbone.name`. Entries of repeated
messages are counted: `model_options.kmax.pixel_decoder_stages[1].filters`.

`text_format.Parse` keeps no places of fields, and its ParseError names the one place where the text
breaks. So the text is also scanned here, by the tokenizer of the same module: it knows what a token
is and where the last one stood.
"""

import contextlib
import difflib
import re
from typing import Any, NamedTuple

from absl import logging
from google.protobuf import text_format

from deeplab2 import errors

# (Message, name of a field in version 0.1) -> its name now. Old names are read with a warning.
_RENAMED = {
  ('PixelDecoderStage', 'kind'): 'type',
  ('DatasetOptions', 'max_corrupt_share'): 'max_corrupt_fraction',
}
_CLOSING = {'{': '}', '<': '>'}
_QUOTES = ('"', "'")


class Field(NamedTuple):
  """One mention of a field in a text."""

  path: str
  value: str  # As written; empty for messages and lists.
  line: int  # From 1.
  column: int  # From 1.

  def __str__(self):
    return f'{self.path} = {self.value}' if self.value else self.path


class UnknownField(Exception):
  """A field that its message does not have; `field` is where it stands."""

  def __init__(self, field, descriptor):
    name = field.path.rpartition('.')[2]
    super().__init__(f'{field}: no such field; {suggestion(name, descriptor)}')
    self.field = field


def is_repeated(field) -> bool:
  """Returns whether `field` (a FieldDescriptor) is repeated, under old and new runtimes."""
  if hasattr(field, 'is_repeated'):
    return field.is_repeated
  return field.label == field.LABEL_REPEATED


def meaning(field) -> str:
  """Describes the values that `field` (a FieldDescriptor) takes."""
  if field.cpp_type == field.CPPTYPE_ENUM:
    return 'one of ' + ', '.join(value.name for value in field.enum_type.values)
  meanings = {
    field.CPPTYPE_BOOL: 'true or false',
    field.CPPTYPE_STRING: 'text in quotes',
    field.CPPTYPE_FLOAT: 'a number',
    field.CPPTYPE_DOUBLE: 'a number',
    field.CPPTYPE_MESSAGE: 'a block in braces',
  }
  return meanings.get(field.cpp_type, 'an integer')


def suggestion(name: str, descriptor) -> str:
  """Suggests the field that was probably meant by `name`, which is no field of `descriptor`."""
  known = [field.name for field in descriptor.fields]
  near = difflib.get_close_matches(name, known, n=1)
  return f'did you mean {near[0]}?' if near else f'{descriptor.name} has {", ".join(known)}.'


def current_name(name: str, descriptor) -> str:
  """Returns the name of a field of `descriptor`, after a warning if `name` is an older one."""
  current = _RENAMED.get((descriptor.name, name), name)
  if current != name:
    logging.warning(
      '%s of %s is called %s now; the old name will be refused in the next version.',
      name,
      descriptor.name,
      current,
    )
  return current


def fields(text: str, descriptor, prefix: str = '') -> tuple[list[Field], str]:
  """Lists the fields that `text` mentions, in order.

  Args:
    text: a message in text form.
    descriptor: Descriptor of the message.
    prefix: path that is put before every field.

  Returns:
    The fields, and the text with the current names of fields.

  Raises:
    UnknownField: at the first field that its message does not have.

  Text that is not well-formed is listed up to the place where it breaks; `parse` says why.
  """
  lines = text.split('\n')
  scanner = _Scanner(lines)
  with contextlib.suppress(text_format.ParseError):
    scanner.message(descriptor, prefix, '')
  for line, column, old, new in reversed(scanner.renamed):
    before = lines[line - 1]
    lines[line - 1] = before[: column - 1] + new + before[column - 1 + len(old) :]
  return scanner.found, '\n'.join(lines)


def first_word(text: str) -> str:
  """Returns the name of the first field of `text`, '' if there is none."""
  return text_format.Tokenizer(text.split('\n')).token


def parse(text: str, message, name: str, prefix: str = '') -> list[Field]:
  """Reads `text` into `message`, which is empty, and returns the fields that it mentions.

  Args:
    text: a message in text form.
    message: the message to fill.
    name: where the text is from, for errors.
    prefix: path of `message` within the experiment.

  Raises:
    UserError: with line, field, value and what would be right.
  """
  try:
    found, text = fields(text, message.DESCRIPTOR, prefix)
  except UnknownField as error:
    raise errors.UserError(f'{name}:{error.field.line}: {error}') from error
  try:
    text_format.Parse(text, message)
  except text_format.ParseError as error:
    raise errors.UserError(_explain(error, found, message.DESCRIPTOR, name, prefix)) from error
  return found


def lookup(message, path: str) -> tuple[Any, Any]:
  """Returns the message that holds the last field of `path`, and the field's descriptor.

  Raises ValueError for a path that does not exist.
  """
  *parents, last = path.split('.')
  for parent in parents:
    name, _, index = parent.partition('[')
    if name not in message.DESCRIPTOR.fields_by_name:
      raise ValueError(f'{path} does not exist: no {name} in {message.DESCRIPTOR.full_name}.')
    message = getattr(message, name)
    if index:
      message = message[int(index.rstrip(']'))]
  last = last.partition('[')[0]
  if last not in message.DESCRIPTOR.fields_by_name:
    raise ValueError(f'{path} does not exist: no {last} in {message.DESCRIPTOR.full_name}.')
  return message, message.DESCRIPTOR.fields_by_name[last]


def show(message, field) -> str:
  """Returns the value of `field` in `message` on one line, '' for messages and what is empty."""
  if field.cpp_type == field.CPPTYPE_MESSAGE:
    return ''
  value = getattr(message, field.name)
  if value in ('', []):
    return ''
  if not is_repeated(field):
    return _show_scalar(value, field)
  return '[' + ', '.join(_show_scalar(entry, field) for entry in value) + ']'


def _show_scalar(value, field):
  if field.cpp_type == field.CPPTYPE_ENUM:
    return field.enum_type.values_by_number[value].name
  if field.cpp_type == field.CPPTYPE_BOOL:
    return str(value).lower()
  if field.cpp_type == field.CPPTYPE_STRING:
    return f'"{value}"'
  # Seven digits are what a float32 holds: 0.9 shall not read 0.8999999762.
  return f'{value:.7g}' if isinstance(value, float) else str(value)


def _explain(error, found, descriptor, name, prefix):
  """Returns one line for a ParseError: where, which field, and what it should be."""
  reason = re.sub(r'^\d+:\d+ : ', '', str(error)).rstrip('.')
  line, column = error.GetLine(), error.GetColumn()
  if line is None:
    return f'{name}: {reason}.'
  before = [field for field in found if (field.line, field.column) <= (line, column)]
  # Where braces do not match, reading stops on another line than the one to correct.
  if not before or before[-1].line != line:
    return f'{name}:{line}: {reason}.'
  path = before[-1].path.removeprefix(prefix).lstrip('.')
  for part in path.split('.'):
    field = descriptor.fields_by_name[part.partition('[')[0]]
    descriptor = field.message_type
  return f'{name}:{line}: {before[-1]}: {reason}; it takes {meaning(field)}.'


class _Scanner:
  """Lists the fields of a text in `found`. Methods raise ParseError where the text breaks."""

  def __init__(self, lines: list[str]):
    self.found: list[Field] = []
    self.renamed: list[tuple[int, int, str, str]] = []  # Line, column, old name, new name.
    self._tokens = text_format.Tokenizer(lines)
    self._counts: dict[str, int] = {}

  def message(self, descriptor, prefix, closing):
    """Reads fields up to `closing`, or to the end, where the token is empty."""
    tokens = self._tokens
    while not tokens.TryConsume(closing):
      if tokens.TryConsume(',') or tokens.TryConsume(';'):
        continue
      written = tokens.ConsumeIdentifier()
      place = self._place()
      name = current_name(written, descriptor)
      if name != written:
        self.renamed.append((*place, written, name))
      path = f'{prefix}.{name}' if prefix else name
      field = descriptor.fields_by_name.get(name)
      tokens.TryConsume(':')
      if field is None:
        raise UnknownField(Field(path, _scalar(self._token()[0]), *place), descriptor)
      if not tokens.TryConsume('['):
        self._value(field, path, place)
        continue
      while not tokens.TryConsume(']'):
        if not tokens.TryConsume(','):
          self._value(field, path)

  def _value(self, field, path, place=None):
    """Reads one value, a scalar or a message, of a field at `place`, by default its own."""
    value, own_place = self._token()
    if field.message_type is not None and is_repeated(field):
      index = self._counts.get(path, 0)
      self._counts[path] = index + 1
      path = f'{path}[{index}]'
    self.found.append(Field(path, _scalar(value), *(place or own_place)))
    if _scalar(value):
      return
    if value not in _CLOSING or field.message_type is None:
      raise self._tokens.ParseErrorPreviousToken('No value.')
    self.message(field.message_type, path, _CLOSING[value])

  def _token(self):
    """Takes a token, adjacent strings as one; returns its text and its place."""
    text = self._tokens.token
    self._tokens.NextToken()
    place = self._place()
    while text.startswith(_QUOTES) and self._tokens.token.startswith(_QUOTES):
      text = f'{text} {self._tokens.token}'
      self._tokens.NextToken()
    return text, place

  def _place(self):
    """Returns line and column, from 1, of the token that was taken last."""
    place = self._tokens.ParseErrorPreviousToken('')
    return place.GetLine(), place.GetColumn()


def _scalar(token):
  """Returns a token that is a value, '' for any other."""
  return '' if token in '{}<>[]:;,' else token
