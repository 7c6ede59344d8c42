"""Panoptic label maps in NumPy: ids <-> class and instance, and segments -> label map."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deeplab2 import errors
from deeplab2 import structures


class Segment(NamedTuple):
  """One annotated segment of a picture."""
  id: int  # The value of its pixels in the map of segment ids.
  class_id: int  # Dataset id.
  area: int | None  # Annotated number of pixels; None if not to be checked.
  is_crowd: bool = False


def split(panoptic: np.ndarray, space: structures.LabelSpace) -> tuple[np.ndarray, np.ndarray]:
  """Returns (class ids, instance ids) of panoptic ids, each of their shape."""
  return np.divmod(panoptic, space.label_divisor)


def join(class_ids: np.ndarray, instance_ids: np.ndarray,
         space: structures.LabelSpace) -> np.ndarray:
  """Returns the int32 panoptic ids of class and instance ids, the inverse of `split`."""
  return np.asarray(class_ids * space.label_divisor + instance_ids, np.int32)


def crowd_mask(panoptic: np.ndarray, space: structures.LabelSpace) -> np.ndarray:
  """Returns where `panoptic` is crowd: a thing class with instance 0. Bool, same shape."""
  class_ids, instance_ids = split(panoptic, space)
  return np.isin(class_ids, space.thing_ids) & (instance_ids == 0)


def ignore_crowd(panoptic: np.ndarray, space: structures.LabelSpace) -> np.ndarray:
  """Returns `panoptic` with crowd made void."""
  return np.where(crowd_mask(panoptic, space), np.int32(space.void_id), panoptic)


def from_segments(segment_ids: np.ndarray, segments: Sequence[Segment],
                  space: structures.LabelSpace, *, treat_crowd_as_ignore: bool,
                  where: str) -> np.ndarray:
  """Builds a panoptic label map from a map of segment ids and the list of segments.

  Instances of a thing class are numbered from 1 in the order of `segments`. Stuff has instance 0.
  Pixels of no listed segment are void.

  Args:
    segment_ids: [H, W] integers.
    segments: class ids must be dataset ids.
    space: the ids to build.
    treat_crowd_as_ignore: crowd becomes void; else it becomes its thing class with instance 0.
    where: file and picture, for error messages.

  Returns:
    [H, W] int32 panoptic ids.

  Raises:
    errors.UserError: a segment occurs twice, covers another number of pixels than annotated, is
      crowd of a stuff class, or a class has more instances than the label divisor can number.
  """
  things = set(space.thing_ids)
  instances = {}
  ids = {}
  for segment in segments:
    at = f'{where}, segment {segment.id}'
    if segment.id in ids:
      raise errors.UserError(f'{at}: listed twice; segment ids must be unique in a picture.')
    instance = 0
    if segment.class_id in things and not segment.is_crowd:
      instance = instances[segment.class_id] = instances.get(segment.class_id, 0) + 1
      if instance >= space.label_divisor:
        raise errors.UserError(
            f'{at}: instance {instance} of class {segment.class_id}; the label divisor '
            f'{space.label_divisor} allows at most {space.label_divisor - 1} in one picture.')
    elif segment.is_crowd and segment.class_id not in things:
      raise errors.UserError(f'{at}: crowd of class {segment.class_id}, which is stuff; only '
                             'things can be crowds.')
    ignored = segment.is_crowd and treat_crowd_as_ignore
    ids[segment.id] = (
        space.void_id if ignored else segment.class_id * space.label_divisor + instance)

  present, index, areas = np.unique(segment_ids, return_inverse=True, return_counts=True)
  area_of = dict(zip(present.tolist(), areas.tolist(), strict=True))
  for segment in segments:
    area = area_of.get(segment.id, 0)
    if segment.area is not None and segment.area != area:
      raise errors.UserError(f'{where}, segment {segment.id}: covers {area} pixels, but its '
                             f'annotated area is {segment.area}.')
  table = np.array([ids.get(value, space.void_id) for value in present.tolist()], np.int32)
  return table[index].reshape(segment_ids.shape)


def find_problem(panoptic: np.ndarray, space: structures.LabelSpace) -> str | None:
  """Returns a sentence on the first id that does not belong to `space`, or None."""
  for value in np.unique(panoptic).tolist():
    class_id, instance = divmod(value, space.label_divisor)
    at = f'the label map holds id {value} (class {class_id}, instance {instance})'
    if class_id == space.ignore_label:
      continue
    if not 0 <= class_id < space.num_classes:
      return (f'{at}; classes must be below {space.num_classes} or the ignore label '
              f'{space.ignore_label}, ids class * {space.label_divisor} + instance.')
    if instance and class_id not in space.thing_ids:
      return f'{at}, but class {class_id} is stuff; only things have instances.'
  return None
