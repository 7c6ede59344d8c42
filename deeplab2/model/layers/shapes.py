"""Shapes of tensors that are known only in part when a graph is built."""

from collections.abc import Callable

import tensorflow as tf


def sizes(x: tf.Tensor) -> list:
  """Returns the sizes of `x`: ints where known, scalar tensors elsewhere."""
  if x.shape.is_fully_defined():
    return x.shape.as_list()
  dynamic = tf.shape(x)
  return [dynamic[i] if size is None else size for i, size in enumerate(x.shape)]


def per_position(x: tf.Tensor, function: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
  """Applies a function of [rows, C] at all positions of `x` [..., C] at once."""
  shape = sizes(x)
  rows = function(tf.reshape(x, [-1, shape[-1]]))
  return tf.reshape(rows, [*shape[:-1], rows.shape[-1]])
