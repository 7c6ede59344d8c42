"""Segments of two maps that share pixels, and which of them match.

`overlaps` goes over the pixels once. IoU, matches and counts follow from the pairs that it returns,
whatever the ids mean.
"""

from typing import NamedTuple

import numpy as np


class Overlaps(NamedTuple):
  """The pixels that the segments of two maps share: T true ones, P predicted ones, n pairs.

  Pixels of no segment form one of their own.
  """

  true_ids: np.ndarray  # [T] int64, ascending.
  predicted_ids: np.ndarray  # [P] int64, ascending.
  true_of: np.ndarray  # [n] indices into true_ids.
  predicted_of: np.ndarray  # [n] indices into predicted_ids.
  areas: np.ndarray  # [n] pixels.
  # [3, n] pixels of these at the boundary of the true segment, of the predicted one, and of both.
  # None where boundaries were not asked for.
  boundary_areas: np.ndarray | None = None

  @property
  def true_areas(self) -> np.ndarray:
    """[T] pixels."""
    return self._sums_of_truths(self.areas)

  @property
  def predicted_areas(self) -> np.ndarray:
    """[P] pixels."""
    return self._sums_of_predictions(self.areas)

  def predicted_areas_in(self, pairs: np.ndarray) -> np.ndarray:
    """Returns [P], the pixels of each predicted segment in those pairs where `pairs` [n] holds."""
    return self._sums_of_predictions(self.areas * pairs)

  def iou(self, left_out: np.ndarray, true_areas: np.ndarray | None = None) -> np.ndarray:
    """Returns [n] float64 in [0, 1], the IoU of each pair.

    Args:
      left_out: [T] bool, true segments whose pixels are no part of a union.
      true_areas: [T] to take for those of the map.
    """
    areas = self.true_areas if true_areas is None else true_areas
    return self._iou(self.areas, areas, self.areas, left_out)

  def boundary_iou(self, left_out: np.ndarray) -> np.ndarray:
    """Returns [n] float64 in [0, 1], the IoU of the boundaries of each pair (boundaries.py)."""
    if self.boundary_areas is None:
      raise ValueError('Boundaries were not asked for.')
    of_truth, of_prediction, of_both = self.boundary_areas
    return self._iou(of_both, self._sums_of_truths(of_truth), of_prediction, left_out)

  def _iou(self, shared, true_areas, predicted, left_out):
    """Returns [n] shared / union, the latter without what a prediction has on `left_out` [T]."""
    predicted_areas = self._sums_of_predictions(predicted)
    on_left_out = self._sums_of_predictions(predicted * left_out[self.true_of])
    p = self.predicted_of
    unions = true_areas[self.true_of] + predicted_areas[p] - shared - on_left_out[p]
    return np.divide(shared, unions, out=np.zeros(len(shared)), where=unions > 0)

  def _sums_of_truths(self, values):
    return np.bincount(self.true_of, values, len(self.true_ids))

  def _sums_of_predictions(self, values):
    return np.bincount(self.predicted_of, values, len(self.predicted_ids))


class Matching(NamedTuple):
  """The segments of one image under one protocol, as indices into `Overlaps`."""

  matched_true: np.ndarray  # [m]
  matched_predicted: np.ndarray  # [m]
  iou: np.ndarray  # [m] in (0.5, 1].
  missed: np.ndarray  # [T] bool
  extra: np.ndarray  # [P] bool, false positives.

  def counts(
    self, true_class: np.ndarray, predicted_class: np.ndarray, num_classes: int
  ) -> np.ndarray:
    """Returns [4, num_classes] float64: sum of IoU, matches, missed, false positives by class."""
    matched = true_class[self.matched_true]
    return np.stack(
      [
        np.bincount(classes, weights, num_classes).astype(np.float64)
        for classes, weights in (
          (matched, self.iou),
          (matched, None),
          (true_class[self.missed], None),
          (predicted_class[self.extra], None),
        )
      ]
    )


def overlaps(
  ground_truth: np.ndarray,
  prediction: np.ndarray,
  boundaries: tuple[np.ndarray, np.ndarray] | None = None,
) -> Overlaps:
  """Returns the pairs of ids that share pixels.

  Args:
    ground_truth: [H, W] integer ids.
    prediction: [H, W] integer ids.
    boundaries: [H, W] bool, pixels at the boundary of their segment, of both maps.
  """
  maps = [np.ravel(ground_truth), np.ravel(prediction)]
  maps += [np.ravel(boundary) for boundary in boundaries or ()]
  # Segments are wide: sorting runs instead of pixels is many times faster.
  changes = maps[0][1:] != maps[0][:-1]
  for values in maps[1:]:
    changes |= values[1:] != values[:-1]
  starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
  lengths = np.diff(starts, append=maps[0].size)
  boundary_values = None
  if boundaries:
    at_truth, at_prediction = (values[starts] for values in maps[2:])
    boundary_values = (at_truth, at_prediction, at_truth & at_prediction)
  return _of_runs(maps[0][starts], maps[1][starts], lengths, boundary_values)


def from_pairs(true_ids: np.ndarray, predicted_ids: np.ndarray, areas: np.ndarray) -> Overlaps:
  """Returns the overlaps of n pairs of ids, which may occur several times, with areas [n]."""
  return _of_runs(true_ids, predicted_ids, areas)


def _of_runs(of_runs, predicted_of_runs, lengths, boundary_values=None):
  """Returns the overlaps of runs of pixels, each within one true and one predicted segment."""
  # int64 before any product: an ignore label of 255 times a divisor overflows otherwise.
  of_runs, predicted_of_runs = (ids.astype(np.int64) for ids in (of_runs, predicted_of_runs))
  base = predicted_of_runs.max() + 1
  pairs, pair_of_run = np.unique(of_runs * base + predicted_of_runs, return_inverse=True)
  true_ids, true_of = np.unique(pairs // base, return_inverse=True)
  predicted_ids, predicted_of = np.unique(pairs % base, return_inverse=True)
  boundary_areas = None
  if boundary_values:
    boundary_areas = np.stack(
      [np.bincount(pair_of_run, lengths * inside, len(pairs)) for inside in boundary_values]
    )
  areas = np.bincount(pair_of_run, lengths)
  return Overlaps(true_ids, predicted_ids, true_of, predicted_of, areas, boundary_areas)


def match(
  found: Overlaps,
  iou: np.ndarray,
  *,
  same_class: np.ndarray,
  countable: np.ndarray,
  is_predicted: np.ndarray,
  excused: np.ndarray,
) -> Matching:
  """Matches segments of one class whose IoU exceeds 1/2.

  Args:
    found: T true and P predicted segments, n pairs of them.
    iou: [n] that of their masks or less, so that matches are unique.
    same_class: [n] bool
    countable: [T] bool, true segments that can be matched, and are missed otherwise.
    is_predicted: [P] bool, False for the pixels of no segment.
    excused: [P] pixels of each prediction: more than half of them, and it is no false positive.
  """
  candidates = np.flatnonzero(same_class & countable[found.true_of])
  matched = candidates[iou[candidates] > 0.5]
  t, p = found.true_of[matched], found.predicted_of[matched]
  missed, extra = countable.copy(), is_predicted.copy()
  missed[t] = False
  extra[p] = False
  extra &= ~(excused / found.predicted_areas > 0.5)
  return Matching(t, p, iou[matched], missed, extra)
