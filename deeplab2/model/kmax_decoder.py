"""The k-means mask transformer decoder (Yu et al. 2022, "k-means Mask Transformer")."""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model import mask_predictor
from deeplab2.model.layers import activations
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import shapes
from deeplab2.model.layers import weights

NUM_HEADS = 8


class LayerMasks(NamedTuple):
  """The prediction of one decoder layer, without its class logits."""

  mask_logits: tf.Tensor  # [B, h, w, N]
  pixel_feature: tf.Tensor  # [B, h, w, D]
  class_feature: tf.Tensor  # [B, N, channels]


class SlotAttention(tf_keras.layers.Layer):
  """Multi-head self-attention among slots, with batch norms on similarities and results.

  Similarities are not scaled by the square root of the key size; their norm takes care of it.
  """

  def __init__(self, channels: int, *, norm: norm_lib.NormSettings, **kwargs):
    """Creates an attention with `channels` value channels and half as many key channels."""
    super().__init__(**kwargs)
    self._channels = channels
    self.norm_similarity = norm_lib.BatchNorm(norm, (NUM_HEADS,), axis=1, name='norm_similarity')
    self.norm_retrieved = norm_lib.BatchNorm(
      norm, (1, NUM_HEADS, 1, channels // NUM_HEADS), name='norm_retrieved'
    )

  def call(self, qkv: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Attends among the slots of `qkv` [B, N, 2 * channels]; returns [B, N, channels]."""
    half = self._channels // 2
    q, k, v = (self._split_heads(x) for x in tf.split(qkv, [half, half, self._channels], axis=-1))
    similarity = self.norm_similarity(tf.matmul(q, k, transpose_b=True), training=training)
    attention = tf.cast(tf.nn.softmax(tf.cast(similarity, tf.float32)), v.dtype)
    retrieved = tf.transpose(tf.matmul(attention, v), (0, 2, 1, 3))
    merged = tf.reshape(retrieved, [*shapes.sizes(qkv)[:2], self._channels])
    return activations.gelu(self.norm_retrieved(merged, training=training))

  def _split_heads(self, x):
    batch, slots, channels = shapes.sizes(x)
    heads_last = tf.reshape(x, [batch, slots, NUM_HEADS, channels // NUM_HEADS])
    return tf.transpose(heads_last, (0, 2, 1, 3))


class KMaXLayer(tf_keras.layers.Layer):
  """One layer: a k-means update of the centers, self-attention among them, a feed-forward network.

  The update and the self-attention are parallel, both read the incoming centers.
  """

  def __init__(
    self,
    channels: int,
    feed_forward_channels: int,
    *,
    predictor: mask_predictor.MaskPredictor,
    norm: norm_lib.NormSettings,
    drop_path_keep_prob: float = 1.0,
    **kwargs,
  ):
    """Creates a layer.

    Args:
      channels: of the centers, a multiple of 16.
      feed_forward_channels: hidden channels of the feed-forward network.
      predictor: of the masks that assign pixels to centers.
      norm: settings of the batch norms.
      drop_path_keep_prob: of the three residuals, training only.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self._keep_prob = drop_path_keep_prob
    activated = functools.partial(conv.SequenceNorm, norm=norm, activation=activations.gelu)
    # Gammas of zero: the three residuals start at nothing.
    residual = functools.partial(conv.SequenceNorm, channels, norm=norm, gamma_initializer='zeros')

    def linear(width, name):
      initializer = conv.truncated_normal(channels**-0.5)
      return conv.SequenceNorm(width, norm=norm, kernel_initializer=initializer, name=name)

    self.slot_in = activated(channels, name='slot_in')
    self.pixel_in = activated(channels, name='pixel_in')
    self.slot_qkv = linear(2 * channels, name='slot_qkv')
    self.pixel_value = linear(channels, name='pixel_value')
    self.predictor = predictor
    self.update_norm = norm_lib.BatchNorm(norm, (channels,), name='update_norm')
    self.update_out = residual(name='update_out')
    self.attention = SlotAttention(channels, norm=norm, name='attention')
    self.attention_out = residual(name='attention_out')
    self.feed_forward_in = activated(feed_forward_channels, name='feed_forward_in')
    self.feed_forward_out = residual(name='feed_forward_out')

  def call(
    self, pixel_bhwd: tf.Tensor, centers_bsd: tf.Tensor, training: bool = False
  ) -> tuple[tf.Tensor, LayerMasks]:
    """Returns the new centers [B, N, channels] and the masks that assigned the pixels.

    Args:
      pixel_bhwd: decoded feature, not activated.
      centers_bsd: cluster centers.
      training: whether batch statistics and drop path are used.
    """
    batch, height, width, channels = shapes.sizes(pixel_bhwd)
    flat_bpd = tf.reshape(pixel_bhwd, [batch, -1, channels])
    pixel_bpd = self.pixel_in(activations.gelu(flat_bpd), training=training)
    slot_bsd = self.slot_in(centers_bsd, training=training)

    space_bhwd = tf.reshape(pixel_bpd, [batch, height, width, pixel_bpd.shape[-1]])
    mask_logits, normalized = self.predictor.masks(space_bhwd, slot_bsd, training)
    values_bpd = self.pixel_value(pixel_bpd, training=training)
    update = self.update_out(
      self.update_norm(kmeans_update(mask_logits, values_bpd), training=training), training=training
    )

    qkv = self.slot_qkv(slot_bsd, training=training)
    attended = self.attention_out(self.attention(qkv, training=training), training=training)

    centers_bsd = activations.gelu(
      centers_bsd + self._drop(update, training) + self._drop(attended, training)
    )
    forward = self.feed_forward_out(
      self.feed_forward_in(centers_bsd, training=training), training=training
    )
    centers_bsd = activations.gelu(centers_bsd + self._drop(forward, training))
    return centers_bsd, LayerMasks(mask_logits, normalized, slot_bsd)

  def _drop(self, residual, training):
    return activations.drop_path(residual, self._keep_prob, training)


def kmeans_update(mask_logits_bhws: tf.Tensor, values_bpd: tf.Tensor) -> tf.Tensor:
  """Sums the values of the pixels of every cluster (Yu et al. 2022, eq. 6).

  A pixel belongs to the slot of its largest mask logit, the lowest one of equals. The assignment
  carries no gradient. The sum is not divided by the number of pixels; a slot without any is 0.

  Args:
    mask_logits_bhws: [B, h, w, N].
    values_bpd: [B, h * w, d].

  Returns:
    [B, N, d] float32.
  """
  batch, _, _, slots = shapes.sizes(mask_logits_bhws)
  chosen_bp = tf.reshape(tf.argmax(mask_logits_bhws, axis=-1, output_type=tf.int32), [batch, -1])
  assignment_bps = tf.stop_gradient(tf.one_hot(chosen_bp, slots))
  # Ten thousands of pixels: float16 cannot hold their sum, bfloat16 loses its last bits.
  return tf.matmul(assignment_bps, tf.cast(values_bpd, tf.float32), transpose_a=True)


class KMaXDecoder(tf_keras.layers.Layer):
  """Cluster centers, refined by layers that read the decoded features at stride 32, 16 and 8."""

  def __init__(
    self,
    num_mask_slots: int,
    *,
    predictor: Callable[..., mask_predictor.MaskPredictor],
    norm: norm_lib.NormSettings,
    layers_per_stride: Sequence[int] = (2, 2, 2),
    channels: int = 256,
    feed_forward_channels: int = 2048,
    drop_path_keep_prob: float = 1.0,
    **kwargs,
  ):
    """Creates a decoder.

    Args:
      num_mask_slots: N, the number of cluster centers.
      predictor: makes the mask predictor of one layer.
      norm: settings of the batch norms.
      layers_per_stride: numbers of layers at stride 32, 16 and 8.
      channels: of the centers, a multiple of 16.
      feed_forward_channels: hidden channels of the feed-forward networks.
      drop_path_keep_prob: of the residuals of every layer, training only.
      **kwargs: passed on to the Keras layer.

    Raises:
      ValueError: if `channels` cannot be divided among the heads.
    """
    super().__init__(**kwargs)
    if channels % (2 * NUM_HEADS):
      raise ValueError(
        f'The centers have {channels} channels, which is no multiple of {2 * NUM_HEADS}.'
      )
    self._num_mask_slots = num_mask_slots
    self.channels = channels
    # Plain python: the index of the feature that each layer reads.
    self.feature_of_layer = tuple(
      feature for feature, count in enumerate(layers_per_stride) for _ in range(count)
    )
    self.layers = [
      KMaXLayer(
        channels,
        feed_forward_channels,
        predictor=predictor(name='predictor'),
        norm=norm,
        drop_path_keep_prob=drop_path_keep_prob,
        name=f'layer{i}',
      )
      for i, _ in enumerate(self.feature_of_layer)
    ]
    settings = {'norm': norm, 'activation': activations.gelu}
    self.class_projection = conv.SequenceNorm(channels, name='class_projection', **settings)
    self.mask_projection = conv.SequenceNorm(channels, name='mask_projection', **settings)

  @property
  def num_layers(self) -> int:
    """The number of layers, each of which makes a prediction of its own."""
    return len(self.layers)

  def build(self, input_shape):
    shape = (1, self._num_mask_slots, self.channels)
    self.cluster_centers = weights.add(self, 'cluster_centers', shape, conv.truncated_normal(1.0))
    self.built = True

  def call(self, features: tuple[tf.Tensor, ...], training: bool = False):
    """Refines the centers.

    Args:
      features: the pixel decoder's, from stride 32 on.
      training: whether batch statistics and drop path are used.

    Returns:
      (class feature [B, N, channels], mask feature [B, N, channels], one LayerMasks per layer).
    """
    centers = tf.cast(self.cluster_centers, features[0].dtype)
    centers = tf.tile(centers, [shapes.sizes(features[0])[0], 1, 1])
    masks = []
    for layer, feature in zip(self.layers, self.feature_of_layer, strict=True):
      centers, layer_masks = layer(features[feature], centers, training=training)
      masks.append(layer_masks)
    return (
      self.class_projection(centers, training=training),
      self.mask_projection(centers, training=training),
      tuple(masks),
    )

  def predictions(self, masks: Sequence[LayerMasks]) -> tuple[structures.MaskPrediction, ...]:
    """Completes the masks of every layer, at its own resolution, by its class logits."""
    return tuple(
      structures.MaskPrediction(
        m.mask_logits, layer.predictor.classes(m.class_feature), m.pixel_feature
      )
      for layer, m in zip(self.layers, masks, strict=True)
    )
