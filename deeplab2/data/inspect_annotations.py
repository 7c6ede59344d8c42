"""Checks of annotations in COCO's panoptic format that go on after a problem.

`annotations` lists the images of a set, and what is wrong with the set as such; `check` looks at
one image.
"""

from collections.abc import Iterator
import os
from typing import Any, NamedTuple

from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.data import inspection
from deeplab2.data import labels
from deeplab2.data import orientation
from deeplab2.data import problems
from deeplab2.data import sources
from deeplab2.data.problems import Problem

# Cityscapes' annotations are named like its images, but for this.
_IMAGE_SUFFIX = '_leftImg8bit'
Report = inspection.Report


class Task(NamedTuple):
  """One annotated image of a COCO panoptic set."""

  entry: coco_panoptic.Entry
  png: str
  image: str | None  # None if it was not found.
  listed_size: tuple[Any, Any] | None  # (height, width) by the JSON's list `images`.
  mask_orientation: str | None = None  # See orientation.align.


def annotations(
  json_path: str,
  png_directory: str,
  image_directory: str,
  info: datasets.DatasetInfo,
  mask_orientation: str | None = None,
) -> tuple[list[Task], list[Problem]]:
  """Lists the annotated images of a COCO panoptic set, and what is wrong with the set as such.

  Images are paired as the converter does it (`coco_panoptic.pair`); those of Cityscapes may lie in
  subdirectories.

  Raises:
    UserError: the JSON cannot be read or is of another type, or a directory is missing.
  """
  content = coco_panoptic.read_json(json_path)
  png_directory = sources.existing_directory(png_directory, 'directory of the PNGs')
  found_problems = list(_category_problems(json_path, content.get('categories'), info))
  image_directory = sources.existing_directory(image_directory, 'directory of the images')
  found = _images(image_directory, found_problems)
  try:
    names = coco_panoptic.image_names(content, json_path)
  except errors.UserError as error:
    found_problems.append(problems.of_error('duplicate', json_path, error))
    names = {}
  entries, wrong = coco_panoptic.read_entries(content, json_path)
  found_problems += wrong
  sizes = {
    str(image.get('id')): (image.get('height'), image.get('width'))
    for image in _dicts(content.get('images'))
  }
  found_problems += [
    Problem('image', entry.where, f"image_id {entry.image_id} is not in the list 'images'")
    for entry in entries
    if sizes and str(entry.image_id) not in sizes
  ]
  stems = coco_panoptic.pair([(entry.image_id, entry.file_name) for entry in entries], names, found)
  tasks = [
    Task(
      entry,
      os.path.join(png_directory, entry.file_name),
      found.get(stem) if stem else None,
      sizes.get(str(entry.image_id)),
      mask_orientation,
    )
    for entry, stem in zip(entries, stems, strict=True)
  ]
  found_problems += _paired_twice(tasks, json_path)
  found_problems += [
    Problem('no annotation', found[stem], f'{json_path} does not annotate this image')
    for stem in sorted(set(found) - set(stems))
  ]
  named = {entry.file_name for entry in entries}
  found_problems += [
    Problem(
      'no annotation', os.path.join(png_directory, name), f'{json_path} does not name this PNG'
    )
    for name in sorted(os.listdir(png_directory))
    if name.lower().endswith('.png') and name not in named
  ]
  return tasks, found_problems


def _paired_twice(tasks, json_path):
  """Yields problems for images that two annotations are paired with, under different names."""
  first: dict[str, Task] = {}
  for task in tasks:
    other = first.setdefault(task.image, task) if task.image else task
    if other.png != task.png and other.entry.image_id != task.entry.image_id:
      ids = f'{other.entry.image_id} and {task.entry.image_id}'
      message = f'images {ids} are both paired with {task.image}'
      yield Problem('duplicate', json_path, message)


def _images(root, found_problems):
  """Returns {stem: path} of the images in `root`, for Cityscapes also below."""
  found = {}
  for directory, _, names in os.walk(root):
    for name in sorted(names):
      stem, path = os.path.splitext(name)[0], os.path.join(directory, name)
      is_cityscapes = stem.endswith(_IMAGE_SUFFIX)
      if images.is_left_out(name):
        message = f'is hidden, or not {images.FORMATS}; it is not read'
        found_problems.append(Problem('left out', path, message))
      elif images.is_image(name) and not is_cityscapes and directory != root:
        message = f'is in a subdirectory; images are read from {root} alone'
        found_problems.append(Problem('left out', path, message))
      elif images.is_image(name):
        first = found.setdefault(stem.removesuffix(_IMAGE_SUFFIX), path)
        if first != path:
          found_problems.append(Problem('duplicate', path, f'has the name of {first}'))
  return found


