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
from deeplab2.data import sources

# Cityscapes' annotations are named like its images, but for this.
_IMAGE_SUFFIX = '_leftImg8bit'
Problem = inspection.Problem
Report = inspection.Report


class Task(NamedTuple):
  """One annotated image of a COCO panoptic set."""

  entry: dict[str, Any]  # Of the JSON's list `annotations`.
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
  problems = _category_problems(json_path, content.get('categories'), info)
  found = _images(sources.existing_directory(image_directory, 'directory of the images'), problems)
  try:
    names = coco_panoptic.image_names(content, json_path)
  except errors.UserError as error:
    problems.append(Problem('duplicate', json_path, inspection.without_path(error, json_path)))
    names = {}
  sizes = {}
  for image in _dicts(content.get('images')):
    sizes[str(image.get('id'))] = (image.get('height'), image.get('width'))

  entries, seen = [], set()
  for number, entry in enumerate(content['annotations']):
    where = f'{json_path}, annotations[{number}]'
    problem = _entry_problem(entry)
    if problem:
      problems.append(Problem('field', where, problem))
      continue
    png, image_id = os.path.basename(entry['file_name']), str(entry['image_id'])
    for key in (('image_id', image_id), ('file_name', png)):
      if key in seen:
        problems.append(Problem('duplicate', where, f'{key[0]} {key[1]} is annotated twice'))
      seen.add(key)
    if sizes and image_id not in sizes:
      problems.append(Problem('image', where, f"image_id {image_id} is not in the list 'images'"))
    entries.append((entry, png))

  stems = coco_panoptic.pair([(entry['image_id'], png) for entry, png in entries], names, found)
  tasks = [
    Task(
      entry,
      os.path.join(png_directory, png),
      found.get(stem) if stem else None,
      sizes.get(str(entry['image_id'])),
      mask_orientation,
    )
    for (entry, png), stem in zip(entries, stems, strict=True)
  ]
  problems += _paired_twice(tasks, json_path)
  problems += [
    Problem('no annotation', found[stem], f'{json_path} does not annotate this image')
    for stem in sorted(set(found) - set(stems))
  ]
  problems += [
    Problem(
      'no annotation', os.path.join(png_directory, name), f'{json_path} does not name this PNG'
    )
    for name in sorted(os.listdir(png_directory))
    if name.lower().endswith('.png') and ('file_name', name) not in seen
  ]
  return tasks, problems


def _paired_twice(tasks, json_path):
  """Yields problems for images that two annotations are paired with, under different names."""
  first: dict[str, Task] = {}
  for task in tasks:
    other = first.setdefault(task.image, task) if task.image else task
    if other.png != task.png and other.entry['image_id'] != task.entry['image_id']:
      yield Problem(
        'duplicate',
        json_path,
        f'images {other.entry["image_id"]} and '
        f'{task.entry["image_id"]} are both paired with {task.image}',
      )


def _images(root, problems):
  """Returns {stem: path} of the images in `root`, for Cityscapes also below."""
  found = {}
  for directory, _, names in os.walk(root):
    for name in sorted(names):
      stem, path = os.path.splitext(name)[0], os.path.join(directory, name)
      is_cityscapes = stem.endswith(_IMAGE_SUFFIX)
      if images.is_left_out(name):
        problems.append(
          Problem('left out', path, f'is hidden, or not {images.FORMATS}; it is not read')
        )
      elif images.is_image(name) and not is_cityscapes and directory != root:
        problems.append(
          Problem('left out', path, f'is in a subdirectory; images are read from {root} alone')
        )
      elif images.is_image(name):
        first = found.setdefault(stem.removesuffix(_IMAGE_SUFFIX), path)
        if first != path:
          problems.append(Problem('duplicate', path, f'has the name of {first}'))
  return found


