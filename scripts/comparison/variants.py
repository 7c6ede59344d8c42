"""Named variants of a config: a name, and the overrides that make it."""

import re
from typing import NamedTuple

from deeplab2 import errors
from deeplab2 import files

# Names are those of directories, too.
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.+=-]*')
_FORM = '{"name": ["a.b.c=value", ...], ...}'


class Variant(NamedTuple):
  """One variant."""

  name: str
  settings: tuple[str, ...]

  def overrides(self) -> list[str]:
    """Returns the overrides that make this variant of a config."""
    return list(self.settings)


def read(path: str) -> list[Variant]:
  """Reads a JSON file {"name": ["a.b.c=value", ...], ...}; the order is that of the file.

  Raises:
    UserError: the file is missing, of another form, or a name cannot be that of a directory.
  """
  content = files.read_json(path)
  if not isinstance(content, dict) or not content:
    raise errors.UserError(f'{path}: must be {_FORM}.')
  found = []
  for name, settings in content.items():
    if not _NAME.fullmatch(name):
      raise errors.UserError(
        f'{path}: {name!r} names a directory: must be letters, digits and any of _ . + = -, '
        'the first a letter or digit.'
      )
    if not isinstance(settings, list) or not all(isinstance(one, str) for one in settings):
      raise errors.UserError(f'{path}: {name}: must be a list of overrides, {_FORM}.')
    found.append(Variant(name, tuple(settings)))
  return found
