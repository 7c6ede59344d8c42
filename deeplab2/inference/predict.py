"""Segments images with an exported model.

  python -m deeplab2.inference.predict --model=DIRECTORY --input=IMAGE_OR_DIRECTORY \
      --output_dir=DIRECTORY [--images_json=GROUND_TRUTH.json]

Reads all images of a directory and of the directories in it. Writes for every image NAME:
`panoptic/NAME.png` (COCO panoptic ids) and `overlay/NAME.png` (the image with its segments and
their names, at most 4096 pixels a side), and `panoptic.json`, one COCO panoptic JSON for all, which
is valid at any moment. Stopped at whatever point, the same command goes on with the images that are
missing or have changed since. An image that cannot be read is named; the others are kept.

Image ids are those of --images_json, the annotations of these images. Without it they follow from
the names: the number, if a name is all digits, else the name, less `_leftImg8bit` for Cityscapes.
"""

import argparse
import os
import sys

import PIL.Image
import tensorflow as tf
import tqdm

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import images as images_lib
from deeplab2.data import labels
from deeplab2.data import panoptic_results
from deeplab2.data import parallel
from deeplab2.inference import drawing
from deeplab2.inference import image_list
from deeplab2.inference import saved_model


def predict(options: argparse.Namespace) -> None:
  """Segments every image of the input; see the module for what is written.

  Args:
    options: the parsed flags.

  Raises:
    UserError: model or input is missing, ids are not unique, the output cannot be written or holds
      something else, or some images could not be read; in the last case the others are segmented
      and written all the same.
  """
  model = saved_model.load(options.model)
  images = _images(options, model.info)
  json_path = os.path.join(options.output_dir, 'panoptic.json')
  failed: list[str] = []
  with panoptic_results.open_results(
    json_path,
    model.info,
    of={'model': model.fingerprint},
    restart=options.restart,
    images={image.name: image.entry for image in images},
  ) as results:
    todo, finished = [], 0
    for image in images:
      try:
        stamp = [*panoptic_results.file_stamp(image.path), image.size and list(image.size)]
      except errors.UserError as error:
        _leave_out(results, image, error, failed)
        continue
      if results.notes(image.name, stamp) is None:
        todo.append((image, stamp))
      else:
        finished += 1
    if finished:
      print(
        f'{finished} of {len(images)} images are finished in {options.output_dir}; going on '
        f'with {len(todo)}.'
      )
    done = (
      _segment(model, image, stamp, results, options.output_dir, failed) for image, stamp in todo
    )
    for _ in parallel.with_progress(done, len(todo), 'segmenting'):
      pass
    print(f'Segmented {len(results)} of {len(images)} images into {options.output_dir}')
  if failed:
    raise errors.UserError(f'{len(failed)} images were left out: {" ".join(failed)}')


def _images(options, info):
  """Returns the images to segment, with ids; says what is left out."""
  found = image_list.find(options.input, [options.output_dir])
  if found.others:
    endings = ', '.join(f'{ending} {count}' for ending, count in sorted(found.others.items())[:10])
    print(f'Left out {found.others.total()} files that are no images by their names ({endings}).')
  if options.images_json is None:
    return image_list.by_rule(options.input, found.paths, info)
  images, unlisted, missing = image_list.by_ground_truth(
    options.input,
    found.paths,
    info,
    options.images_json,
    skip_unlisted=options.on_unlisted == 'skip',
  )
  if unlisted:
    print(f'Left out {len(unlisted)} images that {options.images_json} does not list.')
  if missing:
    print(
      f'{options.images_json} lists {len(missing)} images that are not in {options.input}, '
      f'first {missing[0]}: a comparison with it will miss them.'
    )
  return images


def _segment(model, image, stamp, results, output_dir, failed):
  """Segments one image and keeps its results, or leaves it out."""
  try:
    if image.path != image.path.encode(errors='replace').decode():
      raise errors.UserError(f'{image.path!r}: the name is not UTF-8; rename the image.')
    pixels = images_lib.read(image.path)
    if image.size is not None and image.size != pixels.shape[:2]:
      raise errors.UserError(
        f'{image.path}: is {pixels.shape[0]}x{pixels.shape[1]} (height x width), but its '
        f'ground truth is {image.size[0]}x{image.size[1]}.'
      )
    panoptic = _panoptic_map(model, image, pixels)
  except errors.UserError as error:
    _leave_out(results, image, error, failed)
    return
  overlay = os.path.join(output_dir, 'overlay', f'{image.name}.png')
  drawn = drawing.overlay(pixels, panoptic.reduced(drawing.LARGEST_SIDE), model.info)
  files.write_whole(overlay, lambda place: PIL.Image.fromarray(drawn).save(place))
  results.add(image.name, panoptic, stamp, other_files=[overlay])


def _panoptic_map(model, image, pixels):
  """Returns the panoptic map of an image; UserError if the model cannot make one."""
  try:
    panoptic = model.panoptic(pixels)
  except tf.errors.OpError as error:
    raise errors.UserError(
      f'{image.path}: the model cannot segment it ({files.reason(error)}).'
    ) from error
  problem = labels.find_problem(panoptic.ids(), model.info.label_space)
  if problem:
    raise errors.UserError(f'{image.path}: the model does not fit its own classes: {problem}')
  return panoptic


def _leave_out(results, image, error, failed):
  results.discard(image.name)
  tqdm.tqdm.write(f'left out: {error}', file=sys.stderr)
  failed.append(str(error))


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--model', required=True, help='SavedModel written by deeplab2.inference.export.')
  parser.add_path('--input', required=True, help='An image, or a directory of them.')
  parser.add_path('--output_dir', required=True, help='Directory to write to.')
  parser.add_path(
    '--images_json', help='COCO JSON of the ground truth, whose list `images` gives the image ids.'
  )
  parser.add_argument(
    '--on_unlisted',
    choices=('stop', 'skip'),
    default='stop',
    help='What to do with images that --images_json does not list.',
  )
  parser.add_argument(
    '--restart', action='store_true', help='Start over where --output_dir holds results already.'
  )
  return command_line.run(lambda: predict(parser.parse_args(arguments)))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
