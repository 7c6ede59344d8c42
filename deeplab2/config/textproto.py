"""Reads protocol buffers in text form, and knows on which line each field stands.

A field is named by its path from the top: `model_options.backbone.name`. Entries of repeated
messages are counted: `model_options.kmax.pixel_decoder_stages[1].filters`.
"""

import difflib
import re
from typing import Any, NamedTuple

from absl import logging
from google.protobuf import text_format

from deeplab2 import errors

_TOKEN = re.compile(
  r'\s+|\#[^\n]*|(?P<token>"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|[{}<>\[\]:;,]'
  r'|[^\s{}<>\[\]:;,\#"\']+|["\'])'
)
# (Message, name of a field in version 0.1) -> its name now. Old names are read with a warning.
_RENAMED = {
  ('PixelDecoderStage', 'kind'): 'type',
  ('DatasetOptions', 'max_corrupt_share'): 'max_corrupt_fraction',
}
_CLOSING = {'{': '}', '<': '>'}


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
  """Returns what a value of `field` (a FieldDescriptor) has to look like."""
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
  """Returns what was probably meant by `name`, which is no field of `descriptor`."""
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
  scanner = _Scanner(text)
  scanner.message(descriptor, prefix, '')
  for start, old, new in reversed(scanner.renamed):
    text = text[:start] + new + text[start + len(old) :]
  return scanner.found, text


def first_word(text: str) -> str:
  """Returns the name of the first field of `text`, '' if there is none."""
  tokens = _tokens(text)
  return tokens[-1].text if tokens else ''


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


class _Token(NamedTuple):
  text: str
  start: int  # Offset in the text.
  line: int
  column: int


def _tokens(text):
  """Splits `text` into tokens, the last one first."""
  tokens = []
  line, line_start = 1, 0
  for match in _TOKEN.finditer(text):
    if match['token']:
      tokens.append(_Token(match['token'], match.start(), line, match.start() - line_start + 1))
    newlines = match[0].count('\n')
    if newlines:
      line += newlines
      line_start = match.start() + match[0].rindex('\n') + 1
  return tokens[::-1]


class _Scanner:
  """Lists the fields of a text in `found`. Methods return False where the text breaks."""

  def __init__(self, text: str):
    self.found: list[Field] = []
    self.renamed: list[tuple[int, str, str]] = []  # Offset, old name, new name.
    self._tokens = _tokens(text)
    self._counts: dict[str, int] = {}

  def message(self, descriptor, prefix, closing):
    """Reads fields up to `closing`, or to the end if that is empty."""
    while self._tokens:
      token = self._tokens.pop()
      if token.text == closing:
        return True
      if token.text in (',', ';'):
        continue
      if not re.fullmatch(r'[A-Za-z_]\w*', token.text):
        return False
      name = current_name(token.text, descriptor)
      if name != token.text:
        self.renamed.append((token.start, token.text, name))
      path = f'{prefix}.{name}' if prefix else name
      field = descriptor.fields_by_name.get(name)
      self._skip(':')
      if field is None:
        raise UnknownField(Field(path, self._scalar(), token.line, token.column), descriptor)
      if not self._value(field, path, token):
        return False
    return not closing

  def _value(self, field, path, token):
    """Reads what stands after a field's name: a scalar, a message, or a list of either."""
    if self._skip('['):
      while self._tokens and not self._skip(']'):
        # A list holds no lists.
        if self._tokens[-1].text == '[' or (
          not self._skip(',') and not self._value(field, path, self._tokens[-1])
        ):
          return False
      return True
    if field.message_type is not None and is_repeated(field):
      index = self._counts.get(path, 0)
      self._counts[path] = index + 1
      path = f'{path}[{index}]'
    value = self._scalar()
    self.found.append(Field(path, value, token.line, token.column))
    if value:
      return True
    if not self._tokens or self._tokens[-1].text not in _CLOSING or field.message_type is None:
      return False
    return self.message(field.message_type, path, _CLOSING[self._tokens.pop().text])

  def _scalar(self):
    """Takes a scalar, adjacent strings together; '' if something else stands there."""
    if not self._tokens or self._tokens[-1].text in tuple('{}<>[]:;,'):
      return ''
    value = self._tokens.pop().text
    while value[0] in '"\'' and self._tokens and self._tokens[-1].text[0] in '"\'':
      value += ' ' + self._tokens.pop().text
    return value

  def _skip(self, text):
    """Takes the next token if it is `text`, and returns whether it was."""
    if self._tokens and self._tokens[-1].text == text:
      self._tokens.pop()
      return True
    return False
