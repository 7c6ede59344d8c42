"""Errors that a user can mend, and how the command lines show them."""
import sys


class UserError(Exception):
  """A mistake in what the user gave: one message that names file, field, value and what is right.

  Command lines print the message without a traceback and exit with code 2 (see `report`).
  Library code lets it pass.
  """


def report(error):
  """Prints `error` as one line on standard error and returns the exit code of a user's mistake."""
  print(f'error: {error}', file=sys.stderr)
  return 2
