"""`export --format=litert`: from flags to a .tflite file."""

import argparse
from collections.abc import Callable, Sequence
import os

import numpy as np
import tensorflow as tf

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2.data import images
from deeplab2.inference import litert
from deeplab2.inference import litert_file
from deeplab2.inference import segmenter as segmenter_lib

# What --outputs takes.
OUTPUTS = ('panoptic', 'logits')
# Ranges of activations hardly change with more.
_MOST_CALIBRATION_IMAGES = 100


def add_flags(parser: command_line.Parser) -> None:
  """Adds the flags that are of LiteRT alone."""
  parser.add_argument(
    '--quantize',
    choices=litert.QUANTIZE,
    default='none',
    help='LiteRT: float32 (none), weights in 16 bits, weights in 8 bits with activations in the '
    'ranges of each image (dynamic_int8), or in those of --calibration (int8).',
  )
  parser.add_path(
    '--calibration',
    metavar='IMAGES',
    help='LiteRT, --quantize=int8: directory of images like those that the model will see, at most '
    f'{_MOST_CALIBRATION_IMAGES} of which are used.',
  )


def export(options: argparse.Namespace, restored: Callable[[], segmenter_lib.Restored]) -> None:
  """Writes a model for LiteRT.

  Args:
    options: the parsed flags.
    restored: makes the segmenter.

  Raises:
    UserError: a flag is wrong, the place is taken, or the model cannot be converted.
  """
  path = options.export_path
  outputs = options.outputs or OUTPUTS[0]
  if outputs not in OUTPUTS:
    raise errors.UserError(
      f'--outputs={outputs}: must be one of {", ".join(OUTPUTS)} for --format=litert.'
    )
  if not path.endswith(litert_file.ENDING):
    raise errors.UserError(
      f'--export_path={path}: must be a file that ends in {litert_file.ENDING} for --format=litert.'
    )
  if os.path.isdir(path):
    raise errors.UserError(f'{path}: is a directory; must be a file.')
  if os.path.exists(path) and not options.overwrite:
    raise errors.UserError(f'{path}: exists; give --overwrite to replace it, or another file.')
  calibration = check(options)
  model = restored()
  litert_file.write(
    path,
    converted(model, outputs, options.quantize, calibration),
    litert_file.Settings(
      outputs,
      options.quantize,
      model.segmenter.crop_size,
      model.segmenter.resize,
      model.segmenter.merging,
    ),
    model.info,
  )


def check(options: argparse.Namespace) -> list[str]:
  """Checks the flags of LiteRT before anything is computed; returns the calibration images.

  Raises:
    UserError: one of them is wrong, or a package is missing.
  """
  if options.batch is not None:
    raise errors.UserError(
      f'--batch={options.batch}: is for --format=saved_model; LiteRT models take one image.'
    )
  litert.require('ai_edge_litert')
  if options.quantize != 'none':
    litert.require('ai_edge_quantizer')
  if options.quantize != 'int8':
    if options.calibration is not None:
      raise errors.UserError(
        f'--calibration={options.calibration}: is for --quantize=int8, not {options.quantize}.'
      )
    return []
  if options.calibration is None:
    raise errors.UserError(
      '--quantize=int8: the ranges of activations are taken from images, and --calibration is '
      'missing; give some like those that the model will see, or take --quantize=dynamic_int8.'
    )
  place = options.calibration
  names = images.list_directory(place) if os.path.isdir(place) else ['']
  paths = [os.path.join(place, name) if name else place for name in names]
  if not paths or not os.path.exists(place):
    raise errors.UserError(f'--calibration={place}: no image; must be one, or a directory of some.')
  step = max(1, len(paths) / _MOST_CALIBRATION_IMAGES)
  return [paths[int(i * step)] for i in range(min(len(paths), _MOST_CALIBRATION_IMAGES))]


def converted(
  model: segmenter_lib.Restored, outputs: str, quantize: str, calibration: Sequence[str]
) -> bytes:
  """Returns a model as LiteRT takes it.

  Args:
    model: with its weights.
    outputs: a key of litert.GRAPHS.
    quantize: one of litert.QUANTIZE.
    calibration: paths of images, for 'int8'.

  Raises:
    UserError: it cannot be converted, or an image cannot be read.
  """
  float_model = litert.convert(model.segmenter, outputs)
  fit = None if outputs == 'panoptic' else model.segmenter.fit
  return litert.quantize(float_model, quantize, _Images(calibration, fit))


class _Images(Sequence[np.ndarray]):
  """Images that are read when they are taken, so that one is in memory at a time."""

  def __init__(self, paths, fit):
    """Creates the sequence; `fit` brings an image into the crop, None leaves it as it is."""
    self._paths = paths
    self._fit = fit

  def __len__(self):
    return len(self._paths)

  def __getitem__(self, index):
    pixels = images.read(self._paths[index])
    return pixels if self._fit is None else self._fit(tf.constant(pixels))[0].numpy()
