"""Datasets on disk -> the images of a split with their label maps, ready to be written.

The roots are those of the datasets' own tools, as DeepLab2's converters read them:

  coco                 <split>2017/*.jpg, annotations/panoptic_<split>2017.json and .../*.png
  cityscapes           leftImg8bit/<split>/<city>/*_leftImg8bit.png,
                       gtFine/cityscapes_panoptic_<split>_trainId.json and .../*.png
                       (csCreatePanopticImgs --use-train-id)
  cityscapes_semantic  the same images, gtFine/<split>/<city>/*_gtFine_labelTrainIds.png
                       (csCreateTrainIdLabelImgs)
  ade20k               images/{training,validation}/*.jpg, ade20k_panoptic_<split>.json and
                       .../*.png (Mask2Former's prepare_ade20k_pan_seg.py)

The split `test` has no labels.
"""

from collections.abc import Callable, Mapping
import functools
import os
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.data import labels
from deeplab2.data import orientation
from deeplab2.data import shapes

_CITYSCAPES_SUFFIX = '_leftImg8bit'


class Item(NamedTuple):
  """One image ready to be written."""

  image: images.Encoded
  name: str
  label: np.ndarray | bytes | None  # [H, W] int32 panoptic ids; bytes of a PNG of classes
  segments: int = 0  # Things and stuff of the label map, without crowd.
  notes: Mapping[str, int] = {}  # Numbers of segments by a key of NOTES.


# What conversion leaves of annotated segments, by the key under which it is counted.
NOTES = {
  'hidden': 'stuff segments are listed without pixels: other segments cover them',
  'crowd alone': 'segments of things became void, as all things of their image are crowd',
  'all void': 'segments are of crowd or of no class, and nothing else is in their image',
}


class Choices(NamedTuple):
  """The user's choices for all images of a source."""

  ignore_crowd: bool  # Whether crowd becomes void.
  mask_orientation: str | None = None  # See orientation.align.
  skip: bool = False  # Whether images that cannot be used become tasks that fail.


class Source(NamedTuple):
  """The images of a split: `convert(task)` makes the Item of each task, in any process.

  `convert` raises UserError, naming the file, for an image that cannot be used.
  """

  tasks: list[Any]
  convert: Callable[[Any], Item]


class Task(NamedTuple):
  """One image to be converted."""

  name: str  # Of the record.
  image: str  # Path, '' if there is none.
  label: str  # Path of the PNG, '' without one.
  annotation: coco_panoptic.Annotation | None
  problem: str = ''  # Why the image cannot be used.


def coco(root: str, split: str, choices: Choices) -> Source:
  """Lists a split of COCO.

  Raises:
    UserError: as of all sources, naming the file: directories or files are missing, images and
      annotations do not belong together, or the JSON is of another type.
  """
  directory = existing_directory(
    os.path.join(root, f'{split}2017'), f'--root={root} --split={split}'
  )
  return own(
    directory,
    None if split == 'test' else os.path.join(root, 'annotations', f'panoptic_{split}2017.json'),
    datasets.get('coco_panoptic'),
    choices,
  )


def own(
  directory: str,
  json_path: str | None,
  info: datasets.DatasetInfo,
  choices: Choices,
  *,
  png_directory: str | None = None,
) -> Source:
  """Lists images annotated in COCO's panoptic format.

  Args:
    directory: of the images, without subdirectories.
    json_path: panoptic JSON, None for images without labels.
    info: the dataset.
    choices: of the user.
    png_directory: of the PNGs; by default, the path of the JSON without its ending.
  """
  paths = _paths(directory)
  if json_path is None:
    return _without_labels(paths)
  annotated = coco_panoptic.read_set(json_path, info)
  return _panoptic(directory, paths, annotated, json_path, info, choices, png_directory)


