"""COCO's panoptic format, in and out: one JSON for a set, one RGB PNG of segment ids an image.

A pixel's segment id is R + 256 G + 65536 B; id 0 belongs to no segment. The JSON lists the
segments of each image with their category in the dataset's original numbering.
(https://cocodataset.org/#format-data, section 4; https://github.com/cocodataset/panopticapi)
"""

from collections.abc import Collection, Mapping, Sequence
import os
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.data import json_fields
from deeplab2.data import labels
from deeplab2.data import problems
from deeplab2.data import stretched
from deeplab2.data.problems import Problem

# A field that tells the type of a COCO file that is no panoptic one.
_OTHER_TYPES = {
  'keypoints': 'keypoints',
  'caption': 'captions',
  'segmentation': 'instances or stuff',
  'question': 'questions',
}
_SEGMENT_FIELDS = {
  'category_id': json_fields.INTEGER,
  'area': json_fields.NUMBER,
  'iscrowd': json_fields.FLAG,
}


class Entry(NamedTuple):
  """An entry of a panoptic JSON's list `annotations`, with its two names checked."""

  content: dict[str, Any]
  image_id: int | str
  file_name: str  # Of the PNG, without directory.
  where: str  # File and entry.


class Annotation(NamedTuple):
  """The annotation of one image."""

  image_id: int | str  # As in the file.
  file_name: str  # Of the PNG, without directory.
  segments: tuple[labels.Segment, ...]  # In the order of the file, with dataset ids.
  problem: str = ''  # What makes it of no use; it has no segments then.


class AnnotatedSet(NamedTuple):
  """The content of a panoptic JSON."""

  annotations: list[Annotation]
  image_names: dict[Any, str]  # Image id -> file name, by the list `images`, as far as it goes.


def read_annotations(path: str, info: datasets.DatasetInfo) -> dict[str, Annotation]:
  """Reads a panoptic JSON in which every annotation is right.

  Returns:
    The annotations by file stem of their PNG.

  Raises:
    errors.UserError: as `read_set`, or an annotation has a problem.
  """
  annotated = read_set(path, info)
  for annotation in annotated.annotations:
    if annotation.problem:
      raise errors.UserError(annotation.problem)
  return {
    os.path.splitext(annotation.file_name)[0]: annotation for annotation in annotated.annotations
  }


def read_set(path: str, info: datasets.DatasetInfo) -> AnnotatedSet:
  """Reads a panoptic JSON; what is wrong with the segments of an image is said in its annotation.

  Raises:
    errors.UserError: the file is missing, no JSON, another type of COCO file, or incomplete; an
      image is annotated or listed twice.
  """
  content = read_json(path)
  entries, wrong = read_entries(content, path)
  problems.refuse(wrong)
  return AnnotatedSet(
    [_annotation(entry, info, f'{path}, image {entry.image_id}') for entry in entries],
    image_names(content, path),
  )


def _annotation(entry, info, where):
  segments, wrong = read_segments(entry.content, info, where)
  text = problems.summary(wrong)
  return Annotation(
    entry.image_id, entry.file_name, () if text else tuple(segments), f'{text}.' if text else ''
  )


def read_entries(content: dict[str, Any], path: str) -> tuple[list[Entry], list[Problem]]:
  """Returns the annotated images of a panoptic JSON, and what is wrong with the others.

  Args:
    content: as of `read_json`.
    path: of the file.
  """
  entries: list[Entry] = []
  wrong: list[Problem] = []
  seen: dict[tuple[str, Any], int] = {}
  for number, entry in enumerate(content['annotations']):
    where = f'{path}, annotations[{number}]'
    message = json_fields.problem(entry, 'image_id', json_fields.ID) or json_fields.problem(
      entry, 'file_name', json_fields.TEXT
    )
    if message:
      wrong.append(Problem('field', where, message))
      continue
    file_name = os.path.basename(entry['file_name'])
    for key, value, shown in (
      ('image_id', entry['image_id'], entry['image_id']),
      ('file_name', _stem(file_name), file_name),
    ):
      other = seen.setdefault((key, value), number)
      if other != number:
        message = f'{key} {shown} is also that of annotations[{other}]'
        wrong.append(Problem('duplicate', where, message))
    entries.append(Entry(entry, entry['image_id'], file_name, where))
  return entries, wrong


