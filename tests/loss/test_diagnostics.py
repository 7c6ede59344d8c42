"""Diagnostics by hand: one image of four pixels, three slots, two classes."""

import math

import numpy as np
import tensorflow as tf

from deeplab2.loss import diagnostics
from deeplab2.loss import ground_truth
from deeplab2.loss import mask_activation
from deeplab2.loss import matching

ORDER = (2, 1)
# Pixels: two of slot 0's mask (class 2), one of slot 2's (class 1), one crowd pixel of class 2.
MATCHED = matching.Matching(
  slot_of_row_br=tf.constant([[0, 2]]),
  is_matched_bs=tf.constant([[True, False, True]]),
  slot_bp=tf.constant([[0, 0, 2, -1]]),
  class_target_bsk=tf.constant([[[1.0, 0, 0], [0, 0, 1], [0, 1, 0]]]),
  class_weight_bs=tf.constant([[0.5, 0.9, 0.25]]),
  dice_weight_bs=tf.constant([[1.0, 0.0, 1.0]]),
)
GT = ground_truth.GroundTruth(
  semantic_bp=tf.constant([[2, 2, 1, 2]]),
  is_labelled_bp=tf.constant([[True] * 4]),
  is_instance_bp=tf.constant([[True, True, False, False]]),
  row_bp=tf.constant([[0, 0, 1, -1]]),
  area_br=tf.constant([[2.0, 1.0]]),
  channel_br=tf.constant([[0, 1]]),
)
NOTHING = MATCHED._replace(
  is_matched_bs=tf.constant([[False] * 3]),
  slot_bp=tf.constant([[-1] * 4]),
  class_target_bsk=tf.constant([[[0.0, 0, 1]] * 3]),
)


def test_false_positives_and_negatives():
  logits = tf.constant([[[2.0, 9, -1], [-1, 9, 0.5], [0.5, 9, 3], [9, 9, 9]]])
  found = diagnostics.mask_errors(MATCHED, *mask_activation.SIGMOID.log_masks(logits))
  softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
  # Slot 0 is wrong on pixel 2, slot 2 on pixels 0 and 1; 3 pixels with masks, 2 matched slots.
  positive = (softplus(0.5) + softplus(-1) + softplus(0.5)) / 6
  negative = (softplus(-2) + softplus(1) + softplus(-3)) / 6
  np.testing.assert_allclose(found['mask_fp'], [[positive], [1]], rtol=1e-6)
  np.testing.assert_allclose(found['mask_fn'], [[negative], [1]], rtol=1e-6)
  np.testing.assert_allclose(found['mask_fp_fn_ratio'], [[positive], [negative]], rtol=1e-6)
  # Slot 1 has no match: it is wrong on all 3 pixels with masks.
  everything = positive + 3 * softplus(9) / 6
  np.testing.assert_allclose(found['all_slots_fp_fn_ratio'], [[everything], [negative]], rtol=1e-6)


def test_ratio_of_all_slots_at_the_start_of_training():
  found = diagnostics.mask_errors(MATCHED, *mask_activation.SIGMOID.log_masks(tf.zeros([1, 4, 3])))
  positive, negative = found['all_slots_fp_fn_ratio']
  np.testing.assert_allclose(positive / negative, [3 - 1], rtol=1e-6)


def test_softmax_masks_that_are_sure_and_wrong_stay_finite():
  log_mask, log_rest = mask_activation.SOFTMAX.log_masks(tf.constant([[[1e4, 0.0], [0.0, 0.0]]]))
  np.testing.assert_allclose(log_mask, [[[0, -1e4], [-math.log(2)] * 2]], rtol=1e-6)
  assert -17 < log_rest[0, 0, 0] < -15
  np.testing.assert_allclose(log_rest[0, :, 1], [0.0, -math.log(2)], atol=1e-6)


def test_gates_on_the_same_and_on_other_classes():
  gate = tf.constant([[[1.0, 9, 2], [3, 9, 4], [5, 9, 6], [7, 9, 8]]])
  found = diagnostics.gates(gate, GT, MATCHED, ORDER)
  # Crowd has a class, though no mask.
  np.testing.assert_allclose(found['gate_same_class'], [[1 + 3 + 7 + 6], [4]])
  np.testing.assert_allclose(found['gate_other_class'], [[5 + 2 + 4 + 8], [4]])


def test_relaxed_targets():
  soft = tf.constant([[[1.0, 0.05, 0], [0, 0.9, 1], [0.001, 1, 0]]])
  found = diagnostics.relaxed_targets(MATCHED.class_target_bsk, soft, MATCHED)
  np.testing.assert_allclose(found['reclass_relaxed_fraction'], [[1], [2]])
  np.testing.assert_allclose(found['reclass_added_mass'], [[0.051], [2]], rtol=1e-6)


def test_matched_dice():
  np.testing.assert_allclose(diagnostics.matched_dice(MATCHED), [[0.75], [2]])


def test_images_without_masks_have_nothing_to_measure():
  found = {
    'dice': diagnostics.matched_dice(NOTHING),
    **diagnostics.mask_errors(NOTHING, tf.zeros([1, 4, 3]), tf.zeros([1, 4, 3])),
    **diagnostics.gates(tf.ones([1, 4, 3]), GT, NOTHING, ORDER),
    **diagnostics.relaxed_targets(NOTHING.class_target_bsk, NOTHING.class_target_bsk, NOTHING),
  }
  for name, ratio in found.items():
    np.testing.assert_array_equal(ratio, [[0], [0]], err_msg=name)


def test_segments_beyond_the_slots():
  # Of the first image, three valid rows and one without pixels; of the second, one.
  gt = GT._replace(channel_br=tf.constant([[0, 1, 0, -1], [-1, -1, 1, -1]]))
  matched = MATCHED._replace(slot_of_row_br=tf.constant([[-1, 0, -1, -1], [-1, -1, 2, -1]]))
  found = diagnostics.beyond_slots(gt, matched)
  np.testing.assert_array_equal(found['unmatched_segments'], [[2, 0], [1, 1]])
  np.testing.assert_array_equal(found['images_beyond_slots'], [[1, 0], [1, 1]])
