"""Datasets on disk -> the pictures of a split with their label maps, ready to be written.

The roots are those of the datasets' own tools, as DeepLab2's converters read them:

  coco                 <split>2017/*.jpg, annotations/panoptic_<split>2017.json and .../*.png
  cityscapes           leftImg8bit/<split>/<city>/*_leftImg8bit.png,
                       gtFine/cityscapes_panoptic_<split>_trainId.json and .../*.png
                       (csCreatePanopticImgs --use-train-id)
  cityscapes_semantic  the same pictures, gtFine/<split>/<city>/*_gtFine_labelTrainIds.png
                       (csCreateTrainIdLabelImgs)
  ade20k               images/{training,validation}/*.jpg, ade20k_panoptic_<split>.json and
                       .../*.png (Mask2Former's prepare_ade20k_pan_seg.py)

The split `test` has no labels.
"""
from collections.abc import Callable, Sequence
import functools
import os
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.data import labels
from deeplab2.data import shapes

PICTURE_ENDINGS = ('.jpg', '.jpeg', '.png')


class Item(NamedTuple):
  """One picture ready to be written."""
  picture: images.Encoded
  name: str
  label: np.ndarray | bytes | None  # [H, W] int32 panoptic ids; bytes of a PNG of classes


class Source(NamedTuple):
  """The pictures of a split: `convert(task)` makes the Item of each task, in any process."""
  tasks: list[Any]
  convert: Callable[[Any], Item]


class _Task(NamedTuple):
  name: str  # Of the record.
  picture: str
  label: str  # Path of the PNG, '' without one.
  annotation: coco_panoptic.Annotation | None


def coco(root: str, split: str, *, ignore_crowd: bool) -> Source:
  """Lists a split of COCO.

  Raises:
    UserError: as of all sources, naming the file: folders or files are missing, pictures and
      annotations do not belong together, or the JSON is of another kind.
  """
  folder = existing_folder(os.path.join(root, f'{split}2017'), f'--root={root} --split={split}')
  return own(folder, None if split == 'test' else os.path.join(
      root, 'annotations', f'panoptic_{split}2017.json'), datasets.get('coco_panoptic'),
             ignore_crowd=ignore_crowd)


def own(folder: str, json_path: str | None, info: datasets.DatasetInfo, *, ignore_crowd: bool,
        png_folder: str | None = None) -> Source:
  """Lists pictures annotated in COCO's panoptic format.

  Args:
    folder: of the pictures, without subfolders.
    json_path: panoptic JSON, None for pictures without labels.
    info: the dataset.
    ignore_crowd: whether crowd becomes void.
    png_folder: of the PNGs; by default, the path of the JSON without its ending.
  """
  names = _listed(folder, PICTURE_ENDINGS)
  paths = {os.path.splitext(name)[0]: os.path.join(folder, name) for name in names}
  if len(paths) < len(names):
    raise errors.UserError(f'{folder}: holds pictures that differ in their ending alone; names '
                           'without ending must be unique.')
  if json_path is None:
    return _without_labels(paths)
  annotations = coco_panoptic.read_annotations(json_path, info)
  return _panoptic(paths, annotations, json_path, info, ignore_crowd, png_folder)


def cityscapes(root: str, split: str, *, ignore_crowd: bool) -> Source:
  """Lists a split of Cityscapes with panoptic labels."""
  paths = _cityscapes_pictures(root, split)
  if split == 'test':
    return _without_labels(paths)
  json_path = os.path.join(root, 'gtFine', f'cityscapes_panoptic_{split}_trainId.json')
  # These annotations hold dataset ids already, and name pictures by their image id.
  info = datasets.get('cityscapes_panoptic')
  info = info._replace(dataset_ids={index: index for index in range(info.label_space.num_classes)})
  by_id = {str(annotation.image_id): annotation
           for annotation in coco_panoptic.read_annotations(json_path, info).values()}
  return _panoptic(paths, by_id, json_path, info, ignore_crowd)


def cityscapes_semantic(root: str, split: str) -> Source:
  """Lists a split of Cityscapes with maps of classes: for other programs, kMaX needs instances."""
  paths = _cityscapes_pictures(root, split)
  if split == 'test':
    return _without_labels(paths)
  tasks = []
  for name, path in sorted(paths.items()):
    city = os.path.basename(os.path.dirname(path))
    label = os.path.join(root, 'gtFine', split, city, f'{name}_gtFine_labelTrainIds.png')
    tasks.append(_Task(name, path, label, None))
  return Source(tasks, _convert_semantic)


def ade20k(root: str, split: str, *, ignore_crowd: bool) -> Source:
  """Lists a split of ADE20K."""
  if split == 'test':
    raise errors.UserError('--split=test: ADE20K has no such split; choose train or val.')
  folder = existing_folder(
      os.path.join(root, 'images', {'train': 'training', 'val': 'validation'}[split]),
      f'--root={root} --split={split}')
  json_path = os.path.join(root, f'ade20k_panoptic_{split}.json')
  info = datasets.get('ade20k_panoptic')
  # Areas of stuff were counted before things covered it.
  annotations = {stem: annotation._replace(segments=tuple(
      segment._replace(area=None) for segment in annotation.segments))
                 for stem, annotation in coco_panoptic.read_annotations(json_path, info).items()}
  paths = {os.path.splitext(name)[0]: os.path.join(folder, name)
           for name in _listed(folder, PICTURE_ENDINGS)}
  return _panoptic(paths, annotations, json_path, info, ignore_crowd)