def read_segments(
  entry: dict[str, Any], info: datasets.DatasetInfo, where: str, *, with_area: bool = True
) -> tuple[list[labels.Segment], list[Problem]]:
  """Returns the segments of an annotation, and what is wrong with their fields.

  Args:
    entry: of the list `annotations`.
    info: the dataset. A segment of no class of it becomes void.
    where: file and image.
    with_area: whether segments must have an area; else it is not read.
  """
  fields = {key: wanted for key, wanted in _SEGMENT_FIELDS.items() if with_area or key != 'area'}
  message = json_fields.problem(entry, 'segments_info', json_fields.LIST)
  if message:
    return [], [Problem('field', where, message)]
  segments: list[labels.Segment] = []
  wrong: list[Problem] = []
  for number, content in enumerate(entry['segments_info']):
    message = json_fields.problem(content, 'id', json_fields.INTEGER)
    if message:
      wrong.append(Problem('field', where, f'segments_info[{number}]: {message}'))
      continue
    segment_id = content['id']
    if not 0 < segment_id < 2**24:
      message = 'must be 1 to 2**24 - 1; 0 stands for pixels of no segment'
      wrong.append(Problem('field', where, message, segment_id))
      continue
    values = {'iscrowd': 0, **content, **({} if with_area else {'area': None})}
    for key, wanted in fields.items():
      message = json_fields.problem(values, key, wanted)
      if message:
        wrong.append(Problem('crowd' if key == 'iscrowd' else 'field', where, message, segment_id))
        values[key] = None
    category, ids = values['category_id'], info.dataset_ids
    if category is not None and category not in ids:
      message = (
        f'category_id {category} is not a class of {info.name} ({len(ids)} ids between '
        f'{min(ids, default="none")} and {max(ids, default="none")})'
      )
      wrong.append(Problem('class', where, message, segment_id))
    class_id = ids.get(category, info.label_space.ignore_label)
    segments.append(labels.Segment(segment_id, class_id, values['area'], bool(values['iscrowd'])))
  return segments, wrong


def image_names(content: Mapping[str, Any], where: str) -> dict[Any, str]:
  """Returns {image id: file name} by the list `images` of a COCO JSON, {} without that list.

  Args:
    content: of the JSON. Entries without id or file name say nothing.
    where: the file, for error messages.

  Raises:
    errors.UserError: two entries have one id, or one file name.
  """
  names: dict[Any, str] = {}
  ids: dict[str, Any] = {}
  listed = content.get('images')
  for entry in listed if isinstance(listed, list) else ():
    image_id, name = (
      entry.get(key) if isinstance(entry, dict) else None for key in ('id', 'file_name')
    )
    if not isinstance(image_id, int | str) or not isinstance(name, str):
      continue
    if image_id in names:
      raise errors.UserError(f"{where}: the list 'images' has image {image_id} twice.")
    if name in ids:
      raise errors.UserError(
        f"{where}: the list 'images' has the file name {name} for image "
        f'{ids[name]} and for image {image_id}.'
      )
    names[image_id], ids[name] = name, image_id
  return names


def pair(
  annotated: Sequence[tuple[Any, str]], names: Mapping[Any, str], stems: Collection[str]
) -> list[str | None]:
  """Finds the image of each annotation.

  Args:
    annotated: (image id, file name of the PNG) of each annotation.
    names: file names of images by id, see `image_names`.
    stems: names of the images that are there, without ending.

  Returns:
    For each annotation the one of `stems` that the file name of its image id says; where there is
    none, that of its PNG, or the image id itself, unless it is another's by the former. None if
    there is none of these.
  """
  by_list = [_stem(names[image_id]) if image_id in names else None for image_id, _ in annotated]
  taken = {stem for stem in by_list if stem in stems}
  return [
    listed
    if listed in taken
    else next(
      (stem for stem in (_stem(png), str(image_id)) if stem in stems and stem not in taken), None
    )
    for (image_id, png), listed in zip(annotated, by_list, strict=True)
  ]


def _stem(name):
  return os.path.splitext(os.path.basename(name))[0]


def read_json(path: str) -> dict[str, Any]:
  """Returns the content of a panoptic JSON; UserError for any other file."""
  content = json_fields.read_lists(
    path,
    ('annotations',),
    'a COCO panoptic JSON is needed (panoptic_*.json), not an image list or predictions',
  )
  check_type(content, path)
  return content


def check_type(content: Mapping[str, Any], path: str) -> None:
  """Raises UserError unless the content of a JSON with annotations is panoptic."""
  for entry in content['annotations'][:1]:
    if not isinstance(entry, dict) or 'segments_info' not in entry:
      found = [
        name for field, name in _OTHER_TYPES.items() if isinstance(entry, dict) and field in entry
      ]
      file_type = f'a COCO {found[0]} file' if found else 'of an unknown type'
      raise errors.UserError(
        f'{path}: is {file_type}; a COCO panoptic JSON is needed '
        "(panoptic_*.json, whose annotations have 'segments_info')."
      )


