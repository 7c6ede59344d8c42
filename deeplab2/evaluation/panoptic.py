"""Counts of panoptic predictions in files, image by image: PQ, boundary PQ, mIoU, instances.

Segments count as panopticapi counts them (https://github.com/cocodataset/panopticapi): each entry
of the JSON is one, and of several crowd regions of a class in an image, the last one excuses
predictions, unless all are to. Boundary PQ takes the lesser of the IoU of masks and of boundaries
(boundaries.py) for the IoU.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import labels
from deeplab2.data import problems
from deeplab2.evaluation import pairs as pairs_lib
from deeplab2.metrics import boundaries
from deeplab2.metrics import instance_ap
from deeplab2.metrics import mean_iou
from deeplab2.metrics import overlaps as overlaps_lib

_MOST_PIXELS = 2**53
_LISTED_AREAS = '; --listed_areas takes areas from the JSON, as panopticapi does'


class Settings(NamedTuple):
  """What is measured, and how."""

  info: datasets.DatasetInfo
  all_crowds: bool = False  # Whether all crowd regions of a class excuse predictions.
  # Whether true segments have the areas of the JSON, as in panopticapi, whatever the PNG holds;
  # those without a pixel are missed. Else the two must agree.
  listed_areas: bool = False
  with_instances: bool = False  # Whether those of both sides are wanted; things must have scores.


class Counts(NamedTuple):
  """The sums over some images, and their instances; classes are dataset ids."""

  quality: np.ndarray  # [2, 4, num_classes]: of masks and of boundaries; iou, tp, fn, fp.
  pixels: np.ndarray  # State of metrics/mean_iou.py.
  sizes: dict[Any, tuple[int, int]]  # (height, width) by image id.
  ground_truths: list[dict[str, Any]]  # COCO annotations, without id.
  detections: list[dict[str, Any]]  # COCO results.


def measure(settings: Settings, images: Sequence[pairs_lib.Pair]) -> Counts:
  """Returns the counts of some images.

  Raises:
    UserError: a PNG cannot be read, two sizes differ, or a PNG and its JSON disagree.
  """
  space = settings.info.label_space
  iou = mean_iou.MeanIoU(space)
  total = Counts(np.zeros([2, 4, space.num_classes]), iou.state(), {}, [], [])
  for image in images:
    _add(total, iou, settings, image)
  return total._replace(pixels=iou.state())


def _add(total, iou, settings, image):
  """Adds an image to all but the pixels, which `iou` counts."""
  if image.ground_truth is None or image.prediction is None:
    _add_instances(total, settings, image)
    return
  truth_ids, predicted_ids = (
    coco_panoptic.read_segment_ids(side.png) for side in (image.ground_truth, image.prediction)
  )
  if truth_ids.shape != predicted_ids.shape:
    raise errors.UserError(
      f'{image.prediction.png}: is {_shown(predicted_ids.shape)} (height x width), but its ground '
      f'truth {image.ground_truth.png} {_shown(truth_ids.shape)}; must be equal.'
    )
  found = overlaps_lib.overlaps(
    truth_ids,
    predicted_ids,
    (boundaries.find_boundaries(truth_ids), boundaries.find_boundaries(predicted_ids)),
  )
  truths = _Side(image.ground_truth, found.true_ids, found.true_areas, settings.info)
  predictions = _Side(image.prediction, found.predicted_ids, found.predicted_areas, settings.info)
  truths.check(truth_ids, settings.listed_areas, advice=_LISTED_AREAS)
  predictions.check(predicted_ids)
  total.quality[:] += _qualities(found, truths, predictions, settings)
  iou.update_areas(
    truths.classes[found.true_of], predictions.classes[found.predicted_of], found.areas
  )
  total.sizes[image.image_id] = truth_ids.shape
  if settings.with_instances:
    total.ground_truths.extend(_ground_truths(image, truth_ids, settings.info))
    total.detections.extend(_detections(image, predicted_ids, settings.info))


def _add_instances(total, settings, image):
  """Adds the instances of an image that has one side."""
  side = image.ground_truth or image.prediction
  ids = coco_panoptic.read_segment_ids(side.png)
  _Side(side, *np.unique(ids, return_counts=True), settings.info).check(
    ids, settings.listed_areas, advice='' if image.ground_truth is None else _LISTED_AREAS
  )
  total.sizes[image.image_id] = ids.shape
  if image.prediction is None:
    total.ground_truths.extend(_ground_truths(image, ids, settings.info))
  else:
    total.detections.extend(_detections(image, ids, settings.info))


class _Side:
  """The segments of a map, one for each id in it."""

  def __init__(self, segmentation, ids, areas, info):
    """Looks up `ids` [n], which have `areas` [n], in the segmentation's list."""
    ignore = info.label_space.ignore_label
    self.listed = {segment.id: segment for segment in segmentation.segments}
    found = [self.listed.get(value) for value in ids.tolist()]
    self.classes = np.array([ignore if one is None else one.class_id for one in found], np.int64)
    self.is_crowd = np.array([one is not None and one.is_crowd for one in found], bool)
    self.is_void = self.classes == ignore  # Pixels of no segment.
    self.areas = areas
    self.hidden = [one for key, one in self.listed.items() if key not in set(ids.tolist())]
    self.listed_areas = np.array(
      [
        area if one is None or one.area is None else min(one.area, _MOST_PIXELS)
        for one, area in zip(found, areas, strict=True)
      ],
      np.float64,
    )
    self._segmentation, self._ids, self._info = segmentation, ids, info

  def check(self, segment_ids, listed_areas=False, advice=''):
    """Raises UserError where the map and the list disagree.

    Args:
      segment_ids: the map.
      listed_areas: see Settings.
      advice: what to add where areas alone disagree.
    """
    agree = all(value in self.listed for value in self._ids.tolist() if value)
    if not listed_areas:
      agree = agree and not self.hidden and bool(np.all(self.listed_areas == self.areas))
    if agree:
      return
    segments = self._segmentation.segments
    if listed_areas:
      segments = tuple(one._replace(area=None, may_be_hidden=True) for one in segments)
    side = self._segmentation
    try:
      regions = labels.regions(segment_ids)
    except errors.UserError as error:
      raise errors.UserError(f'{side.png}: {error}.') from error
    found = list(labels.map_problems(regions, segments, self._info, side.png))
    if any(problem.category not in ('area', 'stuff not drawn') for problem in found):
      advice = ''
    raise errors.UserError(f'{problems.summary(found)}; must agree with {side.where}{advice}.')


