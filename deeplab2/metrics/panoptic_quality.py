"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4).

A predicted and a true segment of one class match if their IoU exceeds 1/2. With TP matches, FN true
and FP predicted segments left over, per class:

  PQ = SQ * RQ,   SQ = (sum of the matches' IoU) / TP,   RQ = TP / (TP + FN / 2 + FP / 2)

Two protocols are counted at once. They differ only where the ground truth has crowd regions (a
thing class with instance 0), which are never matched and never missed in either:

  official   panopticapi's. Void is left out of unions. A prediction is excused from being a false
             positive if more than half of it lies on void or on crowd of its own class.
  reference  DeepLab2's, whose records have crowd merged into void: crowd of any class is left out
             of unions and excuses.
"""

from typing import NamedTuple

import numpy as np

from deeplab2 import structures
from deeplab2.metrics import overlaps as overlaps_lib


class Quality(NamedTuple):
  """Means over the classes of a group that occur really or prediction. Ratios in [0, 1]."""

  pq: float
  sq: float
  rq: float
  num_classes: int  # Classes that occur. If 0, the ratios are 0 and mean nothing.


class ProtocolResult(NamedTuple):
  """Counts and qualities under one protocol. Arrays are [num_classes] float64, by dataset id."""

  iou: np.ndarray  # Sum of the IoU of all matches.
  tp: np.ndarray
  fn: np.ndarray
  fp: np.ndarray
  pq: np.ndarray
  sq: np.ndarray
  rq: np.ndarray
  all: Quality
  things: Quality
  stuff: Quality


class PanopticQualityResult(NamedTuple):
  """One set of images under both protocols."""

  official: ProtocolResult
  reference: ProtocolResult


class PanopticQuality:
  """Accumulates counts over images."""

  def __init__(self, label_space: structures.LabelSpace):
    self._space = label_space
    # [protocol: official, reference] [iou, tp, fn, fp] [class]
    self._counts = np.zeros([2, 4, label_space.num_classes])

  def update(self, ground_truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Adds one image.

    Args:
      ground_truth: [H, W] integer panoptic ids, with crowd kept as its thing class and instance 0.
      prediction: [H, W] integer panoptic ids. Things have instances from 1.

    Returns:
      [2, 4, num_classes] float64: official and reference (iou, tp, fn, fp) of this image.

    Raises:
      ValueError: if sizes differ, or an id has no class of the label space.
    """
    if ground_truth.shape != prediction.shape or ground_truth.ndim != 2:
      raise ValueError(
        f'Ground truth {ground_truth.shape} and prediction {prediction.shape} must be two maps of '
        'one size.'
      )
    counts = self._count(overlaps_lib.overlaps(ground_truth, prediction))
    self._counts += counts
    return counts

  def state(self) -> np.ndarray:
    """Returns what `set_state` takes: [2, 4, num_classes] float64."""
    return self._counts.copy()

  def set_state(self, counts: np.ndarray) -> None:
    """Goes on from what `state` returned."""
    self._counts = counts.reshape(self._counts.shape).astype(np.float64)

  def result(self) -> PanopticQualityResult:
    """Returns the qualities of all images so far."""
    return PanopticQualityResult(*(protocol_result(counts, self._space) for counts in self._counts))

  def _count(self, found):
    """Returns [2, 4, num_classes] of one image from its overlaps."""
    divisor = self._space.label_divisor
    classes = found.true_ids // divisor, found.predicted_ids // divisor
    return np.stack(
      [matching.counts(*classes, self._space.num_classes) for matching in match(found, self._space)]
    )


def match(
  found: overlaps_lib.Overlaps, space: structures.LabelSpace
) -> tuple[overlaps_lib.Matching, overlaps_lib.Matching]:
  """Matches the segments of an image, whose ids are panoptic, under both protocols.

  Raises:
    ValueError: if an id has no class of the label space.
  """
  divisor = space.label_divisor
  true_class, predicted_class = found.true_ids // divisor, found.predicted_ids // divisor
  _check(true_class, 'ground truth', space)
  _check(predicted_class, 'prediction', space)
  void = found.true_ids == space.void_id
  crowd = (found.true_ids % divisor == 0) & np.isin(true_class, space.thing_ids)
  same_class = true_class[found.true_of] == predicted_class[found.predicted_of]

  def matching(left_out, excusing):
    return overlaps_lib.match(
      found,
      found.iou(left_out),
      same_class=same_class,
      countable=~void & ~crowd & (true_class != space.ignore_label),
      is_predicted=predicted_class != space.ignore_label,
      excused=found.predicted_areas_in(excusing),
    )

  on_void, on_crowd = void[found.true_of], crowd[found.true_of]
  return (
    matching(void, on_void | (on_crowd & same_class)),
    matching(void | crowd, on_void | on_crowd),
  )


def _check(classes, what, space):
  unknown = (classes < 0) | (classes >= space.num_classes)
  unknown &= classes != space.ignore_label
  if unknown.any():
    raise ValueError(
      f'The {what} has class {classes[unknown][0]}; known are 0 to {space.num_classes - 1}.'
    )


def protocol_result(counts: np.ndarray, space: structures.LabelSpace) -> ProtocolResult:
  """Returns the qualities of counts [4, num_classes]: iou, tp, fn, fp of each class."""
  iou, tp, fn, fp = counts
  sq, rq = _ratio(iou, tp), _ratio(tp, tp + fn / 2 + fp / 2)
  pq = sq * rq

  def group(ids):
    ids = np.asarray(ids, np.int64)
    ids = ids[(tp + fn + fp)[ids] > 0]
    if not ids.size:
      return Quality(0.0, 0.0, 0.0, 0)
    return Quality(float(pq[ids].mean()), float(sq[ids].mean()), float(rq[ids].mean()), ids.size)

  return ProtocolResult(
    iou.copy(),
    tp.copy(),
    fn.copy(),
    fp.copy(),
    pq,
    sq,
    rq,
    group(space.class_order),
    group(space.thing_ids),
    group(space.stuff_ids),
  )


def _ratio(numerator, denominator):
  return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