def synthetic(split: str, *, num_images: int, seed: int, ignore_crowd: bool) -> Source:
  """Lists the pictures of a synthetic split, see shapes.py."""
  return Source(list(range(num_images)),
                functools.partial(_convert_shapes, ignore_crowd, seed, split))


def existing_folder(path: str | None, flag: str) -> str:
  """Returns `path`; UserError naming `flag` unless it is a folder."""
  if not path:
    raise errors.UserError(f'{flag} is missing.')
  if not os.path.isdir(path):
    raise errors.UserError(f'{flag}: no such folder {path}.')
  return path


def _listed(folder, endings: Sequence[str]):
  names = sorted(name for name in os.listdir(existing_folder(folder, 'pictures'))
                 if name.lower().endswith(tuple(endings)))
  if not names:
    raise errors.UserError(f'{folder}: holds no picture ({", ".join(endings)}).')
  for name in names:
    if name != name.encode(errors='replace').decode():
      raise errors.UserError(f'{folder}: the file name {name!r} is not UTF-8; rename the picture.')
  return names


def _cityscapes_pictures(root, split):
  """Returns the pictures of a split by name, like frankfurt_000000_000294."""
  folder = existing_folder(
      os.path.join(root, 'leftImg8bit', split), f'--root={root} --split={split}')
  ending = '_leftImg8bit.png'
  paths = {}
  for city in sorted(os.listdir(folder)):
    if os.path.isdir(os.path.join(folder, city)):
      for name in sorted(os.listdir(os.path.join(folder, city))):
        if name.endswith(ending):
          paths[name.removesuffix(ending)] = os.path.join(folder, city, name)
  if not paths:
    raise errors.UserError(f'{folder}: holds no picture <city>/*{ending}.')
  return paths


def _without_labels(paths):
  return Source([_Task(name, path, '', None) for name, path in sorted(paths.items())],
                functools.partial(_convert_panoptic, None, False))


def _panoptic(paths, annotations, json_path, info, ignore_crowd, png_folder=None):
  """Pairs pictures with annotations of the same name."""
  folder = os.path.commonpath([os.path.dirname(path) for path in paths.values()])
  png_folder = existing_folder(png_folder or os.path.splitext(json_path)[0],
                               f'folder of the PNGs of {json_path}')
  without = sorted(set(paths) - set(annotations))
  if without:
    raise errors.UserError(f'{folder}: {len(without)} pictures have no annotation in {json_path}, '
                           f'first {without[0]}.')
  missing = sorted(set(annotations) - set(paths))
  if missing:
    raise errors.UserError(f'{folder}: {len(missing)} pictures that {json_path} annotates are '
                           f'missing, first {missing[0]}.')
  tasks = [_Task(name, path, os.path.join(png_folder, annotations[name].file_name),
                 annotations[name]) for name, path in sorted(paths.items())]
  return Source(tasks, functools.partial(_convert_panoptic, info, ignore_crowd))


def _convert_panoptic(info, ignore_crowd, task):
  """Reads one picture and its label map."""
  picture = images.encode_for_record(task.picture)
  label = None
  if task.annotation is not None:
    label = coco_panoptic.read_label(
        task.label, task.annotation, info, treat_crowd_as_ignore=ignore_crowd)
    _check_size(task, label.shape, picture)
  return Item(picture, task.name, label)


def _convert_semantic(task):
  """Reads one picture; the PNG of its classes stays as it is."""
  picture = images.encode_for_record(task.picture)
  try:
    with open(task.label, 'rb') as file:
      data = file.read()
    with PIL.Image.open(task.label) as image:
      image.load()
  except FileNotFoundError as error:
    raise errors.UserError(f'{task.label}: no such label PNG.') from error
  except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
    raise errors.UserError(f'{task.label}: the PNG cannot be decoded ({error}).') from error
  if image.mode != 'L':
    raise errors.UserError(f'{task.label}: mode {image.mode!r}; label PNGs must have one channel '
                           'of 8 bits.')
  _check_size(task, (image.height, image.width), picture)
  return Item(picture, task.name, data)


def _check_size(task, size, picture):
  if tuple(size) != (picture.height, picture.width):
    raise errors.UserError(
        f'{task.label}: is {size[0]}x{size[1]} (height x width), but its picture {task.picture} is '
        f'{picture.height}x{picture.width}; must be equal.')


def _convert_shapes(ignore_crowd, seed, split, index):
  """Draws one picture."""
  space = datasets.get('shapes').label_space
  image, label = shapes.generate(seed, split, index, space)
  if ignore_crowd:
    label = labels.ignore_crowd(label, space)
  return Item(images.encode(image), f'{split}_{index:06d}', label)
