"""Quantities to watch in a run in addition to its losses. No gradient passes anything here."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab2.loss import ground_truth
from deeplab2.loss import matching

# Added mass of a class target from which on the target counts as relaxed.
NOTICEABLE_MASS = 0.01


class Ratio(NamedTuple):
  """A quantity of each image as a fraction, so that means over images can be weighted.

  The value over many images is sum of numerators / sum of denominators, and does not exist where
  the latter is 0.
  """

  numerator: tf.Tensor  # float32 [B]
  denominator: tf.Tensor  # float32 [B]


def mask_errors(
  matched: matching.Matching, log_mask_bps: tf.Tensor, log_rest_bps: tf.Tensor
) -> dict[str, Ratio]:
  """Splits the binary cross entropy of matched slots' masks into false positives and negatives.

  Args:
    matched: the match.
    log_mask_bps: [B, P, N] log q of the predicted masks q.
    log_rest_bps: [B, P, N] log(1 - q).

  Returns:
    `mask_fp` and `mask_fn`, each per pixel with a true mask and matched slot and averaged over the
    images that have any, and `mask_fp_fn_ratio`, the quotient of these means. And
    `all_slots_fp_fn_ratio`, where slots without a match, whose whole mask is wrong, count among the
    false positives as well: N - 1 for N masks of probability 1/2.
  """
  gt_mask_bps = matched.one_hot_bps
  has_mask_bp1 = tf.reduce_sum(gt_mask_bps, axis=2, keepdims=True)
  is_matched_bs = tf.cast(matched.is_matched_bs, tf.float32)
  false_bs = tf.reduce_sum((has_mask_bp1 - gt_mask_bps) * log_rest_bps, axis=1)
  missed_bs = tf.reduce_sum(gt_mask_bps * log_mask_bps, axis=1)
  count_b = tf.reduce_sum(has_mask_bp1, axis=[1, 2]) * tf.reduce_sum(is_matched_bs, axis=1)
  positive_b, negative_b = (
    -tf.math.divide_no_nan(tf.reduce_sum(error_bs * is_matched_bs, axis=1), count_b)
    for error_bs in (false_bs, missed_bs)
  )
  of_all_slots_b = -tf.math.divide_no_nan(tf.reduce_sum(false_bs, axis=1), count_b)
  has_any_b = tf.cast(count_b > 0.0, tf.float32)
  return {
    'mask_fp': Ratio(positive_b, has_any_b),
    'mask_fn': Ratio(negative_b, has_any_b),
    'mask_fp_fn_ratio': Ratio(positive_b, negative_b),
    'all_slots_fp_fn_ratio': Ratio(of_all_slots_b, negative_b),
  }


def matched_dice(matched: matching.Matching) -> Ratio:
  """Returns the mean dice of matched masks and their truth."""
  is_matched_bs = tf.cast(matched.is_matched_bs, tf.float32)
  return Ratio(
    tf.reduce_sum(matched.class_weight_bs * is_matched_bs, axis=1),
    tf.reduce_sum(is_matched_bs, axis=1),
  )


def beyond_slots(gt: ground_truth.GroundTruth, matched: matching.Matching) -> dict[str, Ratio]:
  """Returns the number of ground-truth masks of each image that got no mask slot.

  `unmatched_segments` is the number of ground-truth masks without a slot, and
  `images_beyond_slots` whether there are any.
  """
  unmatched_br = gt.is_valid_br & (matched.slot_of_row_br < 0)
  count_b = tf.reduce_sum(tf.cast(unmatched_br, tf.float32), axis=1)
  return {
    'unmatched_segments': Ratio(count_b, tf.ones_like(count_b)),
    'images_beyond_slots': Ratio(tf.cast(count_b > 0.0, tf.float32), tf.ones_like(count_b)),
  }


def gates(
  gate_bps: tf.Tensor,
  gt: ground_truth.GroundTruth,
  matched: matching.Matching,
  class_order: Sequence[int],
) -> dict[str, Ratio]:
  """Returns the mean gates of matched slots on pixels of their own class and of other classes.

  Args:
    gate_bps: [B, P, N].
    gt: the labels; pixels without a class count nowhere.
    matched: the match, which says the classes of slots.
    class_order: dataset id of each class channel.
  """
  channel_bp = ground_truth.positions(gt.semantic_bp, class_order)
  class_bpk = tf.one_hot(channel_bp, len(class_order))
  # Slots without a match have an all-zero row here.
  class_bsk = matched.class_target_bsk[..., :-1]
  same_bps = tf.matmul(class_bpk, class_bsk, transpose_b=True)
  is_matched_bs = tf.cast(matched.is_matched_bs, tf.float32)
  other_bps = (
    tf.cast(channel_bp >= 0, tf.float32)[..., tf.newaxis] * is_matched_bs[:, tf.newaxis] - same_bps
  )
  return {
    name: Ratio(
      tf.reduce_sum(gate_bps * where_bps, axis=[1, 2]), tf.reduce_sum(where_bps, axis=[1, 2])
    )
    for name, where_bps in (('gate_same_class', same_bps), ('gate_other_class', other_bps))
  }


def relaxed_targets(
  hard_bsk: tf.Tensor, soft_bsk: tf.Tensor, matched: matching.Matching
) -> dict[str, Ratio]:
  """Returns which fraction of matched slots has a relaxed target, and the mean mass added to it."""
  is_matched_bs = tf.cast(matched.is_matched_bs, tf.float32)
  mass_bs = tf.reduce_sum(tf.maximum(soft_bsk - hard_bsk, 0.0), axis=-1) * is_matched_bs
  count_b = tf.reduce_sum(is_matched_bs, axis=1)
  relaxed_bs = tf.cast(mass_bs > NOTICEABLE_MASS, tf.float32)
  return {
    'reclass_relaxed_fraction': Ratio(tf.reduce_sum(relaxed_bs, axis=1), count_b),
    'reclass_added_mass': Ratio(tf.reduce_sum(mass_bs, axis=1), count_b),
  }
