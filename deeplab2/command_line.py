"""The base of all command lines: flags whose mistakes are one line, and exit codes."""

import argparse
from collections.abc import Callable
import os
import sys

from deeplab2 import errors
from deeplab2 import files


class Parser(argparse.ArgumentParser):
  """Reports mistakes in the flags like all other mistakes of the user."""

  def __init__(self, description: str, prog: str | None = None):
    """Creates a parser that shows `description` as it is written, for `prog` if not sys.argv[0]."""
    super().__init__(
      prog=prog,
      description=description,
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    self._renamed: dict[str, str] = {}

  def add_path(self, name: str, **arguments) -> None:
    """Adds a flag that takes a path: literal, with `~` and `~user` expanded."""
    self.add_argument(name, type=path, **arguments)

  def add_overrides(self) -> None:
    """Adds `--set`, the overrides of a config."""
    self.add_argument(
      '--set',
      action='append',
      default=[],
      metavar='a.b.c=value',
      help='Override one option of the config; may be repeated.',
    )

  def add_old_name(self, old: str, new: str) -> None:
    """Accepts `old`, the name of flag `new` in version 0.1, with a warning."""
    self._renamed[old] = new

  def parse_known_args(self, args=None, namespace=None):
    """Parses as argparse does, after flags have got their current names."""
    current = []
    for argument in sys.argv[1:] if args is None else args:
      name, equals, value = argument.partition('=')
      if name in self._renamed:
        print(
          f'warning: {name} is called {self._renamed[name]} now; the old name will be refused '
          'in the next version.',
          file=sys.stderr,
        )
        name = self._renamed[name]
      current.append(f'{name}{equals}{value}')
    return super().parse_known_args(current, namespace)

  def error(self, message):
    raise errors.UserError(f'{message}; see --help.')


def run(command: Callable[[], object]) -> int:
  """Runs `command`; returns the exit code.

  That is 0, 2 after one line on a mistake of the user, 1 after one line on inputs that were left
  out, 130 after Ctrl-C, 128 + the signal's number where a command heeds signals, and 1 if whoever
  reads the output (`| head`) has ended.
  """
  try:
    command()
    sys.stdout.flush()
  except errors.UserError as error:
    return errors.report(error)
  except errors.Stopped as stopped:
    print(stopped, file=sys.stderr)
    return stopped.exit_code
  except KeyboardInterrupt:
    print('Interrupted.', file=sys.stderr)
    return 130
  except BrokenPipeError:
    # What is still buffered would fail once more at the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  return 0


def integer_from(lowest: int) -> Callable[[str], int]:
  """Returns a parser of flags that are integers of at least `lowest`."""

  def parse(text):
    if not text.isdecimal() or int(text) < lowest:
      raise argparse.ArgumentTypeError(f'{text!r} must be an integer from {lowest}')
    return int(text)

  return parse


def path(text: str) -> str:
  """Returns a path given on the command line, with `~` and `~user` expanded."""
  try:
    return files.expand(text)
  except errors.UserError as error:
    raise argparse.ArgumentTypeError(str(error).rstrip('.')) from None
