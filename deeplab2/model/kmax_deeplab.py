"""kMaX-DeepLab (Yu et al. 2022): images in, masks with classes out."""

import itertools

import tensorflow as tf
import tf_keras

from deeplab2 import randomness
from deeplab2 import resampling
from deeplab2 import structures
from deeplab2.model import kmax_decoder as kmax_decoder_lib
from deeplab2.model import mask_predictor
from deeplab2.model import pixel_decoder as pixel_decoder_lib
from deeplab2.model import semantic_branch as semantic_branch_lib
from deeplab2.model import semantic_heads as semantic_heads_lib
from deeplab2.model.layers import recompute
from deeplab2.model.layers import shapes

# Any size of the form 32n + 1 creates the same variables.
_SMALL_CROP = 65

# All branches and loops of the model are python's; converting them would only slow tracing.
_trace_as_is = tf.autograph.experimental.do_not_convert


class KMaXDeepLab(tf_keras.Model):
  """Backbone, pixel decoder, k-means decoder and mask predictor; more parts for training.

  The forward path is `call`; `infer` is the part of it that final masks and classes need.
  """

  def __init__(
    self,
    *,
    backbone: tf_keras.layers.Layer,
    pixel_decoder: pixel_decoder_lib.PixelDecoder,
    kmax_decoder: kmax_decoder_lib.KMaXDecoder,
    predictor: mask_predictor.MaskPredictor,
    semantic_branch: semantic_branch_lib.SemanticBranch | None = None,
    semantic_heads: semantic_heads_lib.SemanticHeads | None = None,
    recompute_blocks: bool = False,
    **kwargs,
  ):
    """Joins the parts and creates all variables.

    Args:
      backbone: images in -1..1 -> structures.Pyramid.
      pixel_decoder: Pyramid -> features from stride 32 to the highest resolution.
      kmax_decoder: those features -> class and mask features of the slots.
      predictor: the last feature and the slots' features -> masks and classes.
      semantic_branch: Pyramid -> semantic logits, which only losses use.
      semantic_heads: ReMask's, called in training alone; at most one for each decoder layer.
      recompute_blocks: whether training keeps only the inputs of the blocks of backbone and pixel
        decoder for the backward pass, see layers/recompute.py.
      **kwargs: passed on to the Keras model.

    Raises:
      ValueError: if there are more semantic heads than decoder layers.
    """
    super().__init__(autocast=False, **kwargs)  # Images are normalised in float32.
    self._recompute_blocks = recompute_blocks
    self.backbone = backbone
    self.pixel_decoder = pixel_decoder
    self.kmax_decoder = kmax_decoder
    self.predictor = predictor
    self.semantic_branch = semantic_branch
    self.semantic_heads = semantic_heads
    if semantic_heads is not None and len(semantic_heads.heads) > kmax_decoder.num_layers:
      raise ValueError(
        f'ReMask: {len(semantic_heads.heads)} layers are to be relaxed, and the decoder has '
        f'{kmax_decoder.num_layers}.'
      )
    # What only training calls is created without moving any statistics.
    self._forward(tf.zeros([1, _SMALL_CROP, _SMALL_CROP, 3]), training=False, auxiliary=True)

  @_trace_as_is
  def call(
    self, images: tf.Tensor, training: bool = False, auxiliary: bool | None = None
  ) -> structures.Prediction:
    """Predicts masks, classes and semantic logits.

    Args:
      images: [B, H, W, 3] RGB, 0..255, of any numeric dtype; H and W of the form 32n + 1.
      training: whether batch statistics, drop path and dropout are used.
      auxiliary: whether the predictions of the decoder's layers are returned; by default, in
        training.

    Returns:
      Prediction of float32 tensors. Its `auxiliary`, empty where not asked for, holds the layers'
      predictions, resized to the size of the final ones (which leaves their pixel vectors shorter
      than 1), the first ones with the logits of their semantic heads.
    """
    return self._forward(images, training, training if auxiliary is None else auxiliary)

  @_trace_as_is
  def infer(self, images: tf.Tensor) -> structures.MaskPrediction:
    """Predicts the final masks and classes of `images` and computes nothing else."""
    return self._predict(images, training=False)[0]

  def _forward(self, images, training, auxiliary):
    final, pyramid, features, masks = self._predict(images, training)
    # Before ReMask's heads: its variables start with the same values with and without them.
    semantic_logits = None
    if self.semantic_branch is not None:
      semantic_logits = self.semantic_branch(pyramid, training=training)
    layers = self._auxiliary(final, features, masks, training) if auxiliary else ()
    return structures.Prediction(final, layers, semantic_logits)

  def _predict(self, images, training):
    """Returns the final prediction and what it was made from."""
    with recompute.blocks(self._recompute_blocks and training):
      pyramid = self.backbone(normalize(images), training=training)
      features = self.pixel_decoder(pyramid, training=training)
    class_feature, mask_feature, masks = self.kmax_decoder(features, training=training)
    final = self.predictor(features[-1], class_feature, mask_feature, training=training)
    return final, pyramid, features, masks

  def _auxiliary(self, final, features, masks, training):
    """Returns the predictions of the decoder's layers at the size of the final one."""
    predictions, semantic_logits = self.kmax_decoder.predictions(masks), []
    if self.semantic_heads is not None:
      read = [features[index] for index in self.kmax_decoder.feature_of_layer]
      # Their dropout moves no draw of the losses: runs with and without them can be paired.
      with randomness.apart('semantic heads'):
        semantic_logits = self.semantic_heads(read, training=training)
    size = shapes.sizes(final.mask_logits)[1:3]

    def resized(x):
      return None if x is None else resampling.resize_bilinear(x, size)

    return tuple(
      prediction._replace(
        mask_logits=resized(prediction.mask_logits),
        pixel_feature=resized(prediction.pixel_feature),
        semantic_logits=resized(logits),
      )
      for prediction, logits in itertools.zip_longest(predictions, semantic_logits)
    )

  def _trackable_children(self, save_type='checkpoint', **kwargs):
    """Leaves the semantic heads out: checkpoints hold them next to the model, not in it.

    So models with and without are the same there (checkpoint/native.py).
    """
    children = super()._trackable_children(save_type, **kwargs)
    children.pop('semantic_heads', None)
    return children


def normalize(images: tf.Tensor) -> tf.Tensor:
  """Maps RGB values 0..255 to float32 -1..1."""
  return tf.cast(images, tf.float32) / 127.5 - 1.0