def read_images(
  content: dict[str, Any], path: str, *, sized: bool
) -> dict[int | str, dict[str, Any]]:
  """Returns the entries of a COCO JSON's list `images` by id.

  Args:
    content: of the JSON.
    path: of the file, for error messages.
    sized: whether each must have height and width.

  Raises:
    errors.UserError: a field is missing or of another type, or two entries have one id.
  """
  found: dict[int | str, dict[str, Any]] = {}
  for number, entry in enumerate(content['images']):
    where = f'{path}, images[{number}]'
    image_id = json_fields.take(entry, 'id', where, json_fields.ID)
    json_fields.take(entry, 'file_name', where, json_fields.TEXT)
    for key in ('height', 'width'):
      if sized or key in entry:
        json_fields.take(entry, key, where, json_fields.INTEGER)
    if found.setdefault(image_id, entry) is not entry:
      raise errors.UserError(f'{where}: id {image_id} is also that of another image.')
  return found


def read_segment_ids(path: str) -> np.ndarray:
  """Reads the PNG of an image; returns segment ids, [H, W] int32.

  Raises:
    errors.UserError: the file is missing, cannot be decoded or is not RGB.
  """
  return images.read_label_png(
    path, 'RGB', 'panoptic PNGs must be RGB, id = R + 256 G + 65536 B', as_integers=True
  )


def read_label(
  path: str, annotation: Annotation, info: datasets.DatasetInfo, *, treat_crowd_as_ignore: bool
) -> np.ndarray:
  """Returns the panoptic label map, [H, W] int32, of PNG `path` with its annotation.

  Raises:
    errors.UserError: see `read_segment_ids` and `labels.from_segments`.
  """
  return labels.from_segments(
    read_segment_ids(path),
    annotation.segments,
    info,
    treat_crowd_as_ignore=treat_crowd_as_ignore,
    where=f'{path}, image {annotation.image_id}',
  )


class Encoding(NamedTuple):
  """Encodes label maps in COCO's panoptic format."""

  segments_info: list[dict[str, Any]]  # {id, category_id, area, bbox [x, y, w, h], iscrowd} each,
  # category ids in the dataset's original numbering.
  ids: np.ndarray  # [n] the panoptic ids of the map, ascending.
  colors: np.ndarray  # [n, 3] uint8, what the PNG holds for each.

  def rgb(self, panoptic: np.ndarray) -> np.ndarray:
    """Returns uint8 [h, w, 3] of a map or a part of it, [h, w]."""
    return self.colors[np.searchsorted(self.ids, panoptic)]


def encode(
  panoptic: np.ndarray, info: datasets.DatasetInfo
) -> tuple[np.ndarray, list[dict[str, Any]]]:
  """Converts a label map [H, W] to COCO's panoptic format.

  Returns:
    (rgb, segments_info): uint8 [H, W, 3] for the PNG, and the list for the JSON.

  Raises:
    ValueError: as `encoding`.
  """
  encoded = encoding(stretched.unstretched(panoptic), info)
  return encoded.rgb(panoptic), encoded.segments_info


def encoding(panoptic: stretched.StretchedMap, info: datasets.DatasetInfo) -> Encoding:
  """Returns how a label map is written in COCO's panoptic format.

  Args:
    panoptic: [H, W] ids of the dataset.
    info: the dataset. Void becomes segment id 0, any other id p becomes p + 1, so that class 0
      without instance (Cityscapes: road) differs from void.

  Raises:
    ValueError: an id is not of the dataset.
  """
  space = info.label_space
  ids = panoptic.ids()
  problem = labels.find_problem(ids, space)
  if problem:
    raise ValueError(problem)
  class_ids, _ = labels.split(ids, space)
  is_void = class_ids == space.ignore_label
  segment_ids = np.where(is_void, 0, ids + 1)
  originals = datasets.original_id_table(info)
  crowd = labels.crowd_mask(ids, space)
  areas, bounds = panoptic.measure(ids)
  segments = [
    {
      'id': int(segment_ids[i]),
      'category_id': int(originals[class_ids[i]]),
      'area': int(areas[i]),
      'bbox': bounds[i],
      'iscrowd': int(crowd[i]),
    }
    for i in np.flatnonzero(~is_void)
  ]
  colors = np.stack([segment_ids % 256, segment_ids // 256 % 256, segment_ids // 65536], -1)
  return Encoding(segments, ids, colors.astype(np.uint8))


def write_png(path: str, panoptic: stretched.StretchedMap, encoded: Encoding) -> None:
  """Writes the PNG of a map; OSError if that fails. No more than a strip is held in full."""
  height, width = panoptic.shape
  image = PIL.Image.new('RGB', (width, height))
  for top, strip in panoptic.strips():
    image.paste(PIL.Image.fromarray(encoded.rgb(strip)), (0, top))
  image.save(path, 'png')
