"""Training with ReMask: semantic heads next to kMaX-DeepLab that inference never sees.

ReMaX (Sun et al. 2023, sec. 3.2). The model proper stays what it is, variables and names included;
`ReMaskModel` is what the trainer calls in its place.
"""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model import heads
from deeplab2.model import kmax_deeplab
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib


class SemanticHead(tf_keras.layers.Layer):
  """Semantic logits of one decoded feature: an atrous pyramid and a projection."""

  def __init__(
    self,
    num_classes: int,
    *,
    norm: norm_lib.NormSettings,
    channels: int,
    rates: Sequence[int],
    **kwargs,
  ):
    """Creates a head.

    Args:
      num_classes: dataset ids.
      norm: settings of the batch norms.
      channels: of the pyramid.
      rates: dilations of its three 3x3 convolutions.
      **kwargs: passed on to the Keras layer.

    Raises:
      ValueError: unless there are exactly three rates.
    """
    super().__init__(**kwargs)
    self.pyramid = heads.ASPP(channels, rates, norm=norm, name='pyramid')
    self.final = conv.Projection(
      num_classes, spatial_rank=2, name='final', kernel_initializer=conv.truncated_normal(0.01)
    )

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Returns float32 logits [B, h, w, num_classes] of the size of `x` [B, h, w, C]."""
    return tf.cast(self.final(self.pyramid(x, training=training)), tf.float32)


class SemanticHeads(tf_keras.layers.Layer):
  """One head for each of the first decoder layers; layers of one stride share none."""

  def __init__(self, semantic_heads: Sequence[SemanticHead], **kwargs):
    super().__init__(**kwargs)
    self.heads = list(semantic_heads)

  def call(self, features: Sequence[tf.Tensor], training: bool = False) -> list[tf.Tensor]:
    """Returns the logits of each head on its feature; there are as many as heads."""
    return [
      head(feature, training=training) for head, feature in zip(self.heads, features, strict=True)
    ]


class ReMaskModel(tf_keras.Model):
  """kMaX-DeepLab whose training predictions carry semantic logits of the first decoder layers."""

  def __init__(
    self, model: kmax_deeplab.KMaXDeepLab, remask_semantic_heads: SemanticHeads, **kwargs
  ):
    """Joins the model and the heads, and creates the variables of the heads.

    Args:
      model: its variables created.
      remask_semantic_heads: at most as many as the model has decoder layers.
      **kwargs: passed on to the Keras model.

    Raises:
      ValueError: if there are more heads than decoder layers.
    """
    super().__init__(**kwargs)
    num_heads, num_layers = len(remask_semantic_heads.heads), model.kmax_decoder.num_layers
    if num_heads > num_layers:
      raise ValueError(
        f'ReMask: {num_heads} layers are to be relaxed, and the decoder has {num_layers}.'
      )
    self.model = model
    self.remask_semantic_heads = remask_semantic_heads
    self._features = model.kmax_decoder.feature_of_layer[:num_heads]
    _, features = model.predict_with_features(kmax_deeplab.small_images(), training=False)
    remask_semantic_heads(self._pick(features))

  @property
  def backbone(self) -> tf_keras.layers.Layer:
    """The backbone of the model."""
    return self.model.backbone

  @kmax_deeplab.trace_as_is
  def call(self, images: tf.Tensor, training: bool = False) -> structures.Prediction:
    """Predicts as the model does; in training, with semantic logits of size h x w as well."""
    if not training:
      return self.model(images, training=False)
    prediction, features = self.model.predict_with_features(images, training=True)
    logits = self.remask_semantic_heads(self._pick(features), training=True)
    relaxed = [
      auxiliary._replace(semantic_logits=conv.resize_like(one, prediction.final.mask_logits))
      for auxiliary, one in zip(prediction.auxiliary, logits, strict=False)
    ]
    return prediction._replace(auxiliary=(*relaxed, *prediction.auxiliary[len(relaxed) :]))

  def _pick(self, features):
    return [features[index] for index in self._features]
