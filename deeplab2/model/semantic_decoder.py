"""The semantic decoder of DeepLabV3+ (Chen et al. 2018)."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model.layers import activations
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib


class LowLevel(NamedTuple):
  """A backbone feature that the semantic decoder takes in."""

  feature: str  # A field of structures.Pyramid.
  channels: int  # It is projected to.


class SemanticDecoder(tf_keras.layers.Layer):
  """A pyramid pooling of stride 32, fused with finer features one after the other."""

  def __init__(
    self,
    pyramid_pooling: tf_keras.layers.Layer,
    low_levels: Sequence[LowLevel],
    channels: int,
    *,
    norm: norm_lib.NormSettings,
    fusion_conv=conv.SEPARABLE_5X5,
    feature: str = 'stage5',
    **kwargs,
  ):
    """Creates a decoder.

    Args:
      pyramid_pooling: a layer of layers/aspp.py.
      low_levels: the features taken in, from low to high resolution.
      channels: of the result.
      norm: settings of the batch norms.
      fusion_conv: type of the 5x5 convolutions, a value of conv.CONVS_5X5.
      feature: of stride 32, that the pyramid pooling reads, a field of structures.Pyramid.
      **kwargs: passed on to the Keras layer.

    Raises:
      ValueError: if the backbone has no such feature.
    """
    super().__init__(**kwargs)
    self._pooled = feature
    self._features = [level.feature for level in low_levels]
    for name in (feature, *self._features):
      if name not in structures.Pyramid._fields:
        raise ValueError(
          f'{name!r} is no feature of a backbone; choose from {list(structures.Pyramid._fields)}.'
        )
    self.pyramid_pooling = pyramid_pooling
    self.low_level = [
      conv.ConvNorm(level.channels, 1, norm=norm, activation=activations.gelu, name=f'low_level{i}')
      for i, level in enumerate(low_levels)
    ]
    self.fusion = [
      fusion_conv(channels, norm=norm, activation=activations.gelu, name=f'fusion{i}')
      for i, _ in enumerate(low_levels)
    ]

  def call(self, pyramid: structures.Pyramid, training: bool = False) -> tf.Tensor:
    x = self.pyramid_pooling(getattr(pyramid, self._pooled), training=training)
    for feature, project, fuse in zip(self._features, self.low_level, self.fusion, strict=True):
      low = project(getattr(pyramid, feature), training=training)
      x = fuse(tf.concat([conv.resize_like(x, low), low], axis=-1), training=training)
    return x
