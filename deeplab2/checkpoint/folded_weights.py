"""Weights whose batch norm is folded into kernel and bias, and how it is taken out again.

`conv(x, kernel) + bias` is `gamma * (conv(x, k) - mean) / sqrt(variance + epsilon) + beta` of any
statistics, with gamma = sqrt(variance + epsilon) and beta = bias + mean. Inference is the same with
all of them; training with statistics of batches goes on from the same features only if mean and
variance are those that conv(x, kernel) has on images. So they are measured on some.

Files are .npz of MobileNetV3 with the names of Google's checkpoints of TensorFlow 1.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import re
from zipfile import BadZipFile

from absl import logging
import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import foreign
from deeplab2.checkpoint import keras_weights
from deeplab2.checkpoint import released_keys

_MOST_BYTES = 2**30
# Names of Google's checkpoints -> those of Keras. A bias that takes the place of a batch norm goes
# by the name of its offset.
_NAMES = (
  (r'^(.*/squeeze_excite/.*|Conv_2|Logits/.*)/biases$', '{1}/bias'),
  (r'/biases$', '/BatchNorm/beta'),
  (r'/depthwise_weights$', '/depthwise_kernel'),
  (r'/weights$', '/kernel'),
)
_PREFIX = 'MobilenetV3/'
_MEASURED = re.compile(r'/norm/(gamma|moving_mean|moving_variance)$')


def initialize(backbone: tf.Module, path: str, images: Iterable[tf.Tensor]) -> None:
  """Fills a backbone from folded weights, whose batch norm is unfolded; logs a report.

  Args:
    backbone: with its variables created, which are float32.
    path: of the .npz file.
    images: float32 [1, H, W, 3] in -1..1 each, of any size. Statistics are taken of them.

  Raises:
    UserError: the file is missing, cannot be read, or is not of exactly this backbone; no variable
      has been changed then. Or there is no image.
  """
  with _opened(path) as weights:
    variables = dict(released_keys.walk(backbone, ''))
    stored = {key: value for key, value in variables.items() if not _MEASURED.search(key)}
    foreign.check(backbone, weights, stored)
    values = {key: foreign.read(weights, key) for key in stored}
  for key, variable in stored.items():
    variable.assign(values[key])
  norms = foreign.norms(backbone)
  for norm in norms.values():
    _set(norm, np.zeros(norm.beta.shape), np.full(norm.beta.shape, 1.0 - norm.epsilon))
  moments, count = _measured(backbone, norms, images)
  if not count:
    raise errors.UserError(f'{path}: there is no image to take statistics of.')
  for key, norm in norms.items():
    mean, variance = moments[key].result()
    _set(norm, mean, variance)
    norm.beta.assign(values[f'{key}/beta'] + mean)
  logging.info(
    '%s, %s: all %d tensors of the backbone matched, and the batch norms of %d layers unfolded by '
    'statistics of %d images; left out, as of a classifier: %s.',
    path,
    weights.described,
    len(stored),
    len(norms),
    count,
    ', '.join(weights.left_out) or 'nothing',
  )


@contextlib.contextmanager
def _opened(path) -> Iterator[foreign.Weights]:
  """Yields the weights of a file, batch norm folded in, as those of a backbone."""
  try:
    with np.load(path, allow_pickle=False) as stored:
      size = sum(entry.file_size for entry in stored.zip.infolist())
      if size > _MOST_BYTES:
        raise errors.UserError(f'{path}: holds {size} bytes, more than weights of MobileNetV3 do.')
      arrays = dict(stored)
  except FileNotFoundError as error:
    raise errors.UserError(f'{path}: no such file.') from error
  except (OSError, ValueError, EOFError, KeyError, TypeError, BadZipFile) as error:
    raise errors.UserError(
      f'{path}: not a readable .npz file (truncated or damaged?): {files.reason(error)}.'
    ) from error
  tensors = {}
  for name, array in arrays.items():
    ours = name.removeprefix(_PREFIX)
    ours = released_keys.rename(ours, _NAMES) or ours
    tensors[ours] = foreign.Tensor(array.shape, _reader(array))
  yield keras_weights.recognized(path, tensors, 'of Google, batch norm folded in')


def _reader(array) -> Callable[[], np.ndarray]:
  return lambda: array


def _set(norm, mean, variance):
  """Gives a norm statistics and the scale that makes it add `beta - mean` alone at inference."""
  norm.moving_mean.assign(mean)
  norm.moving_variance.assign(variance)
  norm.gamma.assign(np.sqrt(variance + norm.epsilon))


class _Moments:
  """Mean and variance of everything that was added, by channel."""

  def __init__(self):
    self._count, self._sum, self._squares = 0, 0.0, 0.0

  def add(self, x: tf.Tensor) -> None:
    """Adds [..., C] float32."""
    rows = x.numpy().reshape(-1, x.shape[-1]).astype(np.float64)
    self._count += len(rows)
    self._sum += rows.sum(axis=0)
    self._squares += np.square(rows).sum(axis=0)

  def result(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean, variance)."""
    mean = self._sum / self._count
    return mean, np.maximum(self._squares / self._count - np.square(mean), 0.0)


def _measured(backbone, norms, images):
  """Returns the moments of what every norm gets, at inference, and the number of images."""
  moments, count = {key: _Moments() for key in norms}, 0
  for key, norm in norms.items():
    norm.observer = moments[key].add
  try:
    for image in images:
      backbone(image)
      count += 1
  finally:
    for norm in norms.values():
      norm.observer = None
  return moments, count
