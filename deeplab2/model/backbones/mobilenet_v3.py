"""MobileNetV3 (Howard et al. 2019), Small and Large, as pixel encoders.

Both of any width, and minimalistic: without squeeze-and-excite, hard swish and 5x5 convolutions
(github.com/tensorflow/models, research/slim/nets/mobilenet).
"""

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


def minimalistic(rows: Sequence[Row]) -> tuple[Row, ...]:
  """Returns a table without squeeze-and-excite and with 3x3 kernels and ReLU alone."""
  return tuple(
    row._replace(activation=_RELU)
    if isinstance(row, Conv)
    else row._replace(kernel_size=3, activation=_RELU, squeeze=None)
    for row in rows
  )


def of_width(rows: Sequence[Row], multiplier: float) -> tuple[Row, ...]:
  """Returns a table of other widths, as Keras Applications has them for `alpha`.

  The first convolution keeps its width, and the last one has six times that of the row before.
  (DeepLab2 multiplies and rounds both; with 1.0 it is all the same.)
  """
  first, *blocks, last = rows
  blocks = [row._replace(filters=round_to_eight(row.filters * multiplier)) for row in blocks]
  return (first, *blocks, last._replace(filters=round_to_eight(6 * blocks[-1].filters)))


class InvertedBottleneck(tf_keras.layers.Layer):
  """1x1 expansion, depthwise convolution, squeeze-and-excite, linear 1x1 projection."""

  def __init__(
    self,
    row: Inverted,
    in_filters: int,
    *,
    norm: norm_lib.NormSettings,
    gate: conv.Activation,
    **kwargs,
  ):
    """Creates the block of one row for an input of `in_filters` channels.

    Args:
      row: of the table.
      in_filters: channels of the input.
      norm: settings of the batch norms.
      gate: of squeeze-and-excite, if the row has it.
      **kwargs: passed on to the Keras layer.
    """
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
        gate=gate,
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

  def __init__(
    self,
    rows: Sequence[Row],
    *,
    norm: norm_lib.NormSettings,
    width_multiplier: float = 1.0,
    squeeze_excite_gate: str = 'SIGMOID',
    **kwargs,
  ):
    """Creates a MobileNetV3 from the rows of its table.

    Args:
      rows: of the table, for width 1.
      norm: settings of the batch norms.
      width_multiplier: of all widths, as of `of_width`.
      squeeze_excite_gate: a key of squeeze_excite.GATES.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self.width_multiplier = width_multiplier
    # Checkpoints record it; a table without squeeze-and-excite has none.
    has_gates = any(isinstance(row, Inverted) and row.squeeze is not None for row in rows)
    self.squeeze_excite_gate = squeeze_excite_gate if has_gates else None
    gate = squeeze_excite.GATES[squeeze_excite_gate]
    self.blocks = []
    strides = []
    in_filters, stride = 3, 1
    for row in of_width(rows, width_multiplier):
      stride *= row.stride
      strides.append(stride)
      if isinstance(row, Conv):
        self.blocks.append(
          conv.ConvNorm(
            row.filters, row.kernel_size, norm=norm, stride=row.stride, activation=row.activation
          )
        )
      else:
        self.blocks.append(InvertedBottleneck(row, in_filters, norm=norm, gate=gate))
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


# By name, functions of `norm`, `width_multiplier` and `squeeze_excite_gate`.
MOBILENETS = {
  name: functools.partial(MobileNetV3, rows, name=name)
  for name, rows in (
    ('mobilenet_v3_large', LARGE),
    ('mobilenet_v3_large_minimalistic', minimalistic(LARGE)),
    ('mobilenet_v3_small', SMALL),
    ('mobilenet_v3_small_minimalistic', minimalistic(SMALL)),
  )
}
