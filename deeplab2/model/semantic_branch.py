"""The auxiliary semantic branch: backbone features -> semantic logits."""

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model import semantic_decoder
from deeplab2.model.layers import activations
from deeplab2.model.layers import affine
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib


class SemanticBranch(tf_keras.layers.Layer):
  """Auxiliary semantic segmentation: backbone features -> logits by dataset id."""

  def __init__(
    self,
    num_classes: int,
    *,
    norm: norm_lib.NormSettings,
    head_channels: int = 256,
    decoder: semantic_decoder.SemanticDecoder | None = None,
    head_conv=conv.SEPARABLE_5X5,
    feature: str = 'stage5',
    **kwargs,
  ):
    """Creates a branch.

    Args:
      num_classes: dataset ids.
      norm: settings of the batch norms.
      head_channels: hidden channels of the head.
      decoder: of the backbone's features; None: the head reads `feature`, and the logits have
        stride 32.
      head_conv: type of the head's 5x5 convolution, a value of conv.CONVS_5X5.
      feature: of stride 32, a field of structures.Pyramid.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self.decoder = decoder
    self._feature = feature
    self.hidden = head_conv(head_channels, norm=norm, activation=activations.gelu, name='hidden')
    self.final = affine.Projection(
      num_classes, spatial_rank=2, name='final', kernel_initializer=conv.truncated_normal(0.01)
    )

  def call(self, pyramid: structures.Pyramid, training: bool = False) -> tf.Tensor:
    """Returns float32 logits [B, h, w, num_classes] of the decoder's size."""
    if self.decoder is None:
      x = getattr(pyramid, self._feature)
    else:
      x = self.decoder(pyramid, training=training)
    return tf.cast(self.final(self.hidden(x, training=training)), tf.float32)
