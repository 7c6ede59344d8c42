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


def annotations(json_path: str, png_folder: str, picture_folder: str,
                info: datasets.DatasetInfo) -> tuple[list[Task], list[Finding]]:
  """Lists the annotated pictures of a COCO panoptic set, and what is wrong with the set as such.

  A picture belongs to an annotation if its stem is that of the PNG or the image id, in any
  subfolder.

  Raises:
    UserError: the JSON cannot be read or is of another kind, or a folder is missing.
  """
  content = coco_panoptic.read_json(json_path)
  png_folder = sources.existing_folder(png_folder, 'folder of the PNGs')
  findings = _category_findings(json_path, content.get('categories'), info)
  found = _pictures(sources.existing_folder(picture_folder, 'folder of the pictures'), findings)
  sizes = {}
  for image in _dicts(content.get('images')):
    sizes[str(image.get('id'))] = (image.get('height'), image.get('width'))

  tasks, seen, used = [], set(), set()
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
    stem = next((stem for stem in (os.path.splitext(png)[0], image_id) if stem in found), None)
    used.add(stem)
    if sizes and image_id not in sizes:
      findings.append(Finding('image', where, f"image_id {image_id} is not in the list 'images'"))
    tasks.append(Task(entry, os.path.join(png_folder, png), found.get(stem), sizes.get(image_id)))

  findings += [Finding('no annotation', found[stem], f'{json_path} does not annotate this picture')
               for stem in sorted(set(found) - used)]
  findings += [Finding('no annotation', os.path.join(png_folder, name),
                       f'{json_path} does not name this PNG')
               for name in sorted(os.listdir(png_folder))
               if name.lower().endswith('.png') and ('file_name', name) not in seen]
  return tasks, findings


def _pictures(folder, findings):
  """Returns {stem: path} of the pictures in `folder` and below."""
  found = {}
  for path, _, names in os.walk(folder):
    for name in sorted(names):
      stem, ending = os.path.splitext(name)
      if ending.lower() in sources.PICTURE_ENDINGS:
        path_of = os.path.join(path, name)
        first = found.setdefault(stem.removesuffix(_PICTURE_SUFFIX), path_of)
        if first != path_of:
          findings.append(Finding('duplicate', path_of, f'has the name of {first}'))
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
  picture_size = _picture_size(task, findings)
  try:
    ids = coco_panoptic.read_segment_ids(task.png)
  except errors.UserError as error:
    findings.append(Finding('unreadable', task.png, inspection.without_path(error, task.png)))
    return Report(findings)
  for what, size in (('its picture', picture_size), ("the JSON's list 'images'", task.listed_size)):
    if size is not None and tuple(size) != ids.shape:
      findings.append(Finding(
          'size', task.png, f'is {ids.shape[0]}x{ids.shape[1]} (height x width), but {what} '
          f'{size[0]}x{size[1]}'))
  painted = inspection.painted(ids)
  segments = _segments(task, painted, info, findings)
  if not segments:
    findings.append(Finding('no segments', task.png, 'no segment is left of the picture'))
  return Report(findings, ids.shape, tuple(segments), os.path.splitext(
      os.path.basename(task.png))[0])


def _picture_size(task, findings):
  """Returns (height, width) of the upright picture; None, with a finding, if there is none."""
  if task.picture is None:
    findings.append(Finding('missing', task.png, 'there is no picture of this name or of image_id '
                            f'{task.entry["image_id"]}'))
    return None
  try:
    encoded = images.encode_for_record(task.picture)
  except errors.UserError as error:
    findings.append(Finding('unreadable', task.picture,
                            inspection.without_path(error, task.picture)))
    return None
  return encoded.height, encoded.width


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
  return segments


def _segment_problems(content, segment_id, pixels, info) -> Iterator[tuple[str, str]]:
  """Yields (kind, message) of what is wrong with an entry of segments_info."""
  area, box = content.get('area'), content.get('bbox')
  if segment_id == 0:
    yield 'field', 'id 0 stands for pixels of no segment'
  elif pixels is None:
    yield 'not painted', f'is listed, with area {area} and box {box}, but the PNG does not hold it'
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
