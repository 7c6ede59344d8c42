"""Residual blocks with a bottleneck: 3x3 convolution or axial attention in the middle."""

import tensorflow as tf
import tf_keras

from deeplab2.model.layers import activations
from deeplab2.model.layers import axial
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib

EXPANSION = 4  # Output channels of a block per channel of its base width.


class _Residual(tf_keras.layers.Layer):
  """Activation, 1x1 reduction, something in the middle, 1x1 expansion, sum.

  Neither the input nor the output is activated, but the identity path carries the ACTIVATED input.
  """

  def __init__(
    self,
    filters: int,
    middle_filters: int,
    *,
    norm: norm_lib.NormSettings,
    activation: conv.Activation,
    stride: int = 1,
    drop_path_keep_prob: float = 1.0,
    **kwargs,
  ):
    """Creates a block with 4 * `filters` output channels and `middle_filters` reduced ones."""
    super().__init__(**kwargs)
    self._filters = EXPANSION * filters
    self._settings = norm
    self._activation = activation
    self._stride = stride
    self._keep_prob = drop_path_keep_prob
    self.shortcut = None
    self.reduce = conv.ConvNorm(middle_filters, 1, norm=norm, activation=activation, name='reduce')
    # A gamma of zero lets every block start as the identity (Goyal et al. 2017, sec. 5.1).
    self.expand = conv.ConvNorm(
      self._filters, 1, norm=norm, gamma_initializer='zeros', name='expand'
    )

  def build(self, input_shape):
    if input_shape[-1] != self._filters or self._stride != 1:
      self.shortcut = conv.ConvNorm(
        self._filters, 1, norm=self._settings, stride=self._stride, name='shortcut'
      )
    self.built = True

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    x = self._activation(x)
    residual = self._middle(self.reduce(x, training=training), training)
    residual = self.expand(residual, training=training)
    if self.shortcut is not None:
      x = self.shortcut(x, training=training)
    return activations.drop_path(residual, self._keep_prob, training) + x

  def _middle(self, x, training):
    raise NotImplementedError


class Bottleneck(_Residual):
  """Residual block around a 3x3 convolution (He et al. 2016) with a stride or a dilation."""

  def __init__(self, filters: int, *, stride: int = 1, dilation: int = 1, **kwargs):
    super().__init__(filters, filters, stride=stride, **kwargs)
    self.conv = conv.ConvNorm(
      filters,
      3,
      norm=self._settings,
      stride=stride,
      dilation=dilation,
      activation=self._activation,
      name='conv',
    )

  def _middle(self, x, training):
    return self.conv(x, training=training)


class AxialBottleneck(_Residual):
  """Residual block around axial attention (Wang et al. 2020, Axial-DeepLab) with a stride."""

  def __init__(self, filters: int, *, stride: int = 1, **kwargs):
    super().__init__(filters, 2 * filters, stride=stride, **kwargs)
    self.attention = axial.AxialAttention2D(
      filters, norm=self._settings, stride=stride, name='attention'
    )

  def _middle(self, x, training):
    return self._activation(self.attention(x, training=training))
