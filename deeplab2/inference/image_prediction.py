"""Segments the images that --input names: panoptic PNGs and their JSON, and overlays."""

import argparse
from collections.abc import Mapping, Sequence
import contextlib
import functools
import os
import sys
import time
from typing import Any, NamedTuple
import zlib

import PIL.Image
import tqdm

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import images as images_lib
from deeplab2.data import panoptic_results
from deeplab2.data import parallel
from deeplab2.inference import batches
from deeplab2.inference import drawing
from deeplab2.inference import image_list
from deeplab2.inference import saved_model


class _Task(NamedTuple):
  """An image that is to be segmented."""

  image: image_list.Image
  stamp: Any


def predict(
  model: saved_model.Exported, found: image_list.Found, options: argparse.Namespace
) -> None:
  """Segments images; see `predict` for what is written.

  Args:
    model: the model.
    found: the images.
    options: the flags of `predict`.

  Raises:
    UserError: ids are not unique, or the output cannot be written or holds something else.
    LeftOut: some images could not be read; the others are segmented and written all the same.
  """
  images = _images(found, options, model.info)
  failed: list[str] = []
  with open_results(model, {image.name: image.entry for image in images}, options) as results:
    todo = _todo(images, results, failed)
    if len(todo) + len(failed) < len(images):
      print(
        f'{len(images) - len(todo) - len(failed)} of {len(images)} images are finished in '
        f'{options.output_dir}; going on with {len(todo)}.'
      )
    started = time.monotonic()
    read = parallel.ahead(_read, todo, options.num_workers, batches.Item.num_bytes)
    segmented = batches.segmented(model, read, options.batch_size)
    write = functools.partial(_write, model.info, results, options.overlay and options.output_dir)
    written = parallel.ahead(
      write, segmented, options.num_workers, lambda made: made[0].num_bytes()
    )
    for item, png, other_files in parallel.with_progress(written, len(todo), 'segmenting'):
      if item.error is not None:
        _leave_out(results, item.source.image, item.error, failed)
      else:
        results.keep(png, item.source.stamp, other_files=other_files)
    seconds = time.monotonic() - started
    print(
      f'Segmented {len(results)} of {len(images)} images into {options.output_dir}'
      + (f' ({len(todo) / seconds:.1f} images/s)' if todo else '')
    )
  if failed:
    raise errors.LeftOut(f'{len(failed)} of {len(images)} images were left out: {" ".join(failed)}')


def open_results(
  model: saved_model.Exported, images: Mapping[str, Mapping[str, Any]], options: argparse.Namespace
) -> contextlib.AbstractContextManager[panoptic_results.Results]:
  """Opens the results that the flags of `predict` ask for; see panoptic_results.open_results."""
  return panoptic_results.open_results(
    os.path.join(options.output_dir, 'panoptic.json'),
    model.info,
    of={'model': model.fingerprint},
    overwrite=options.overwrite,
    resume=options.resume is not False,
    images=images,
  )


def _images(found, options, info):
  """Returns the images to segment, with ids; says what is left out."""
  if found.others:
    endings = ', '.join(f'{ending} {count}' for ending, count in sorted(found.others.items())[:10])
    print(f'Left out {found.others.total()} files that are no images by their names ({endings}).')
  if options.images_json is None:
    return image_list.by_rule(found.root, found.paths, info)
  images, unlisted, missing = image_list.by_ground_truth(
    found.root,
    found.paths,
    info,
    options.images_json,
    skip_unlisted=options.on_unlisted == 'skip',
  )
  if unlisted:
    print(f'Left out {len(unlisted)} images that {options.images_json} does not list.')
  if missing:
    print(
      f'{options.images_json} lists {len(missing)} images that are not in {found.root}, '
      f'first {missing[0]}: a comparison with it will miss them.'
    )
  return images


def _todo(images, results, failed) -> Sequence[_Task]:
  """Returns the images that are not finished, and leaves out those that are not there."""
  todo = []
  for image in images:
    try:
      stamp = [*panoptic_results.file_stamp(image.path), image.size and list(image.size)]
    except errors.UserError as error:
      _leave_out(results, image, error, failed)
      continue
    if results.notes(image.name, stamp) is None:
      todo.append(_Task(image, stamp))
  return todo


def _read(task):
  """Returns an image with its pixels, or why it is left out; in any thread."""
  image = task.image
  item = batches.Item(task, image.path)
  try:
    if image.path != image.path.encode(errors='replace').decode():
      raise errors.UserError(f'{image.path!r}: the name is not UTF-8; rename the image.')
    pixels = images_lib.read(image.path)
    if image.size is not None and image.size != pixels.shape[:2]:
      raise errors.UserError(
        f'{image.path}: is {pixels.shape[0]}x{pixels.shape[1]} (height x width), but its '
        f'ground truth is {image.size[0]}x{image.size[1]}.'
      )
  except errors.UserError as error:
    return item._replace(error=error)
  return item._replace(pixels=pixels)


def _write(info, results, overlay_dir, item):
  """Writes what there is of an image, in any thread; returns (item, its PNG, other files)."""
  if item.error is not None:
    return item, None, []
  name, other_files = item.source.image.name, []
  if overlay_dir:
    overlay = os.path.join(overlay_dir, 'overlay', f'{name}.png')
    drawn = drawing.overlay(item.pixels, item.panoptic.reduced(drawing.LARGEST_SIDE), info)
    # A quarter of the time of zlib's default, for files that are a tenth larger.
    fast = {'compress_type': zlib.Z_RLE}
    files.write_whole(overlay, lambda place: PIL.Image.fromarray(drawn).save(place, **fast))
    other_files.append(overlay)
  return item, results.write(name, item.panoptic), other_files


def _leave_out(results, image, error, failed):
  results.discard(image.name)
  tqdm.tqdm.write(f'left out: {error}', file=sys.stderr)
  failed.append(str(error))
