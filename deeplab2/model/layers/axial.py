"""Position-sensitive axial attention (Wang et al. 2020, Axial-DeepLab, eq. 4)."""

import tensorflow as tf
import tf_keras

from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import shapes
from deeplab2.model.layers import weights

NUM_HEADS = 8
# Relative positions -254..254 have an embedding; farther ones share the outermost.
MAX_DISTANCE = 254


class RelativePositions(tf_keras.layers.Layer):
  """A learned vector for every relative position, shared by the heads."""

  def __init__(self, channels: int, **kwargs):
    super().__init__(**kwargs)
    self._channels = channels

  def build(self, input_shape=None):
    del input_shape  # The constructor knows the shape.
    shape = (2 * MAX_DISTANCE + 1, self._channels)
    self.embeddings = weights.add(self, 'embeddings', shape, conv.truncated_normal(1.0))
    self.built = True

  def between(self, length: int | tf.Tensor) -> tf.Tensor:
    """Returns the vectors [l, m, channels] from every position l to every m of `length`."""
    reach = (
      min(length - 1, MAX_DISTANCE)
      if isinstance(length, int)
      else tf.minimum(length - 1, MAX_DISTANCE)
    )
    # The slice makes the gradient dense: sparse ones would count a row once per use in a norm.
    near = self.embeddings[MAX_DISTANCE - reach : MAX_DISTANCE + reach + 1]
    offsets = tf.range(length)[tf.newaxis, :] - tf.range(length)[:, tf.newaxis]
    vectors = tf.gather(near, tf.clip_by_value(offsets, -reach, reach) + reach)
    return tf.cast(vectors, self.compute_dtype)


