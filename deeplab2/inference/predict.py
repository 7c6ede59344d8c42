"""Segments images or a video with an exported model.

  python -m deeplab2.inference.predict --model=DIRECTORY --input=INPUT --output_dir=DIRECTORY \
      [--images_json=GROUND_TRUTH.json]

INPUT is an image (JPEG, PNG, WebP, BMP, TIFF, GIF) or several, a directory of images (with all
directories in it, unless --no-recursive is given), a pattern ('photos/**/*.jpg'), a .txt file with
a path a line, relative to where it lies, or a video (pip install 'deeplab2-remax[video]').

Writes for every image NAME: `panoptic/NAME.png` (COCO panoptic ids) and `overlay/NAME.png` (the
image with its segments and their names, at most 4096 pixels a side), and `panoptic.json`, one COCO
panoptic JSON for all, which is valid at any moment. Of a video NAME, every frame has its
`panoptic/NAME_000001.png`, and the overlay is one video, `overlay/NAME.mp4`, with the same times
and sound; things keep their colours from frame to frame where their masks overlap.

Stopped at whatever point, the same command goes on with the images that are missing or have changed
since. An image that cannot be read is named; the others are kept, and the exit code is 1.

Image ids are those of --images_json, the annotations of these images. Without it they follow from
the names: the number, if a name is all digits, else the name, less `_leftImg8bit` for Cityscapes.
"""

import argparse
import os
import sys

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2.data import parallel
from deeplab2.inference import batches
from deeplab2.inference import image_list
from deeplab2.inference import image_prediction
from deeplab2.inference import saved_model
from deeplab2.inference import video
from deeplab2.inference import video_prediction


def predict(options: argparse.Namespace) -> None:
  """Segments every image of the input; see the module for what is written.

  Args:
    options: the parsed flags.

  Raises:
    UserError: model or input is missing, ids are not unique, or the output cannot be written or
      holds something else.
    LeftOut: some images, or a part of the video, could not be read; the others are segmented and
      written all the same.
  """
  found = None
  videos = list(filter(video.is_video, options.input))
  if videos and os.path.isfile(videos[0]):
    _check_video(options)
    video.import_av(videos[0])
  else:
    found = image_list.find(options.input, [options.output_dir], is_recursive=options.recursive)
  model = saved_model.load(options.model)
  if options.batch_size > 1 and not batches.takes_batches(model):
    raise errors.UserError(
      f'--batch_size={options.batch_size}: {options.model} was exported by a version without '
      'batches; export it again, or take --batch_size=1.'
    )
  if found is None:
    video_prediction.predict(model, videos[0], options)
  else:
    image_prediction.predict(model, found, options)


def _check_video(options):
  """Refuses what is not for a video."""
  if len(options.input) > 1:
    raise errors.UserError(
      f'--input: {len(options.input)} files with a video; give one video at a time.'
    )
  if options.images_json is not None:
    raise errors.UserError('--images_json is for images; leave it out for a video.')


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--model', required=True, help='SavedModel written by deeplab2.inference.export.')
  parser.add_path(
    '--input',
    required=True,
    nargs='+',
    help='Images, a directory of them, a pattern, a list of paths in a .txt file, or a video.',
  )
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
    '--recursive',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='Whether the directories in a directory are searched too.',
  )
  parser.add_argument(
    '--overlay',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='Whether to draw the segments over the images, or over the video.',
  )
  parser.add_argument(
    '--batch_size',
    type=command_line.integer_from(1),
    default=1,
    help='How many images the network takes at a time; pays on a GPU.',
  )
  parser.add_argument(
    '--num_workers',
    type=command_line.integer_from(0),
    default=min(8, parallel.usable_cores()),
    help='Threads that read, and as many that draw and write, while the device computes; 0 does '
    'one thing after the other, with the least memory.',
  )
  existing = parser.add_mutually_exclusive_group()
  existing.add_argument(
    '--resume',
    action=argparse.BooleanOptionalAction,
    help='Go on where --output_dir holds results of the same model and input, as is done anyway; '
    '--no-resume refuses a directory with results.',
  )
  existing.add_argument(
    '--overwrite', action='store_true', help='Start over where --output_dir holds results already.'
  )
  parser.add_old_name('--restart', '--overwrite')
  return command_line.run(lambda: predict(parser.parse_args(arguments)))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
