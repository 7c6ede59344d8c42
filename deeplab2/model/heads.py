"""Heads: masks and classes from pixel features and cluster centers; semantic logits from pixels."""

from collections.abc import Sequence
import math
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model.layers import activations
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib

# Types of 5x5 convolutions in heads and in the semantic decoder.
CONVS = {
  'depthwise_separable_conv': conv.SeparableConvNorm,
  'standard_conv': conv.ConvNorm,
}
_KERNEL_SIZE = 5
# The class head starts out with this probability of "no object" (void) in every slot.
_VOID_PROBABILITY = 0.9


class PixelHead(tf_keras.layers.Layer):
  """Unit vectors of every pixel."""

  def __init__(
    self, channels: int, head_channels: int, *, norm: norm_lib.NormSettings, head_conv, **kwargs
  ):
    super().__init__(**kwargs)
    self.hidden = head_conv(
      head_channels, _KERNEL_SIZE, norm=norm, activation=activations.gelu, name='hidden'
    )
    self.final = conv.Projection(
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
    head_conv=conv.SeparableConvNorm,
    **kwargs,
  ):
    """Creates a predictor.

    Args:
      num_classes: class channels, void included (K + 1).
      norm: settings of the batch norms.
      channels: size of the pixel vectors that masks are products of.
      head_channels: hidden channels of the pixel head.
      head_conv: type of its 5x5 convolution, a value of CONVS.
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
    self.class_head = conv.Projection(
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
    batch, height, width, channels = norm_lib.sizes(normalized)
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


class ASPP(tf_keras.layers.Layer):
  """Atrous spatial pyramid pooling (Chen et al. 2017) with image pooling."""

  def __init__(
    self,
    channels: int,
    rates: Sequence[int],
    *,
    norm: norm_lib.NormSettings,
    dropout: float = 0.1,
    **kwargs,
  ):
    """Creates the pyramid.

    Args:
      channels: of every branch and of the result.
      rates: dilations of the three 3x3 convolutions.
      norm: settings of the batch norms.
      dropout: rate of the dropout on the result, training only.
      **kwargs: passed on to the Keras layer.

    Raises:
      ValueError: unless there are exactly three rates.
    """
    super().__init__(**kwargs)
    if len(rates) != 3:
      raise ValueError(f'ASPP takes three atrous rates, not {list(rates)}.')
    settings = {'norm': norm, 'activation': activations.gelu}
    self.conv = conv.ConvNorm(channels, 1, name='conv', **settings)
    self.atrous = [
      conv.ConvNorm(channels, 3, dilation=rate, name=f'atrous{i}', **settings)
      for i, rate in enumerate(rates)
    ]
    self.pool = conv.ConvNorm(channels, 1, name='pool', **settings)
    self.project = conv.ConvNorm(channels, 1, name='project', **settings)
    self._dropout = dropout

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    branches = [layer(x, training=training) for layer in (self.conv, *self.atrous)]
    mean = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
    pooled = self.pool(mean, training=training)
    branches.append(tf.broadcast_to(pooled, tf.shape(branches[0])))
    x = self.project(tf.concat(branches, axis=-1), training=training)
    return activations.dropout(x, self._dropout, training)


class PointwisePyramid(tf_keras.layers.Layer):
  """Stands in for ASPP: its projection alone."""

  def __init__(self, channels: int, *, norm: norm_lib.NormSettings, **kwargs):
    super().__init__(**kwargs)
    self.project = conv.ConvNorm(
      channels, 1, norm=norm, activation=activations.gelu, name='project'
    )

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    return self.project(x, training=training)


class LowLevel(NamedTuple):
  """A backbone feature that the semantic decoder takes in."""

  feature: str  # A field of structures.Pyramid.
  channels: int  # It is projected to.


class SemanticDecoder(tf_keras.layers.Layer):
  """DeepLabV3+'s decoder (Chen et al. 2018): a pyramid on stride 32, fused with finer features."""

  def __init__(
    self,
    pyramid_pooling: tf_keras.layers.Layer,
    low_levels: Sequence[LowLevel],
    channels: int,
    *,
    norm: norm_lib.NormSettings,
    fusion_conv=conv.SeparableConvNorm,
    **kwargs,
  ):
    """Creates a decoder.

    Args:
      pyramid_pooling: ASPP or PointwisePyramid.
      low_levels: the features taken in, from low to high resolution.
      channels: of the result.
      norm: settings of the batch norms.
      fusion_conv: type of the 5x5 convolutions, a value of CONVS.
      **kwargs: passed on to the Keras layer.

    Raises:
      ValueError: if the backbone has no such feature.
    """
    super().__init__(**kwargs)
    self._features = [level.feature for level in low_levels]
    for feature in self._features:
      if feature not in structures.Pyramid._fields:
        raise ValueError(
          f'{feature!r} is no feature of a backbone; choose from '
          f'{list(structures.Pyramid._fields)}.'
        )
    self.pyramid_pooling = pyramid_pooling
    self.low_level = [
      conv.ConvNorm(level.channels, 1, norm=norm, activation=activations.gelu, name=f'low_level{i}')
      for i, level in enumerate(low_levels)
    ]
    self.fusion = [
      fusion_conv(channels, _KERNEL_SIZE, norm=norm, activation=activations.gelu, name=f'fusion{i}')
      for i, _ in enumerate(low_levels)
    ]

  def call(self, pyramid: structures.Pyramid, training: bool = False) -> tf.Tensor:
    x = self.pyramid_pooling(pyramid.stage5, training=training)
    for feature, project, fuse in zip(self._features, self.low_level, self.fusion, strict=True):
      low = project(getattr(pyramid, feature), training=training)
      x = fuse(tf.concat([conv.resize_like(x, low), low], axis=-1), training=training)
    return x


class CoarseFeature(tf_keras.layers.Layer):
  """Stands in for a semantic decoder: the backbone's last feature as it is."""

  def call(self, pyramid: structures.Pyramid, training: bool = False) -> tf.Tensor:
    del training
    return pyramid.stage5


class SemanticBranch(tf_keras.layers.Layer):
  """Auxiliary semantic segmentation: backbone features -> logits by dataset id."""

  def __init__(
    self,
    num_classes: int,
    *,
    norm: norm_lib.NormSettings,
    head_channels: int = 256,
    decoder: tf_keras.layers.Layer | None = None,
    head_conv=conv.SeparableConvNorm,
    **kwargs,
  ):
    """Creates a branch.

    Args:
      num_classes: dataset ids.
      norm: settings of the batch norms.
      head_channels: hidden channels of the head.
      decoder: SemanticDecoder; by default the head sits on the backbone's stage5, so that the
        logits have stride 32.
      head_conv: type of the head's 5x5 convolution, a value of CONVS.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self.decoder = CoarseFeature(name='decoder') if decoder is None else decoder
    self.hidden = head_conv(
      head_channels, _KERNEL_SIZE, norm=norm, activation=activations.gelu, name='hidden'
    )
    self.final = conv.Projection(
      num_classes, spatial_rank=2, name='final', kernel_initializer=conv.truncated_normal(0.01)
    )

  def call(self, pyramid: structures.Pyramid, training: bool = False) -> tf.Tensor:
    """Returns float32 logits [B, h, w, num_classes] of the decoder's size."""
    x = self.hidden(self.decoder(pyramid, training=training), training=training)
    return tf.cast(self.final(x), tf.float32)
