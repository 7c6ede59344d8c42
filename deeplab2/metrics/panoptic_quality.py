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
    counts = self._count(*_overlaps(ground_truth, prediction))
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
    return PanopticQualityResult(*(self._protocol_result(counts) for counts in self._counts))

  def _count(self, true_ids, predicted_ids, areas):
    """Returns [2, 4, num_classes] of one image from its overlaps (see `_overlaps`)."""
    divisor, ignore = self._space.label_divisor, self._space.ignore_label
    ground_truths, gt_of = np.unique(true_ids, return_inverse=True)
    predictions, prediction_of = np.unique(predicted_ids, return_inverse=True)
    gt_class, prediction_class = ground_truths // divisor, predictions // divisor
    self._check(gt_class, 'ground truth')
    self._check(prediction_class, 'prediction')
    gt_area = np.bincount(gt_of, areas)
    prediction_area = np.bincount(prediction_of, areas)

    void = ground_truths == self._space.void_id
    crowd = (ground_truths % divisor == 0) & np.isin(gt_class, self._space.thing_ids)
    countable = ~void & ~crowd & (gt_class != ignore)
    same_class = gt_class[gt_of] == prediction_class[prediction_of]

    def area_on(overlaps):  # [len(predictions)]
      return np.bincount(prediction_of, areas * overlaps)

    on_void, on_crowd = area_on(void[gt_of]), area_on(crowd[gt_of])
    on_own_crowd = area_on(crowd[gt_of] & same_class)
    candidates = np.flatnonzero(same_class & countable[gt_of])
    counts = np.zeros_like(self._counts)
    for protocol, left_out, excused in (
      (0, on_void, on_void + on_own_crowd),
      (1, on_void + on_crowd, on_void + on_crowd),
    ):
      g, p = gt_of[candidates], prediction_of[candidates]
      overlap = areas[candidates]
      iou = overlap / (gt_area[g] + prediction_area[p] - overlap - left_out[p])
      matched = iou > 0.5
      missed, extra = countable.copy(), prediction_class != ignore
      missed[g[matched]] = False
      extra[p[matched]] = False
      extra &= ~(excused / prediction_area > 0.5)
      matched_class = gt_class[g[matched]]
      for row, classes, weights in (
        (0, matched_class, iou[matched]),
        (1, matched_class, None),
        (2, gt_class[missed], None),
        (3, prediction_class[extra], None),
      ):
        counts[protocol, row] = np.bincount(classes, weights, self._space.num_classes)
    return counts

  def _check(self, classes, what):
    unknown = (classes < 0) | (classes >= self._space.num_classes)
    unknown &= classes != self._space.ignore_label
    if unknown.any():
      raise ValueError(
        f'The {what} has class {classes[unknown][0]}; known are 0 to {self._space.num_classes - 1}.'
      )

  def _protocol_result(self, counts):
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
      group(self._space.class_order),
      group(self._space.thing_ids),
      group(self._space.stuff_ids),
    )


def _ratio(numerator, denominator):
  return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _overlaps(ground_truth, prediction):
  """Returns the pairs of ids that share pixels: [n] int64 true and predicted ids, [n] areas."""
  ground_truth, prediction = np.ravel(ground_truth), np.ravel(prediction)
  # Segments are wide: sorting runs instead of pixels is many times faster.
  changes = ground_truth[1:] != ground_truth[:-1]
  changes |= prediction[1:] != prediction[:-1]
  starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
  lengths = np.diff(starts, append=ground_truth.size)
  # int64 before any product: an ignore label of 255 times a divisor overflows otherwise.
  true_ids, predicted_ids = (
    ground_truth[starts].astype(np.int64),
    prediction[starts].astype(np.int64),
  )
  base = predicted_ids.max() + 1
  pairs, pair_of_run = np.unique(true_ids * base + predicted_ids, return_inverse=True)
  return pairs // base, pairs % base, np.bincount(pair_of_run, lengths)
