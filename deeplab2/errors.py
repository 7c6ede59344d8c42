"""Errors that a user can correct, and how the command lines show them."""

from collections.abc import Iterable
import re
import sys

_LONGEST = 1500  # Characters of a line: files can hold names of any length.


class UserError(Exception):
  """A mistake in what the user gave: one message that names file, field, value and what is right.

  Command lines print the message without a traceback and exit with `exit_code` (see `report`).
  Library code lets it pass.
  """

  exit_code = 2


class LeftOut(UserError):
  """Some of the inputs could not be used; the work on all others is done, and kept."""

  exit_code = 1


class Stopped(Exception):
  """The run was asked to end by a signal, and did so in order.

  Command lines print the message and exit with `exit_code`.
  """

  def __init__(self, message: str, exit_code: int):
    super().__init__(message)
    self.exit_code = exit_code


def listed(names: Iterable[str], most: int = 3) -> str:
  """Returns the first `most` of some names, and how many more there are: 'a, b, c and 4 more'."""
  names = list(names)
  rest = len(names) - most
  return ', '.join(names[:most]) + (f' and {rest} more' if rest > 0 else '')


def report(error):
  """Prints `error` as one line on standard error and returns its exit code."""
  text = re.sub(r'\s*[\r\n]+\s*', ' ', str(error))
  if len(text) > _LONGEST:
    text = f'{text[: _LONGEST // 2]} [...] {text[-_LONGEST // 2 :]}'
  print(f'error: {text}', file=sys.stderr)
  return error.exit_code
