"""COCO's instance annotations (polygons or run lengths) -> panoptic label maps.

(https://cocodataset.org/#format-data, section 1)
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.data import json_fields
from deeplab2.data import stretched

_MOST_CHARACTERS = 7  # Of a number in compressed runs: 35 bits.
_NEEDED = 'polygons [[x, y, x, y, x, y, ...], ...], or run lengths {size, counts}'
_SEGMENTATION = json_fields.Wanted(_NEEDED, lambda value: True)


class Drawn(NamedTuple):
  """The instances of an image as a label map."""

  label: np.ndarray  # [H, W] int32 panoptic ids.
  left_out: list[str]  # What is wrong with each annotation that was left out.
  empty: list[str]  # Annotations without a single pixel.
  covered: list[str]  # Annotations with pixels, all of which lie below other instances.


class _Instance(NamedTuple):
  where: str
  class_id: int
  is_crowd: bool
  encoded: dict[str, Any]  # Run lengths as pycocotools takes them.
  area: int


def label_of_instances(
  annotations: Sequence[dict[str, Any]],
  size: tuple[int, int],
  info: datasets.DatasetInfo,
  where: str,
  *,
  skip: bool = False,
) -> Drawn:
  """Draws the instances of an image into a panoptic label map.

  Where instances overlap, the smaller one is on top; crowds lie below all others. Instances are
  numbered from 1 per class, the largest first.

  Args:
    annotations: entries of a COCO instances JSON: category_id, segmentation (polygons or RLE),
      iscrowd.
    size: (height, width) of the image.
    info: the dataset. Pixels of no instance become void.
    where: file and image, for error messages.
    skip: leave out annotations that are wrong.

  Raises:
    errors.UserError: a class has more instances than the label divisor can number; unless `skip`,
      a field is missing or of no use, or a category is not a thing of the dataset.
  """
  space = info.label_space
  instances, left_out = [], []
  for annotation in annotations:
    try:
      instances.append(_instance(annotation, size, info, where))
    except errors.UserError as error:
      if not skip:
        raise
      left_out.append(str(error))
  label = np.full(size, space.void_id, np.int32)
  counts: dict[int, int] = {}
  drawn: dict[str, int] = {}
  empty = []
  for instance in sorted(instances, key=lambda entry: (not entry.is_crowd, -entry.area)):
    number = 0
    if not instance.is_crowd:
      number = counts[instance.class_id] = counts.get(instance.class_id, 0) + 1
      if number >= space.label_divisor:
        raise errors.UserError(
          f'{where}: {number} instances of class {instance.class_id}; the '
          f'label divisor {space.label_divisor} allows fewer.'
        )
    if instance.area == 0:
      empty.append(instance.where)
      continue
    # One mask at a time: those of a hundred instances of a large image would fill the memory.
    panoptic_id = instance.class_id * space.label_divisor + number
    label[coco_mask.decode(instance.encoded).view(bool)] = panoptic_id
    drawn[instance.where] = panoptic_id
  present = set(stretched.unstretched(label).ids().tolist())
  covered = [at for at, panoptic_id in drawn.items() if panoptic_id not in present]
  return Drawn(label, left_out, empty, covered)


def _instance(annotation, size, info, where):
  """Reads one annotation; UserError naming it if it is wrong."""
  at = f'{where}, annotation {annotation.get("id", "without id")}'
  category = json_fields.take(annotation, 'category_id', at, json_fields.INTEGER)
  class_id = info.dataset_ids.get(category)
  if class_id not in info.label_space.thing_ids:
    raise errors.UserError(f'{at}: category_id {category} is not a thing of {info.name}.')
  is_crowd = bool(json_fields.take({'iscrowd': 0, **annotation}, 'iscrowd', at, json_fields.FLAG))
  segmentation = json_fields.take(annotation, 'segmentation', at, _SEGMENTATION)
  encoded = encoded_mask(segmentation, size, at)
  return _Instance(at, class_id, is_crowd, encoded, int(coco_mask.area(encoded)))


def encoded_mask(segmentation: Any, size: tuple[int, int], where: str) -> dict[str, Any]:
  """Returns a mask as the compressed run lengths {size, counts} that pycocotools takes.

  Args:
    segmentation: of a COCO annotation or result: polygons or RLE, unchecked.
    size: (height, width) of the image.
    where: file and annotation, for error messages.

  Raises:
    errors.UserError: it is of no use.
  """
  try:
    if isinstance(segmentation, dict):
      return _encoded_runs(segmentation, size)
    return coco_mask.merge(coco_mask.frPyObjects(_polygons(segmentation, size), *size))
  except (ValueError, OverflowError) as error:
    raise errors.UserError(
      f'{where}: the segmentation is neither polygons nor RLE ({error}).'
    ) from error


def _polygons(segmentation, size):
  """Returns polygons as lists of numbers that pycocotools can draw; ValueError for others.

  It draws two points as a box, and never ends at infinity.
  """
  if not isinstance(segmentation, list) or not segmentation:
    raise ValueError(f'{segmentation!r:.60}; must be {_NEEDED}')
  polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
  farthest = 2 * max(size)
  for polygon in polygons:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
      raise ValueError(f'a polygon is {polygon!r:.60}; must be x and y of at least three points')
    for value in polygon:
      if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f'a coordinate is {value!r:.60}; must be a number')
      if not -farthest <= value <= farthest:
        raise ValueError(
          f'a coordinate is {value:.6g}, far outside of the image of {size[0]}x'
          f'{size[1]} (height x width)'
        )
  return polygons


def _encoded_runs(segmentation, size):
  """Returns run lengths as pycocotools takes them; ValueError unless they fill the image.

  It reads beyond its memory where they do not.
  """
  stated, counts = segmentation.get('size'), segmentation.get('counts')
  if not isinstance(counts, str | list):
    raise ValueError(f'counts is {counts!r:.60}; must be {_NEEDED}')
  if stated != list(size):
    raise ValueError(
      f'it is of size {stated!r:.60}, its image {list(size)} (height, width); must be equal'
    )
  if isinstance(counts, str):
    _check_fill(_runs(counts), size)
    return {'size': list(size), 'counts': counts.encode()}
  if not all(isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in counts):
    raise ValueError('a run length is not an integer from 0')
  _check_fill(counts, size)
  return coco_mask.frPyObjects({'size': list(size), 'counts': counts}, *size)


def _check_fill(runs, size):
  if any(run < 0 for run in runs):
    raise ValueError('a run length is not an integer from 0')
  if sum(runs) != size[0] * size[1]:
    raise ValueError(f'its runs cover {sum(runs)} pixels, the image has {size[0] * size[1]}')


def _runs(text):
  """Returns the run lengths of COCO's compressed form.

  A number is written in characters of six bits, from '0' on: five of the number, lowest first, and
  one that says that more follow; the highest of the last is the sign. From the fourth on, it is the
  difference to the run before last.
  """
  bits = np.frombuffer(text.encode('utf-32-le', 'surrogatepass'), '<u4').astype(np.int64) - ord('0')
  strange = np.flatnonzero((bits < 0) | (bits >= 64))
  if strange.size:
    raise ValueError(f'counts holds {text[strange[0]]!r}, which is no character of compressed runs')
  last = np.flatnonzero(bits & 32 == 0)
  if not bits.size or last.size == 0 or last[-1] != bits.size - 1:
    raise ValueError('counts ends within a number')
  first = np.concatenate([[0], last[:-1] + 1])
  lengths = last - first + 1
  if lengths.max() > _MOST_CHARACTERS:
    raise ValueError('counts holds a run that no image has')
  place = np.arange(bits.size) - np.repeat(first, lengths)
  values = np.add.reduceat((bits & 31) << 5 * place, first)
  values -= np.where(bits[last] & 16, 1, 0) << 5 * lengths
  for start in (1, 2):
    values[start::2] = np.cumsum(values[start::2])
  return values.tolist()
