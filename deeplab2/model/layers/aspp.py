"""Pyramid poolings of semantic segmentation: features of stride 32 with a larger view."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab2.model.layers import activations
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib


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
    settings: dict[str, Any] = {'norm': norm, 'activation': activations.gelu}
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
    # In float32, because float16 cannot hold the sum of a large map.
    mean = tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2], keepdims=True)
    pooled = self.pool(mean, training=training)
    branches.append(tf.broadcast_to(pooled, tf.shape(branches[0])))
    x = self.project(tf.concat(branches, axis=-1), training=training)
    return activations.dropout(x, self._dropout, training)


class PointwisePyramid(tf_keras.layers.Layer):
  """The projection of ASPP alone."""

  def __init__(self, channels: int, *, norm: norm_lib.NormSettings, **kwargs):
    super().__init__(**kwargs)
    self.project = conv.ConvNorm(
      channels, 1, norm=norm, activation=activations.gelu, name='project'
    )

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    return self.project(x, training=training)
