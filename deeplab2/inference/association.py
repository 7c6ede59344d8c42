"""The same number for the same thing from frame to frame of a video, where its masks overlap.

A model numbers the things of every frame anew. Here things of one class in two frames that follow
each other are paired by the IoU of their masks, the largest first, and a pair keeps its number. A
thing that is lost comes back under its number if it is found again at its old place within
`PATIENCE` frames. This is no tracker: it knows neither motion nor appearance, so that things that
move by more than their size, or cross, get other numbers.
"""

import numpy as np

from deeplab2 import structures
from deeplab2.data import stretched

# Masks that overlap less are those of other things.
LEAST_IOU = 0.25
# For how many frames the place of a thing is kept that is not found any more.
PATIENCE = 10
# Masks are compared at no more than this many pixels a side.
_LARGEST_SIDE = 512
_NOTHING = -1


class Association:
  """Gives the things of the frames of one video, in order, their numbers."""

  def __init__(self, space: structures.LabelSpace):
    """Starts before the first frame, with the numbering of the maps."""
    self._space = space
    self._places = np.full((0, 0), _NOTHING)  # Where each thing was seen last.
    self._last_seen: dict[int, int] = {}  # Frame, by the panoptic id.
    self._newest: dict[int, int] = {}  # The largest number given, by class.
    self._frame = 0

  def follow(self, panoptic: stretched.StretchedMap) -> stretched.StretchedMap:
    """Returns the map of the next frame with the numbers that its things have in this video."""
    ids = panoptic.ids()
    small = panoptic.reduced(_LARGEST_SIDE)
    pairs = {}
    if small.shape == self._places.shape:
      pairs = match(self._places, small, self._space)
    used = set(pairs.values())
    numbered = []
    for panoptic_id in ids.tolist():
      if panoptic_id in pairs:
        panoptic_id = pairs[panoptic_id]
      elif _is_thing(panoptic_id, self._space):
        panoptic_id = self._new_id(panoptic_id // self._space.label_divisor, used)
        used.add(panoptic_id)
      numbered.append(panoptic_id)
    followed = panoptic.replaced(ids, np.array(numbered, ids.dtype))
    self.remember(followed)
    return followed

  def remember(self, panoptic: stretched.StretchedMap) -> None:
    """Takes the map of the next frame as one whose things have their numbers already."""
    small = panoptic.reduced(_LARGEST_SIDE).astype(np.int64)
    things = [i for i in panoptic.ids().tolist() if _is_thing(i, self._space)]
    self._frame += 1
    for panoptic_id in things:
      self._last_seen[panoptic_id] = self._frame
      class_id, number = divmod(panoptic_id, self._space.label_divisor)
      self._newest[class_id] = max(number, self._newest.get(class_id, 0))
    self._last_seen = {
      panoptic_id: frame
      for panoptic_id, frame in self._last_seen.items()
      if self._frame - frame <= PATIENCE
    }
    places = np.where(np.isin(small, things), small, _NOTHING)
    if self._places.shape == small.shape:
      lost = np.setdiff1d(np.fromiter(self._last_seen, np.int64), things)
      is_lost = np.isin(self._places, lost) & (places == _NOTHING)
      places = np.where(is_lost, self._places, places)
    self._places = places

  def _new_id(self, class_id, used):
    """Returns the panoptic id of a new thing; those in `used` are of its frame already."""
    divisor = self._space.label_divisor
    number = self._newest.get(class_id, 0) + 1
    if number < divisor:
      self._newest[class_id] = number
      return class_id * divisor + number
    # All have been given once: one that is free again, at worst that of a thing that is lost.
    ids = [class_id * divisor + n for n in range(1, divisor)]
    free = [i for i in ids if i not in used]
    return min(free, key=lambda i: (i in self._last_seen, i))


def match(before: np.ndarray, now: np.ndarray, space: structures.LabelSpace) -> dict[int, int]:
  """Pairs the things of two maps by the overlap of their masks.

  Of all pairs of one class with an IoU of LEAST_IOU or more, the one with the largest IoU is taken
  first, then the largest one of things that are left; of equal ones that with the smaller ids.

  Args:
    before: [h, w] panoptic ids; negative where there is nothing.
    now: [h, w] panoptic ids.
    space: the numbering of both.

  Returns:
    Panoptic id in `before`, by the one in `now`.
  """
  ids_before, index_before = np.unique(before, return_inverse=True)
  ids_now, index_now = np.unique(now, return_inverse=True)
  shared = np.bincount(
    index_before.ravel() * ids_now.size + index_now.ravel(),
    minlength=ids_before.size * ids_now.size,
  ).reshape(ids_before.size, ids_now.size)
  unions = shared.sum(1, keepdims=True) + shared.sum(0, keepdims=True) - shared
  candidates = []
  for row, column in np.argwhere(shared >= LEAST_IOU * unions).tolist():
    one, other = int(ids_before[row]), int(ids_now[column])
    same_class = one // space.label_divisor == other // space.label_divisor
    if same_class and _is_thing(one, space) and _is_thing(other, space):
      candidates.append((-shared[row, column] / unions[row, column], one, other))
  found: dict[int, int] = {}
  for _, one, other in sorted(candidates):
    if other not in found and one not in found.values():
      found[other] = one
  return found


def _is_thing(panoptic_id, space):
  class_id, instance = divmod(panoptic_id, space.label_divisor)
  return instance > 0 and class_id in space.thing_ids
