"""ReMask's semantic heads (Sun et al. 2023, sec. 3.2), which training alone has.

The formulas of ReMaX are in loss/relaxation.py, their use is in loss/panoptic_loss.py.
"""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from deeplab2.model.layers import affine
from deeplab2.model.layers import aspp
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
    self.pyramid = aspp.ASPP(channels, rates, norm=norm, name='pyramid')
    self.final = affine.Projection(
      num_classes, spatial_rank=2, name='final', kernel_initializer=conv.truncated_normal(0.01)
    )

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Returns float32 logits [B, h, w, num_classes] of the size of `x` [B, h, w, C]."""
    return tf.cast(self.final(self.pyramid(x, training=training)), tf.float32)


class SemanticHeads(tf_keras.layers.Layer):
  """One head for each of the first decoder layers; layers of one stride share none."""

  def __init__(self, heads: Sequence[SemanticHead], **kwargs):
    super().__init__(**kwargs)
    self.heads = list(heads)

  def call(self, features: Sequence[tf.Tensor], training: bool = False) -> list[tf.Tensor]:
    """Returns the logits of each head on the feature of its decoder layer.

    Args:
      features: what the decoder layers read, at least as many as there are heads.
      training: whether batch statistics and dropout are used.
    """
    return [
      head(feature, training=training) for head, feature in zip(self.heads, features, strict=False)
    ]
