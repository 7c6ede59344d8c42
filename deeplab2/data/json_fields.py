"""Fields of JSON files, each taken with a check that says what it must be."""

from collections.abc import Callable, Sequence
import json
from typing import Any, NamedTuple

from deeplab2 import errors
from deeplab2 import files


class Wanted(NamedTuple):
  """The type of a value and its description."""

  says: str  # 'an integer'
  holds: Callable[[Any], bool]


def of_type(says: str, *types: type, holds: Callable[[Any], bool] = lambda value: True) -> Wanted:
  """Returns a value of one of some types that `holds`; true and false are no numbers."""
  return Wanted(
    says,
    lambda value: isinstance(value, types) and not isinstance(value, bool) and holds(value),
  )


INTEGER = of_type('an integer', int)
NUMBER = of_type('a number', int, float)
TEXT = of_type('a text', str)
NAME = of_type('a name', str, holds=bool)
LIST = of_type('a list', list)
ID = of_type('an integer or text', int, str)
FLAG = Wanted('0 or 1', lambda value: isinstance(value, int) and value in (0, 1))


def problem(content: Any, key: str, wanted: Wanted) -> str | None:
  """Returns the problem of field `key` of an object, or of what should be one; None without."""
  if not isinstance(content, dict) or key not in content:
    return f'field {key!r} is missing; must be {wanted.says}'
  if not wanted.holds(content[key]):
    return f'field {key!r} is {json.dumps(content[key]):.60}; must be {wanted.says}'
  return None


def take(content: Any, key: str, where: str, wanted: Wanted) -> Any:
  """Returns `content[key]`.

  Raises:
    UserError: naming `where`, file and entry: the field is missing, or not what it must be.
  """
  wrong = problem(content, key, wanted)
  if wrong:
    raise errors.UserError(f'{where}: {wrong}.')
  return content[key]


def read_lists(path: str, keys: Sequence[str], needed: str) -> dict[str, Any]:
  """Returns the content of a JSON file.

  Raises:
    UserError: it cannot be read, or has no list at one of `keys`; `needed` says what file is.
  """
  content = files.read_json(path)
  for key in keys:
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
      raise errors.UserError(f'{path}: has no list {key!r}; {needed}.')
  return content
