"""Activations, and dropping values or whole residuals in training."""

import math

import tensorflow as tf

from deeplab2 import randomness


def linear(x: tf.Tensor) -> tf.Tensor:
  """Returns `x`: the activation of layers that have none."""
  return x


@tf.custom_gradient
def gelu(x: tf.Tensor):
  """Exact Gaussian error linear unit, `x / 2 * (1 + erf(x / sqrt(2)))` (Hendrycks & Gimpel 2016).

  The gradient is computed from `x` alone: keeping the error function as well would take a third
  more memory in training.
  """
  # In this order of operations, TensorFlow fuses it with a matrix product and bias before it.
  value = 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5)))
  return value, lambda upstream: upstream * _gelu_slope(_when(upstream, x))


@tf.custom_gradient
def gelu_of_affine(y: tf.Tensor, x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor):
  """Returns `gelu(y)` of `y = x * scale + offset`, with a gradient to `y` alone.

  The gradient computes `y` again from `x`, which a norm before it keeps anyway: one feature map
  less in training's memory.

  Args:
    y: [..., C].
    x: [..., C] of the dtype of `y`.
    scale: [C] float32.
    offset: [C] float32.
  """

  def gradient(upstream):
    again = tf.cast(_when(upstream, x), tf.float32) * scale + offset
    return upstream * _gelu_slope(tf.cast(again, y.dtype)), None, None, None

  return y * _distribution(y), gradient


def _when(upstream, x):
  """Returns `x`, but not before `upstream` is known.

  What a gradient computes from `x` alone would otherwise be computed as soon as the forward pass
  has `x`, and wait in memory.
  """
  with tf.control_dependencies([upstream]):
    return tf.identity(x)


def _distribution(x):
  """Returns the distribution function of the standard normal distribution."""
  return 0.5 + 0.5 * tf.math.erf(x * math.sqrt(0.5))


def _gelu_slope(x):
  density = tf.exp(-0.5 * tf.square(x)) * (1.0 / math.sqrt(2.0 * math.pi))
  return _distribution(x) + x * density


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
