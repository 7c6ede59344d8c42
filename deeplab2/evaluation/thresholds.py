"""The thresholds of maskwise post-processing that are best for some images, without the network.

Which masks hold a pixel, how sure their classes are and in which order they are pasted depends on
no threshold. `Table` keeps that of an image, pixels that lie in the same masks together. From it,
`counts` follows what model/postprocess.py does for any thresholds: segments and counts are those of
an evaluation with them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from deeplab2 import structures
from deeplab2.metrics import overlaps as overlaps_lib
from deeplab2.metrics import panoptic_quality

CONFIDENCES = tuple(round(0.05 * step, 2) for step in range(1, 20))
OVERLAPS = tuple(round(0.1 * step, 1) for step in range(10))
_MOST_ROUNDS = 10


class Thresholds(NamedTuple):
  """See model/postprocess.py, MaskwiseOptions. In [0, 1]."""

  thing_confidence: float
  stuff_confidence: float
  overlap: float


class Table(NamedTuple):
  """An image: U sets of pixels that lie in the same of N masks. Masks are in order of rank."""

  class_ids: np.ndarray  # [N] dataset ids.
  confidences: np.ndarray  # [N] float32
  members: np.ndarray  # [U, N] bool
  areas: np.ndarray  # [U] int64 pixels in the crop, by which masks are pasted.
  # The pixels at the image's own size: n pairs of such a set and a true panoptic id.
  pair_sets: np.ndarray  # [n] int64, index of the set.
  pair_truths: np.ndarray  # [n] int64
  pair_areas: np.ndarray  # [n] int64


def make_table(
  members: np.ndarray,
  class_ids: np.ndarray,
  confidences: np.ndarray,
  ground_truth: np.ndarray,
  rows: np.ndarray,
  columns: np.ndarray,
) -> Table:
  """Returns the table of an image.

  Args:
    members: [H, W, N] bool, the masks that hold each pixel of the crop, in order of rank.
    class_ids: [N] dataset id of each mask.
    confidences: [N] float32 probability of its class.
    ground_truth: [H0, W0] panoptic ids at the image's own size.
    rows: [H0] row of the crop that each row of the image shows.
    columns: [W0] column of the crop for each column.
  """
  packed = np.packbits(members, axis=-1)
  flat = packed.reshape(-1, packed.shape[-1])
  # Neighbours mostly lie in the same masks: only their first is compared with all others.
  starts = np.concatenate([[0], np.flatnonzero((flat[1:] != flat[:-1]).any(-1)) + 1])
  lengths = np.diff(starts, append=len(flat))
  patterns, of_run = np.unique(flat[starts], axis=0, return_inverse=True)
  of_run = of_run.ravel()
  areas = np.bincount(of_run, lengths).astype(np.int64)
  sets = np.repeat(of_run, lengths).reshape(members.shape[:2])[rows][:, columns]
  found = overlaps_lib.overlaps(ground_truth, sets)
  return Table(
    class_ids,
    confidences,
    np.unpackbits(patterns, axis=-1, count=members.shape[-1]).astype(bool),
    areas,
    found.predicted_ids[found.predicted_of],
    found.true_ids[found.true_of],
    found.areas.astype(np.int64),
  )


class Rule(NamedTuple):
  """The part of post-processing that stays."""

  space: structures.LabelSpace
  thing_area_limit: int = 0
  stuff_area_limit: int = 0

  def segment(self, table: Table, thresholds: Thresholds) -> np.ndarray:
    """Returns the panoptic id of each set of pixels, [U] int64."""
    is_thing = np.isin(table.class_ids, self.space.thing_ids)
    needed = np.where(is_thing, thresholds.thing_confidence, thresholds.stuff_confidence)
    canvas = np.full(len(table.areas), -1)
    areas = np.zeros(len(table.class_ids), np.int64)
    for mask in np.flatnonzero(table.confidences >= needed.astype(np.float32)).tolist():
      inside = np.flatnonzero(table.members[:, mask])
      free = inside[canvas[inside] < 0]
      area, free_area = table.areas[inside].sum(), table.areas[free].sum()
      if np.float32(free_area) > np.float32(area) * np.float32(thresholds.overlap):
        canvas[free] = mask
        areas[mask] = free_area
    of_class = np.bincount(table.class_ids, areas, self.space.num_classes)[table.class_ids]
    kept = np.where(is_thing, areas >= self.thing_area_limit, of_class >= self.stuff_area_limit)
    instances = np.where(is_thing, np.arange(1, len(areas) + 1), 0)
    ids = np.where(kept, table.class_ids * self.space.label_divisor + instances, self.space.void_id)
    return np.append(ids, self.space.void_id)[canvas]

  def counts(self, table: Table, thresholds: Thresholds) -> np.ndarray:
    """Returns [4, num_classes] of the official panoptic quality: iou, tp, fn, fp of an image."""
    predicted = self.segment(table, thresholds)[table.pair_sets]
    found = overlaps_lib.from_pairs(table.pair_truths, predicted, table.pair_areas)
    official, _ = panoptic_quality.match(found, self.space)
    divisor = self.space.label_divisor
    return official.counts(
      found.true_ids // divisor, found.predicted_ids // divisor, self.space.num_classes
    )


def measure(rule: Rule, task: tuple[Sequence[Thresholds], Sequence[Table]]) -> np.ndarray:
  """Returns the counts [settings, images, 4, num_classes] of a task (settings, images)."""
  settings, tables = task
  return np.stack(
    [np.stack([rule.counts(table, thresholds) for table in tables]) for thresholds in settings]
  )


def search(
  quality: Callable[[Sequence[Thresholds]], Sequence[float]], start: Thresholds
) -> Thresholds:
  """Returns the best thresholds: one after the other is moved until none gets better.

  Args:
    quality: thresholds -> what is to be as large as possible.
    start: where to begin, and what is kept as long as nothing is better.
  """
  best, reached = start, quality([start])[0]
  for _ in range(_MOST_ROUNDS):
    before = best
    for field, values in zip(Thresholds._fields, (CONFIDENCES, CONFIDENCES, OVERLAPS), strict=True):
      tried = [best._replace(**{field: value}) for value in values]
      found = quality(tried)
      index = int(np.argmax(found))
      if found[index] > reached:
        best, reached = tried[index], found[index]
    if best == before:
      break
  return best