def _qualities(found, truths, predictions, settings):
  """Returns [2, 4, num_classes] of an image: by masks, and by boundaries."""
  num_classes = settings.info.label_space.num_classes
  void = truths.is_void
  crowds = [one for one in truths.listed.values() if one.is_crowd]
  if not settings.all_crowds:
    crowds = list({one.class_id: one for one in crowds}.values())
  same_class = truths.classes[found.true_of] == predictions.classes[found.predicted_of]
  excusing = np.isin(found.true_ids, [one.id for one in crowds])[found.true_of] & same_class
  areas = truths.listed_areas if settings.listed_areas else None
  of_masks = found.iou(void, areas)
  counts = np.zeros([2, 4, num_classes])
  for index, iou in enumerate((of_masks, np.minimum(of_masks, found.boundary_iou(void)))):
    matching = overlaps_lib.match(
      found,
      iou,
      same_class=same_class,
      countable=~void & ~truths.is_crowd,
      is_predicted=~predictions.is_void,
      excused=found.predicted_areas_in(void[found.true_of] | excusing),
    )
    counts[index] = matching.counts(truths.classes, predictions.classes, num_classes)
    for hidden in truths.hidden:
      counts[index, 2, hidden.class_id] += not hidden.is_crowd
  return counts


def _ground_truths(image, ids, info):
  """Yields the true instances of an image as COCO annotations."""
  things = [one for one in image.ground_truth.segments if _is_thing(one, info)]
  masks = instance_ap.encode_masks(ids, [one.id for one in things])
  for one in things:
    if one.id in masks:
      yield {
        'image_id': image.image_id,
        'category_id': one.class_id,
        'iscrowd': int(one.is_crowd),
        'segmentation': masks[one.id],
        'area': instance_ap.mask_area(masks[one.id]),
      }


def _detections(image, ids, info):
  """Yields the predicted instances of an image as COCO results; UserError without a score."""
  things = [one for one in image.prediction.segments if _is_thing(one, info)]
  masks = instance_ap.encode_masks(ids, [one.id for one in things])
  for one in things:
    if one.id not in image.prediction.scores:
      raise errors.UserError(
        f"{image.prediction.where}, segment {one.id}: field 'score' is missing; things of other "
        'images have it, and the average precision needs it of all.'
      )
    yield {
      'image_id': image.image_id,
      'category_id': one.class_id,
      'segmentation': masks[one.id],
      'score': image.prediction.scores[one.id],
    }


def _is_thing(segment, info):
  return segment.class_id in info.label_space.thing_ids


def _shown(size):
  return f'{size[0]}x{size[1]}'
