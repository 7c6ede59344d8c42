"""The mask predictor: masks and classes from pixel features and cluster centers."""

import math

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model.layers import activations
from deeplab2.model.layers import affine
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import shapes

# The class head starts out with this probability of "no object" (void) in every slot.
_VOID_PROBABILITY = 0.9


class PixelHead(tf_keras.layers.Layer):
  """Unit vectors of every pixel."""

  def __init__(
    self, channels: int, head_channels: int, *, norm: norm_lib.NormSettings, head_conv, **kwargs
  ):
    super().__init__(**kwargs)
    self.hidden = head_conv(head_channels, norm=norm, activation=activations.gelu, name='hidden')
    self.final = affine.Projection(
      channels, spatial_rank=2, name='final', kernel_initializer=conv.truncated_normal(0.01)
    )
    self.norm = norm_lib.BatchNorm(norm, (channels,), name='norm')

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    x = self.norm(self.final(self.hidden(x, training=training)), training=training)
    return tf.math.l2_normalize(tf.cast(x, tf.float32), axis=-1)


class MaskPredictor(tf_keras.layers.Layer):
  """Mask logits as products of pixel features and slot features; class logits per slot."""

  def __init__(
    self,
    num_classes: int,
    *,
    norm: norm_lib.NormSettings,
    channels: int = 128,
    head_channels: int = 256,
    head_conv=conv.SEPARABLE_5X5,
    **kwargs,
  ):
    """Creates a predictor.

    Args:
      num_classes: class channels, void included (K + 1).
      norm: settings of the batch norms.
      channels: size of the pixel vectors that masks are products of.
      head_channels: hidden channels of the pixel head.
      head_conv: type of its 5x5 convolution, a value of conv.CONVS_5X5.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self._void_prior = math.log((num_classes - 1) * _VOID_PROBABILITY / (1.0 - _VOID_PROBABILITY))
    self._num_classes = num_classes
    self.pixel_head = PixelHead(
      channels, head_channels, norm=norm, head_conv=head_conv, name='pixel_head'
    )
    self.mask_head = conv.SequenceNorm(channels, norm=norm, name='mask_head')
    self.mask_norm = norm_lib.BatchNorm(
      norm, (1,), axis=1, name='mask_norm', gamma_initializer=tf_keras.initializers.Constant(0.1)
    )
    self.class_head = affine.Projection(
      num_classes, spatial_rank=1, name='class_head', kernel_initializer=conv.truncated_normal(0.01)
    )

  def call(
    self,
    pixel: tf.Tensor,
    class_feature: tf.Tensor,
    mask_feature: tf.Tensor,
    training: bool = False,
  ) -> structures.MaskPrediction:
    """Predicts masks [B, h, w, N] and classes [B, N, K + 1].

    Args:
      pixel: [B, h, w, C] decoded feature.
      class_feature: [B, N, c] feature of the slots, for their classes.
      mask_feature: [B, N, c] feature of the slots, for their masks.
      training: whether batch statistics are used.
    """
    mask_logits, normalized = self.masks(pixel, mask_feature, training)
    return structures.MaskPrediction(mask_logits, self.classes(class_feature), normalized)

  def masks(
    self, pixel: tf.Tensor, mask_feature: tf.Tensor, training: bool = False
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mask logits [B, h, w, N] and unit pixel vectors [B, h, w, D], both float32."""
    normalized = self.pixel_head(pixel, training=training)
    slots = tf.cast(self.mask_head(mask_feature, training=training), tf.float32)
    batch, height, width, channels = shapes.sizes(normalized)
    flat = tf.reshape(normalized, [batch, -1, channels])
    logits = tf.matmul(flat, slots, transpose_b=True)
    # All logits are normalised as one channel.
    logits = self.mask_norm(logits[:, tf.newaxis], training=training)
    return tf.reshape(logits, [batch, height, width, slots.shape[1]]), normalized

  def classes(self, class_feature: tf.Tensor) -> tf.Tensor:
    """Returns class logits float32 [B, N, K + 1]; void has a constant head start.

    A constant, not the initial value of the bias: released checkpoints expect it on top.
    """
    logits = tf.cast(self.class_head(class_feature), tf.float32)
    return logits + self._void_prior * tf.one_hot(self._num_classes - 1, self._num_classes)
