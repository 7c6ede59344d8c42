"""MOAT (Yang et al. 2023, MOAT: Alternating Mobile Convolution and Attention) as pixel encoders."""

import functools
import itertools
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model.backbones import depth
from deeplab2.model.layers import activations
from deeplab2.model.layers import affine
from deeplab2.model.layers import conv
from deeplab2.model.layers import drop_path
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import recompute
from deeplab2.model.layers import shapes
from deeplab2.model.layers import squeeze_excite
from deeplab2.model.layers import weights

_EXPANSION = 4  # Width of the depthwise convolution per output channel of a block.
_SQUEEZE = 0.25  # Width of squeeze-and-excite per output channel of a block.
_HEAD_SIZE = 32


class Size(NamedTuple):
  """Widths and depths of one network."""

  stem: int  # Channels of both convolutions of the stem.
  filters: int  # Channels of stage2; every later stage has twice those of the one before.
  blocks: tuple[int, int, int, int]  # Blocks of stage2 to stage5.


class BiasedConv(affine.Affine):
  """3x3 convolution with bias, padded as TensorFlow pads: even sizes at the far end only."""

  def __init__(self, filters: int, *, stride: int = 1, **kwargs):
    """Creates a convolution with `filters` output channels."""
    super().__init__(kernel_initializer=_initializer(), **kwargs)
    self._filters = filters
    self._stride = stride

  def build(self, input_shape):
    self._build((3, 3, input_shape[-1], self._filters))

  def call(
    self, x: tf.Tensor, scale: float | tf.Tensor = 1.0, offset: float | tf.Tensor = 0.0
  ) -> tf.Tensor:
    """Returns conv(x) * scale + offset, [B, ceil(H / stride), ceil(W / stride), filters].

    Args:
      x: [B, H, W, C].
      scale: float32 [filters] or a number.
      offset: float32 [filters] or a number.
    """
    kernel, bias = self.kernel * scale, self.bias * scale + offset
    y = tf.nn.conv2d(x, tf.cast(kernel, x.dtype), self._stride, 'SAME')
    return tf.nn.bias_add(y, tf.cast(bias, x.dtype))


class Stem(tf_keras.layers.Layer):
  """Two 3x3 convolutions, the first of stride 2; the result is not activated."""

  def __init__(self, filters: int, *, norm: norm_lib.NormSettings, **kwargs):
    """Creates a stem of `filters` channels."""
    super().__init__(**kwargs)
    self.down = BiasedConv(filters, stride=2, name='down')
    self.down_norm = norm_lib.BatchNorm(norm, (filters,), name='down_norm')
    self.refine = BiasedConv(filters, name='refine')

  def build(self, input_shape):
    with tf.name_scope('down_norm'):
      self.down_norm.build()
    self.built = True

  def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
    """[B, H, W, 3] -> [B, ceil(H / 2), ceil(W / 2), filters]."""
    if training:
      x = self.down_norm(self.down(images), training=True, activation=activations.gelu)
    else:
      x = activations.gelu(self.down(images, *self.down_norm.affine()))
    return self.refine(x)


class Expand(tf_keras.layers.Layer):
  """Batch norm, 1x1 convolution, batch norm, GELU."""

  def __init__(self, filters: int, *, norm: norm_lib.NormSettings, **kwargs):
    """Creates an expansion to `filters` channels."""
    super().__init__(**kwargs)
    self._filters = filters
    self._settings = norm

  def build(self, input_shape):
    channels = input_shape[-1]
    self.pre_norm = norm_lib.BatchNorm(self._settings, (channels,), name='pre_norm')
    self.kernel = weights.add(self, 'kernel', (1, 1, channels, self._filters), _initializer())
    self.norm = norm_lib.BatchNorm(self._settings, (self._filters,), name='norm')
    for part in (self.pre_norm, self.norm):
      with tf.name_scope(part.name):
        part.build()
    self.built = True

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """[B, h, w, C] -> [B, h, w, filters], in the dtype of `x`."""
    kernel = self.kernel[0, 0]
    if training:
      how = (kernel, self.norm, tf.matmul, None, True, activations.gelu)
      x = self.pre_norm(x, training=True)
      return shapes.per_position(x, lambda rows: conv.linear_norm(rows, *how))
    # Without padding, both norms are part of the linear map:
    # ((x * s + o) K) * s' + o' = x (s K s') + (o K s' + o').
    (scale_in, offset_in), (scale, offset) = self.pre_norm.affine(), self.norm.affine()
    kernel *= scale
    bias = tf.cast(tf.linalg.matvec(kernel, offset_in, transpose_a=True) + offset, x.dtype)
    kernel = tf.cast(scale_in[:, tf.newaxis] * kernel, x.dtype)
    return shapes.per_position(
      x, lambda rows: activations.gelu(tf.nn.bias_add(tf.matmul(rows, kernel), bias))
    )


