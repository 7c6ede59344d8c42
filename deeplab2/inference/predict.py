"""Segments pictures with an exported model.

  python -m deeplab2.inference.predict --model=FOLDER --input=PICTURE_OR_FOLDER --output_dir=FOLDER

Writes for every picture NAME: `panoptic/NAME.png` (COCO panoptic ids) and `overlay/NAME.png` (the
picture painted with class names), and `panoptic.json`, one COCO panoptic JSON for all pictures. A
picture that cannot be read is named at the end; the others are kept.
"""
import os
import sys

import PIL.Image
import tensorflow as tf
import tqdm

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import images
from deeplab2.inference import drawing
from deeplab2.inference import saved_model

_ENDINGS = ('.jpg', '.jpeg', '.png')


def read_picture(path: str) -> tf.Tensor:
  """Returns uint8 [H0, W0, 3], decoded as the input pipeline decodes a record of this picture."""
  return tf.constant(images.read(path))


def list_pictures(path: str) -> list:
  """Returns the picture files of a folder, sorted, or `path` itself; UserError if there is none."""
  if os.path.isfile(path):
    return [path]
  if not os.path.isdir(path):
    raise errors.UserError(f'--input={path}: no such picture or folder.')
  found = sorted(os.path.join(path, name) for name in os.listdir(path)
                 if name.lower().endswith(_ENDINGS))
  if not found:
    raise errors.UserError(f'--input={path}: no {", ".join(_ENDINGS)} file in this folder.')
  stems = {}
  for file in found:
    other = stems.setdefault(os.path.splitext(os.path.basename(file))[0], file)
    if other != file:
      raise errors.UserError(f'--input={path}: {other} and {file} would have the same output name.')
  return found


def predict(model_path: str, input_path: str, output_dir: str) -> None:
  """Segments every picture of `input_path`; see the module for what is written.

  Raises:
    UserError: model or input is missing, the output cannot be written, or some pictures could not
      be read; in the last case the others are segmented and written all the same.
  """
  segment, info = saved_model.load(model_path)
  files = list_pictures(input_path)
  overlays = os.path.join(output_dir, 'overlay')
  unreadable = []
  try:
    os.makedirs(overlays, exist_ok=True)
    writer = coco_panoptic.Writer(os.path.join(output_dir, 'panoptic'), info)
    for file in tqdm.tqdm(files, unit='picture', disable=not sys.stderr.isatty()):
      try:
        picture = read_picture(file)
      except errors.UserError as error:
        unreadable.append(str(error))
        continue
      panoptic = segment(picture)['panoptic_pred'][0].numpy()
      stem = os.path.splitext(os.path.basename(file))[0]
      writer.add(stem, panoptic, os.path.basename(file))
      painted = drawing.overlay(picture.numpy(), panoptic, info.label_space, info.class_names,
                                info.colors)
      PIL.Image.fromarray(painted).save(os.path.join(overlays, f'{stem}.png'))
    writer.save(os.path.join(output_dir, 'panoptic.json'))
  except OSError as error:
    raise errors.UserError(f'--output_dir={output_dir} cannot be written: {error}') from error
  print(f'Segmented {len(files) - len(unreadable)} of {len(files)} pictures into {output_dir}')
  if unreadable:
    raise errors.UserError(f'{len(unreadable)} pictures were left out: {" ".join(unreadable)}')


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_argument('--model', required=True,
                      help='SavedModel written by deeplab2.inference.export.')
  parser.add_argument('--input', required=True, help='A JPEG or PNG picture, or a folder of them.')
  parser.add_argument('--output_dir', required=True, help='Folder to write to.')
  return command_line.run(lambda: predict(*vars(parser.parse_args(arguments)).values()))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
