"""Checks of annotations in COCO's panoptic format that go on after a finding.

`annotations` lists the pictures of a set, and what is wrong with the set as such; `check` looks at
one picture.
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

# Cityscapes' annotations are named like its pictures, but for this.
_PICTURE_SUFFIX = '_leftImg8bit'
Finding = inspection.Finding
Report = inspection.Report


class Task(NamedTuple):
  """One annotated picture of a COCO panoptic set."""
  entry: dict[str, Any]  # Of the JSON's list `annotations`.
  png: str
  picture: str | None  # None if it was not found.
  listed_size: tuple[Any, Any] | None  # (height, width) by the JSON's list `images`.
  mask_orientation: str | None = None  # See orientation.align.


def annotations(json_path: str, png_folder: str, picture_folder: str, info: datasets.DatasetInfo,
                mask_orientation: str | None = None) -> tuple[list[Task], list[Finding]]:
  """Lists the annotated pictures of a COCO panoptic set, and what is wrong with the set as such.

  Images are paired as the converter does it (`coco_panoptic.pair`); those of Cityscapes may lie in
  subdirectories.

  Raises:
    UserError: the JSON cannot be read or is of another kind, or a folder is missing.
  """
  content = coco_panoptic.read_json(json_path)
  png_folder = sources.existing_folder(png_folder, 'folder of the PNGs')
  findings = _category_findings(json_path, content.get('categories'), info)
  found = _images(sources.existing_folder(picture_folder, 'folder of the pictures'), findings)
  try:
    names = coco_panoptic.image_names(content, json_path)
  except errors.UserError as error:
    findings.append(Finding('duplicate', json_path, inspection.without_path(error, json_path)))
    names = {}
  sizes = {}
  for image in _dicts(content.get('images')):
    sizes[str(image.get('id'))] = (image.get('height'), image.get('width'))

  entries, seen = [], set()
  for number, entry in enumerate(content['annotations']):
    where = f'{json_path}, annotations[{number}]'
    problem = _entry_problem(entry)
    if problem:
      findings.append(Finding('field', where, problem))
      continue
    png, image_id = os.path.basename(entry['file_name']), str(entry['image_id'])
    for key in (('image_id', image_id), ('file_name', png)):
      if key in seen:
        findings.append(Finding('duplicate', where, f'{key[0]} {key[1]} is annotated twice'))
      seen.add(key)
    if sizes and image_id not in sizes:
      findings.append(Finding('image', where, f"image_id {image_id} is not in the list 'images'"))
    entries.append((entry, png))

  stems = coco_panoptic.pair([(entry['image_id'], png) for entry, png in entries], names, found)
  tasks = [Task(entry, os.path.join(png_folder, png), found.get(stem) if stem else None,
                sizes.get(str(entry['image_id'])), mask_orientation)
           for (entry, png), stem in zip(entries, stems, strict=True)]
  findings += _paired_twice(tasks, json_path)
  findings += [Finding('no annotation', found[stem], f'{json_path} does not annotate this picture')
               for stem in sorted(set(found) - set(stems))]
  findings += [Finding('no annotation', os.path.join(png_folder, name),
                       f'{json_path} does not name this PNG')
               for name in sorted(os.listdir(png_folder))
               if name.lower().endswith('.png') and ('file_name', name) not in seen]
  return tasks, findings


def _paired_twice(tasks, json_path):
  """Yields findings for images that two annotations are paired with, under different names."""
  first: dict[str, Task] = {}
  for task in tasks:
    other = first.setdefault(task.picture, task) if task.picture else task
    if other.png != task.png and other.entry['image_id'] != task.entry['image_id']:
      yield Finding('duplicate', json_path, f'images {other.entry["image_id"]} and '
                    f'{task.entry["image_id"]} are both paired with {task.picture}')


def _images(folder, findings):
  """Returns {stem: path} of the images in `folder`, for Cityscapes also below."""
  found = {}
  for directory, _, names in os.walk(folder):
    for name in sorted(names):
      stem, path = os.path.splitext(name)[0], os.path.join(directory, name)
      is_cityscapes = stem.endswith(_PICTURE_SUFFIX)
      if images.is_left_out(name):
        findings.append(Finding(
            'left out', path, f'is hidden, or not {images.FORMATS}; it is not read'))
      elif images.is_image(name) and not is_cityscapes and directory != folder:
        findings.append(Finding(
            'left out', path, f'is in a subdirectory; images are read from {folder} alone'))
      elif images.is_image(name):
        first = found.setdefault(stem.removesuffix(_PICTURE_SUFFIX), path)
        if first != path:
          findings.append(Finding('duplicate', path, f'has the name of {first}'))
  return found


def _dicts(content):
  return [entry for entry in content if isinstance(entry, dict)] if isinstance(
      content, list) else []


def _entry_problem(entry):
  """Returns what makes an entry of `annotations` of no use, or None."""
  if not isinstance(entry, dict):
    return 'is no JSON object'
  for field, kind in {'image_id': int | str, 'file_name': str, 'segments_info': list}.items():
    if not isinstance(entry.get(field), kind):
      return f'field {field!r} is missing or of the wrong type'
  return None


def _category_findings(json_path, categories, info):
  """Compares the JSON's list of categories, where it has one, with the dataset."""
  findings = []
  for category in _dicts(categories):
    original, class_id = category.get('id'), _class_id(category.get('id'), info)
    if class_id is None:
      findings.append(Finding('class', json_path, f'categories: id {original!r} '
                              f'({category.get("name")}) is not a class of {info.name}'))
    elif 'isthing' in category and category['isthing'] != (
        class_id in info.label_space.thing_ids):
      findings.append(Finding('isthing', json_path, f'categories: id {original} '
                              f'({category.get("name")}) has isthing {category["isthing"]}, but '
                              f'class {class_id} of {info.name} has the other'))
  return findings


