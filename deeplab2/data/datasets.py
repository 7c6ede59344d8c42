"""Descriptions of datasets: numbering of ids, names, colors, original ids.

Built-in descriptions are the files of `classes/`; a dataset of one's own is a file of the same
form (`load`):

  dataset                 its name
  num_classes             dataset ids are 0..num_classes - 1, void included where it is one of them
  ignore_label            dataset id of pixels without a label; may lie beyond num_classes
  panoptic_label_divisor  panoptic id = dataset id * divisor + instance
  original_ignore_id      what the ignore label is called in the dataset's own numbering
  splits                  {name of the split: number of its images}; may be empty
  categories              for each dataset id, ascending: {id, original_id, name, isthing, color};
                          original_id null: annotations never hold this class
  image_id_suffix         optional: ending of the names of images that is no part of their ids
                          (Cityscapes: "_leftImg8bit"). Without this field, that of the built-in
                          dataset of the same name, else none
"""

from collections.abc import Mapping, Sequence
import colorsys
import functools
import importlib.resources
import json
import os
import re
from typing import Any, NamedTuple

import numpy as np

from deeplab2 import errors
from deeplab2 import files
from deeplab2 import structures
from deeplab2.data import json_fields

DATASETS = ('ade20k_panoptic', 'cityscapes_panoptic', 'coco_panoptic', 'shapes')


class DatasetInfo(NamedTuple):
  """Describes a dataset. Sequences are indexed by dataset id and num_classes long."""

  name: str
  label_space: structures.LabelSpace
  class_names: tuple[str, ...]
  colors: tuple[tuple[int, int, int], ...]  # RGB, 0..255
  original_ids: tuple[int, ...]
  original_ignore_id: int
  # Original id -> dataset id of the classes that annotations may hold.
  dataset_ids: Mapping[int, int]
  split_sizes: Mapping[str, int]
  image_id_suffix: str = ''  # Ending of the stems of image files that is no part of the image id.


@functools.cache
def get(name: str) -> DatasetInfo:
  """Returns a dataset by name, or from a file of the form above.

  Args:
    name: one of DATASETS, or the path of a JSON file.

  Raises:
    UserError: if it is neither, or as `load`.
  """
  if name.endswith('.json'):
    return load(name)
  if name not in DATASETS:
    raise errors.UserError(
      f'dataset {name!r} is unknown; choose from {", ".join(DATASETS)}, or '
      'give the path of a JSON file that describes your own.'
    )
  file = importlib.resources.files('deeplab2.data') / 'classes' / f'{name}.json'
  with importlib.resources.as_file(file) as path:
    return load(str(path))


def load(path: str) -> DatasetInfo:
  """Reads the description of a dataset from a JSON file of the form above.

  Raises:
    errors.UserError: the file is missing or no JSON, or a field is missing or has a wrong value.
  """
  return parse(files.read_text(path), path)


def parse(text: str, where: str) -> DatasetInfo:
  """Reads the description of a dataset from the text of a JSON file of the form above.

  Args:
    text: of the file.
    where: its place, for error messages.

  Raises:
    errors.UserError: as `load`.
  """
  try:
    return _from_json(files.parse_json(text, where), where)
  except RecursionError as error:
    raise errors.UserError(f'{where}: nested too deeply.') from error


def describe(
  name: str, categories: Sequence[Mapping[str, Any]], label_divisor: int, where: str
) -> DatasetInfo:
  """Describes a dataset by the categories of a COCO JSON; void becomes dataset id 0.

  Args:
    name: of the dataset.
    categories: {id, name} each; isthing is 1 and color any where they are missing.
    label_divisor: must exceed the instances of a class in an image.
    where: the file, for error messages.

  Raises:
    errors.UserError: a field is missing or has a wrong value.
  """
  listed: list[dict[str, Any]] = [
    {'id': 0, 'original_id': None, 'name': 'void', 'isthing': 0, 'color': [0, 0, 0]}
  ]
  for index, content in enumerate(categories, 1):
    at = f'{where}, categories[{index - 1}]'
    # Hues that are far apart, whatever the number of classes: the golden section of a circle.
    color = [round(255 * part) for part in colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.65, 0.9)]
    listed.append(
      {
        'id': index,
        'original_id': json_fields.take(content, 'id', at, json_fields.INTEGER),
        'name': json_fields.take(content, 'name', at, json_fields.NAME),
        'isthing': content.get('isthing', 1),
        'color': content.get('color', color),
      }
    )
  return _from_json(
    {
      'dataset': name,
      'num_classes': len(listed),
      'ignore_label': 0,
      'panoptic_label_divisor': label_divisor,
      'original_ignore_id': 0,
      'splits': {},
      'categories': listed,
    },
    where,
  )


def to_json(info: DatasetInfo) -> str:
  """Returns the text of a file that `load` reads as `info`."""
  space = info.label_space
  used = set(info.dataset_ids.values())
  categories = [
    json.dumps(
      {
        'id': index,
        'original_id': info.original_ids[index] if index in used else None,
        'name': info.class_names[index],
        'isthing': int(index in space.thing_ids),
        'color': list(info.colors[index]),
      },
      ensure_ascii=False,
    )
    for index in range(space.num_classes)
  ]
  suffix = info.image_id_suffix
  optional = {} if suffix == _suffix_of(info.name) else {'image_id_suffix': suffix}
  head = json.dumps(
    {
      'dataset': info.name,
      'num_classes': space.num_classes,
      'ignore_label': space.ignore_label,
      'panoptic_label_divisor': space.label_divisor,
      'original_ignore_id': info.original_ignore_id,
      'splits': dict(info.split_sizes),
      **optional,
    },
    indent=2,
    ensure_ascii=False,
  )
  return head[:-2] + ',\n  "categories": [\n    ' + ',\n    '.join(categories) + '\n  ]\n}\n'


