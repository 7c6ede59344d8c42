"""Weights of a backbone that are in no checkpoint: where they are.

What `model_options.backbone.pretrained_weights` names beside checkpoints:

  imagenet            those of Keras Applications, downloaded by Keras into its cache
  keras:FILE.h5       a file of Keras: of its cache, or what `save_weights` wrote
  FILE.h5             the same
  FILE.safetensors    MobileNetV3, ResNet-50 or ConvNeXt of timm; .pth and .pt where PyTorch is
  FILE.npz            MobileNetV3 whose batch norm is folded in; has to be converted first

Nothing that is read can run code.
"""

import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import foreign
from deeplab2.checkpoint import keras_weights
from deeplab2.checkpoint import timm_weights
from deeplab2.checkpoint import torch_file
from deeplab2.checkpoint import torch_keys

IMAGENET = 'imagenet'
_KERAS_PREFIX = 'keras:'
_KERAS_ENDINGS = ('.h5', '.hdf5')
FOLDED_ENDING = '.npz'


def is_meant(source: str) -> bool:
  """Returns whether `source` is one of the above, not a checkpoint.

  A file of PyTorch is read for it: of a whole kMaX-DeepLab, it is a checkpoint.

  Raises:
    UserError: it cannot be read.
  """
  endings = (*_KERAS_ENDINGS, FOLDED_ENDING)
  if source == IMAGENET or source.startswith(_KERAS_PREFIX) or source.endswith(endings):
    return True
  path = _path(source)
  return torch_file.is_readable(path) and not torch_keys.is_kmax(torch_file.read(path))


def check_there(source: str) -> None:
  """Checks that the file that `source` names is there; "imagenet" may have to be downloaded yet.

  Raises:
    UserError: it is not.
  """
  if source != IMAGENET and not tf.io.gfile.exists(_path(source)):
    raise errors.UserError(f'{_path(source)}: no such file.')


def fetch(backbone: tf.Module, source: str) -> str:
  """Returns the path of the file that `source` means; downloads it if it is "imagenet".

  Raises:
    UserError: there is none for this backbone, or it cannot be had.
  """
  return keras_weights.fetch(backbone) if source == IMAGENET else _path(source)


def _path(source):
  return files.expand(source.removeprefix(_KERAS_PREFIX))


def initialize(backbone: tf.Module, source: str) -> str:
  """Fills a backbone from what `source` means, for training or use; returns the path of the file.

  Args:
    backbone: with its variables created.
    source: for which `is_meant` holds.

  Raises:
    UserError: the weights cannot be had or read, are not of exactly this backbone, or their batch
      norm is folded in.
  """
  path = fetch(backbone, source)
  if path.endswith(FOLDED_ENDING):
    raise errors.UserError(
      f'{path}: the batch norm is folded into these weights, so that training with statistics of '
      'batches would start from noise; take it out with images: python -m '
      f'deeplab2.checkpoint.convert --config_file=CONFIG --checkpoint={path} '
      '--statistics_images=IMAGES --output_dir=NEW, and give that directory.'
    )
  if torch_file.is_readable(path):
    foreign.fill(backbone, timm_weights.recognized(path, torch_file.read(path)))
    return path
  with keras_weights.opened(path, backbone) as weights:
    foreign.fill(backbone, weights)
  return path
