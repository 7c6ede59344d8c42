"""The terms of the loss: pure functions, tensors in, one float32 number per image out.

Axes: b image, p pixel, s slot, k class channel, n any. Masks are in slot order: the ground truth of
slot s is the mask of the row that it is matched with.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab2.loss import sampling as sampling_lib

# Weight of matched slots in the class term; void slots get the rest (Wang et al. 2021, sec. 3.2).
POSITIVE_FRACTION = 0.75
_SMOOTH = 1.0


class Weighting(NamedTuple):
  """Weight and pixels of a term. Terms that do not look at pixels ignore the last two."""

  weight: float = 1.0  # 0 reports zeros and computes nothing.
  top_k: float = 1.0  # Fraction of the hardest pixels that count.
  sampling: sampling_lib.Sampling = sampling_lib.ALL_PIXELS  # Pixels that are looked at.


def mean_of_nonzero(values_bn: tf.Tensor) -> tf.Tensor:
  """Returns the mean [B] over the elements that are not exactly 0; 0 if all are."""
  count_b = tf.reduce_sum(tf.cast(values_bn != 0.0, tf.float32), axis=1)
  return tf.math.divide_no_nan(tf.reduce_sum(values_bn, axis=1), count_b)


def top_k_mean(values_bn: tf.Tensor, fraction: float) -> tf.Tensor:
  """Returns `mean_of_nonzero` of the largest `fraction` of the elements, at least of one."""
  if fraction < 1.0:
    count = max(1, round(fraction * values_bn.shape[1]))
    values_bn = tf.math.top_k(values_bn, count, sorted=False).values
  return mean_of_nonzero(values_bn)


def cross_entropy(target_bnk: tf.Tensor, logits_bnk: tf.Tensor) -> tf.Tensor:
  """Returns -sum_k target_k log softmax(logits)_k, [B, n].

  Written out: TensorFlow's fused op has a wrong gradient where targets do not sum to 1.
  """
  return -tf.reduce_sum(target_bnk * tf.nn.log_softmax(logits_bnk), axis=-1)


def class_term(
  target_bsk: tf.Tensor, weight_bs: tf.Tensor, is_matched_bs: tf.Tensor, class_logits_bsk: tf.Tensor
) -> tf.Tensor:
  """The class part of the PQ-style loss (Wang et al. 2021, eq. 10-12), [B].

  mean over slots of a_s w_s CE(t_s, c_s), a = 0.75 for matched and 0.25 for void slots.

  Args:
    target_bsk: [B, N, K + 1] class targets, void last.
    weight_bs: [B, N] weight of each slot: mask similarity where matched.
    is_matched_bs: [B, N] bool.
    class_logits_bsk: [B, N, K + 1].
  """
  balance_bs = tf.where(is_matched_bs, POSITIVE_FRACTION, 1.0 - POSITIVE_FRACTION)
  return mean_of_nonzero(balance_bs * weight_bs * cross_entropy(target_bsk, class_logits_bsk))


def dice_term(gt_mask_bps: tf.Tensor, weight_bs: tf.Tensor, mask_bps: tf.Tensor) -> tf.Tensor:
  """The mask part of the PQ-style loss (Wang et al. 2021, eq. 10), [B].

  (0.75 / N) sum_s w_s (1 - (2 sum_p q y + 1) / (sum_p q + sum_p y + 1)), q the predicted mask
  on the pixels that have a true one.

  Args:
    gt_mask_bps: [B, P, N] true mask of each slot, 0 or 1.
    weight_bs: [B, N] weight of each slot, 0 where it has no true mask.
    mask_bps: [B, P, N] predicted masks in [0, 1].
  """
  has_mask_bp1 = tf.reduce_sum(gt_mask_bps, axis=2, keepdims=True)
  shared_bs = tf.reduce_sum(mask_bps * gt_mask_bps, axis=1)
  sizes_bs = tf.reduce_sum(mask_bps * has_mask_bp1 + gt_mask_bps, axis=1)
  dice_bs = (2.0 * shared_bs + _SMOOTH) / (sizes_bs + _SMOOTH)
  return POSITIVE_FRACTION * tf.reduce_mean(weight_bs * (1.0 - dice_bs), axis=1)


def mask_id_cross_entropy(
  gt_mask_bps: tf.Tensor, log_mask_bps: tf.Tensor, top_k: float = 1.0
) -> tf.Tensor:
  """Cross entropy over slots at every pixel that has a true mask (Wang et al. 2021, sec. 3.4), [B].

  Args:
    gt_mask_bps: [B, P, N] true mask of each slot, 0 or 1.
    log_mask_bps: [B, P, N] log-softmax of the mask logits over slots.
    top_k: fraction of the hardest pixels that count.
  """
  return top_k_mean(-tf.reduce_sum(gt_mask_bps * log_mask_bps, axis=2), top_k)


def mask_id_binary_cross_entropy(
  gt_mask_bps: tf.Tensor,
  is_matched_bs: tf.Tensor,
  mask_logits_bps: tf.Tensor,
  all_slots: bool = False,
) -> tf.Tensor:
  """Binary cross entropy of sigmoid masks, in the place of the mask-id cross entropy, [B].

  Mean over the pixels that have a true mask, of the sum over slots divided by the number of matched
  slots; 0 where there are none.

  Args:
    gt_mask_bps: [B, P, N] true mask of each slot, 0 or 1.
    is_matched_bs: [B, N] bool, slots that have a true mask.
    mask_logits_bps: [B, P, N].
    all_slots: whether slots without a match are in the sum, whose true masks are empty (Sun et al.
      2023, sec. 3.1, sums over all masks), or matched slots alone.
  """
  has_mask_bp1 = tf.reduce_sum(gt_mask_bps, axis=2, keepdims=True)
  entropy_bps = tf.nn.sigmoid_cross_entropy_with_logits(gt_mask_bps, mask_logits_bps)
  entropy_bs = tf.reduce_sum(has_mask_bp1 * entropy_bps, axis=1)
  is_matched_bs = tf.cast(is_matched_bs, tf.float32)
  num_pixels_b = tf.maximum(tf.reduce_sum(has_mask_bp1, axis=[1, 2]), 1.0)
  scored_bs = entropy_bs if all_slots else entropy_bs * is_matched_bs
  return tf.math.divide_no_nan(
    tf.reduce_sum(scored_bs, axis=1),
    num_pixels_b * tf.reduce_sum(is_matched_bs, axis=1),
  )


def semantic_cross_entropy(
  label_bn: tf.Tensor, weight_bn: tf.Tensor, logits_bnk: tf.Tensor, top_k: float = 1.0
) -> tf.Tensor:
  """Weighted cross entropy of semantic logits, [B].

  Args:
    label_bn: [B, n] int32 channel of each pixel; ids that are no channel count nothing.
    weight_bn: [B, n] float32, 0 on the ignore label.
    logits_bnk: [B, n, channels].
    top_k: fraction of the hardest pixels that count.
  """
  target_bnk = tf.one_hot(label_bn, logits_bnk.shape[-1])
  return top_k_mean(weight_bn * cross_entropy(target_bnk, logits_bnk), top_k)


def semantic_binary_cross_entropy(
  label_bn: tf.Tensor,
  weight_bn: tf.Tensor,
  logits_bnk: tf.Tensor,
  top_k: float = 1.0,
  *,
  class_order: Sequence[int],
) -> tf.Tensor:
  """Weighted sum over the real classes of binary cross entropies of semantic logits, [B].

  Args:
    label_bn: [B, n] int32 dataset id of each pixel.
    weight_bn: [B, n] float32, 0 on the ignore label.
    logits_bnk: [B, n, channels].
    top_k: fraction of the hardest pixels that count.
    class_order: channels of the real classes; the others have no target and no loss.
  """
  target_bnk = tf.gather(tf.one_hot(label_bn, logits_bnk.shape[-1]), class_order, axis=-1)
  logits_bnk = tf.gather(logits_bnk, class_order, axis=-1)
  entropy_bn = tf.reduce_sum(
    tf.nn.sigmoid_cross_entropy_with_logits(target_bnk, logits_bnk), axis=-1
  )
  return top_k_mean(weight_bn * entropy_bn, top_k)
