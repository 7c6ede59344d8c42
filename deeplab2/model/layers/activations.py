"""Activations, and dropping values or whole residuals in training."""

import tensorflow as tf

from deeplab2 import randomness
from deeplab2.kernels import gelu as gelu_lib

gelu = gelu_lib.gelu
gelu_of_affine = gelu_lib.gelu_of_affine


def linear(x: tf.Tensor) -> tf.Tensor:
  """Returns `x`: the activation of layers that have none."""
  return x


def hard_sigmoid(x: tf.Tensor) -> tf.Tensor:
  """Returns `relu6(x + 3) / 6` (Howard et al. 2019, MobileNetV3, sec. 5.2)."""
  return tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


def hard_swish(x: tf.Tensor) -> tf.Tensor:
  """Returns `x * relu6(x + 3) / 6` (Howard et al. 2019, MobileNetV3, sec. 5.2)."""
  return x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


def drop_path(residual: tf.Tensor, keep_prob: float, training: bool) -> tf.Tensor:
  """Drops the residual of whole samples in training (Huang et al. 2016, stochastic depth).

  Args:
    residual: [B, ...] of any rank.
    keep_prob: probability that a sample keeps its residual, in (0, 1].
    training: whether to drop; if not, the residual is returned as it is.

  Returns:
    The residual, scaled by 1 / keep_prob where it is kept and 0 elsewhere.
  """
  if not training or keep_prob == 1.0:
    return residual
  shape = [tf.shape(residual)[0]] + [1] * (residual.shape.rank - 1)
  kept = tf.floor(keep_prob + randomness.uniform(shape))
  return residual * tf.cast(kept / keep_prob, residual.dtype)


def dropout(x: tf.Tensor, rate: float, training: bool) -> tf.Tensor:
  """Sets single values to 0 in training, and scales the others by 1 / (1 - rate).

  (Srivastava et al. 2014, inverted.)

  Args:
    x: of any shape.
    rate: probability that a value becomes 0, in [0, 1).
    training: whether to drop; if not, `x` is returned as it is.
  """
  if not training or rate == 0.0:
    return x
  kept = tf.cast(randomness.uniform(tf.shape(x)) >= rate, x.dtype)
  return x * kept * (1.0 / (1.0 - rate))
