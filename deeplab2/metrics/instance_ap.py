"""COCO's average precision of masks (pycocotools).

`InstanceAP` scores the things of panoptic maps. These are disjoint, and a detection on unlabelled
pixels is a false positive: expect less than from a detector's own evaluation.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import io
import json
from typing import Any, NamedTuple

import numpy as np
from pycocotools import coco
from pycocotools import cocoeval
from pycocotools import mask as coco_mask

from deeplab2 import structures


class InstanceAPResult(NamedTuple):
  """COCO's twelve numbers in [0, 1]. -1: the ground truth has nothing of that size."""

  ap: float  # Mean over IoU 0.50, 0.55, ..., 0.95.
  ap_50: float
  ap_75: float
  ap_small: float  # Areas below 32**2 pixels,
  ap_medium: float  # below 96**2,
  ap_large: float  # and above.
  ar_1: float  # Average recall with at most so many detections in an image.
  ar_10: float
  ar_100: float
  ar_small: float
  ar_medium: float
  ar_large: float


class InstanceAP:
  """Collects true and detected instances over images."""

  def __init__(self, label_space: structures.LabelSpace):
    self._space = label_space
    self._sizes: list[tuple[int, int]] = []  # (height, width) of each image
    self.ground_truths: list[dict[str, Any]] = []  # COCO annotations
    self.detections: list[dict[str, Any]] = []  # COCO results

  def update(
    self,
    ground_truth: np.ndarray,
    prediction: np.ndarray,
    semantic_scores: np.ndarray,
    instance_scores: np.ndarray,
  ) -> None:
    """Adds one image.

    Args:
      ground_truth: [H, W] integer panoptic ids, with crowd kept as its thing class and instance 0.
      prediction: [H, W] integer panoptic ids.
      semantic_scores: [H, W] float32 confidence of each pixel's class.
      instance_scores: [H, W] float32 confidence of each pixel's mask. An instance scores the
        product of both means over its pixels.

    Raises:
      ValueError: if sizes differ.
    """
    if len({m.shape for m in (ground_truth, prediction, semantic_scores, instance_scores)}) != 1:
      raise ValueError(
        f'Ground truth {ground_truth.shape}, prediction {prediction.shape} and scores '
        f'{semantic_scores.shape}, {instance_scores.shape} differ in size.'
      )
    self._sizes.append(ground_truth.shape)
    image = len(self._sizes)
    divisor = self._space.label_divisor
    for panoptic_id, segmentation, runs in _things(_Runs(ground_truth), self._space):
      self.ground_truths.append(
        {
          'id': len(self.ground_truths) + 1,
          'image_id': image,
          'category_id': panoptic_id // divisor,
          'iscrowd': int(panoptic_id % divisor == 0),
          'segmentation': segmentation,
          'area': int(runs.sum()),
          'bbox': coco_mask.toBbox(segmentation).tolist(),
        }
      )
    found = detections(prediction, semantic_scores, instance_scores, self._space)
    for _, detection in found:
      self.detections.append({'image_id': image, **detection})

  def state(self) -> np.ndarray:
    """Returns what `set_state` takes: bytes of a JSON text, uint8."""
    # COCO's compressed masks are ASCII.
    text = json.dumps(
      [self._sizes, self.ground_truths, self.detections],
      default=lambda counts: counts.decode('ascii'),
    )
    return np.frombuffer(text.encode(), np.uint8)

  def set_state(self, text: np.ndarray) -> None:
    """Goes on from what `state` returned."""
    sizes, self.ground_truths, self.detections = json.loads(text.tobytes())
    self._sizes = [(height, width) for height, width in sizes]
    for instance in self.ground_truths + self.detections:
      segmentation = instance['segmentation']
      segmentation['counts'] = segmentation['counts'].encode('ascii')

  def result(self) -> InstanceAPResult:
    """Returns the precision over all images so far; zeros if nothing at all was detected."""
    sizes = {index + 1: size for index, size in enumerate(self._sizes)}
    return average_precision(sizes, self.ground_truths, self.detections)


