"""COCO's instance annotations (polygons or run lengths) -> panoptic label maps.

(https://cocodataset.org/#format-data, section 1)
"""
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets


def label_of_instances(annotations: Sequence[dict[str, Any]], size: tuple[int, int],
                       info: datasets.DatasetInfo, where: str) -> np.ndarray:
  """Paints the instances of a picture into a panoptic label map.

  Where instances overlap, the smaller one is on top; crowds lie below all others.

  Args:
    annotations: entries of a COCO instances JSON: category_id, segmentation (polygons or RLE),
      iscrowd.
    size: (height, width) of the picture.
    info: the dataset. Pixels of no instance become void.
    where: file and picture, for error messages.

  Returns:
    [H, W] int32 panoptic ids. Instances are numbered from 1 per class, the largest first.

  Raises:
    errors.UserError: a field is missing or of no use, a category is not a thing of the dataset, or
      a class has more instances than the label divisor can number.
  """
  space = info.label_space
  masks = []
  for annotation in annotations:
    at = f'{where}, annotation {annotation.get("id", "without id")}'
    category = coco_panoptic.field(annotation, 'category_id', at, 'whole number')
    class_id = info.dataset_ids.get(category)
    if class_id not in space.thing_ids:
      raise errors.UserError(f'{at}: category_id {category} is not a thing of {info.name}.')
    is_crowd = coco_panoptic.is_crowd(annotation, at)
    if 'segmentation' not in annotation:
      raise errors.UserError(f"{at}: field 'segmentation' is missing.")
    segmentation = annotation['segmentation']
    masks.append((not is_crowd, _mask(segmentation, size, at), class_id))
  label = np.full(size, space.void_id, np.int32)
  instances: dict[int, int] = {}
  for is_instance, mask, class_id in sorted(masks, key=lambda entry: (entry[0], -entry[1].sum())):
    instance = 0
    if is_instance:
      instance = instances[class_id] = instances.get(class_id, 0) + 1
      if instance >= space.label_divisor:
        raise errors.UserError(f'{where}: {instance} instances of class {class_id}; the label '
                               f'divisor {space.label_divisor} allows fewer.')
    label[mask] = class_id * space.label_divisor + instance
  return label


def _mask(segmentation, size, where):
  """Returns polygons or RLE as bool [H, W]."""
  try:
    if isinstance(segmentation, dict) and not isinstance(segmentation['counts'], list):
      encoded = segmentation
    else:
      encoded = coco_mask.frPyObjects(segmentation, *size)
      if isinstance(encoded, list):
        encoded = coco_mask.merge(encoded)
    mask = coco_mask.decode(encoded).astype(bool)
  except Exception as error:  # What pycocotools raises is not documented, plain Exception too.
    raise errors.UserError(f'{where}: the segmentation is neither polygons nor RLE '
                           f'({type(error).__name__}: {error}).') from error
  if mask.shape != tuple(size):
    raise errors.UserError(f'{where}: the segmentation is of size {mask.shape}, its picture '
                           f'{tuple(size)} (height, width); must be equal.')
  return mask
