"""Linear operations followed by batch norm and an activation.

At inference the norm is folded into kernel and bias: `norm(conv(x, k)) = conv(x, k * scale) +
offset`, so that no feature map is normalised on its own.
"""

from collections.abc import Callable
import functools
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab2 import resampling
from deeplab2.kernels import dilated
from deeplab2.model.layers import activations
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import shapes
from deeplab2.model.layers import weights

Activation = Callable[[tf.Tensor], tf.Tensor]


class _LinearNorm(tf_keras.layers.Layer):
  """A linear operation without bias, batch norm, activation."""

  def __init__(
    self,
    *,
    norm: norm_lib.NormSettings,
    activation: Activation = activations.linear,
    kernel_initializer='he_normal',
    gamma_initializer='ones',
    **kwargs,
  ):
    """Creates a layer.

    Args:
      norm: settings of the batch norm.
      activation: of the normalised result.
      kernel_initializer: of the kernel.
      gamma_initializer: of the scale of the batch norm.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self._settings = norm
    self._activation = activation
    self._kernel_initializer = kernel_initializer
    self._gamma_initializer = gamma_initializer

  def _build(self, kernel_name, kernel_shape, filters):
    """Creates the norm of `filters` channels; creates and returns the kernel."""
    kernel = weights.add(self, kernel_name, kernel_shape, self._kernel_initializer)
    self.norm = norm_lib.BatchNorm(
      self._settings, (filters,), gamma_initializer=self._gamma_initializer, name='norm'
    )
    with tf.name_scope('norm'):
      self.norm.build()
    return kernel

  def _finish(self, x, kernel, linear, scale_shape, training):
    return linear_norm(x, kernel, self.norm, linear, scale_shape, training, self._activation)


def linear_norm(x, kernel, norm, linear, scale_shape, training, activation=activations.linear):
  """Returns `activation(norm(linear(x, kernel)))`, the norm folded into the kernel at inference.

  Args:
    x: input in the compute dtype.
    kernel: float32.
    norm: BatchNorm of the result's channels, built.
    linear: function of input and kernel.
    scale_shape: shape with which the norm's scale broadcasts against the kernel.
    training: whether batch statistics are used.
    activation: of the normalised result.
  """
  if training:
    return norm(linear(x, tf.cast(kernel, x.dtype)), training=True, activation=activation)
  if norm.observer is not None:
    norm.observer(linear(x, tf.cast(kernel, x.dtype)))
  scale, offset = norm.affine()
  if scale_shape is not None:
    scale = tf.reshape(scale, scale_shape)
  return activation(
    tf.nn.bias_add(linear(x, tf.cast(kernel * scale, x.dtype)), tf.cast(offset, x.dtype))
  )


def pad_evenly(x: tf.Tensor, kernel_size: int, stride: int) -> tuple[tf.Tensor, str]:
  """Returns (`x`, padded where TensorFlow's own padding would differ; which of its own to use)."""
  if stride == 1:
    return x, 'SAME'
  height, width = x.shape[1:3]
  if kernel_size > 1 and stride == 2 and height and width and height % 2 and width % 2:
    return x, 'SAME'  # The same for odd sizes, and without a copy.
  if kernel_size > 1:
    # Not as explicit padding of the convolution: TF 2.20's fused depthwise kernel aborts on it.
    sides = [(kernel_size - 1) // 2, kernel_size // 2]
    x = tf.pad(x, [[0, 0], sides, sides, [0, 0]])
  return x, 'VALID'


def pad_as_tensorflow(x: tf.Tensor, kernel_size: int, stride: int) -> tuple[tf.Tensor, str]:
  """Returns (`x`, 'SAME'): of even sizes with a stride, zeros come after `x` alone."""
  del kernel_size, stride
  return x, 'SAME'


class ConvNorm(_LinearNorm):
  """Convolution, batch norm, activation, on [B, H, W, C].

  Strides above 1 pad by `kernel_size - 1` zeros, half of them (rounded down) before, whatever the
  input size: the output has ceil(size / stride) samples, the first one centered on the first of
  the input.
  """

  def __init__(
    self, filters: int, kernel_size: int, *, stride: int = 1, dilation: int = 1, **kwargs
  ):
    """Creates a convolution with a stride or a dilation; `kwargs` as of all layers here."""
    super().__init__(**kwargs)
    if stride > 1 and dilation > 1:
      raise ValueError(
        f'A convolution has a stride ({stride}) or a dilation ({dilation}), not both.'
      )
    self._filters = filters
    self._kernel_size = kernel_size
    self._stride = stride
    self._dilation = dilation

  def build(self, input_shape):
    size = self._kernel_size
    self.kernel = self._build('kernel', (size, size, input_shape[-1], self._filters), self._filters)
    self.built = True

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    return self._finish(x, self.kernel, self._convolve, None, training)

  def _convolve(self, x, kernel):
    if self._dilation > 1:
      return dilated.conv2d(x, kernel, self._dilation)
    x, padding = pad_evenly(x, self._kernel_size, self._stride)
    return tf.nn.conv2d(x, kernel, self._stride, padding)


class DepthwiseConvNorm(_LinearNorm):
  """Depthwise convolution, batch norm, activation, on [B, H, W, C]."""

  def __init__(
    self,
    kernel_size: int,
    *,
    stride: int = 1,
    pad: Callable = pad_evenly,
    kernel_initializer='glorot_uniform',
    **kwargs,
  ):
    """Creates a convolution; `pad` is `pad_evenly`, as of ConvNorm, or `pad_as_tensorflow`."""
    super().__init__(kernel_initializer=kernel_initializer, **kwargs)
    self._kernel_size = kernel_size
    self._stride = stride
    self._pad = pad

  def build(self, input_shape):
    size, channels = self._kernel_size, input_shape[-1]
    self.depthwise_kernel = self._build('depthwise_kernel', (size, size, channels, 1), channels)
    self.built = True

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    return self._finish(x, self.depthwise_kernel, self._convolve, [-1, 1], training)

  def _convolve(self, x, kernel):
    x, padding = self._pad(x, self._kernel_size, self._stride)
    return tf.nn.depthwise_conv2d(x, kernel, [1, self._stride, self._stride, 1], padding)


class SeparableConvNorm(tf_keras.layers.Layer):
  """Depthwise, then 1x1 convolution, each with batch norm and activation."""

  def __init__(
    self,
    filters: int,
    kernel_size: int,
    *,
    norm: norm_lib.NormSettings,
    activation: Activation = activations.linear,
    **kwargs,
  ):
    super().__init__(**kwargs)
    settings: dict[str, Any] = {'norm': norm, 'activation': activation}
    self.depthwise = DepthwiseConvNorm(kernel_size, name='depthwise', **settings)
    self.pointwise = ConvNorm(filters, 1, name='pointwise', **settings)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    return self.pointwise(self.depthwise(x, training=training), training=training)


# The 5x5 convolutions of heads and of the semantic decoder.
SEPARABLE_5X5 = functools.partial(SeparableConvNorm, kernel_size=5)
CONVS_5X5 = {
  'depthwise_separable_conv': SEPARABLE_5X5,
  'standard_conv': functools.partial(ConvNorm, kernel_size=5),
}


class SequenceNorm(_LinearNorm):
  """The same linear map at every position of [B, n, C], batch norm, activation."""

  def __init__(self, filters: int, **kwargs):
    super().__init__(**kwargs)
    self._filters = filters

  def build(self, input_shape):
    self.kernel = self._build('kernel', (1, input_shape[-1], self._filters), self._filters)
    self.built = True

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    return shapes.per_position(
      x, lambda rows: self._finish(rows, self.kernel[0], tf.matmul, None, training)
    )


def truncated_normal(stddev: float):
  """Returns an initializer: a normal of `stddev`, cut at two of them and not corrected for it."""
  return tf_keras.initializers.TruncatedNormal(stddev=stddev)


def resize_like(x: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
  """Resizes `x` [B, h, w, C] to the height and width of `other`, corners on corners."""
  return tf.cast(resampling.resize_bilinear(x, shapes.sizes(other)[1:3]), x.dtype)