class AxialAttention1D(tf_keras.layers.Layer):
  """Global self-attention along one spatial axis of [B, h, w, C].

  With query q, key k, value v, and relative position embeddings E of query position l and key
  position m (b: the other axis, folded into the batch; h: head):

    s_lm = BN(q_l k_m) + BN(q_l Eq_(m-l)) + BN(k_m Ek_(m-l)),  w = softmax over m
    out_l = BN(sum_m w_lm v_m) + BN(sum_m w_lm Ev_(m-l))
  """

  def __init__(
    self,
    key_channels: int,
    value_channels: int,
    *,
    axis: int,
    norm: norm_lib.NormSettings,
    **kwargs,
  ):
    """Creates an attention layer.

    Args:
      key_channels: channels of all heads of queries and of keys, a multiple of 8.
      value_channels: channels of all heads of values and of the result, a multiple of 8.
      axis: 1 to attend along the height, 2 along the width.
      norm: settings of the batch norms.
      **kwargs: passed on to the Keras layer.

    Raises:
      ValueError: if the channels cannot be divided among the heads.
    """
    super().__init__(**kwargs)
    if key_channels % NUM_HEADS or value_channels % NUM_HEADS:
      raise ValueError(
        f'Axial attention divides its channels among {NUM_HEADS} heads; '
        f'{key_channels} and {value_channels} are not both multiples of it.'
      )
    self._key_channels = key_channels
    self._value_channels = value_channels
    self._axis = axis
    key_size, value_size = key_channels // NUM_HEADS, value_channels // NUM_HEADS
    self.norm_qkv = norm_lib.BatchNorm(norm, (2 * key_channels + value_channels,), name='norm_qkv')
    # One channel per term and head.
    self.norm_similarity = norm_lib.BatchNorm(
      norm, (3, 1, NUM_HEADS, 1, 1), axis=1, name='norm_similarity'
    )
    # One channel per term, head and channel.
    self.norm_retrieved = norm_lib.BatchNorm(
      norm, (2, 1, NUM_HEADS, 1, value_size), name='norm_retrieved'
    )
    self.query_positions = RelativePositions(key_size, name='query_positions')
    self.key_positions = RelativePositions(key_size, name='key_positions')
    self.value_positions = RelativePositions(value_size, name='value_positions')

  def build(self, input_shape):
    channels = input_shape[-1]
    shape = (channels, 2 * self._key_channels + self._value_channels)
    initializer = conv.truncated_normal(channels**-0.5)
    self.qkv_kernel = weights.add(self, 'qkv_kernel', shape, initializer)
    for part in (self.norm_qkv, self.query_positions, self.key_positions, self.value_positions):
      with tf.name_scope(part.name):
        part.build()
    self.built = True

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Attends along the axis: [B, h, w, C] -> [B, h, w, value_channels]."""
    q, k, v = self.project(x, training)
    length = shapes.sizes(x)[self._axis]
    similarity = self.norm_similarity(self.similarities(q, k, length), training=training)
    similarity = tf.add_n(tf.split(tf.cast(similarity, tf.float32), 3, axis=1))
    attention = tf.cast(tf.nn.softmax(similarity), x.dtype)
    content, position = self.retrieve(attention, v, length)
    retrieved = tf.concat([self._merge_heads(content, x), self._merge_heads(position, x)], axis=-1)
    return tf.add_n(tf.split(self.norm_retrieved(retrieved, training=training), 2, axis=-1))

  def project(self, x, training):
    """Returns queries, keys and values of `x`, each [n, heads, length, d]."""
    qkv = shapes.per_position(
      x,
      lambda rows: conv.linear_norm(
        rows, self.qkv_kernel, self.norm_qkv, tf.matmul, None, training
      ),
    )
    parts = tf.split(qkv, [self._key_channels] * 2 + [self._value_channels], axis=-1)
    return tuple(self._split_heads(part) for part in parts)

  def similarities(self, q, k, length):
    """Returns the three terms of the similarity before their norm, [n, 3 * heads, l, m]."""
    content = tf.matmul(q, k, transpose_b=True)

    def with_positions(equation, x, positions):
      # `n` is of rows and heads together. Of four axes, with as many rows as columns, LiteRT's
      # converter (TensorFlow 2.20) would lose the transposition of _split_heads.
      rows = tf.reshape(x, [-1, length, x.shape[-1]])
      return tf.reshape(tf.einsum(equation, rows, positions.between(length)), tf.shape(content))

    return tf.concat(
      [
        content,
        with_positions('nld,lmd->nlm', q, self.query_positions),
        with_positions('nmd,lmd->nlm', k, self.key_positions),
      ],
      axis=1,
    )

  def retrieve(self, attention, v, length):
    """Returns the two terms of the result before their norm, each [n, heads, l, d]."""
    return (
      tf.matmul(attention, v),
      tf.einsum('nhlm,lmd->nhld', attention, self.value_positions.between(length)),
    )

  def _split_heads(self, x):
    """[B, h, w, C] -> [n, heads, length, C / heads], the other axis folded into n."""
    batch, height, width, channels = shapes.sizes(x)
    heads = tf.reshape(x, [batch, height, width, NUM_HEADS, channels // NUM_HEADS])
    order = (0, 2, 3, 1, 4) if self._axis == 1 else (0, 1, 3, 2, 4)
    length = height if self._axis == 1 else width
    return tf.reshape(tf.transpose(heads, order), [-1, NUM_HEADS, length, channels // NUM_HEADS])

  def _merge_heads(self, x, like):
    """Undoes _split_heads, for an input of the size of `like`."""
    batch, height, width, _ = shapes.sizes(like)
    other, length = (width, height) if self._axis == 1 else (height, width)
    size = self._value_channels // NUM_HEADS
    heads = tf.reshape(x, [batch, other, NUM_HEADS, length, size])
    order = (0, 3, 1, 2, 4) if self._axis == 1 else (0, 1, 3, 2, 4)
    return tf.reshape(tf.transpose(heads, order), [batch, height, width, self._value_channels])


class AxialAttention2D(tf_keras.layers.Layer):
  """Attention along the height, then along the width: [B, h, w, C] -> [B, h', w', 2 * filters]."""

  def __init__(self, filters: int, *, norm: norm_lib.NormSettings, stride: int = 1, **kwargs):
    """Creates the two layers; every `stride`-th row and column of the result is kept."""
    super().__init__(**kwargs)
    self._stride = stride
    self.height_axis = AxialAttention1D(filters, 2 * filters, axis=1, norm=norm, name='height_axis')
    self.width_axis = AxialAttention1D(filters, 2 * filters, axis=2, norm=norm, name='width_axis')

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    x = self.height_axis(x, training=training)[:, :: self._stride]
    return self.width_axis(x, training=training)[:, :, :: self._stride]
