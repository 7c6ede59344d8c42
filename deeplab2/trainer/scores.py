"""The numbers of one evaluation, and how they are shown: dict for JSON, scalars, table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from deeplab2 import structures
from deeplab2.metrics import instance_ap
from deeplab2.metrics import mean_iou
from deeplab2.metrics import panoptic_quality
from deeplab2.metrics import tables
from deeplab2.trainer import evaluator

OFFICIAL = "panopticapi's counting, at the images' own size"
REFERENCE = "DeepLab2's counting (crowd of any class is void), at the images' own size"
CROP = "DeepLab2's counting (crowd of any class is void), at crop size"


class Numbers(NamedTuple):
  """The metrics of an evaluation."""

  num_images: int
  raw: panoptic_quality.PanopticQualityResult  # At the images' own size.
  crop: panoptic_quality.PanopticQualityResult
  iou: mean_iou.MeanIoUResult  # Of the semantic pass, at the images' own size.
  ap: instance_ap.InstanceAPResult | None


class Scores:
  """Accumulates the metrics over the images of one evaluation."""

  def __init__(self, label_space: structures.LabelSpace, *, with_ap: bool):
    """Starts empty; `with_ap`: whether the precision of instances, which takes long, is wanted."""
    self._divisor = label_space.label_divisor
    self._num_images = 0
    self._raw = panoptic_quality.PanopticQuality(label_space)
    self._crop = panoptic_quality.PanopticQuality(label_space)
    self._iou = mean_iou.MeanIoU(label_space)
    self._ap = instance_ap.InstanceAP(label_space) if with_ap else None

  def update(self, image: evaluator.EvaluatedImage) -> None:
    """Adds one image, which has labels."""
    if image.ground_truth is None or image.crop_ground_truth is None:
      raise ValueError(f'Image {image.name!r} has no labels.')
    self._num_images += 1
    self._raw.update(image.ground_truth, image.maps.panoptic)
    self._crop.update(image.crop_ground_truth, image.crop_maps.panoptic)
    self._iou.update(image.ground_truth // self._divisor, image.maps.semantic)
    if self._ap is not None:
      self._ap.update(
        image.ground_truth,
        image.maps.panoptic,
        image.maps.semantic_scores,
        image.maps.instance_scores,
      )

  def state(self) -> dict[str, np.ndarray]:
    """Returns the state that `set_state` takes."""
    return {
      'num_images': np.array(self._num_images),
      **{name: metric.state() for name, metric in self._metrics().items()},
    }

  def set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Goes on from what `state` returned."""
    self._num_images = int(arrays['num_images'])
    for name, metric in self._metrics().items():
      metric.set_state(arrays[name])

  def _metrics(self):
    found = {'raw': self._raw, 'crop': self._crop, 'iou': self._iou}
    return found if self._ap is None else {**found, 'ap': self._ap}

  def result(self) -> Numbers:
    """Returns the metrics of all images so far."""
    return Numbers(
      self._num_images,
      self._raw.result(),
      self._crop.result(),
      self._iou.result(),
      None if self._ap is None else self._ap.result(),
    )


def as_json(numbers: Numbers, label_space: structures.LabelSpace, class_names) -> dict[str, Any]:
  """Returns the content of the JSON file. Ratios are in percent, counts are sums over images."""
  official = numbers.raw.official
  content = {
    'num_images': numbers.num_images,
    'protocol': OFFICIAL,
    **tables.qualities(official),
    'crowds': tables.ALL_CROWDS,
    'per_class': tables.per_class(official, numbers.iou, label_space, class_names),
    'reference': {'protocol': REFERENCE, **tables.qualities(numbers.raw.reference)},
    'crop': {'protocol': CROP, **tables.qualities(numbers.crop.reference)},
    'mIoU': 100 * numbers.iou.mean,
  }
  if numbers.ap is not None:
    content['AP'] = tables.precisions(numbers.ap)
  return content


def as_scalars(numbers: Numbers, *, detailed_ap: bool) -> Mapping[str, float]:
  """Returns scalars for TensorBoard under DeepLab2's tags, ratios in [0, 1].

  TP, FN and FP are, as there, means over the classes that occur.
  """
  official = numbers.raw.official
  occurs = official.tp + official.fn + official.fp > 0
  scalars = {
    f'evaluation/pq/{tag}': value
    for tag, value in zip(('PQ', 'SQ', 'RQ'), official.all[:3], strict=True)
  }
  for tag in ('TP', 'FN', 'FP'):
    counts = getattr(official, tag.lower())[occurs]
    scalars[f'evaluation/pq/{tag}'] = float(counts.mean()) if counts.size else 0.0
  for group, quality in (
    ('pq_things', official.things),
    ('pq_stuff', official.stuff),
    ('pq_reference', numbers.raw.reference.all),
    ('pq_crop', numbers.crop.reference.all),
  ):
    for tag, value in zip(('PQ', 'SQ', 'RQ'), quality[:3], strict=True):
      scalars[f'evaluation/{group}/{tag}'] = value
  scalars['evaluation/iou/IoU'] = numbers.iou.mean
  if numbers.ap is not None:
    shown = len(tables.AP_TAGS) if detailed_ap else 1
    for tag, value in zip(tables.AP_TAGS[:shown], numbers.ap[:shown], strict=True):
      scalars[f'evaluation/ap/{tag}'] = value
  return scalars


def as_table(numbers: Numbers, label_space: structures.LabelSpace, class_names) -> str:
  """Returns the numbers as lines for people, in percent; classes that do not occur are left out."""
  official = numbers.raw.official
  return '\n'.join(
    [
      f'{numbers.num_images} images; PQ by {OFFICIAL}',
      *tables.quality_lines(
        {
          'all': official.all,
          'things': official.things,
          'stuff': official.stuff,
          "DeepLab2's counting": numbers.raw.reference.all,
          'the same at crop size': numbers.crop.reference.all,
        }
      ),
      *tables.other_lines(numbers.iou, numbers.ap),
      *tables.class_lines(official, numbers.iou, label_space, class_names),
    ]
  )
