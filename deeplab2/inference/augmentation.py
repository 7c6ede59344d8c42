"""Test-time augmentation: the masks of an image, averaged over copies of other size or mirrored.

A mask slot is no place in the image: in a mirrored copy, another slot may have taken the object,
and an average slot by slot, as DeepLab2 takes it, mixes masks of different things. Here, the
prediction for the image itself leads. A slot of a copy corresponds to one of its slots if both
have the same class (or void) and the pixels that they win (their mask is the strongest) overlap
with an IoU above 1/2. That is the criterion of panoptic quality, with which no mask can have two
partners (Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4.1). The probabilities of
masks and of classes are then averaged over the copies; where a copy has no counterpart of a slot,
the image's own stand in for it. So a segment can get better or be dropped, but none appears that
the image alone does not have, and none changes its class.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab2 import resampling
from deeplab2 import structures

_STRIDE = 32
_LEAST = 1e-20  # Probability whose logarithm is taken.


class View(NamedTuple):
  """A copy of the crop, its padding included."""

  scale: float = 1.0
  flipped: bool = False  # Left to right.

  def size(self, crop_size: Sequence[int]) -> tuple[int, int]:
    """Returns the (height, width) closest to the scale that is of the form 32n + 1."""
    height, width = (
      max(1, round((side - 1) * self.scale / _STRIDE)) * _STRIDE + 1 for side in crop_size
    )
    return height, width


def views(scales: Sequence[float], *, flip: bool) -> tuple[View, ...]:
  """Returns the copies besides the image itself.

  Args:
    scales: of the copies; 1.0 is the image itself. Those that occur twice count once.
    flip: whether each is mirrored as well.
  """
  every = [
    View(scale, flipped)
    for scale in dict.fromkeys((1.0, *scales))
    for flipped in ((False, True) if flip else (False,))
  ]
  return tuple(view for view in every if view != View())


class Augmentation:
  """Averages the final prediction of a model over views."""

  def __init__(
    self, infer: Callable[[tf.Tensor], structures.MaskPrediction], of_views: Sequence[View]
  ):
    """Creates the averaging.

    Args:
      infer: images [B, H, W, 3] -> MaskPrediction, as of the model.
      of_views: the copies, at least one.
    """
    self._infer = infer
    self._views = tuple(of_views)

  def __call__(
    self, images: tf.Tensor, final: structures.MaskPrediction
  ) -> structures.MaskPrediction:
    """Returns the average prediction; its logits are logarithms of probabilities.

    Args:
      images: [B, H, W, 3] RGB, 0..255; H and W of the form 32n + 1.
      final: the prediction for them.
    """
    crop = images.shape[1:3]
    size = final.mask_logits.shape[1:3]
    masks = own_masks = tf.nn.softmax(tf.cast(final.mask_logits, tf.float32))
    classes = own_classes = tf.nn.softmax(tf.cast(final.class_logits, tf.float32))
    for view in self._views:
      seen = resampling.resize_bilinear(images, view.size(crop))
      found = self._infer(tf.reverse(seen, [2]) if view.flipped else seen)
      logits = tf.cast(found.mask_logits, tf.float32)
      if view.flipped:
        logits = tf.reverse(logits, [2])
      other_masks = tf.nn.softmax(resampling.resize_bilinear(logits, size))
      other_classes = tf.nn.softmax(tf.cast(found.class_logits, tf.float32))
      partners = match(own_masks, other_masks)
      chosen = tf.maximum(partners, 0)
      other_classes = tf.gather(other_classes, chosen, axis=1, batch_dims=1)
      has_partner = partners >= 0
      has_partner &= tf.argmax(own_classes, -1) == tf.argmax(other_classes, -1)
      masks += tf.where(
        has_partner[:, tf.newaxis, tf.newaxis],
        _slots(other_masks, chosen),
        own_masks,
      )
      classes += tf.where(
        has_partner[..., tf.newaxis],
        other_classes,
        own_classes,
      )
    number = 1.0 + len(self._views)
    return final._replace(
      mask_logits=tf.math.log(masks / number + _LEAST),
      class_logits=tf.math.log(classes / number + _LEAST),
    )


def match(masks: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
  """Returns the partner of each slot among those of another prediction, by masks alone.

  Args:
    masks: [B, h, w, N] probabilities.
    others: the same of the other prediction.

  Returns:
    [B, N] int32 slot of the other prediction, -1 without.
  """
  num_slots = masks.shape[-1]

  def of_image(winners):
    pairs = winners[0] * num_slots + winners[1]
    shared = tf.math.unsorted_segment_sum(tf.ones_like(pairs), pairs, num_slots**2)
    shared = tf.cast(tf.reshape(shared, [num_slots, num_slots]), tf.float32)
    unions = tf.reduce_sum(shared, 1, keepdims=True) + tf.reduce_sum(shared, 0) - shared
    iou = tf.math.divide_no_nan(shared, unions)
    best = tf.argmax(iou, axis=1, output_type=tf.int32)
    return tf.where(tf.reduce_max(iou, axis=1) > 0.5, best, -1)

  winners = tuple(
    tf.reshape(tf.argmax(part, axis=-1, output_type=tf.int32), [-1, part.shape[1] * part.shape[2]])
    for part in (masks, others)
  )
  partners = tf.map_fn(of_image, winners, fn_output_signature=tf.int32)
  return tf.ensure_shape(partners, [masks.shape[0], num_slots])


def _slots(masks, slots):
  """Returns masks [B, h, w, N] of the slots [B, N]."""
  chosen = tf.one_hot(slots, masks.shape[-1], axis=1)  # [B, N, N]: of the sources, by slot.
  return tf.einsum('bhwm,bmn->bhwn', masks, chosen)