def cityscapes(root: str, split: str, choices: Choices) -> Source:
  """Lists a split of Cityscapes with panoptic labels."""
  directory, paths = _cityscapes_images(root, split)
  if split == 'test':
    return _without_labels(paths)
  json_path = os.path.join(root, 'gtFine', f'cityscapes_panoptic_{split}_trainId.json')
  # These annotations hold dataset ids already, and name images by their image id.
  info = datasets.get('cityscapes_panoptic')
  info = info._replace(dataset_ids={index: index for index in range(info.label_space.num_classes)})
  annotated = coco_panoptic.read_set(json_path, info)
  return _panoptic(directory, paths, annotated, json_path, info, choices)


def cityscapes_semantic(root: str, split: str, choices: Choices) -> Source:
  """Lists a split of Cityscapes with maps of classes: for other programs, kMaX needs instances."""
  _, paths = _cityscapes_images(root, split)
  if split == 'test':
    return _without_labels(paths)
  tasks = []
  for name, path in sorted(paths.items()):
    city = os.path.basename(os.path.dirname(path))
    label = os.path.join(root, 'gtFine', split, city, f'{name}_gtFine_labelTrainIds.png')
    tasks.append(Task(name, path, label, None))
  return Source(tasks, functools.partial(_convert_semantic, choices._replace(skip=False)))


def ade20k(root: str, split: str, choices: Choices) -> Source:
  """Lists a split of ADE20K."""
  if split == 'test':
    raise errors.UserError('--split=test: ADE20K has no such split; choose train or val.')
  directory = existing_directory(
    os.path.join(root, 'images', {'train': 'training', 'val': 'validation'}[split]),
    f'--root={root} --split={split}',
  )
  json_path = os.path.join(root, f'ade20k_panoptic_{split}.json')
  info = datasets.get('ade20k_panoptic')
  annotated = coco_panoptic.read_set(json_path, info)
  things = info.label_space.thing_ids

  def without_area(segment):
    # Stuff was listed, and its area counted, before things covered it.
    return segment._replace(area=None, may_be_hidden=segment.class_id not in things)

  annotations = [
    annotation._replace(segments=tuple(map(without_area, annotation.segments)))
    for annotation in annotated.annotations
  ]
  annotated = annotated._replace(annotations=annotations)
  return _panoptic(directory, _paths(directory), annotated, json_path, info, choices)


def synthetic(split: str, choices: Choices, *, num_images: int, seed: int) -> Source:
  """Lists the images of a synthetic split, see shapes.py."""
  return Source(
    list(range(num_images)), functools.partial(_convert_shapes, choices.ignore_crowd, seed, split)
  )


def existing_directory(path: str | None, flag: str) -> str:
  """Returns `path`; UserError naming `flag` unless it is a directory."""
  if not path:
    raise errors.UserError(f'{flag} is missing.')
  if not os.path.isdir(path):
    raise errors.UserError(f'{flag}: no such directory {path}.')
  return path


def _paths(directory):
  """Returns {name without ending: path} of the images in a directory."""
  names = images.list_directory(existing_directory(directory, 'images'))
  if not names:
    raise errors.UserError(f'{directory}: holds no image ({", ".join(images.ENDINGS)}).')
  paths: dict[str, str] = {}
  for name in names:
    _add(paths, os.path.splitext(name)[0], os.path.join(directory, name), directory)
  return paths


def _add(paths, stem, path, directory):
  """Adds an image; UserError if its name is another's."""
  if paths.setdefault(stem, path) != path:
    raise errors.UserError(
      f'{directory}: {os.path.relpath(paths[stem], directory)} and '
      f'{os.path.relpath(path, directory)} differ in their ending alone or their directory; names '
      'without ending must be unique.'
    )


