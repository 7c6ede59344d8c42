"""Ground truth on the grid, similarities and weights against DeepLab2's intermediate numbers."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.loss import diagnostics
from deeplab2.loss import ground_truth
from deeplab2.loss import matching
from deeplab2.loss import panoptic_loss
from tests.loss import cases

_CLOSE = {'rtol': 1e-5, 'atol': 1e-6}


def prepared(name):
  """Returns (Inputs, GroundTruth, Similarity, Matching) of a case."""
  inputs = cases.inputs(name)
  gt = ground_truth.prepare(inputs.targets, (9, 9), inputs.space)
  final = inputs.outputs[0]
  fit = matching.similarity(gt, panoptic_loss.flat(final.mask_logits), final.class_logits)
  return inputs, gt, fit, matching.match(gt, fit, inputs.space.num_real_classes)


@pytest.mark.parametrize('name', cases.CASES)
def test_ground_truth(name, golden):
  inputs, gt, _, _ = prepared(name)
  stored = golden(f'losses_case_{name}')
  np.testing.assert_array_equal(gt.is_labelled_bp, stored['gt_pixel_non_void_mask'] == 1)
  np.testing.assert_array_equal(gt.is_instance_bp, stored['gt_pixel_thing_mask'] == 1)
  np.testing.assert_array_equal(tf.one_hot(gt.row_bp, gt.num_rows), stored['gt_pixel_mask_one_hot'])
  np.testing.assert_array_equal(gt.area_br, stored['gt_mask_area'])
  np.testing.assert_array_equal(gt.is_valid_br, stored['gt_mask_non_void_mask'] == 1)
  order = np.asarray(inputs.space.class_order + (-1,))
  np.testing.assert_array_equal(order[gt.channel_br], stored['gt_mask_semantic_map'])


@pytest.mark.parametrize('name', cases.CASES)
def test_similarities(name, golden):
  _, _, fit, _ = prepared(name)
  stored = golden(f'losses_case_{name}')
  np.testing.assert_allclose(fit.dice_brs, stored['mask_similarity'], **_CLOSE)
  np.testing.assert_allclose(fit.class_brs, stored['class_similarity'], **_CLOSE)
  np.testing.assert_allclose(fit.void_fraction_bs, stored['mask_void_ratio'], **_CLOSE)


@pytest.mark.parametrize('name', cases.CASES)
def test_matching_and_its_weights(name, golden):
  _, gt, _, matched = prepared(name)
  stored = golden(f'losses_case_{name}')
  # In `overflow`, DeepLab2's targets of image 0 are broken (tested in test_panoptic_loss).
  images = slice(1, None) if name == 'overflow' else slice(None)
  num_slots = matched.is_matched_bs.shape[1]
  permutation = tf.one_hot(matched.slot_of_row_br, num_slots).numpy()
  np.testing.assert_array_equal(permutation[images], stored['matched_permutation'][images])
  np.testing.assert_array_equal(matched.class_target_bsk[images], stored['class_one_hot'][images])
  np.testing.assert_allclose(
    matched.class_weight_bs[images], stored['class_weight'][images], **_CLOSE
  )
  # Stored by row; here by slot.
  by_slot = np.einsum('brs,br->bs', permutation, stored['dice_weight'][:, : gt.num_rows])
  np.testing.assert_allclose(matched.dice_weight_bs[images], by_slot[images], **_CLOSE)


def test_label_sizes_that_do_not_fit_the_grid_are_refused():
  inputs = cases.inputs('wide')
  with pytest.raises(ValueError, match='33x33.*10x9'):
    ground_truth.prepare(inputs.targets, (10, 9), inputs.space)


def test_more_slots_take_in_more_segments():
  inputs, gt, _, matched = prepared('overflow')
  found = diagnostics.beyond_slots(gt, matched)
  num_slots = matched.is_matched_bs.shape[1]
  surplus = np.maximum(np.sum(gt.is_valid_br, axis=1) - num_slots, 0)
  assert surplus[0] > 0 and not surplus[1:].any()
  np.testing.assert_array_equal(found['unmatched_segments'].numerator, surplus)
  np.testing.assert_array_equal(found['images_beyond_slots'].numerator, surplus > 0)
  # As many slots as there are rows: nothing is left over.
  final = inputs.outputs[0]
  more = int(surplus[0])
  masks = tf.pad(panoptic_loss.flat(final.mask_logits), [[0, 0], [0, 0], [0, more]])
  classes = tf.pad(tf.convert_to_tensor(final.class_logits), [[0, 0], [0, more], [0, 0]])
  fit = matching.similarity(gt, masks, classes)
  matched = matching.match(gt, fit, inputs.space.num_real_classes)
  found = diagnostics.beyond_slots(gt, matched)
  assert not found['unmatched_segments'].numerator.numpy().any()
