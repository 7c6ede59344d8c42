"""COCO's instance annotations and detection results, read for the average precision."""

from collections.abc import Mapping, Sequence
from typing import Any

from deeplab2 import errors
from deeplab2.data import coco_instances
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import json_fields
from deeplab2.evaluation import pairs

_LARGEST_SIDE = 2**16


def read_ground_truths(
  path: str, content: Mapping[str, Any], info: datasets.DatasetInfo
) -> tuple[dict[str, tuple[int, int]], list[dict[str, Any]]]:
  """Returns sizes (height, width) by image id, as text, and the annotations of an instances JSON.

  Annotations have dataset ids, and run lengths that pycocotools takes.

  Raises:
    UserError: a field is missing or of no use.
  """
  json_fields.take(content, 'images', path, json_fields.LIST)
  sizes = {}
  for key, entry in coco_panoptic.read_images(dict(content), path, sized=True).items():
    size = (entry['height'], entry['width'])
    if not all(0 < side <= _LARGEST_SIDE for side in size):
      raise errors.UserError(
        f'{path}, image {key}: height and width are {size}; must be 1 to {_LARGEST_SIDE}.'
      )
    sizes[str(key)] = size
  found = []
  for number, annotation in enumerate(content['annotations']):
    at = f'{path}, annotations[{number}]'
    instance = _instance(annotation, at, sizes, info, path)
    crowd = json_fields.take({'iscrowd': 0, **annotation}, 'iscrowd', at, json_fields.FLAG)
    area = json_fields.take(annotation, 'area', at, json_fields.NUMBER)
    found.append({**instance, 'iscrowd': crowd, 'area': area})
  return sizes, found


def read_results(
  path: str,
  results: Sequence[Any],
  sizes: Mapping[str, tuple[int, int]],
  info: datasets.DatasetInfo,
  where: str,
) -> list[dict[str, Any]]:
  """Returns COCO's detection results, with dataset ids and run lengths that pycocotools takes.

  Args:
    path: of the file.
    results: its content.
    sizes: (height, width) by image id, as text, of the images of the ground truth.
    info: the classes.
    where: the file of the ground truth.

  Raises:
    UserError: a field is missing or of no use, an image or a category is not of the ground truth.
  """
  found = []
  for number, result in enumerate(results):
    at = f'{path}, [{number}]'
    instance = _instance(result, at, sizes, info, where)
    score = json_fields.take(result, 'score', at, pairs.SCORE)
    found.append({**instance, 'score': float(score)})
  return found


def _instance(content, at, sizes, info, where):
  image = str(json_fields.take(content, 'image_id', at, json_fields.ID))
  if image not in sizes:
    raise errors.UserError(
      f'{at}: image_id {image} is not one of the {len(sizes)} images of {where} '
      f'({pairs.named(list(sizes))}); is this of another data set or split?'
    )
  category = json_fields.take(content, 'category_id', at, json_fields.INTEGER)
  class_id = info.dataset_ids.get(category)
  if class_id not in info.label_space.thing_ids:
    raise errors.UserError(
      f'{at}: category_id {category} is not a thing of the ground truth '
      f'({len(info.label_space.thing_ids)} things).'
    )
  return {
    'image_id': image,
    'category_id': class_id,
    'segmentation': coco_instances.encoded_mask(content.get('segmentation'), sizes[image], at),
  }