def detections(
  prediction: np.ndarray,
  semantic_scores: np.ndarray,
  instance_scores: np.ndarray,
  space: structures.LabelSpace,
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (panoptic id, COCO result without image_id) of each thing; arguments as of `update`.

  A thing's score is the product of the means of both scores over its pixels.
  """
  runs = _Runs(prediction)
  sums = [runs.sums(scores) for scores in (semantic_scores, instance_scores)]
  for panoptic_id, segmentation, lengths in _things(runs, space):
    inside = runs.ids == panoptic_id
    means = [total[inside].sum() / lengths.sum() for total in sums]
    yield (
      panoptic_id,
      {
        'category_id': panoptic_id // space.label_divisor,
        'segmentation': segmentation,
        'score': float(means[0] * means[1]),
      },
    )


def _things(runs, space):
  """Yields (panoptic id, compressed mask, lengths of its runs) of each thing."""
  for panoptic_id in np.unique(runs.ids).tolist():
    if panoptic_id // space.label_divisor in space.thing_ids:
      segmentation, lengths = runs.encode(panoptic_id)
      yield panoptic_id, segmentation, lengths


def average_precision(
  sizes: Mapping[Any, tuple[int, int]],
  ground_truths: Sequence[Mapping[str, Any]],
  results: Sequence[Mapping[str, Any]],
) -> InstanceAPResult:
  """Returns the precision of detections; zeros if there is none.

  Args:
    sizes: (height, width) of each image by its id, in the order by which equal scores are told
      apart: pycocotools takes ascending ids.
    ground_truths: COCO annotations: id (from 1), image_id, category_id, iscrowd, area, bbox, and
      segmentation as run lengths that pycocotools takes.
    results: COCO results: image_id, category_id, segmentation, score.
  """
  if not results:
    return InstanceAPResult(*([0.0] * 12))
  numbers = {image: number for number, image in enumerate(sizes, 1)}

  def numbered(instance):
    return {**instance, 'image_id': numbers[instance['image_id']]}

  with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there.
    ground_truth = coco.COCO()
    classes = {instance['category_id'] for part in (ground_truths, results) for instance in part}
    ground_truth.dataset = {
      'info': {},
      'annotations': list(map(numbered, ground_truths)),
      'images': [
        {'id': numbers[image], 'height': height, 'width': width}
        for image, (height, width) in sizes.items()
      ],
      'categories': [{'id': index} for index in sorted(classes)],
    }
    ground_truth.createIndex()
    evaluation = _Evaluation(
      ground_truth, ground_truth.loadRes(list(map(numbered, results))), 'segm'
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  return InstanceAPResult(*map(float, evaluation.stats))


class _Evaluation(cocoeval.COCOeval):
  """COCO's evaluation, which looks at an image and class no more often than it must.

  Of most of the millions of pairs in COCO's validation set there is nothing: their results are None
  and []. Of others, all areas are in a range of sizes, where they fare as among all sizes, or none
  is, and they count nothing there.
  """

  def _prepare(self):
    super()._prepare()
    areas: dict[tuple[int, int], list[float]] = {}
    for instances in (self._gts, self._dts):
      for key, found in instances.items():
        areas.setdefault(key, []).extend(instance['area'] for instance in found)
    self._areas = {key: (min(found), max(found)) for key, found in areas.items() if found}
    self._of_all_sizes: dict[tuple[int, int], Any] = {}

  def computeIoU(self, imgId, catId):
    return super().computeIoU(imgId, catId) if (imgId, catId) in self._areas else []

  def evaluateImg(self, imgId, catId, aRng, maxDet):
    key = imgId, catId
    if key not in self._areas:
      return None
    smallest, largest = self._areas[key]
    if key in self._of_all_sizes and aRng[0] <= smallest and largest <= aRng[1]:
      return self._of_all_sizes[key]
    if largest < aRng[0] or smallest > aRng[1]:
      return None
    result = super().evaluateImg(imgId, catId, aRng, maxDet)
    if aRng == self.params.areaRng[0]:
      self._of_all_sizes[key] = result
    return result


def encode_masks(ids: np.ndarray, wanted: Collection[int]) -> dict[int, dict[str, Any]]:
  """Returns COCO's compressed masks {size, counts} of those ids of a map [H, W] that are wanted."""
  runs = _Runs(ids)
  present = np.intersect1d(runs.ids, np.asarray(list(wanted), runs.ids.dtype))
  return {value: runs.encode(value)[0] for value in present.tolist()}


def mask_area(mask: Mapping[str, Any]) -> int:
  """Returns the pixels of a compressed mask."""
  return int(coco_mask.area(mask))


class _Runs:
  """The runs of equal ids of a map, column by column as COCO's masks are stored."""

  def __init__(self, ids_hw):
    self._size = height, width = ids_hw.shape
    # Changes are turned instead of ids: a quarter of the memory.
    begins = np.ones([width, height], bool)
    begins[:, 1:] = (ids_hw[1:] != ids_hw[:-1]).T
    begins[1:, 0] = ids_hw[0, 1:] != ids_hw[-1, :-1]
    self.starts = np.flatnonzero(begins)
    self.lengths = np.diff(self.starts, append=ids_hw.size)
    columns, rows = np.divmod(self.starts, height)
    self.ids = ids_hw[rows, columns]

  def sums(self, values_hw):
    """Returns the sum of `values_hw` over each run."""
    return np.add.reduceat(np.ravel(values_hw, 'F'), self.starts, dtype=np.float64)

  def encode(self, panoptic_id):
    """Returns COCO's compressed mask of one id, and the lengths of its runs."""
    inside = self.ids == panoptic_id
    starts, lengths = self.starts[inside], self.lengths[inside]
    # Where runs begin and end, in turns, between both ends of the map.
    edges = np.empty(2 * len(starts) + 2, np.int64)
    edges[0], edges[-1] = 0, self._size[0] * self._size[1]
    edges[1:-1:2], edges[2:-1:2] = starts, starts + lengths
    counts = np.diff(edges)
    mask = {'counts': counts.tolist(), 'size': list(self._size)}
    return coco_mask.frPyObjects(mask, *self._size), lengths
