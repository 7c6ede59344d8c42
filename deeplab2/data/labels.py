"""Panoptic label maps in NumPy: ids <-> class and instance, and segments -> label map."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.data import datasets
from deeplab2.data import problems
from deeplab2.data.problems import Problem

# Maps are looked at in pieces of so many pixels, so that large ones take little memory.
_PIXELS_AT_A_TIME = 2**22
# Beyond this, a map is a photograph or noise; panoptic sets have a few hundred ids an image.
_MOST_REGIONS = 2**16
_EXCHANGED = (
  'with red and blue exchanged all ids agree: OpenCV writes blue first, so exchange the '
  'channels before cv2.imwrite, or in the PNGs'
)


class Segment(NamedTuple):
  """One annotated segment of an image."""

  id: int  # The value of its pixels in the map of segment ids.
  class_id: int  # Dataset id.
  area: int | None  # Annotated number of pixels; None if not to be checked.
  is_crowd: bool = False
  may_be_hidden: bool = False  # Whether it may have no pixels, as others cover it.


class Region(NamedTuple):
  """The pixels of a value in a map."""

  area: int
  box: list[int]  # x, y, width, height
  pixel: tuple[int, int]  # (row, column) of the first, row by row.


def split(panoptic: np.ndarray, space: structures.LabelSpace) -> tuple[np.ndarray, np.ndarray]:
  """Returns (class ids, instance ids) of panoptic ids, each of their shape."""
  return np.divmod(panoptic, space.label_divisor)


def join(
  class_ids: np.ndarray, instance_ids: np.ndarray, space: structures.LabelSpace
) -> np.ndarray:
  """Returns the int32 panoptic ids of class and instance ids, the inverse of `split`."""
  return np.asarray(class_ids * space.label_divisor + instance_ids, np.int32)


def crowd_mask(panoptic: np.ndarray, space: structures.LabelSpace) -> np.ndarray:
  """Returns where `panoptic` is crowd: a thing class with instance 0. Bool, same shape."""
  class_ids, instance_ids = split(panoptic, space)
  return np.isin(class_ids, space.thing_ids) & (instance_ids == 0)


def ignore_crowd(panoptic: np.ndarray, space: structures.LabelSpace) -> np.ndarray:
  """Returns `panoptic` with crowd made void."""
  return np.where(crowd_mask(panoptic, space), np.int32(space.void_id), panoptic)


def regions(values: np.ndarray) -> dict[int, Region]:
  """Returns where each value of a map [H, W] is, in ascending order of the values.

  Raises:
    UserError: a sentence without file or full stop, if there are too many values.
  """
  height, width = values.shape
  found: dict[int, Region] = {}
  rows = max(1, _PIXELS_AT_A_TIME // max(1, width))
  for top in range(0, height, rows):
    for value, region in _regions_of_rows(values[top : top + rows], top):
      found[value] = _union(found[value], region) if value in found else region
    _refuse_noise(found)
  return dict(sorted(found.items()))


def _refuse_noise(ids):
  if len(ids) > _MOST_REGIONS:
    raise errors.UserError(f'more than {_MOST_REGIONS} different ids; this is no map of segments')


def _regions_of_rows(values, top):
  """Yields (value, Region) of some rows; all work is done once for a run of equal pixels."""
  width = values.shape[1]
  flat = values.ravel()
  starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
  ends = np.append(starts[1:], flat.size) - 1
  present, first, index = np.unique(flat[starts], return_index=True, return_inverse=True)
  _refuse_noise(present)
  areas = np.zeros(len(present), np.int64)
  np.add.at(areas, index, ends - starts + 1)
  top_row, bottom_row = starts // width, ends // width
  wraps = top_row != bottom_row
  lows = [np.full(len(present), values.size) for _ in range(2)]
  highs = [np.full(len(present), -1) for _ in range(2)]
  for low, position in zip(lows, (np.where(wraps, 0, starts % width), top_row), strict=True):
    np.minimum.at(low, index, position)
  for high, position in zip(
    highs, (np.where(wraps, width - 1, ends % width), bottom_row), strict=True
  ):
    np.maximum.at(high, index, position)
  for value, area, place, left, upper, right, lower in zip(
    *(column.tolist() for column in (present, areas, starts[first], *lows, *highs)), strict=True
  ):
    row, column = divmod(place, width)
    yield (
      value,
      Region(area, [left, top + upper, right - left + 1, lower - upper + 1], (top + row, column)),
    )


def _union(one, other):
  """Returns the region of two, of which `one` comes first."""
  left, top = (min(a, b) for a, b in zip(one.box[:2], other.box[:2], strict=True))
  right, bottom = (
    max(one.box[i] + one.box[i + 2], other.box[i] + other.box[i + 2]) for i in range(2)
  )
  return Region(one.area + other.area, [left, top, right - left, bottom - top], one.pixel)


def from_segments(
  segment_ids: np.ndarray,
  segments: Sequence[Segment],
  info: datasets.DatasetInfo,
  *,
  treat_crowd_as_ignore: bool,
  where: str,
) -> np.ndarray:
  """Builds a panoptic label map from a map of segment ids and the list of segments.

  Instances of a thing class are numbered from 1 in the order of `segments`. Stuff has instance 0.
  Pixels of id 0 are void.

  Args:
    segment_ids: [H, W] integers from 0.
    segments: class ids must be dataset ids.
    info: the dataset, whose ids are built.
    treat_crowd_as_ignore: crowd becomes void; else it becomes its thing class with instance 0.
    where: file and image, for error messages.

  Returns:
    [H, W] int32 panoptic ids.

  Raises:
    errors.UserError: there are `list_problems` or `map_problems`, or the map holds nothing of all
      that is listed.
  """
  problems.refuse(list_problems(segments, info, where))
  try:
    found = regions(segment_ids)
  except errors.UserError as error:
    raise errors.UserError(f'{where}: {error}.') from error
  problems.refuse(map_problems(found, segments, info, where))
  space = info.label_space
  ids = _panoptic_ids(segments, space, treat_crowd_as_ignore)
  listed = [value for value in ids.values() if value != space.void_id]
  if listed and not any(ids.get(value, space.void_id) != space.void_id for value in found):
    raise errors.UserError(
      f'{where}: the label map is all void, but {len(listed)} segments are '
      'listed; is this the PNG of another image, or an empty one?'
    )
  # A table of all ids is read fastest; its pages take memory only where they are not 0.
  table = np.zeros(max(found) + 1, np.int32)
  for value in found:
    table[value] = ids.get(value, space.void_id) - space.void_id
  label = table[segment_ids]
  label += np.int32(space.void_id)
  return label


def _panoptic_ids(segments, space, treat_crowd_as_ignore):
  """Returns {segment id: panoptic id}."""
  instances: collections.Counter[int] = collections.Counter()
  ids = {}
  for segment in segments:
    instance = 0
    if segment.class_id in space.thing_ids and not segment.is_crowd:
      instances[segment.class_id] += 1
      instance = instances[segment.class_id]
    ignored = segment.is_crowd and treat_crowd_as_ignore
    ids[segment.id] = (
      space.void_id if ignored else segment.class_id * space.label_divisor + instance
    )
  return ids


def list_problems(
  segments: Sequence[Segment], info: datasets.DatasetInfo, where: str
) -> Iterator[Problem]:
  """Yields what is wrong with the list of the segments of an image, whatever its map holds."""
  space = info.label_space
  seen: set[int] = set()
  instances: collections.Counter[int] = collections.Counter()
  for segment in segments:
    if segment.id in seen:
      message = 'is listed twice; segment ids must be unique in an image'
      yield Problem('duplicate', where, message, segment.id)
      continue
    seen.add(segment.id)
    if segment.class_id == space.ignore_label:
      continue
    name = info.class_names[segment.class_id]
    if segment.class_id not in space.thing_ids:
      if segment.is_crowd:
        message = f'is crowd of {name}, which is stuff; only things can be crowds'
        yield Problem('crowd', where, message, segment.id)
      continue
    instances[segment.class_id] += not segment.is_crowd
    if not segment.is_crowd and instances[segment.class_id] == space.label_divisor:
      message = (
        f'is instance {space.label_divisor} of {name}; the label divisor {space.label_divisor} '
        f'allows at most {space.label_divisor - 1} in one image'
      )
      yield Problem('too many', where, message, segment.id)


def map_problems(
  found: Mapping[int, Region], segments: Sequence[Segment], info: datasets.DatasetInfo, where: str
) -> Iterator[Problem]:
  """Yields where a map of segment ids disagrees with the list of its segments.

  Args:
    found: of the map, by id; 0 stands for no segment.
    segments: that are listed.
    info: the dataset.
    where: file and image.
  """
  listed = {segment.id: segment for segment in reversed(segments)}  # The first of each id.
  for value in sorted(set(found) - set(listed) - {0}):
    message = f'covers {found[value].area} pixels, but is not listed'
    yield Problem('not listed', where, message, value, found[value].pixel)
  for segment in reversed(listed.values()):
    region = found.get(segment.id)
    if region is None and not segment.may_be_hidden:
      is_thing = segment.class_id in info.label_space.thing_ids
      area = '' if segment.area is None else f', with area {segment.area}'
      message = f'is listed{area}, but has no pixel'
      yield Problem('not drawn' if is_thing else 'stuff not drawn', where, message, segment.id)
    elif region is not None and segment.area not in (None, region.area):
      message = f'covers {region.area} pixels, but its annotated area is {segment.area}'
      yield Problem('area', where, message, segment.id, region.pixel)
  required = {segment.id for segment in segments if not segment.may_be_hidden}
  if _agree_exchanged(set(found) - {0}, required, set(listed)):
    yield Problem('exchanged', where, _EXCHANGED)


def _agree_exchanged(ids, required, allowed):
  """Returns whether ids agree only after red and blue of their colours are exchanged.

  Args:
    ids: in the map.
    required: of the list, those that must be in the map.
    allowed: all of the list.
  """
  exchanged = {(value & 0xFF) << 16 | value & 0xFF00 | value >> 16 & 0xFF for value in ids}
  return bool(ids) and required <= exchanged <= allowed and not required <= ids <= allowed


def find_problem(panoptic: np.ndarray, space: structures.LabelSpace) -> str | None:
  """Returns a sentence on the first id that does not belong to `space`, or None."""
  for value in np.unique(panoptic).tolist():
    problem = id_problem(value, space)
    if problem:
      return f'the label map holds {problem[1]}.'
  return None


def id_problem(value: int, space: structures.LabelSpace) -> tuple[str, str] | None:
  """Returns why a panoptic id does not belong to `space`, as category and message, or None."""
  class_id, instance = divmod(value, space.label_divisor)
  at = f'id {value} (class {class_id}, instance {instance})'
  if class_id == space.ignore_label:
    return None
  if not 0 <= class_id < space.num_classes:
    return 'class', (
      f'{at}; classes must be below {space.num_classes} or the ignore label '
      f'{space.ignore_label}, ids class * {space.label_divisor} + instance'
    )
  if instance and class_id not in space.thing_ids:
    return 'isthing', f'{at}, but class {class_id} is stuff; only things have instances'
  return None