def _dicts(content):
  return (
    [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
  )


def _entry_problem(entry):
  """Returns what makes an entry of `annotations` of no use, or None."""
  if not isinstance(entry, dict):
    return 'is no JSON object'
  for field, field_type in {'image_id': int | str, 'file_name': str, 'segments_info': list}.items():
    if not isinstance(entry.get(field), field_type):
      return f'field {field!r} is missing or of the wrong type'
  return None


def _category_problems(json_path, categories, info):
  """Compares the JSON's list of categories, where it has one, with the dataset."""
  problems = []
  for category in _dicts(categories):
    original, class_id = category.get('id'), _class_id(category.get('id'), info)
    if class_id is None:
      problems.append(
        Problem(
          'class',
          json_path,
          f'categories: id {original!r} ({category.get("name")}) is not a class of {info.name}',
        )
      )
    elif 'isthing' in category and category['isthing'] != (class_id in info.label_space.thing_ids):
      problems.append(
        Problem(
          'isthing',
          json_path,
          f'categories: id {original} '
          f'({category.get("name")}) has isthing {category["isthing"]}, but '
          f'class {class_id} of {info.name} has the other',
        )
      )
  return problems


def _class_id(category_id, info):
  """Returns the dataset id of a category, None if it is unknown."""
  is_whole = isinstance(category_id, int) and not isinstance(category_id, bool)
  return info.dataset_ids.get(category_id) if is_whole else None


def check(task: Task, info: datasets.DatasetInfo) -> Report:
  """Compares PNG, entry of the JSON and image with each other and with the dataset."""
  problems = []
  image = _image(task, problems)
  try:
    ids = coco_panoptic.read_segment_ids(task.png)
    found = labels.regions(ids)
  except errors.UserError as error:
    problems.append(Problem('unreadable', task.png, inspection.without_path(error, task.png)))
    return Report(problems)
  if image is not None:
    _check_orientation(task, ids, image, problems)
  if task.listed_size is not None and tuple(task.listed_size) != ids.shape:
    problems.append(
      Problem(
        'size',
        task.png,
        f"is {ids.shape[0]}x{ids.shape[1]} (height x width), but the JSON's list "
        f"'images' {task.listed_size[0]}x{task.listed_size[1]}",
      )
    )
  segments = _segments(task, found, info, problems)
  if not segments:
    problems.append(Problem('no segments', task.png, 'no segment is left of the image'))
  return Report(
    problems, ids.shape, tuple(segments), os.path.splitext(os.path.basename(task.png))[0]
  )


def _image(task, problems):
  """Returns the image; None, with a problem, if there is none."""
  if task.image is None:
    problems.append(
      Problem(
        'missing',
        task.png,
        f'there is no image of this name or of image_id {task.entry["image_id"]}',
      )
    )
    return None
  try:
    return images.load(task.image)
  except errors.UserError as error:
    problems.append(Problem('unreadable', task.image, inspection.without_path(error, task.image)))
    return None


def _check_orientation(task, ids, image, problems):
  """Finds a mask of another size than its image, and one that may lie differently."""
  size = image.pixels.shape[:2]
  try:
    orientation.align(
      ids, size, image.orientation, task.mask_orientation, mask_path=task.png, image_path=task.image
    )
  except errors.UserError as error:
    category = 'orientation' if ids.shape == size else 'size'
    problems.append(Problem(category, task.png, inspection.without_path(error, task.png)))


def _segments(task, regions, info, problems):
  """Returns the segments of known classes; adds what is wrong with them to `problems`."""
  segments, listed, instances = [], set(), {}
  for number, content in enumerate(task.entry['segments_info']):
    segment_id = content.get('id') if isinstance(content, dict) else None
    if not isinstance(segment_id, int) or isinstance(segment_id, bool):
      problems.append(Problem('field', task.png, f'segments_info[{number}] has no integer id'))
      continue
    pixels = regions.get(segment_id) if segment_id else None
    is_again = segment_id in listed
    listed.add(segment_id)

    def find(category, message, at=segment_id, pixels=pixels):
      problems.append(Problem(category, task.png, message, at, pixels and pixels.pixel))

    if is_again:
      find('duplicate', 'is listed twice')
      continue
    for category, message in _segment_problems(content, segment_id, pixels, info):
      find(category, message)
    class_id = _class_id(content.get('category_id'), info)
    if class_id in (None, info.label_space.ignore_label):
      continue
    is_crowd = content.get('iscrowd', 0) == 1
    if class_id in info.label_space.thing_ids and not is_crowd:
      instances[class_id] = instances.get(class_id, 0) + 1
      if instances[class_id] == info.label_space.label_divisor:
        find(
          'too many',
          f'is instance {instances[class_id]} of {info.class_names[class_id]}; the '
          f'label divisor {info.label_space.label_divisor} allows fewer',
        )
    segments.append(labels.Segment(segment_id, class_id, pixels.area if pixels else 0, is_crowd))
  for value in sorted(set(regions) - listed - {0}):
    area, _, pixel = regions[value]
    problems.append(
      Problem(
        'not listed', task.png, f'covers {area} pixels, but the JSON does not list it', value, pixel
      )
    )
  if labels.agree_exchanged(regions, listed, listed):
    problems.append(Problem('exchanged', task.png, labels.EXCHANGED))
  return segments


def _segment_problems(content, segment_id, pixels, info) -> Iterator[tuple[str, str]]:
  """Yields (category, message) of what is wrong with an entry of segments_info."""
  area, box = content.get('area'), content.get('bbox')
  if segment_id == 0:
    yield 'field', 'id 0 stands for pixels of no segment'
  elif pixels is None:
    class_id = _class_id(content.get('category_id'), info)
    category = 'not drawn' if class_id in info.label_space.thing_ids else 'stuff not drawn'
    yield category, f'is listed, with area {area} and box {box}, but the PNG does not hold it'
  if area is None:
    yield 'field', "'area' is missing"
  elif area == 0:
    yield 'zero area', 'its annotated area is 0'
  if pixels is not None and area is not None and area != pixels.area:
    yield 'area', f'covers {pixels.area} pixels, but its annotated area is {area}'
  if pixels is not None and box is not None and box != pixels.box:
    yield 'bbox', f'its box is {pixels.box} (x, y, width, height), but the annotated one {box}'

  class_id = _class_id(content.get('category_id'), info)
  if class_id is None:
    yield 'class', f'category_id {content.get("category_id")!r} is not a class of {info.name}'
    return
  name, is_thing = info.class_names[class_id], class_id in info.label_space.thing_ids
  crowd = content.get('iscrowd', 0)
  if crowd not in (0, 1):
    yield 'crowd', f'iscrowd is {crowd!r}; must be 0 or 1'
  elif crowd and not is_thing:
    yield 'crowd', f'is crowd of {name}, which is stuff'
  if 'isthing' in content and content['isthing'] != is_thing:
    yield 'isthing', f'isthing is {content["isthing"]!r}, but {name} has {int(is_thing)}'