class MBConv(tf_keras.layers.Layer):
  """x + project(excite(depthwise(expand(x)))) (Sandler et al. 2018, with norms in front)."""

  def __init__(
    self,
    in_filters: int,
    filters: int,
    *,
    norm: norm_lib.NormSettings,
    stride: int = 1,
    squeeze: float | None = None,
    drop_path_keep_prob: float = 1.0,
    **kwargs,
  ):
    """Creates a block.

    Args:
      in_filters: channels of the input.
      filters: channels of the output.
      norm: settings of the batch norms.
      stride: 1 or 2. Stride 2 averages the shortcut.
      squeeze: width of squeeze-and-excite relative to `filters`; None for no such gate.
      drop_path_keep_prob: probability that training keeps the residual.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self._stride = stride
    self._keep_prob = drop_path_keep_prob
    self.expand = Expand(_EXPANSION * filters, norm=norm, name='expand')
    self.depthwise = conv.DepthwiseConvNorm(
      3,
      norm=norm,
      stride=stride,
      activation=activations.gelu,
      kernel_initializer=_initializer(),
      pad=conv.pad_as_tensorflow,
      name='depthwise',
    )
    self.squeeze_excite = None
    if squeeze is not None:
      self.squeeze_excite = squeeze_excite.SqueezeExcite(
        max(1, int(filters * squeeze)),
        _EXPANSION * filters,
        activation=tf.nn.silu,
        initializer=_initializer,
        name='squeeze_excite',
      )
    self.shrink = _projection(filters, 'shrink')
    self.shortcut = None if in_filters == filters else _projection(filters, 'shortcut')

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Returns the sum, not activated, at [B, ceil(h / stride), ceil(w / stride), filters]."""
    residual = self.depthwise(self.expand(x, training=training), training=training)
    if self.squeeze_excite is not None:
      residual = self.squeeze_excite(residual)
    residual = activations.drop_path(self.shrink(residual), self._keep_prob, training)
    if self._stride > 1:
      x = tf.nn.avg_pool2d(x, 3, self._stride, 'SAME')  # Averages leave out the padding.
    if self.shortcut is not None:
      x = self.shortcut(x)
    return x + residual


class HeadProjection(tf_keras.layers.Layer):
  """Linear map with bias between groups of axes: [n, in_shape] -> [n, out_shape], both flat."""

  def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], **kwargs):
    """Creates a map; weight and bias have the two shapes, as checkpoints store them."""
    super().__init__(**kwargs)
    self._in_shape = in_shape
    self._out_shape = out_shape

  def build(self, input_shape):
    self.weight = weights.add(self, 'weight', self._in_shape + self._out_shape, _initializer())
    self.bias = weights.add(self, 'bias', self._out_shape, 'zeros')
    self.built = True

  def call(self, rows: tf.Tensor) -> tf.Tensor:
    """[n, in_shape] -> [n, out_shape], in the dtype of `rows`."""
    weight = tf.cast(tf.reshape(self.weight, [rows.shape[-1], -1]), rows.dtype)
    bias = tf.cast(tf.reshape(self.bias, [-1]), rows.dtype)
    return tf.nn.bias_add(tf.matmul(rows, weight), bias)


