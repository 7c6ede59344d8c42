"""The images of a ground truth with their predictions: two panoptic JSON files and their PNGs."""

from collections.abc import Mapping, Sequence
import os
from typing import Any, NamedTuple

from deeplab2 import errors
from deeplab2 import files as files_lib
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import json_fields
from deeplab2.data import labels
from deeplab2.data import problems
from deeplab2.data import sources

SCORE = json_fields.of_type('a number', int, float, holds=lambda score: abs(score) < 1e30)
_NAMED = 5  # Images in a message.


class Segmentation(NamedTuple):
  """One side of an image."""

  png: str
  segments: tuple[labels.Segment, ...]  # With dataset ids, in the order of the file.
  scores: Mapping[int, float]  # By segment id, of those that have one.
  where: str  # File and image.


class Pair(NamedTuple):
  """An image; a side is None where its PNG is not looked at."""

  image_id: str
  ground_truth: Segmentation | None
  prediction: Segmentation | None


class PanopticFiles(NamedTuple):
  """A panoptic JSON."""

  path: str
  content: Mapping[str, Any]
  entries: dict[str, coco_panoptic.Entry]  # By image id; '139' and 139 are one.
  masks: str  # Directory of the PNGs.


def open_files(
  path: str, content: Mapping[str, Any], masks: str | None, flag: str
) -> PanopticFiles:
  """Returns the entries of a panoptic JSON.

  Args:
    path: of the file.
    content: of it, as of coco_panoptic.read_json.
    masks: directory of the PNGs; None for the path without .json.
    flag: that names the directory.

  Raises:
    UserError: an entry is incomplete, an image has two, or the directory or a PNG is missing.
  """
  entries, wrong = coco_panoptic.read_entries(dict(content), path)
  problems.refuse(wrong)
  if not entries:
    raise errors.UserError(f'{path}: has no image.')
  directory = sources.existing_directory(masks or os.path.splitext(path)[0], flag)
  with files_lib.explained(f'{directory}: cannot be read'):
    present = set(os.listdir(directory))
  missing = [entry.file_name for entry in entries if entry.file_name not in present]
  if missing:
    raise errors.UserError(
      f'{directory}: lacks {len(missing)} of the {len(entries)} PNGs that {path} names: '
      f'{named(missing)}; is it the directory of another file? {flag} names the right one.'
    )
  return PanopticFiles(path, content, {str(entry.image_id): entry for entry in entries}, directory)


def pair(
  ground_truth: PanopticFiles,
  prediction: PanopticFiles,
  info: datasets.DatasetInfo,
  *,
  only_predicted: bool,
) -> tuple[list[Pair], list[str]]:
  """Returns the images with both sides, in the order of the ground truth, and what was left out.

  Args:
    ground_truth: of `open_files`.
    prediction: of `open_files`.
    info: the classes of both.
    only_predicted: whether images without a prediction are left out.

  Raises:
    UserError: the two have no image in common, an image has no prediction, the predictions are of
      other classes, or segments are listed wrongly.
  """
  check_images(
    ground_truth.path,
    list(ground_truth.entries),
    prediction.path,
    list(prediction.entries),
    may_miss=only_predicted,
  )
  check_categories(prediction.path, prediction.content, info)
  common = [key for key in ground_truth.entries if key in prediction.entries]
  found = [
    Pair(
      key,
      *(
        _segmentation(files, files.entries[key], info, with_area=files is ground_truth)
        for files in (ground_truth, prediction)
      ),
    )
    for key in common
  ]
  left_out = []
  if len(common) < len(ground_truth.entries):
    left_out.append(
      f'{len(ground_truth.entries) - len(common)} images without prediction are left out.'
    )
  surplus = [key for key in prediction.entries if key not in ground_truth.entries]
  if surplus:
    left_out.append(of_surplus(ground_truth.path, surplus, len(prediction.entries)))
  return found, left_out


def of_surplus(path: str, surplus: Sequence[str], num_predicted: int) -> str:
  """Returns the sentence on predicted images that the ground truth `path` does not have."""
  return (
    f'{path}: does not have {len(surplus)} of the {num_predicted} predicted images: '
    f'{named(surplus)}; they are left out.'
  )


def alone(files: PanopticFiles, info: datasets.DatasetInfo, *, is_truth: bool) -> list[Pair]:
  """Returns the images of one side; UserError if segments are listed wrongly."""
  sides = {
    key: _segmentation(files, entry, info, with_area=is_truth)
    for key, entry in files.entries.items()
  }
  return [
    Pair(key, side, None) if is_truth else Pair(key, None, side) for key, side in sides.items()
  ]


def check_images(
  true_path: str, truths: Sequence[str], path: str, predicted: Sequence[str], *, may_miss: bool
) -> None:
  """Compares the images of two files.

  Args:
    true_path: of the ground truth.
    truths: its images.
    path: of the predictions.
    predicted: their images.
    may_miss: whether images without prediction are no mistake.

  Raises:
    UserError: they have none in common, or one has no prediction.
  """
  missing = [image for image in truths if image not in set(predicted)]
  if len(missing) == len(truths):
    raise errors.UserError(
      f'{path}: none of its {len(predicted)} images ({named(predicted)}) is one of the '
      f'{len(truths)} of {true_path} ({named(truths)}); they are of another data set or split.'
    )
  if missing and not may_miss:
    raise errors.UserError(
      f'{path}: has no prediction of {len(missing)} of the {len(truths)} images of {true_path}: '
      f'{named(missing)}; add them, or evaluate the others alone with --only_predicted.'
    )


def check_categories(path: str, content: Mapping[str, Any], info: datasets.DatasetInfo) -> None:
  """Compares the categories that a file of predictions lists, if any, with the ground truth's.

  Raises:
    UserError: most of them have another name, or are not there.
  """
  listed = content.get('categories')
  if not isinstance(listed, list):
    return
  others = []
  for category in listed:
    original = category.get('id') if isinstance(category, dict) else None
    if not isinstance(original, int):
      continue
    index = info.dataset_ids.get(original)
    wanted = None if index is None else info.class_names[index]
    if category.get('name') != wanted:
      others.append(f'{original} {category.get("name")!r} is {wanted!r} there')
  if 2 * len(others) > len(listed):
    raise errors.UserError(
      f'{path}: its categories are not those of the ground truth ({others[0]}, and '
      f'{len(others)} of {len(listed)} like it); these are predictions of another data set.'
    )


def named(images_or_files: Sequence[Any]) -> str:
  """Returns the first of a list for a message."""
  shown = ', '.join(map(str, images_or_files[:_NAMED]))
  return f'{shown}, ...' if len(images_or_files) > _NAMED else shown


def _segmentation(files, entry, info, *, with_area):
  where = f'{files.path}, image {entry.image_id}'
  segments, wrong = coco_panoptic.read_segments(entry.content, info, where, with_area=with_area)
  problems.refuse([*wrong, *labels.list_problems(segments, info, where)])
  scores = {
    content['id']: json_fields.take(content, 'score', f'{where}, segment {content["id"]}', SCORE)
    for content in entry.content['segments_info']
    if content.get('score') is not None
  }
  return Segmentation(os.path.join(files.masks, entry.file_name), tuple(segments), scores, where)
