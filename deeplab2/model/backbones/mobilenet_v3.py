"""MobileNetV3 (Howard et al. 2019), Small and Large, as pixel encoders."""

from collections.abc import Sequence
import functools
import itertools
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model.backbones import depth
from deeplab2.model.layers import activations
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import recompute
from deeplab2.model.layers import squeeze_excite

_HS = activations.hard_swish
_RELU = tf.nn.relu


class Conv(NamedTuple):
  """A row of the paper's tables: one convolution."""

  kernel_size: int
  stride: int
  filters: int
  activation: conv.Activation


class Inverted(NamedTuple):
  """A row of the paper's tables: one inverted bottleneck."""

  kernel_size: int
  stride: int
  filters: int
  activation: conv.Activation
  squeeze: float | None  # Width of squeeze-and-excite, relative to the expanded width.
  expansion: float  # Expanded width, relative to the input's.


Row = Conv | Inverted

SMALL = (
  Conv(3, 2, 16, _HS),
  Inverted(3, 2, 16, _RELU, 0.25, 1),
  Inverted(3, 2, 24, _RELU, None, 72 / 16),
  Inverted(3, 1, 24, _RELU, None, 88 / 24),
  Inverted(5, 2, 40, _HS, 0.25, 4),
  Inverted(5, 1, 40, _HS, 0.25, 6),
  Inverted(5, 1, 40, _HS, 0.25, 6),
  Inverted(5, 1, 48, _HS, 0.25, 3),
  Inverted(5, 1, 48, _HS, 0.25, 3),
  Inverted(5, 2, 96, _HS, 0.25, 6),
  Inverted(5, 1, 96, _HS, 0.25, 6),
  Inverted(5, 1, 96, _HS, 0.25, 6),
  Conv(1, 1, 576, _HS),
)
LARGE = (
  Conv(3, 2, 16, _HS),
  Inverted(3, 1, 16, _RELU, None, 1),
  Inverted(3, 2, 24, _RELU, None, 4),
  Inverted(3, 1, 24, _RELU, None, 3),
  Inverted(5, 2, 40, _RELU, 0.25, 3),
  Inverted(5, 1, 40, _RELU, 0.25, 3),
  Inverted(5, 1, 40, _RELU, 0.25, 3),
  Inverted(3, 2, 80, _HS, None, 6),
  Inverted(3, 1, 80, _HS, None, 2.5),
  Inverted(3, 1, 80, _HS, None, 2.3),
  Inverted(3, 1, 80, _HS, None, 2.3),
  Inverted(3, 1, 112, _HS, 0.25, 6),
  Inverted(3, 1, 112, _HS, 0.25, 6),
  Inverted(5, 2, 160, _HS, 0.25, 6),
  Inverted(5, 1, 160, _HS, 0.25, 6),
  Inverted(5, 1, 160, _HS, 0.25, 6),
  Conv(1, 1, 960, _HS),
)


class InvertedBottleneck(tf_keras.layers.Layer):
  """1x1 expansion, depthwise convolution, squeeze-and-excite, linear 1x1 projection."""

  def __init__(self, row: Inverted, in_filters: int, *, norm: norm_lib.NormSettings, **kwargs):
    """Creates the block of one row for an input of `in_filters` channels."""
    super().__init__(**kwargs)
    self._residual = row.stride == 1 and in_filters == row.filters
    expanded = in_filters
    self.expand = None
    if row.expansion > 1:
      expanded = round_to_eight(in_filters * row.expansion)
      self.expand = conv.ConvNorm(expanded, 1, norm=norm, activation=row.activation, name='expand')
    self.depthwise = conv.DepthwiseConvNorm(
      row.kernel_size, norm=norm, stride=row.stride, activation=row.activation, name='depthwise'
    )
    self.squeeze_excite = None
    if row.squeeze is not None:
      hidden = round_to_eight(max(1, int(expanded * row.squeeze)))
      self.squeeze_excite = squeeze_excite.SqueezeExcite(
        hidden,
        expanded,
        activation=tf.nn.relu,
        initializer=tf_keras.initializers.HeNormal,
        name='squeeze_excite',
      )
    self.project = conv.ConvNorm(row.filters, 1, norm=norm, name='project')

  def call(self, x: tf.Tensor, training: bool = False):
    """Returns (output, the activated depthwise feature inside)."""
    y = x if self.expand is None else self.expand(x, training=training)
    inside = self.depthwise(y, training=training)
    y = inside if self.squeeze_excite is None else self.squeeze_excite(inside)
    y = self.project(y, training=training)
    return (x + y if self._residual else y), inside


class MobileNetV3(tf_keras.layers.Layer):
  """The rows of one table, read at the last row of every stride.

  stageK is that row's linear output (the last convolution's output, for stage5, is activated
  already); resK is the activated depthwise feature inside it.
  """

  def __init__(self, rows: Sequence[Row], *, norm: norm_lib.NormSettings, **kwargs):
    """Creates a MobileNetV3 from the rows of its table."""
    super().__init__(**kwargs)
    self.blocks = []
    strides = []
    in_filters, stride = 3, 1
    for row in rows:
      stride *= row.stride
      strides.append(stride)
      if isinstance(row, Conv):
        self.blocks.append(
          conv.ConvNorm(
            row.filters, row.kernel_size, norm=norm, stride=row.stride, activation=row.activation
          )
        )
      else:
        self.blocks.append(InvertedBottleneck(row, in_filters, norm=norm))
      in_filters = row.filters
    # The last row of each stride: strides never fall, and later rows overwrite earlier ones.
    self._endpoints = sorted({stride: index for index, stride in enumerate(strides)}.values())

  def call(self, images: tf.Tensor, training: bool = False) -> structures.Pyramid:
    """Returns the features of `images` [B, H, W, 3] in -1..1."""
    outputs = self.block_outputs(images, training=training)
    stages, activated = zip(*(outputs[index] for index in self._endpoints), strict=True)
    return structures.Pyramid(*stages, *activated)

  def block_outputs(self, images: tf.Tensor, training: bool = False):
    """Returns (output, endpoint) of every block; a convolution is its own endpoint."""
    outputs, x = [], images
    for block in self.blocks:
      result = recompute.block(block, x, training)
      x, endpoint = result if isinstance(block, InvertedBottleneck) else (result, result)
      outputs.append((x, endpoint))
    return outputs

  def groups_by_depth(self) -> list[list[tf_keras.layers.Layer]]:
    """Returns the layers from the images on, see depth.groups."""
    ends = [index + 1 for index in self._endpoints]
    stages = [self.blocks[start:end] for start, end in itertools.pairwise([1, *ends])]
    return depth.groups(self.blocks[:1], stages)


def round_to_eight(channels: float) -> int:
  """Rounds to a multiple of 8 that is at least 8 and at least 90 % of `channels`."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded


# By name, functions of `norm`.
MOBILENETS = {
  name: functools.partial(MobileNetV3, rows, name=name)
  for name, rows in (('mobilenet_v3_large', LARGE), ('mobilenet_v3_small', SMALL))
}