class Attention(tf_keras.layers.Layer):
  """Attention of every pixel to every pixel, in heads of 32 channels (Vaswani et al. 2017).

  With `window`, similarities have a learned bias per head and relative position (Dai et al. 2021,
  CoAtNet, eq. 3). Its table is that of a `window` x `window` map, resized to the map at hand.
  """

  def __init__(self, channels: int, *, window: int | None, **kwargs):
    """Creates an attention over maps of `channels` channels, a multiple of 32.

    Raises:
      ValueError: if the channels cannot be divided into heads.
    """
    super().__init__(**kwargs)
    if channels % _HEAD_SIZE:
      raise ValueError(
        f'MOAT attends in heads of {_HEAD_SIZE} channels; {channels} channels are '
        'not a multiple of that.'
      )
    self._channels = channels
    self._window = window
    heads = (channels // _HEAD_SIZE, _HEAD_SIZE)
    self.query_projection = HeadProjection((channels,), heads, name='query_projection')
    self.key_projection = HeadProjection((channels,), heads, name='key_projection')
    self.value_projection = HeadProjection((channels,), heads, name='value_projection')
    self.output_projection = HeadProjection(heads, (channels,), name='output_projection')
    self.relative_position_embedding: Any = None

  def build(self, input_shape):
    if self._window is not None:
      side = 2 * self._window - 1
      self.relative_position_embedding = weights.add(
        self,
        'relative_position_embedding',
        (self._channels // _HEAD_SIZE, side, side),
        _initializer(),
      )
    self.built = True

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Returns [B, h, w, C] for [B, h, w, C]. Needs memory for [B, C / 32, h * w, h * w]."""
    batch, height, width, channels = shapes.sizes(x)
    rows = tf.reshape(x, [-1, channels])

    def heads(part, order, scale=1.0):
      y = tf.reshape(part(rows) * scale, [batch, height, width, channels // _HEAD_SIZE, -1])
      return tf.reshape(tf.transpose(y, order), [batch, y.shape[3], height * width, _HEAD_SIZE])

    # Queries lie column by column, see relative_bias.
    queries = heads(self.query_projection, (0, 3, 2, 1, 4), _HEAD_SIZE**-0.5)
    keys = heads(self.key_projection, (0, 3, 1, 2, 4))
    values = heads(self.value_projection, (0, 3, 1, 2, 4))
    similarity = tf.cast(tf.matmul(queries, keys, transpose_b=True), tf.float32)
    if self.relative_position_embedding is not None:
      # Depending on variables alone, the biases of all layers would be computed at the very start,
      # and wait in memory.
      with tf.control_dependencies([similarity]):
        similarity += self.relative_bias(height, width)
    retrieved = tf.matmul(tf.cast(tf.nn.softmax(similarity), x.dtype), values)
    retrieved = tf.reshape(retrieved, [batch, -1, width, height, _HEAD_SIZE])
    retrieved = tf.reshape(tf.transpose(retrieved, (0, 3, 2, 1, 4)), [-1, channels])
    return tf.reshape(self.output_projection(retrieved), [batch, height, width, channels])

  def relative_bias(self, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Returns the bias [heads, w * h queries by column, h * w keys by row], float32.

    For a query at (y, x) and a key at (y', x') it is table[y' - y + h - 1, x' - x + w - 1]. With
    queries by column it can be taken row by row of keys, not element by element.
    """
    side = self.relative_position_embedding.shape[1]
    table = tf.einsum(
      'rs,hst,ct->hcr',
      _interpolation(side, 2 * height - 1),
      self.relative_position_embedding,
      _interpolation(side, 2 * width - 1),
    )
    columns = tf.gather(table, _relative_positions(width), axis=1)  # [heads, x, x', y' - y]
    columns = tf.transpose(columns, (0, 1, 3, 2))
    bias = tf.gather(columns, _relative_positions(height), axis=2)  # [heads, x, y, y', x']
    return tf.reshape(bias, [-1, width * height, height * width])


class MOATBlock(tf_keras.layers.Layer):
  """y + attention(norm(y)) of y = MBConv(x) (Yang et al. 2023, fig. 2c)."""

  def __init__(
    self,
    in_filters: int,
    filters: int,
    *,
    norm: norm_lib.NormSettings,
    stride: int = 1,
    window: int | None,
    drop_path_keep_prob: float = 1.0,
    **kwargs,
  ):
    """Creates a block; `window` as in Attention, the rest as in MBConv."""
    super().__init__(**kwargs)
    self._keep_prob = drop_path_keep_prob
    settings: dict[str, Any] = {'stride': stride, 'drop_path_keep_prob': drop_path_keep_prob}
    self.mobile = MBConv(in_filters, filters, norm=norm, name='mobile', **settings)
    self.attention_norm = norm_lib.LayerNorm(1e-5, name='attention_norm')
    self.attention = Attention(filters, window=window, name='attention')

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Returns the sum, not activated, at [B, ceil(h / stride), ceil(w / stride), filters]."""
    x = self.mobile(x, training=training)
    residual = self.attention(self.attention_norm(x))
    return x + activations.drop_path(residual, self._keep_prob, training)


class MOAT(tf_keras.layers.Layer):
  """A stem at stride 2, two stages of MBConv and two of MOAT blocks at strides 4 to 32."""

  def __init__(
    self,
    size: Size,
    *,
    windows: tuple[int | None, int | None],
    norm: norm_lib.NormSettings,
    drop_path_keep_prob: float = 1.0,
    **kwargs,
  ):
    """Creates a MOAT.

    Args:
      size: widths and depths.
      windows: of the attention of stage4 and of stage5, see Attention.
      norm: settings of the batch norms.
      drop_path_keep_prob: k in (0, 1]; training keeps both residuals of block b = 0..T-1 of all T
        with probability 1 - (1 - k) * b / T.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self.stem = Stem(size.stem, norm=norm, name='stem')
    self.blocks = []
    block_types = (functools.partial(MBConv, squeeze=_SQUEEZE),) * 2 + tuple(
      functools.partial(MOATBlock, window=window) for window in windows
    )
    in_filters, numbers = size.stem, itertools.count()
    for stage, (block_type, count) in enumerate(zip(block_types, size.blocks, strict=True)):
      filters = size.filters * 2**stage
      self.blocks.append(
        [
          block_type(
            filters if index else in_filters,
            filters,
            norm=norm,
            stride=1 if index else 2,
            drop_path_keep_prob=drop_path.keep_prob(
              drop_path_keep_prob, next(numbers), sum(size.blocks)
            ),
          )
          for index in range(count)
        ]
      )
      in_filters = filters

  def call(self, images: tf.Tensor, training: bool = False) -> structures.Pyramid:
    """Returns the features of `images` [B, H, W, 3] in -1..1."""
    stages = [self.stem(images, training=training)]
    for blocks in self.blocks:
      x = stages[-1]
      for block in blocks:
        x = recompute.block(block, x, training)
      stages.append(x)
    return structures.Pyramid(*stages, *(activations.gelu(stage) for stage in stages))

  def groups_by_depth(self) -> list[list[tf_keras.layers.Layer]]:
    """Returns the layers from the images on, see depth.groups."""
    return depth.groups([self.stem], self.blocks)


def _initializer():
  """Returns a new initializer: one instance gives every variable the same values."""
  return tf_keras.initializers.RandomNormal(stddev=0.02)


def _projection(filters, name):
  return affine.Projection(filters, spatial_rank=2, kernel_initializer=_initializer(), name=name)


def _interpolation(size, new_size):
  """Returns the matrix [new_size, size] of bilinear resizing between centers of samples."""
  samples = (tf.range(tf.cast(new_size, tf.float32)) + 0.5) * (
    size / tf.cast(new_size, tf.float32)
  ) - 0.5
  samples = tf.clip_by_value(samples, 0.0, size - 1.0)
  return tf.maximum(0.0, 1.0 - tf.abs(samples[:, tf.newaxis] - tf.range(float(size))))


def _relative_positions(length):
  """Returns m - l + length - 1 for all l, m below `length`: [length, length], all positive."""
  return tf.range(length)[tf.newaxis, :] - tf.range(length)[:, tf.newaxis] + length - 1


_RELEASED = (
  ('moat0', 'pretrain_224', '1k', Size(64, 96, (2, 3, 7, 2))),
  ('moat1', 'pretrain_224', '1k', Size(64, 96, (2, 6, 14, 2))),
  ('moat2', 'finetune_384', '22k', Size(128, 128, (2, 6, 14, 2))),
  ('moat3', 'finetune_512', '22k', Size(160, 160, (2, 12, 28, 2))),
  ('moat4', 'finetune_512', '22k', Size(256, 256, (2, 12, 28, 2))),
  ('tiny_moat0', 'pretrain_256', '1k', Size(32, 32, (2, 3, 7, 2))),
  ('tiny_moat1', 'pretrain_256', '1k', Size(40, 40, (2, 3, 7, 2))),
  ('tiny_moat2', 'pretrain_256', '1k', Size(56, 56, (2, 3, 7, 2))),
  ('tiny_moat3', 'pretrain_256', '1k', Size(80, 80, (2, 3, 7, 2))),
)

# By released name, functions of `norm` and `drop_path_keep_prob`. `_no_pe` is without positions.
MOATS = {
  f'{model}_{training}{positions}_{dataset}': functools.partial(
    MOAT, size, windows=windows, name=model
  )
  for model, training, dataset, size in _RELEASED
  for positions, windows in (('', (14, 7)), ('_no_pe', (None, None)))
}
