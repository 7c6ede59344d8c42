"""Matches true masks and predicted masks one to one, and derives what the loss terms need of it.

MaX-DeepLab (Wang et al. 2021, sec. 3.2): the similarity of a true mask and a slot is the dice of
their masks times the probability of the right class. Matching is done once, on the final output;
the decoder's layers share it. No gradient passes.
"""

from typing import NamedTuple

import tensorflow as tf

from deeplab2.loss import assignment
from deeplab2.loss.ground_truth import GroundTruth

# Weights of single slots are kept at least at this, so that no matched slot is left untrained.
MIN_WEIGHT = 1e-5
_EPSILON = 1e-5


class Similarity(NamedTuple):
  """The similarity of ground-truth rows and mask slots. No gradient."""

  dice_brs: tf.Tensor  # in [0, 1], of the masks
  class_brs: tf.Tensor  # probability that the slot gives the row's class; 0 for invalid rows
  void_fraction_bs: tf.Tensor  # fraction of each slot's mask that lies on the ignore label


class Matching(NamedTuple):
  """The match, seen from slots and pixels. N slots, K real classes. No gradient."""

  slot_of_row_br: tf.Tensor  # int32, -1 for rows without a slot
  is_matched_bs: tf.Tensor  # bool
  slot_bp: tf.Tensor  # int32 slot of the pixel's true mask, -1 where it has none
  class_target_bsk: tf.Tensor  # float32 one-hot over K + 1; slots without a match are void
  class_weight_bs: tf.Tensor  # float32 weight in the class term
  dice_weight_bs: tf.Tensor  # float32 weight in the dice term, 0 for slots without a match

  @property
  def one_hot_bps(self) -> tf.Tensor:
    """float32 [B, P, N], 1 at the slot of the pixel's true mask; all 0 where it has none."""
    return tf.one_hot(self.slot_bp, self.is_matched_bs.shape[1])


def similarity(
  gt: GroundTruth, mask_logits_bps: tf.Tensor, class_logits_bsk: tf.Tensor
) -> Similarity:
  """Compares all true masks with all slots (losses of Wang et al. 2021, eq. 9).

  Args:
    gt: the true masks.
    mask_logits_bps: [B, P, N] float32.
    class_logits_bsk: [B, N, K + 1] float32, void last.
  """
  mask_bps = tf.nn.softmax(tf.stop_gradient(mask_logits_bps))
  labelled_bp1 = tf.cast(gt.is_labelled_bp, tf.float32)[:, :, tf.newaxis]
  on_labelled_bps = mask_bps * labelled_bp1
  size_bs = tf.reduce_sum(on_labelled_bps, axis=1)
  whole_size_bs = tf.reduce_sum(mask_bps, axis=1)
  rows_bpr = tf.one_hot(gt.row_bp, gt.num_rows)
  shared_brs = tf.matmul(rows_bpr, on_labelled_bps, transpose_a=True)
  mean_size_brs = 0.5 * (gt.area_br[:, :, tf.newaxis] + size_bs[:, tf.newaxis])
  class_bsk = tf.nn.softmax(tf.stop_gradient(class_logits_bsk))
  row_class_brk = tf.one_hot(gt.channel_br, class_bsk.shape[2])
  return Similarity(
    dice_brs=shared_brs / (mean_size_brs + _EPSILON),
    class_brs=tf.matmul(row_class_brk, class_bsk, transpose_b=True),
    void_fraction_bs=(whole_size_bs - size_bs) / (whole_size_bs + _EPSILON),
  )


def match(gt: GroundTruth, fit: Similarity, num_classes: int) -> Matching:
  """Matches the valid rows to distinct slots of the largest total dice * class similarity.

  If there are more valid rows than slots, some rows stay without a slot: they and their pixels
  then take no part in the losses.

  Args:
    gt: the true masks.
    fit: their similarity with the slots.
    num_classes: K.
  """
  slot_of_row_br = assignment.assign(-fit.dice_brs * fit.class_brs, gt.is_valid_br)
  num_slots = fit.void_fraction_bs.shape[1]
  matched_brs = tf.one_hot(slot_of_row_br, num_slots)
  is_matched_bs = tf.reduce_any(matched_brs > 0.0, axis=1)

  def of_slot(values_brs):
    return tf.reduce_sum(values_brs * matched_brs, axis=1)

  channel_bs = tf.reduce_sum(
    tf.cast(matched_brs, tf.int32) * gt.channel_br[:, :, tf.newaxis], axis=1
  )
  class_target_bsk = tf.one_hot(tf.where(is_matched_bs, channel_bs, num_classes), num_classes + 1)
  weight_bs = tf.where(is_matched_bs, of_slot(fit.dice_brs), fit.void_fraction_bs)
  dice_weight_bs = tf.where(is_matched_bs, tf.maximum(of_slot(fit.class_brs), MIN_WEIGHT), 0.0)
  slot_bp = tf.where(
    gt.has_mask_bp, tf.gather(slot_of_row_br, tf.maximum(gt.row_bp, 0), batch_dims=1), -1
  )
  return Matching(
    slot_of_row_br,
    is_matched_bs,
    slot_bp,
    class_target_bsk,
    tf.maximum(weight_bs, MIN_WEIGHT),
    dice_weight_bs,
  )
