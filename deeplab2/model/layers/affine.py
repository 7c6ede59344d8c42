"""Linear operations with a bias, without norm."""

import tensorflow as tf
import tf_keras

from deeplab2.model.layers import activations
from deeplab2.model.layers import conv
from deeplab2.model.layers import shapes
from deeplab2.model.layers import weights


class Affine(tf_keras.layers.Layer):
  """A kernel and a bias, which starts at zero; subclasses say how they are applied."""

  def __init__(self, *, kernel_initializer, **kwargs):
    super().__init__(**kwargs)
    self._kernel_initializer = kernel_initializer

  def _build(self, kernel_shape):
    self.kernel = weights.add(self, 'kernel', kernel_shape, self._kernel_initializer)
    self.bias = weights.add(self, 'bias', (kernel_shape[-1],), 'zeros')
    self.built = True

  def _add_bias(self, x):
    return tf.nn.bias_add(x, tf.cast(self.bias, x.dtype))


class Projection(Affine):
  """The same linear map and activation at every position of [..., C]."""

  def __init__(
    self,
    filters: int,
    *,
    spatial_rank: int,
    activation: conv.Activation = activations.linear,
    **kwargs,
  ):
    """Creates a projection.

    Args:
      filters: output channels.
      spatial_rank: number of leading ones of the kernel's shape, [1, C, filters] for sequences
        and [1, 1, C, filters] for maps, as checkpoints store them.
      activation: of the result.
      **kwargs: `kernel_initializer`, and what is passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self._filters = filters
    self._spatial = (1,) * spatial_rank
    self._activation = activation

  def build(self, input_shape):
    self._build((*self._spatial, input_shape[-1], self._filters))

  def call(self, x: tf.Tensor) -> tf.Tensor:
    kernel = tf.cast(tf.reshape(self.kernel, self.kernel.shape[-2:]), x.dtype)
    return shapes.per_position(
      x, lambda rows: self._activation(self._add_bias(tf.matmul(rows, kernel)))
    )
