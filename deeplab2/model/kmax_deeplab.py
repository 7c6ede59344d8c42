"""kMaX-DeepLab (Yu et al. 2022): images in, masks with classes out."""

import tensorflow as tf
import tf_keras

from deeplab2 import resampling
from deeplab2 import structures
from deeplab2.model import heads
from deeplab2.model import kmax_decoder as kmax_decoder_lib
from deeplab2.model import pixel_decoder as pixel_decoder_lib
from deeplab2.model.layers import norm as norm_lib

# Any size of the form 32n + 1 creates the same variables.
_SMALL_CROP = 65

# All branches and loops of the model are python's; converting them would only slow tracing.
trace_as_is = tf.autograph.experimental.do_not_convert


class KMaXDeepLab(tf_keras.Model):
  """Backbone, pixel decoder, k-means decoder, predictor, and an auxiliary semantic branch."""

  def __init__(
    self,
    *,
    backbone: tf_keras.layers.Layer,
    pixel_decoder: pixel_decoder_lib.PixelDecoder,
    kmax_decoder: kmax_decoder_lib.KMaXDecoder,
    predictor: heads.MaskPredictor,
    semantic_branch: heads.SemanticBranch | None = None,
    **kwargs,
  ):
    """Joins the parts.

    Args:
      backbone: images in -1..1 -> structures.Pyramid.
      pixel_decoder: Pyramid -> features from stride 32 to the highest resolution.
      kmax_decoder: those features -> class and mask features of the slots.
      predictor: the last feature and the slots' features -> masks and classes.
      semantic_branch: Pyramid -> semantic logits, which only training uses.
      **kwargs: passed on to the Keras model.
    """
    super().__init__(**kwargs)
    self.backbone = backbone
    self.pixel_decoder = pixel_decoder
    self.kmax_decoder = kmax_decoder
    self.predictor = predictor
    self.semantic_branch = semantic_branch

  @trace_as_is
  def call(self, images: tf.Tensor, training: bool = False) -> structures.Prediction:
    """Predicts masks, classes and semantic logits.

    Args:
      images: [B, H, W, 3] RGB, 0..255, of any numeric dtype; H and W of the form 32n + 1.
      training: whether batch statistics, drop path and dropout are used, and the predictions of
        the decoder's layers returned.

    Returns:
      Prediction of float32 tensors. In training, `auxiliary` holds the layers' predictions,
      resized to the size of the final ones (which leaves their pixel vectors shorter than 1).
    """
    return self.predict_with_features(images, training)[0]

  @trace_as_is
  def predict_with_features(
    self, images: tf.Tensor, training: bool
  ) -> tuple[structures.Prediction, tuple[tf.Tensor, ...]]:
    """Returns what `call` does, and the pixel decoder's features from stride 32 on."""
    pyramid, features, (class_feature, mask_feature, masks) = self._decode(images, training)
    final = self.predictor(features[-1], class_feature, mask_feature, training=training)
    auxiliary = ()
    if training:
      auxiliary = tuple(
        _resized(prediction, final) for prediction in self.kmax_decoder.predictions(masks)
      )
    semantic_logits = None
    if self.semantic_branch is not None:
      semantic_logits = self.semantic_branch(pyramid, training=training)
    return structures.Prediction(final, auxiliary, semantic_logits), features

  @trace_as_is
  def infer(self, images: tf.Tensor) -> structures.MaskPrediction:
    """Predicts the final masks and classes of `images` and computes nothing else."""
    _, features, (class_feature, mask_feature, _) = self._decode(images, training=False)
    return self.predictor(features[-1], class_feature, mask_feature, training=False)

  def create_variables(self) -> None:
    """Creates all variables, which do not depend on the crop size, by one small call."""
    self(small_images(), training=False)
    for layer in self.kmax_decoder.layers:
      layer.predictor.classes(tf.zeros([1, 1, self.kmax_decoder.channels]))

  def _decode(self, images, training):
    pyramid = self.backbone(normalize(images), training=training)
    features = self.pixel_decoder(pyramid, training=training)
    return pyramid, features, self.kmax_decoder(features, training=training)


def small_images() -> tf.Tensor:
  """Returns the least that creates the variables of a model by a call of it."""
  return tf.zeros([1, _SMALL_CROP, _SMALL_CROP, 3])


def normalize(images: tf.Tensor) -> tf.Tensor:
  """Maps RGB values 0..255 to float32 -1..1."""
  return tf.cast(images, tf.float32) / 127.5 - 1.0


def _resized(prediction, final):
  size = norm_lib.sizes(final.mask_logits)[1:3]
  return prediction._replace(
    mask_logits=resampling.resize_bilinear(prediction.mask_logits, size),
    pixel_feature=resampling.resize_bilinear(prediction.pixel_feature, size),
  )
