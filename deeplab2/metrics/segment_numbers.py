"""Numbers of the segments of many images: quality by size, calibration of scores, confusion.

All of them take the segments of a set as one `Segments` of long arrays (`joined`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deeplab2.metrics import segments as segments_lib

# COCO's: name -> areas in pixels from the first number on, below the second.
SIZES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, float('inf'))}
BINS = 10


class SizeQuality(NamedTuple):
  """The quality of the segments of one size. Ratios in [0, 1], means over classes that occur."""

  pq: float
  sq: float
  rq: float
  tp: int
  fn: int
  fp: int
  num_classes: int  # If 0, the ratios are 0 and mean nothing.


class Calibration(NamedTuple):
  """How often segments of a score are right. Arrays are [BINS], of scores in equal steps."""

  counts: np.ndarray  # Predicted segments.
  score: np.ndarray  # Their mean score, NaN without any.
  precision: np.ndarray  # The fraction of them that matches a true segment, NaN without any.
  expected_error: float  # Mean over segments of |precision - score| of their bin; NaN without any.


def joined(images: Sequence[segments_lib.Segments]) -> segments_lib.Segments:
  """Returns the segments of all images, one after the other."""
  if not images:
    return segments_lib.Segments(*[np.zeros(0, np.int64)] * len(segments_lib.Segments._fields))
  return segments_lib.Segments(*map(np.concatenate, zip(*images, strict=True)))


def by_size(segments: segments_lib.Segments, num_classes: int) -> dict[str, SizeQuality]:
  """Returns the panoptic quality by COCO's sizes.

  A match and a missed segment belong to the size of the true segment, a false positive to its own:
  so every one is counted once, and TP, FN and FP of the sizes add up to those of all.

  Args:
    segments: of all images.
    num_classes: of the dataset.
  """

  def counts(classes, areas, limits, weights=None):
    inside = (areas >= limits[0]) & (areas < limits[1])
    weights = None if weights is None else weights[inside]
    return np.bincount(classes[inside], weights, num_classes)

  found = {}
  for name, limits in SIZES.items():
    iou = counts(segments.matched_class, segments.matched_area, limits, segments.matched_iou)
    tp = counts(segments.matched_class, segments.matched_area, limits)
    fn = counts(segments.missed_class, segments.missed_area, limits)
    fp = counts(segments.extra_class, segments.extra_area, limits)
    occurs = tp + fn + fp > 0
    sq = iou[occurs] / np.maximum(tp[occurs], 1)
    rq = tp[occurs] / (tp + fn / 2 + fp / 2)[occurs]
    pq, sq, rq = (float(v.mean()) if v.size else 0.0 for v in (sq * rq, sq, rq))
    counted = (int(number.sum()) for number in (tp, fn, fp, occurs))
    found[name] = SizeQuality(pq, sq, rq, *counted)
  return found


def calibration(segments: segments_lib.Segments) -> Calibration:
  """Returns how well scores tell matches (IoU above 0.5) from false positives.

  Predicted segments that are neither (most of them on void or crowd) are left out. A bin holds the
  scores from its lower end on, below its upper one; the last one holds 1 as well. Its error is
  weighted by its count: the expected calibration error (Guo et al., ICML 2017).
  """
  score = np.concatenate([segments.matched_score, segments.extra_score]).astype(np.float64)
  is_right = np.repeat([1.0, 0.0], [segments.matched_score.size, segments.extra_score.size])
  # Rounding could bring a score beyond the ends.
  bins = np.clip((score * BINS).astype(int), 0, BINS - 1)
  count = np.bincount(bins, minlength=BINS)
  with np.errstate(invalid='ignore'):
    mean = np.bincount(bins, score, BINS) / count
    precision = np.bincount(bins, is_right, BINS) / count
  error = float(np.nansum(count * np.abs(precision - mean)) / score.size) if score.size else np.nan
  return Calibration(count, mean, precision, error)


def missed_as(segments: segments_lib.Segments, num_classes: int) -> np.ndarray:
  """Returns [num_classes, 1 + num_classes] counts of missed segments.

  Rows are true classes; columns what is predicted on most of their pixels: nothing, then the
  classes. The own class: a segment of it is there, but none with an IoU above 0.5.
  """
  return _pairs(segments.missed_class, segments.missed_as, num_classes)


def extra_on(segments: segments_lib.Segments, num_classes: int) -> np.ndarray:
  """Returns [num_classes, 1 + num_classes] counts of false positives.

  Rows are predicted classes; columns what most of their pixels are: nothing (no label, or crowd),
  then the classes.
  """
  return _pairs(segments.extra_class, segments.extra_on, num_classes)


def _pairs(rows, columns, num_classes):
  width = num_classes + 1
  place = rows * width + columns - segments_lib.NOTHING
  return np.bincount(place.astype(np.int64), minlength=num_classes * width).reshape(-1, width)
