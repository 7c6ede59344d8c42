"""The configs that come with the package, found by name from anywhere: 'coco/kmax_resnet50'."""

import difflib
import os

from deeplab2 import errors

_ENDING = '.textproto'
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# In an installed package, and in a checkout.
_PLACES = (os.path.join(_PACKAGE, 'configs'), os.path.join(os.path.dirname(_PACKAGE), 'configs'))


def names() -> list[str]:
  """Returns the names of all configs, sorted."""
  root = _root()
  found = []
  for directory, _, files in os.walk(root):
    for file in files:
      if file.endswith(_ENDING):
        path = os.path.relpath(os.path.join(directory, file), root)
        found.append(path.removesuffix(_ENDING).replace(os.sep, '/'))
  return sorted(found)


def find(path: str) -> str:
  """Returns the file of a config that is given by its path or its name.

  A file that is there has precedence. A name may have `configs/` before it and `.textproto` behind
  it, as in the checkout.

  Args:
    path: of a config.

  Raises:
    UserError: there is neither such a file nor such a config.
  """
  if '://' in path or os.path.lexists(path):
    return path
  name = path.removeprefix('configs/').removesuffix(_ENDING)
  known = names()
  if name in known:
    return os.path.join(_root(), *name.split('/')) + _ENDING
  if os.path.isabs(path):
    return path  # What is wrong with it is said by who reads it.
  nearest = difflib.get_close_matches(name, known, 3, 0.6)
  advice = f'similar are {", ".join(nearest)}' if nearest else 'deeplab2-config --list names all'
  raise errors.UserError(f'{path}: no such file, and no config of the package; {advice}.')


def _root():
  return next((place for place in _PLACES if os.path.isdir(place)), _PLACES[0])