def image_id(info: DatasetInfo, file_name: str) -> int | str:
  """Returns the image id that follows from the file name of an image, as annotations have it.

  It is the stem without the dataset's suffix; the number it spells, if it is all digits (COCO).
  """
  stem = os.path.splitext(os.path.basename(file_name))[0]
  stem = stem.removesuffix(info.image_id_suffix) or stem
  return int(stem) if re.fullmatch('[0-9]+', stem) else stem


def original_id_table(info: DatasetInfo) -> np.ndarray:
  """Returns int32 [max(256, ids)]: dataset id -> original id; the ignore id where there is none."""
  size = max(256, info.label_space.num_classes, info.label_space.ignore_label + 1)
  table = np.full(size, info.original_ignore_id, np.int32)
  table[: info.label_space.num_classes] = info.original_ids
  if info.label_space.ignore_label >= 0:
    table[info.label_space.ignore_label] = info.original_ignore_id
  return table


def _integer(says, holds):
  return json_fields.of_type(says, int, holds=holds)


_SPLITS = json_fields.of_type(
  'an object {split: number of images}',
  dict,
  holds=lambda value: all(isinstance(n, int) for n in value.values()),
)
_COLOR = json_fields.of_type(
  '[red, green, blue] of 0..255',
  list,
  holds=lambda c: len(c) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in c),
)
_ORIGINAL_ID = json_fields.of_type('an integer or null', int, type(None))


def _from_json(content, where) -> DatasetInfo:
  """Checks and converts the content of a file."""
  if not isinstance(content, dict):
    raise errors.UserError(f'{where}: must be a JSON object with the fields of a dataset.')

  def take(key, wanted):
    return json_fields.take(content, key, where, wanted)

  name = take('dataset', json_fields.NAME)
  num_classes = take('num_classes', _integer('an integer from 1', lambda n: n > 0))
  divisor = take('panoptic_label_divisor', _integer('an integer from 2', lambda n: n > 1))
  # The largest panoptic id + 1 must fit the 24 bits of a COCO panoptic PNG, which is also below
  # the 2**31 of int32 label maps.
  ignore_label = take(
    'ignore_label',
    _integer(
      f'an integer from 0 with (ignore_label + 1) * {divisor} < 2**24',
      lambda n: 0 <= n and (n + 1) * divisor < 2**24,
    ),
  )
  if num_classes * divisor >= 2**24:
    raise errors.UserError(
      f'{where}: num_classes * panoptic_label_divisor is '
      f'{num_classes * divisor}; must be below 2**24 = {2**24}.'
    )
  original_ignore_id = take('original_ignore_id', json_fields.INTEGER)
  splits = take('splits', _SPLITS)
  suffix = _suffix_of(name)
  if 'image_id_suffix' in content:
    suffix = take('image_id_suffix', json_fields.TEXT)
  categories = take(
    'categories',
    json_fields.of_type(
      f'a list of {num_classes} categories (num_classes)',
      list,
      holds=lambda value: len(value) == num_classes,
    ),
  )

  names, colors, originals, things = [], [], [], []
  dataset_ids: dict[int, int] = {}
  for index, category in enumerate(categories):
    at = f'{where}, categories[{index}]'
    ascending = _integer(f'{index} (ids ascend from 0 without gaps)', lambda n, i=index: n == i)
    json_fields.take(category, 'id', at, ascending)
    names.append(json_fields.take(category, 'name', at, json_fields.NAME))
    colors.append(tuple(json_fields.take(category, 'color', at, _COLOR)))
    if json_fields.take(category, 'isthing', at, json_fields.FLAG):
      things.append(index)
    original = json_fields.take(category, 'original_id', at, _ORIGINAL_ID)
    originals.append(original_ignore_id if original is None else original)
    if original is not None and dataset_ids.setdefault(original, index) != index:
      raise errors.UserError(
        f'{at}: original_id {original} is also that of category '
        f'{dataset_ids[original]}; must be unique.'
      )
  if ignore_label in things:
    raise errors.UserError(
      f'{where}: ignore_label {ignore_label} is a thing class; must be '
      'void (isthing 0) or beyond the classes.'
    )
  space = structures.LabelSpace(num_classes, ignore_label, divisor, tuple(things))
  return DatasetInfo(
    name,
    space,
    tuple(names),
    tuple(colors),
    tuple(originals),
    original_ignore_id,
    dataset_ids,
    splits,
    suffix,
  )


@functools.cache
def _suffix_of(name):
  """Returns the image_id_suffix of the built-in dataset of this name, '' if there is none."""
  if name not in DATASETS:
    return ''
  file = importlib.resources.files('deeplab2.data') / 'classes' / f'{name}.json'
  return json.loads(file.read_text(encoding='utf-8')).get('image_id_suffix', '')