def _cityscapes_images(root, split):
  """Returns (directory, images of a split by name, like frankfurt_000000_000294)."""
  directory = existing_directory(
    os.path.join(root, 'leftImg8bit', split), f'--root={root} --split={split}'
  )
  paths: dict[str, str] = {}
  for city in sorted(os.listdir(directory)):
    city_directory = os.path.join(directory, city)
    if not os.path.isdir(city_directory):
      continue
    others = []
    for name in images.list_directory(city_directory):
      stem = os.path.splitext(name)[0]
      if stem.endswith(_CITYSCAPES_SUFFIX):
        path = os.path.join(city_directory, name)
        _add(paths, stem.removesuffix(_CITYSCAPES_SUFFIX), path, directory)
      else:
        others.append(name)
    if others:
      logging.warning(
        '%s: %d images are left out, as their names do not end in %s, first %s.',
        city_directory,
        len(others),
        _CITYSCAPES_SUFFIX,
        others[0],
      )
  if not paths:
    raise errors.UserError(f'{directory}: holds no image <city>/*{_CITYSCAPES_SUFFIX}.png.')
  return directory, paths


def _without_labels(paths):
  return Source(
    [Task(name, path, '', None) for name, path in sorted(paths.items())],
    functools.partial(_convert_panoptic, None, None),
  )


def _panoptic(directory, paths, annotated, json_path, info, choices, png_directory=None):
  """Pairs images with annotations."""
  png_directory = existing_directory(
    png_directory or os.path.splitext(json_path)[0], f'directory of the PNGs of {json_path}'
  )
  tasks = _pair(directory, paths, annotated, json_path, png_directory)
  if not choices.skip:
    _refuse(directory, tasks, json_path)
  # What is converted does not depend on `skip`: a build without it goes on where one with it ended.
  return Source(
    sorted(tasks, key=lambda task: task.name),
    functools.partial(_convert_panoptic, info, choices._replace(skip=False)),
  )


def _pair(directory, paths, annotated, json_path, png_directory):
  """Returns the task of each annotation and of each image without one."""
  annotations, names = annotated
  stems = coco_panoptic.pair(
    [(annotation.image_id, annotation.file_name) for annotation in annotations], names, paths
  )
  _warn_of_other_names(annotations, names, stems, json_path)
  tasks, seen = [], {}
  for annotation, stem in zip(annotations, stems, strict=True):
    problem, path = annotation.problem, paths.get(stem, '')
    if stem in seen:
      raise errors.UserError(
        f'{json_path}: image {annotation.image_id} and image {seen[stem]} are '
        f'both paired with {path}; names must be unique.'
      )
    if stem is None:
      listed = names.get(annotation.image_id, annotation.file_name)
      stem = os.path.splitext(os.path.basename(listed))[0]
      problem = problem or (
        f'{directory}: there is no image {stem}, which {json_path} annotates'
        f'{_other_format(directory, stem)}.'
      )
    else:
      seen[stem] = annotation.image_id
    tasks.append(
      Task(stem, path, os.path.join(png_directory, annotation.file_name), annotation, problem)
    )
  return tasks + [
    Task(stem, path, '', None, f'{path}: has no annotation in {json_path}.')
    for stem, path in paths.items()
    if stem not in seen
  ]


def _warn_of_other_names(annotations, names, stems, json_path):
  """Says how many images are not called as the list `images` says, where others are."""
  others = [
    (names[annotation.image_id], stem)
    for annotation, stem in zip(annotations, stems, strict=True)
    if annotation.image_id in names
    and stem is not None
    and os.path.splitext(os.path.basename(names[annotation.image_id]))[0] != stem
  ]
  if others and len(others) < sum(annotation.image_id in names for annotation in annotations):
    logging.warning(
      "%s: %d images are not called as the list 'images' says, and were found by the "
      'names of their PNGs; first %s, found as %s.',
      json_path,
      len(others),
      *others[0],
    )
  unlisted = [annotation.image_id for annotation in annotations if annotation.image_id not in names]
  if names and unlisted:
    logging.warning(
      "%s: %d annotated images are not in the list 'images', first image %s; they go "
      'by the names of their PNGs.',
      json_path,
      len(unlisted),
      unlisted[0],
    )


