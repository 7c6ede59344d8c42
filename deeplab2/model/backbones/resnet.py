"""ResNet (He et al. 2016) as kMaX-DeepLab's pixel encoder: sums without activation.

DeepLab2's has no pooling; PyTorch's has the max-pooling of the paper behind its stem.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model.backbones import depth
from deeplab2.model.layers import activations
from deeplab2.model.layers import bottleneck
from deeplab2.model.layers import conv
from deeplab2.model.layers import drop_path
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import recompute

# (filters, stride, input_stride, drop_path_keep_prob) -> residual block.
BlockFactory = Callable[[int, int, int, float], tf_keras.layers.Layer]

_FILTERS = (64, 128, 256, 512)
_STRIDES = (4, 8, 16, 32)
_STEM_STRIDE = 2


class ResNet(tf_keras.layers.Layer):
  """A stem at stride 2 or 4, and four stages of residual blocks at strides 4 to 32."""

  def __init__(
    self,
    *,
    stem: tf_keras.layers.Layer,
    blocks_per_stage: Sequence[int],
    block: BlockFactory,
    activation: conv.Activation,
    drop_path_keep_prob: float = 1.0,
    stem_stride: int = _STEM_STRIDE,
    **kwargs,
  ):
    """Creates a ResNet.

    Args:
      stem: images [B, H, W, 3] -> a feature at `stem_stride`.
      blocks_per_stage: numbers of blocks of the four stages; the first of each has the stride that
        leads to that of the stage.
      block: makes one residual block.
      activation: of the activated features.
      drop_path_keep_prob: probability, in (0, 1], that training keeps the residual of a block of
        stride 32; blocks of stride 16 lie in between, earlier ones are always kept.
      stem_stride: 2 or 4.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self._activation = activation
    self.stem = stem
    self.stages = []
    stride = stem_stride
    for filters, count, stage_stride in zip(_FILTERS, blocks_per_stage, _STRIDES, strict=True):
      blocks = []
      for _ in range(count):
        block_stride = stage_stride // stride
        # Stride 16 is three quarters of the depth, stride 32 all of it.
        keep = drop_path.keep_prob(drop_path_keep_prob, stride.bit_length() - 2, 4)
        blocks.append(block(filters, block_stride, stride, keep if stride >= 16 else 1.0))
        stride *= block_stride
      self.stages.append(blocks)

  def call(self, images: tf.Tensor, training: bool = False) -> structures.Pyramid:
    """Returns the features of `images` [B, H, W, 3] in -1..1."""
    stages = [self.stem(images, training=training)]
    for blocks in self.stages:
      x = stages[-1]
      for block in blocks:
        x = recompute.block(block, x, training)
      # TF 2.20's remapper fuses convolution, sum and relu even where the sum has other readers, and
      # then gives up on the whole graph. An operation between the sum and its readers prevents it.
      stages.append(tf.ensure_shape(x, x.shape))
    return structures.Pyramid(*stages, *(self._activation(stage) for stage in stages))

  def groups_by_depth(self) -> list[list[tf_keras.layers.Layer]]:
    """Returns the layers from the images on, see depth.groups."""
    return depth.groups([self.stem], self.stages)


class MaxPoolStem(conv.ConvNorm):
  """A 7x7 convolution of stride 2, ReLU, and 3x3 max-pooling of stride 2: stride 4 in all."""

  has_max_pool = True

  def __init__(self, filters: int, *, norm: norm_lib.NormSettings, **kwargs):
    super().__init__(filters, 7, norm=norm, stride=2, activation=tf.nn.relu, **kwargs)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    # Zeros around what is not negative are never the largest.
    x, padding = conv.pad_evenly(super().call(x, training=training), 3, 2)
    return tf.nn.max_pool2d(x, 3, 2, padding)


class InceptionStem(tf_keras.layers.Layer):
  """Three 3x3 convolutions, the first of stride 2 (Szegedy et al. 2016); not activated."""

  def __init__(
    self,
    filters: Sequence[int],
    *,
    norm: norm_lib.NormSettings,
    activation: conv.Activation,
    **kwargs,
  ):
    """Creates a stem whose convolutions have the three numbers of `filters`."""
    super().__init__(**kwargs)
    first, second, third = filters
    self.convs = [
      conv.ConvNorm(first, 3, norm=norm, stride=_STEM_STRIDE, activation=activation),
      conv.ConvNorm(second, 3, norm=norm, activation=activation),
      conv.ConvNorm(third, 3, norm=norm),
    ]

  def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
    x = images
    for layer in self.convs:
      x = layer(x, training=training)
    return x


def resnet50(
  *, norm: norm_lib.NormSettings, drop_path_keep_prob: float = 1.0, stem_max_pool: bool = False
) -> ResNet:
  """ResNet-50 with a 7x7 stem, which ends in a max-pooling if `stem_max_pool`."""

  def block(filters, stride, input_stride, keep):
    del input_stride
    return bottleneck.Bottleneck(
      filters, norm=norm, activation=tf.nn.relu, stride=stride, drop_path_keep_prob=keep
    )

  if stem_max_pool:
    stem, stem_stride = MaxPoolStem(64, norm=norm, name='stem'), 4
  else:
    stem, stem_stride = conv.ConvNorm(64, 7, norm=norm, stride=2, name='stem'), 2
  return ResNet(
    stem=stem,
    stem_stride=stem_stride,
    blocks_per_stage=(3, 4, 6, 3),
    block=block,
    activation=tf.nn.relu,
    drop_path_keep_prob=drop_path_keep_prob,
    name='resnet50',
  )


def axial_resnet50(*, norm: norm_lib.NormSettings, drop_path_keep_prob: float = 1.0) -> ResNet:
  """MaX-S (Wang et al. 2021, MaX-DeepLab) with gelu: axial attention from stride 16 on."""

  def block(filters, stride, input_stride, keep):
    block = bottleneck.AxialBottleneck if input_stride >= 16 else bottleneck.Bottleneck
    return block(
      filters, norm=norm, activation=activations.gelu, stride=stride, drop_path_keep_prob=keep
    )

  return ResNet(
    stem=InceptionStem((64, 64, 128), norm=norm, activation=activations.gelu, name='stem'),
    blocks_per_stage=(3, 4, 6, 3),
    block=block,
    activation=activations.gelu,
    drop_path_keep_prob=drop_path_keep_prob,
    name='axial_resnet50',
  )
