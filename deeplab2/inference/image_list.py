"""Which images are segmented, what their results are called, and their ids."""

import collections
from collections.abc import Mapping, Sequence
import glob
import os
from typing import Any, NamedTuple

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import images as images_lib
from deeplab2.data import json_fields
from deeplab2.data import panoptic_results

# A file that lists images, one path a line, relative to where it lies.
LIST_ENDING = '.txt'


class Image(NamedTuple):
  """An image to segment."""

  path: str
  name: str  # Of its results, without ending; unique.
  entry: Mapping[str, Any]  # Of the list `images` of the results: 'id', 'file_name' and others.
  size: tuple[int, int] | None = None  # (height, width) that the ground truth states.


class Found(NamedTuple):
  """The image files that --input names."""

  root: str  # The directory that `paths` are relative to.
  paths: list[str]  # Each once.
  others: collections.Counter  # Number of other files by ending.


def find(inputs: Sequence[str], results: Sequence[str] = (), *, is_recursive: bool = True) -> Found:
  """Lists the image files that an input names.

  Args:
    inputs: one of: an image file, which counts whatever its ending; a directory, whose images are
      sorted; a list file (`LIST_ENDING`), in its order; a pattern, if there is no file of this very
      name. Or several image files.
    results: directories that are left out.
    is_recursive: whether the directories in a directory are searched too.

  Raises:
    UserError: there is no such place, or no image in it.
  """
  if len(inputs) > 1:
    for path in inputs:
      if os.path.isdir(path):
        raise errors.UserError(
          f'--input: {path} is a directory; give several images, or one directory.'
        )
    return _listed(list(inputs), collections.Counter())
  [place] = inputs
  if os.path.isdir(place):
    return _in_directory(place, results, is_recursive)
  if os.path.isfile(place) and place.lower().endswith(LIST_ENDING):
    return _listed(_read_list(place), collections.Counter())
  if os.path.isfile(place):
    return _listed([place], collections.Counter())
  if files.is_pattern(place):
    return _matching(place, results)
  raise errors.UserError(f'--input={place}: no such image, directory or video.')


def _listed(paths, others):
  """Returns what paths name, relative to the lowest directory that holds all."""
  unique = list(dict.fromkeys(map(os.path.normpath, paths)))
  directories = [os.path.dirname(path) for path in unique]
  absolute = [os.path.abspath(directory) for directory in directories]
  root = directories[0] if len(set(directories)) == 1 else os.path.commonpath(absolute)
  return Found(root, [os.path.relpath(path, root or '.') for path in unique], others)


def _read_list(list_path):
  """Returns the paths of a list file, as the caller would name them."""
  directory, paths = os.path.dirname(list_path), []
  for number, line in enumerate(files.read_text(list_path).split('\n'), 1):
    line = line.removesuffix('\r')  # Spaces may be part of a name.
    if not line.strip():
      continue
    try:
      path = os.path.join(directory, files.expand(line))
    except errors.UserError as error:
      raise errors.UserError(f'{list_path}:{number}: {error}') from error
    if os.path.isdir(path):
      raise errors.UserError(f'{list_path}:{number}: {path} is a directory; must be an image.')
    paths.append(path)
  if not paths:
    raise errors.UserError(f'--input={list_path}: the list is empty; must hold a path a line.')
  return paths


def _matching(pattern, results):
  """Returns the images that a pattern matches, but for results; `**` stands for any directories."""
  # The directory may be literal where the file name is the pattern.
  directory, name = os.path.split(pattern)
  if os.path.isdir(directory):
    pattern = os.path.join(glob.escape(directory), name)
  others: collections.Counter[str] = collections.Counter()
  paths = []
  made = tuple(os.path.join(os.path.realpath(directory), '') for directory in results)
  for path in sorted(glob.glob(pattern, recursive=True)):
    name = os.path.basename(path)
    if os.path.isdir(path) or os.path.realpath(path).startswith(made):
      continue
    if images_lib.is_image(name):
      paths.append(path)
    else:
      others[os.path.splitext(name)[1].lower() or name] += 1
  if not paths:
    raise errors.UserError(
      f'--input={pattern}: no image ({", ".join(images_lib.ENDINGS)}) matches; write ** for '
      'directories in directories.'
    )
  return _listed(paths, others)


def _in_directory(root, results, is_recursive):
  """Returns the images of a directory.

  Hidden files are no images, and neither are the results of an earlier prediction.
  """
  paths: list[str] = []
  others: collections.Counter[str] = collections.Counter()
  seen = set(map(os.path.realpath, results))
  for directory, below, names in os.walk(root, followlinks=True):
    made = {
      name.removesuffix(panoptic_results.INDEX_ENDING)
      for name in names
      if name.endswith(panoptic_results.INDEX_ENDING)
    }
    if made:
      made.add('overlay')
    kept = []
    for name in sorted(below):
      # Links may lead back to where they are.
      real = os.path.realpath(os.path.join(directory, name))
      if real not in seen and name not in made and not name.startswith('.'):
        seen.add(real)
        kept.append(name)
    below[:] = kept if is_recursive else []
    for name in names:
      path = os.path.join(directory, name)
      # A link that leads nowhere is an image that cannot be read; a pipe is none.
      usable = os.path.isfile(path) or not os.path.exists(path)
      if images_lib.is_image(name) and usable:
        paths.append(os.path.relpath(path, root))
      else:
        others[os.path.splitext(name)[1].lower() or name] += 1
  if not paths:
    below_it = ' or below it' if is_recursive else '; --recursive searches those in it'
    raise errors.UserError(
      f'--input={root}: no image ({", ".join(images_lib.ENDINGS)}) in this directory{below_it}.'
    )
  return Found(root, sorted(paths), others)