def _other_format(directory, stem):
  """Returns a hint if a missing image exists in a format that is not read."""
  for name in sorted(os.listdir(directory)):
    if images.is_left_out(name) and os.path.splitext(name)[0] == stem:
      return f', but {name}, which is not {images.FORMATS}; convert it'
  return ''


def _refuse(directory, tasks, json_path):
  """Raises UserError if there is a task with a problem."""
  broken = [task for task in tasks if task.problem]
  if not broken:
    return
  advice = 'correct that, or leave such images out by --on_error=skip'
  without = sorted(task.name for task in broken if not task.annotation)
  missing = sorted(task.name for task in broken if not task.image)
  for task in broken:
    if task.annotation and task.annotation.problem:
      raise errors.UserError(f'{task.annotation.problem.rstrip(".")}; {advice}.')
  if without:
    both = f' ({len(missing)} annotations have no image, first {missing[0]})' if missing else ''
    raise errors.UserError(
      f'{directory}: {len(without)} images have no annotation in {json_path}, '
      f'first {without[0]}{both}; {advice}.'
    )
  raise errors.UserError(
    f'{directory}: {len(missing)} images that {json_path} annotates are missing, first '
    f'{missing[0]}{_other_format(directory, missing[0])}; {advice}.'
  )


def _convert_panoptic(info, choices, task):
  """Reads one image and its label map."""
  if task.problem:
    raise errors.UserError(task.problem)
  image = images.load(task.image)
  if task.annotation is None:
    return Item(images.encode_image(image), task.name, None)
  label = coco_panoptic.read_label(
    task.label, task.annotation, info, treat_crowd_as_ignore=choices.ignore_crowd
  )
  label = _aligned(label, image, choices, task)
  segments, notes = _account(label, task.annotation.segments, info.label_space)
  return Item(images.encode_image(image), task.name, label, segments, notes)


def _aligned(label, image, choices, task):
  return orientation.align(
    label,
    image.pixels.shape[:2],
    image.orientation,
    choices.mask_orientation,
    mask_path=task.label,
    image_path=task.image,
  )


def _account(label, segments, space):
  """Returns (number of segments of a label map, what became of those that are listed)."""
  values = np.array(list(labels.regions(label)))
  is_void = labels.split(values, space)[0] == space.ignore_label
  present = set(values.tolist())
  notes = {
    'hidden': sum(
      segment.may_be_hidden and segment.class_id * space.label_divisor not in present
      for segment in segments
    )
  }
  things = [segment for segment in segments if segment.class_id in space.thing_ids]
  is_crowd = labels.crowd_mask(values, space)
  if is_void.all():
    notes['all void'] = len(segments)
  elif all(segment.is_crowd for segment in things) and not is_crowd.any():
    notes['crowd alone'] = len(things)
  return int((~is_void & ~is_crowd).sum()), {key: count for key, count in notes.items() if count}


def _convert_semantic(choices, task):
  """Reads one image; the PNG of its classes stays as it is, unless it is turned."""
  image = images.load(task.image)
  label = images.read_label_png(task.label, 'L', 'label PNGs must have one channel of 8 bits')
  aligned = _aligned(label, image, choices, task)
  if aligned is label:
    with open(task.label, 'rb') as file:
      return Item(images.encode_image(image), task.name, file.read())
  return Item(images.encode_image(image), task.name, images.encode(aligned, 'png').data)


def _convert_shapes(ignore_crowd, seed, split, index):
  """Draws one image."""
  space = datasets.get('shapes').label_space
  image, label = shapes.generate(seed, split, index, space)
  if ignore_crowd:
    label = labels.ignore_crowd(label, space)
  segments, _ = _account(label, (), space)
  return Item(images.encode(image), f'{split}_{index:06d}', label, segments)
