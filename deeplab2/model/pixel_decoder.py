"""The pixel decoder: from the backbone's features to decoded ones, stride by stride."""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model.layers import activations
from deeplab2.model.layers import bottleneck
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import recompute

# What the stages read, from stride 32 on.
FEATURES = ('stage5', 'stage4', 'stage3', 'stage2', 'stage1')


def blocks(dilation: int) -> dict[str, Callable[..., tf_keras.layers.Layer]]:
  """Returns the types of residual blocks; `dilation` is that of the 3x3 convolutions."""
  return {
    'AXIAL': bottleneck.AxialBottleneck,
    'BOTTLENECK': functools.partial(bottleneck.Bottleneck, dilation=dilation),
  }


BLOCKS = blocks(2)  # Of DeepLab2's models.


class PixelDecoderStage(NamedTuple):
  """One stage; its output has 4 * filters channels."""

  filters: int
  num_blocks: int
  block: Callable[..., tf_keras.layers.Layer]  # A value of BLOCKS, or of other `blocks`.


class _Input(tf_keras.layers.Layer):
  """Brings one input of a skip connection to the channels and size of the next stage."""

  def __init__(self, filters, *, norm, **kwargs):
    super().__init__(**kwargs)
    self._filters = filters
    self._settings = norm
    self.conv = None

  def build(self, input_shape):
    if input_shape[-1] != self._filters:
      self.conv = conv.ConvNorm(self._filters, 1, norm=self._settings, name='conv')
    self.built = True

  def call(self, x, size_of, training=False):
    if self.conv is not None:
      x = self.conv(activations.gelu(x), training=training)
    return conv.resize_like(x, size_of)


class SkipConnection(tf_keras.layers.Layer):
  """Sums a decoded feature and a backbone feature at the size of the latter."""

  def __init__(self, filters: int, *, norm: norm_lib.NormSettings, **kwargs):
    """Creates a connection with `filters` output channels."""
    super().__init__(**kwargs)
    self.decoded = _Input(filters, norm=norm, name='decoded')
    self.skipped = _Input(filters, norm=norm, name='skipped')

  def call(self, decoded: tf.Tensor, skipped: tf.Tensor, training: bool = False) -> tf.Tensor:
    return self.decoded(decoded, skipped, training=training) + self.skipped(
      skipped, skipped, training=training
    )


class PixelDecoder(tf_keras.layers.Layer):
  """Residual blocks at stride 32, 16, 8, 4 and, with five stages, 2, joined by skip connections."""

  def __init__(
    self,
    stages: Sequence[PixelDecoderStage],
    norm: norm_lib.NormSettings,
    *,
    features: Sequence[str] = (),
    **kwargs,
  ):
    """Creates a decoder.

    Args:
      stages: 4 (up to stride 4) or 5 (up to stride 2), from stride 32 on.
      norm: settings of the batch norms.
      features: what each stage reads, fields of structures.Pyramid; none: those of FEATURES.
      **kwargs: passed on to the Keras layer.

    Raises:
      ValueError: on any other number of stages, or one of features that differs from it.
    """
    super().__init__(**kwargs)
    if len(stages) not in (4, 5):
      raise ValueError(f'The pixel decoder has 4 or 5 stages, not {len(stages)}.')
    read = list(features or FEATURES[: len(stages)])
    if len(read) != len(stages):
      raise ValueError(f'{len(stages)} stages cannot read the features {read}.')
    self._features = read
    self.backbone_norms = [
      norm_lib.LayerNorm(name=f'backbone_norm{i}') for i, _ in enumerate(stages)
    ]
    self.skip_connections = [
      SkipConnection(stage.filters, norm=norm, name=f'skip_connection{i}')
      for i, stage in enumerate(stages[1:])
    ]
    self.stages = [
      [
        stage.block(
          stage.filters, norm=norm, activation=activations.gelu, name=f'stage{i}_block{j}'
        )
        for j in range(stage.num_blocks)
      ]
      for i, stage in enumerate(stages)
    ]

  def call(self, pyramid: structures.Pyramid, training: bool = False) -> tuple[tf.Tensor, ...]:
    """Returns one feature per stage, from stride 32 to the highest resolution."""
    decoded: list[tf.Tensor] = []
    for i, stage in enumerate(self.stages):
      x = self.backbone_norms[i](getattr(pyramid, self._features[i]))
      if i:
        x = self.skip_connections[i - 1](decoded[-1], x, training=training)
      for block in stage:
        x = recompute.block(block, x, training)
      decoded.append(x)
    return tuple(decoded)
