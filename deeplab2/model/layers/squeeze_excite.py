"""Squeeze-and-excite (Hu et al. 2018)."""

from collections.abc import Callable

import tensorflow as tf
import tf_keras

from deeplab2.model.layers import activations
from deeplab2.model.layers import affine
from deeplab2.model.layers import conv

# What the gate ends in, by the names of model_options.backbone.squeeze_excite_gate.
GATES: dict[str, conv.Activation] = {
  'SIGMOID': tf.sigmoid,
  'HARD_SIGMOID': activations.hard_sigmoid,
}


class SqueezeExcite(tf_keras.layers.Layer):
  """Scales channels by a gate computed from their means."""

  def __init__(
    self,
    filters: int,
    channels: int,
    *,
    activation: conv.Activation,
    initializer: Callable[[], tf_keras.initializers.Initializer],
    gate: conv.Activation = tf.sigmoid,
    **kwargs,
  ):
    """Creates a gate over `channels` channels.

    Args:
      filters: hidden units.
      channels: of input and output.
      activation: of the hidden units.
      initializer: makes the initializer of one kernel.
      gate: of the factors, one of GATES.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self._activation = activation
    self._gate = gate
    self.reduce, self.expand = (
      affine.Projection(width, spatial_rank=2, kernel_initializer=initializer(), name=name)
      for width, name in ((filters, 'reduce'), (channels, 'expand'))
    )

  def call(self, x: tf.Tensor) -> tf.Tensor:
    # In float32, because float16 cannot hold the sum of a large map.
    mean = tf.cast(tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2], keepdims=True), x.dtype)
    return x * self._gate(self.expand(self._activation(self.reduce(mean))))
