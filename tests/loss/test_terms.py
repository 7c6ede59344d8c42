"""Single terms against DeepLab2's base losses (losses_base.npz) and hand calculations."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.loss import terms

_IGNORE = 255


@pytest.mark.parametrize('fraction', [1.0, 0.5, 0.2])
def test_cross_entropy_of_the_hardest_pixels(fraction, golden):
  stored = golden('losses_base')
  logits = tf.Variable(stored['ce_logits'].reshape(len(stored['ce_logits']), -1, 5))
  # Labels of 33x33 meet logits of 9x9 at every fourth pixel.
  label, weight = (
    stored[key][:, ::4, ::4].reshape(logits.shape[:2]) for key in ('ce_gt', 'ce_weight')
  )
  weight = weight * (label != _IGNORE)
  with tf.GradientTape() as tape:
    value = terms.semantic_cross_entropy(
      tf.constant(label, tf.int32), tf.constant(weight, tf.float32), logits, fraction
    )
    total = tf.reduce_sum(value)
  np.testing.assert_allclose(value, stored[f'ce_topk{fraction}'], rtol=1e-5, atol=1e-6)
  wanted = stored[f'ce_topk{fraction}_grad'].reshape(logits.shape)
  np.testing.assert_allclose(
    tape.gradient(total, logits), wanted, rtol=0, atol=2e-5 * np.abs(wanted).max()
  )


def test_mean_leaves_exact_zeros_out():
  values = tf.constant([[0.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
  np.testing.assert_array_equal(terms.mean_of_nonzero(values), [3.0, 0.0])


def test_dice_by_hand():
  # Slot 0: q = (.5, .5), y = (1, 0): 1 - (2 * .5 + 1) / (1 + 1 + 1) = 1/3. Slot 1 the same.
  # Pixel 2 has no true mask and does not count.
  gt = tf.constant([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
  mask = tf.fill([1, 3, 2], 0.5)
  value = terms.dice_term(gt, tf.constant([[1.0, 0.5]]), mask)
  assert value.numpy()[0] == pytest.approx(0.75 / 2 * (1.0 + 0.5) / 3)


def test_gradient_is_right_for_targets_that_do_not_sum_to_1():
  logits = tf.Variable([[[0.3, -1.2, 0.5]]])
  target = tf.constant([[[1.0, 0.4, 0.0]]])
  with tf.GradientTape() as tape:
    value = tf.reduce_sum(terms.cross_entropy(target, logits))
  wanted = 1.4 * tf.nn.softmax(logits) - target
  np.testing.assert_allclose(tape.gradient(value, logits), wanted, rtol=1e-5)
