"""Which images of an evaluation are shown, chosen while it runs, so that few have to be drawn.

The worst, the best and random images, and of every class those with the most errors of it. What is
chosen depends on the images alone, not on their order; random images are the same in every
evaluation of a set, so that two runs can be compared on them.
"""

import bisect
from collections.abc import Mapping
import hashlib

SHARES: Mapping[str, int] = {'worst': 48, 'best': 32, 'random': 48}
PER_CLASS = 1
CLASS = 'class '


class Gallery:
  """Keeps the numbers of the images that are shown, by the reason for it."""

  def __init__(self, shares: Mapping[str, int] = SHARES, per_class: int = PER_CLASS):
    """Starts empty.

    Args:
      shares: how many of the worst, the best, and random images.
      per_class: how many of those with the most errors of each class.
    """
    self._shares = dict(shares)
    self._per_class = per_class
    self._chosen: dict[str, list[tuple]] = {}  # Reason -> (order, name, number), best first.

  def add(self, number: int, name: str, quality: float, errors: Mapping[int, int]) -> bool:
    """Adds an image; returns whether it is shown, as things stand.

    Args:
      number: of the image.
      name: of the image, in the whole evaluation its own.
      quality: panoptic quality of the image, not NaN.
      errors: class -> missed segments and false positives of it.
    """
    digest = hashlib.sha256(name.encode()).hexdigest()
    entries = [('worst', quality), ('best', -quality), ('random', 0.0)]
    entries += [(f'{CLASS}{index}', -count) for index, count in errors.items() if count]
    is_shown = False
    for reason, order in entries:
      entry = (order, digest, number)
      chosen = self._chosen.setdefault(reason, [])
      bisect.insort(chosen, entry)
      del chosen[self._shares.get(reason, self._per_class) :]
      is_shown |= entry in chosen
    return is_shown

  def reasons(self) -> dict[int, list[str]]:
    """Returns the numbers of the images that are shown, each with the reasons for it."""
    found: dict[int, list[str]] = {}
    for reason, chosen in self._chosen.items():
      for _, _, number in chosen:
        found.setdefault(number, []).append(reason)
    return found
