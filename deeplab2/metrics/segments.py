"""What became of every segment of an image: found, missed, or made up, and with which score.

Segments are matched as the official panoptic quality matches them (panoptic_quality.py), so counts
and IoU add up to its numbers. Areas are in pixels of the image, scores in [0, 1].
"""

from typing import NamedTuple

import numpy as np

from deeplab2 import structures
from deeplab2.metrics import overlaps as overlaps_lib
from deeplab2.metrics import panoptic_quality

NOTHING = -1  # In place of a class: no label, crowd, or nothing predicted.


class Segments(NamedTuple):
  """The segments of an image that count: M matches, N missed ones, E false positives."""

  matched_class: np.ndarray  # [M] int64 dataset ids
  matched_area: np.ndarray  # [M] int64, of the true segment.
  matched_iou: np.ndarray  # [M] float64 in (0.5, 1]
  matched_score: np.ndarray  # [M] float64, of the predicted segment.
  missed_class: np.ndarray  # [N]
  missed_area: np.ndarray  # [N]
  missed_as: np.ndarray  # [N] the class predicted on most of its pixels, or NOTHING.
  extra_class: np.ndarray  # [E]
  extra_area: np.ndarray  # [E]
  extra_score: np.ndarray  # [E]
  extra_on: np.ndarray  # [E] the true class of most of its pixels, or NOTHING.

  def quality(self) -> float:
    """Returns the panoptic quality of this image alone in [0, 1]; NaN if it has no segment.

    As ever, a mean over the classes that occur.
    """
    classes, of = np.unique(
      np.concatenate([self.matched_class, self.missed_class, self.extra_class]),
      return_inverse=True,
    )
    if not classes.size:
      return float('nan')
    # Matches count once, what is left over half.
    parts = (self.matched_class.size, self.missed_class.size, self.extra_class.size)
    iou = np.concatenate([self.matched_iou, np.zeros(sum(parts[1:]))])
    weight = np.repeat([1.0, 0.5, 0.5], parts)
    return float((np.bincount(of, iou) / np.bincount(of, weight)).mean())


def compare(
  ground_truth: np.ndarray,
  prediction: np.ndarray,
  semantic_scores: np.ndarray,
  instance_scores: np.ndarray,
  space: structures.LabelSpace,
) -> Segments:
  """Returns what became of the segments of one image.

  Args:
    ground_truth: [H, W] integer panoptic ids, with crowd kept as its thing class and instance 0.
    prediction: [H, W] integer panoptic ids. Things have instances from 1.
    semantic_scores: [H, W] float32 confidence of each pixel's class.
    instance_scores: [H, W] float32 confidence of each pixel's mask. A segment scores the product
      of both means over its pixels, as in instance_ap.py.
    space: the numbering of both maps.

  Raises:
    ValueError: if an id has no class of the label space.
  """
  found = overlaps_lib.overlaps(ground_truth, prediction)
  matching, _ = panoptic_quality.match(found, space)
  score = _mean_of(prediction, found.predicted_ids, semantic_scores)
  score *= _mean_of(prediction, found.predicted_ids, instance_scores)
  t, p = matching.matched_true, matching.matched_predicted
  true_class = found.true_ids // space.label_divisor
  predicted_class = found.predicted_ids // space.label_divisor
  is_crowd = (found.true_ids % space.label_divisor == 0) & np.isin(true_class, space.thing_ids)
  true_areas, predicted_areas = found.true_areas.astype(int), found.predicted_areas.astype(int)
  missed, extra = np.flatnonzero(matching.missed), np.flatnonzero(matching.extra)
  shown_true = np.where(is_crowd | (true_class == space.ignore_label), NOTHING, true_class)
  shown_predicted = np.where(predicted_class == space.ignore_label, NOTHING, predicted_class)
  return Segments(
    matched_class=true_class[t],
    matched_area=true_areas[t],
    matched_iou=matching.iou,
    matched_score=score[p],
    missed_class=true_class[missed],
    missed_area=true_areas[missed],
    missed_as=_most(missed, found.true_of, shown_predicted[found.predicted_of], found.areas),
    extra_class=predicted_class[extra],
    extra_area=predicted_areas[extra],
    extra_score=score[extra],
    extra_on=_most(extra, found.predicted_of, shown_true[found.true_of], found.areas),
  )


def _most(segments, segment_of, class_of, areas):
  """Returns for each of `segments` the class that most of its pixels are of in the other map."""
  most = []
  for segment in segments.tolist():
    inside = segment_of == segment
    # Several segments of one class stand together; classes begin at NOTHING, which is -1.
    most.append(int(np.bincount(class_of[inside] - NOTHING, areas[inside]).argmax()) + NOTHING)
  return np.array(most, np.int64)


def _mean_of(panoptic, ids, values):
  """Returns the mean of `values` [H, W] over the pixels of each id; `ids` are all, ascending."""
  flat = np.ravel(panoptic)
  starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
  segment = np.searchsorted(ids, flat[starts])
  sums = np.bincount(segment, np.add.reduceat(np.ravel(values), starts, dtype=np.float64))
  return sums / np.bincount(segment, np.diff(starts, append=flat.size))