def _class_id(category_id, info):
  """Returns the dataset id of a category, None if it is unknown."""
  is_whole = isinstance(category_id, int) and not isinstance(category_id, bool)
  return info.dataset_ids.get(category_id) if is_whole else None


def check(task: Task, info: datasets.DatasetInfo) -> Report:
  """Compares PNG, entry of the JSON and picture with each other and with the dataset."""
  findings = []
  image = _image(task, findings)
  try:
    ids = coco_panoptic.read_segment_ids(task.png)
    found = labels.regions(ids)
  except errors.UserError as error:
    findings.append(Finding('unreadable', task.png, inspection.without_path(error, task.png)))
    return Report(findings)
  if image is not None:
    _check_orientation(task, ids, image, findings)
  if task.listed_size is not None and tuple(task.listed_size) != ids.shape:
    findings.append(Finding(
        'size', task.png, f"is {ids.shape[0]}x{ids.shape[1]} (height x width), but the JSON's list "
        f"'images' {task.listed_size[0]}x{task.listed_size[1]}"))
  segments = _segments(task, found, info, findings)
  if not segments:
    findings.append(Finding('no segments', task.png, 'no segment is left of the picture'))
  return Report(findings, ids.shape, tuple(segments), os.path.splitext(
      os.path.basename(task.png))[0])


def _image(task, findings):
  """Returns the image; None, with a finding, if there is none."""
  if task.picture is None:
    findings.append(Finding('missing', task.png, 'there is no picture of this name or of image_id '
                            f'{task.entry["image_id"]}'))
    return None
  try:
    return images.load(task.picture)
  except errors.UserError as error:
    findings.append(Finding('unreadable', task.picture,
                            inspection.without_path(error, task.picture)))
    return None


def _check_orientation(task, ids, image, findings):
  """Finds a mask of another size than its image, and one that may lie differently."""
  size = image.pixels.shape[:2]
  try:
    orientation.align(ids, size, image.orientation, task.mask_orientation, mask_path=task.png,
                      image_path=task.picture)
  except errors.UserError as error:
    kind = 'orientation' if ids.shape == size else 'size'
    findings.append(Finding(kind, task.png, inspection.without_path(error, task.png)))


def _segments(task, painted, info, findings):
  """Returns the segments of known classes; adds what is wrong with them to `findings`."""
  segments, listed, instances = [], set(), {}
  for number, content in enumerate(task.entry['segments_info']):
    segment_id = content.get('id') if isinstance(content, dict) else None
    if not isinstance(segment_id, int) or isinstance(segment_id, bool):
      findings.append(Finding('field', task.png, f'segments_info[{number}] has no whole number id'))
      continue
    pixels = painted.get(segment_id) if segment_id else None
    is_again = segment_id in listed
    listed.add(segment_id)

    def find(kind, message, at=segment_id, pixels=pixels):
      findings.append(Finding(kind, task.png, message, at, pixels and pixels.pixel))

    if is_again:
      find('duplicate', 'is listed twice')
      continue
    for kind, message in _segment_problems(content, segment_id, pixels, info):
      find(kind, message)
    class_id = _class_id(content.get('category_id'), info)
    if class_id in (None, info.label_space.ignore_label):
      continue
    is_crowd = content.get('iscrowd', 0) == 1
    if class_id in info.label_space.thing_ids and not is_crowd:
      instances[class_id] = instances.get(class_id, 0) + 1
      if instances[class_id] == info.label_space.label_divisor:
        find('too many', f'is instance {instances[class_id]} of {info.class_names[class_id]}; the '
             f'label divisor {info.label_space.label_divisor} allows fewer')
    segments.append(labels.Segment(segment_id, class_id, pixels.area if pixels else 0, is_crowd))
  for value in sorted(set(painted) - listed - {0}):
    area, _, pixel = painted[value]
    findings.append(Finding('not listed', task.png, f'covers {area} pixels, but the JSON does not '
                            'list it', value, pixel))
  if labels.agree_exchanged(painted, listed, listed):
    findings.append(Finding('exchanged', task.png, labels.EXCHANGED))
  return segments


def _segment_problems(content, segment_id, pixels, info) -> Iterator[tuple[str, str]]:
  """Yields (kind, message) of what is wrong with an entry of segments_info."""
  area, box = content.get('area'), content.get('bbox')
  if segment_id == 0:
    yield 'field', 'id 0 stands for pixels of no segment'
  elif pixels is None:
    class_id = _class_id(content.get('category_id'), info)
    kind = 'not painted' if class_id in info.label_space.thing_ids else 'stuff not painted'
    yield kind, f'is listed, with area {area} and box {box}, but the PNG does not hold it'
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