def by_rule(root: str, paths: Sequence[str], info: datasets.DatasetInfo) -> list[Image]:
  """Returns images with the ids that the dataset's rule gives them.

  Raises:
    UserError: two images would have the same id, or results of the same name.
  """
  entries = [
    {'id': datasets.image_id(info, path), 'file_name': os.path.basename(path)} for path in paths
  ]
  return _named(root, list(zip(paths, entries, strict=True)))


def by_ground_truth(
  root: str,
  paths: Sequence[str],
  info: datasets.DatasetInfo,
  json_path: str,
  *,
  skip_unlisted: bool,
) -> tuple[list[Image], list[str], list[str]]:
  """Returns images with their ids and entries in the list `images` of a COCO JSON.

  An image is that of an entry whose file_name is its path or its name; else, whose file_name
  without ending is its name without; else, if its name has the suffix of the dataset, whose id is
  the one that follows from it (Cityscapes' JSON holds names of files that do not exist).

  Args:
    root: the directory of `paths`.
    paths: as of `find`.
    info: the dataset.
    json_path: of the ground truth.
    skip_unlisted: leave out images that the JSON does not list.

  Returns:
    (images, unlisted, missing): images; paths that are left out; file names that the JSON lists
    and that are no image here.

  Raises:
    UserError: the JSON has no such list, or an entry that is of no use; an image is not listed, or
      twice; two images are those of one entry.
  """
  content = json_fields.read_lists(
    json_path, ('images',), 'a COCO JSON of the ground truth is needed, panoptic or instances'
  )
  entries = list(coco_panoptic.read_images(content, json_path, sized=False).values())
  keys: dict[Any, list[int]] = collections.defaultdict(list)
  for number, entry in enumerate(entries):
    name = os.path.normpath(entry['file_name'])
    base = os.path.basename(name)
    for key in {
      ('name', name),
      ('name', base),
      ('stem', os.path.splitext(base)[0]),
      ('id', str(entry['id'])),
    }:
      keys[key].append(number)
  listed, unlisted = [], []
  owners: dict[int, str] = {}
  for path in paths:
    found = _entry_numbers(path, keys, info)
    if not found:
      unlisted.append(path)
      continue
    if len(found) > 1:
      raise errors.UserError(
        f'{json_path}: lists image {path} of --input {len(found)} times, as '
        f'{errors.listed(entries[number]["file_name"] for number in found)}; must list it once.'
      )
    if found[0] in owners:
      raise errors.UserError(
        f'--input={root}: {owners[found[0]]} and {path} are both image '
        f'{entries[found[0]]["id"]} of {json_path}.'
      )
    owners[found[0]] = path
    listed.append((path, entries[found[0]]))
  if unlisted and (not skip_unlisted or not listed):
    raise errors.UserError(
      f'{json_path}: does not list {len(unlisted)} of {len(paths)} images of --input: '
      f'{errors.listed(unlisted)}.'
      + (' Give --on_unlisted=skip to leave them out.' if listed else '')
    )
  missing = [entry['file_name'] for number, entry in enumerate(entries) if number not in owners]
  return _named(root, listed), unlisted, missing


def _entry_numbers(path, keys, info):
  """Returns which entries are those of the image `path`, by the first key that any has."""
  base = os.path.basename(path)
  stem = os.path.splitext(base)[0]
  candidates = [('name', path), ('name', base), ('stem', stem)]
  if info.image_id_suffix and stem.endswith(info.image_id_suffix):
    candidates.append(('id', str(datasets.image_id(info, path))))
  return next((keys[key] for key in candidates if key in keys), [])


def _named(root, listed):
  """Returns images of (path, entry) with names of their results."""
  _refuse_equal(
    root,
    [(entry['id'], path) for path, entry in listed],
    'the image id',
    'Give the ids by --images_json, or segment each directory by itself.',
  )
  stems = [os.path.splitext(os.path.basename(path))[0] for path, _ in listed]
  if len(set(stems)) < len(stems):
    stems = [os.path.splitext(path)[0].replace(os.sep, '_') for path, _ in listed]
  _refuse_equal(
    root,
    [(stem, path) for stem, (path, _) in zip(stems, listed, strict=True)],
    'results of the name',
    'Rename one of them.',
  )
  return [
    Image(os.path.join(root, path), stem, entry, _size(entry))
    for stem, (path, entry) in zip(stems, listed, strict=True)
  ]


def _size(entry):
  return (entry['height'], entry['width']) if {'height', 'width'} <= set(entry) else None


def _refuse_equal(root, values, what, advice):
  """Raises UserError if two paths have one value; `values` holds (value, path)."""
  paths: dict[Any, str] = {}
  for value, path in values:
    other = paths.setdefault(value, path)
    if other != path:
      raise errors.UserError(
        f'--input={root}: {other} and {path} would both have {what} {value}. {advice}'
      )
