"""Variables of layers."""

import tensorflow as tf
import tf_keras


def add(
  layer: tf_keras.layers.Layer, name: str, shape: tuple[int, ...], initializer, **kwargs
) -> tf.Variable:
  """Creates a variable that stays float32 in whatever dtype its layer computes.

  Args:
    layer: that gets it.
    name: decides about decay by its last part, see trainer/optimizer.py.
    shape: of the variable.
    initializer: of Keras, or the name of one.
    **kwargs: passed on to Keras.
  """
  return layer.add_weight(
    name, shape, initializer=initializer, experimental_autocast=False, **kwargs
  )