def _dicts(content):
  return (
    [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
  )


def _category_problems(json_path, categories, info):
  """Compares the JSON's list of categories, where it has one, with the dataset; yields problems."""
  for category in _dicts(categories):
    original = category.get('id')
    class_id = info.dataset_ids.get(original) if isinstance(original, int) else None
    named = f'categories: id {original!r} ({category.get("name")})'
    if class_id is None:
      yield Problem('class', json_path, f'{named} is not a class of {info.name}')
    elif 'isthing' in category and category['isthing'] != (class_id in info.label_space.thing_ids):
      message = (
        f'{named} has isthing {category["isthing"]}, but class {class_id} of {info.name} has the '
        'other'
      )
      yield Problem('isthing', json_path, message)


def check(task: Task, info: datasets.DatasetInfo) -> Report:
  """Compares PNG, entry of the JSON and image with each other and with the dataset."""
  listed, wrong = coco_panoptic.read_segments(task.entry.content, info, task.png)
  image = None
  if task.image is None:
    message = f'there is no image of this name or of image_id {task.entry.image_id}'
    wrong.append(Problem('missing', task.png, message))
  else:
    try:
      image = images.load(task.image)
    except errors.UserError as error:
      wrong.append(problems.of_error('unreadable', task.image, error))
  try:
    ids = coco_panoptic.read_segment_ids(task.png)
    found = labels.regions(ids)
  except errors.UserError as error:
    return Report([*wrong, problems.of_error('unreadable', task.png, error)])
  if image is not None:
    wrong += _size_problems(task, ids, image)
  if task.listed_size is not None and tuple(task.listed_size) != ids.shape:
    message = (
      f"is {ids.shape[0]}x{ids.shape[1]} (height x width), but the JSON's list "
      f"'images' {task.listed_size[0]}x{task.listed_size[1]}"
    )
    wrong.append(Problem('size', task.png, message))
  wrong += labels.list_problems(listed, info, task.png)
  wrong += labels.map_problems(found, listed, info, task.png)
  wrong += _field_problems(task, found, info)
  # The first of each id, with the areas that were counted.
  segments = tuple(
    segment._replace(area=found[segment.id].area if segment.id in found else 0)
    for segment in {segment.id: segment for segment in reversed(listed)}.values()
    if segment.class_id != info.label_space.ignore_label
  )
  if not segments:
    wrong.append(Problem('no segments', task.png, 'no segment is left of the image'))
  wrong = [
    problem._replace(pixel=found[problem.segment].pixel) if problem.segment in found else problem
    for problem in wrong
  ]
  return Report(wrong, ids.shape, segments, os.path.splitext(os.path.basename(task.png))[0])


def _size_problems(task, ids, image) -> Iterator[Problem]:
  """Yields whether a mask is of another size than its image, or may lie differently."""
  size = image.pixels.shape[:2]
  try:
    orientation.align(
      ids, size, image.orientation, task.mask_orientation, mask_path=task.png, image_path=task.image
    )
  except errors.UserError as error:
    yield problems.of_error('orientation' if ids.shape == size else 'size', task.png, error)


def _field_problems(task, found, info) -> Iterator[Problem]:
  """Yields what is wrong with the fields of segments that conversion does not read."""
  for content in _dicts(task.entry.content.get('segments_info')):
    segment_id, area, box = (content.get(key) for key in ('id', 'area', 'bbox'))
    if area == 0:
      yield Problem('zero area', task.png, 'its annotated area is 0', segment_id)
    region = found.get(segment_id) if isinstance(segment_id, int) else None
    if region and box not in (None, region.box):
      message = f'its box is {region.box} (x, y, width, height), but the annotated one {box}'
      yield Problem('bbox', task.png, message, segment_id)
    category, is_thing = content.get('category_id'), content.get('isthing')
    class_id = info.dataset_ids.get(category) if isinstance(category, int) else None
    if class_id is not None and is_thing is not None:
      has = class_id in info.label_space.thing_ids
      if is_thing != has:
        message = f'isthing is {is_thing!r}, but {info.class_names[class_id]} has {int(has)}'
        yield Problem('isthing', task.png, message, segment_id)
