"""Instance discrimination against the plain formula and its automatic gradient."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.loss import contrast
from deeplab2.loss import ground_truth
from deeplab2.loss import terms
from tests.loss import cases

_CROWD_IMAGE = 3


def _value_and_gradient(function, feature, jit=False):
  """Returns function(feature) [B] and the gradient of a weighted sum of it."""
  x = tf.Variable(feature)

  @tf.function(jit_compile=jit)
  def run():
    with tf.GradientTape() as tape:
      value = function(tf.convert_to_tensor(x))
      total = tf.reduce_sum(value * (1.0 + tf.range(len(feature), dtype=tf.float32)))
    return value, tape.gradient(total, x)

  return run()


def _plain(feature, row, top_k):
  """The k x k cross entropy as it is written, with matrices of targets and logits."""
  logits = tf.matmul(feature, feature, transpose_b=True) / 0.3
  same = tf.cast((row[:, :, None] == row[:, None]) & (row[:, None] >= 0), tf.float32)
  targets = same / tf.maximum(tf.reduce_sum(same, axis=2, keepdims=True), 1.0)
  loss = -tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=2)
  return terms.top_k_mean(loss, top_k)


def _truth(row, num_rows):
  """A GroundTruth of which the sampled loss reads rows only."""
  return ground_truth.GroundTruth(
    *[None] * 3, row_bp=tf.constant(row), area_br=tf.zeros([len(row), num_rows]), channel_br=None
  )


@pytest.mark.usefixtures('each_form')
@pytest.mark.parametrize(
  'count, norm, top_k, jit',
  [(7, 1.0, 1.0, False), (40, 4.0, 0.3, False), (2100, 1.0, 1.0, False), (40, 1.0, 0.3, True)],
)
def test_equals_the_formula_over_all_pairs(count, norm, top_k, jit):
  random = np.random.RandomState(count)
  feature = random.standard_normal((2, count + 3, 6)).astype(np.float32)
  feature *= norm / np.linalg.norm(feature, axis=2, keepdims=True)
  row = random.randint(-1, 4, (2, count + 3)).astype(np.int32)  # -1: no mask
  index = np.stack([random.permutation(count + 3)[:count] for _ in range(2)])

  def sampled(x):
    return contrast.sampled_pixels(_truth(row, 4), x, tf.constant(index), top_k)

  def plain(x):
    drawn = np.take_along_axis(row, index, axis=1)
    return _plain(tf.gather(x, index, batch_dims=1), drawn, top_k)

  value, gradient = _value_and_gradient(sampled, feature, jit)
  wanted, wanted_gradient = _value_and_gradient(plain, feature)
  np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    gradient, wanted_gradient, rtol=0, atol=2e-5 * np.abs(wanted_gradient).max()
  )


@pytest.mark.usefixtures('each_form')
@pytest.mark.parametrize('name', cases.CASES)
def test_deeplab2s_samples_give_its_values(name, golden):
  """Also in the crowd image, where this project would draw other pixels."""
  inputs, stored = cases.inputs(name), golden(f'losses_case_{name}')
  gt = ground_truth.prepare(inputs.targets, (9, 9), inputs.space)
  index = tf.constant(stored['b_sample_indices_0'].astype(np.int32))
  feature = tf.reshape(inputs.outputs[0].pixel_feature, [4, 81, -1]).numpy()
  value, gradient = _value_and_gradient(lambda x: contrast.sampled_pixels(gt, x, index), feature)
  np.testing.assert_allclose(
    value, stored['b_loss_instance_discrimination_loss'], rtol=1e-5, atol=1e-6
  )
  wanted = stored['b_grad_instance_discrimination_loss__feature'].reshape(feature.shape)
  # DeepLab2's gradient is wrong where crowd is drawn: its targets there sum to 0.
  factor = np.arange(1.0, 5.0)[:, None, None]
  np.testing.assert_allclose(
    (gradient / factor)[:_CROWD_IMAGE],
    wanted[:_CROWD_IMAGE],
    rtol=0,
    atol=2e-5 * np.abs(wanted).max(),
  )


@pytest.mark.usefixtures('each_form')
def test_pixels_without_masks_alone_score_nothing():
  feature = np.random.RandomState(0).standard_normal((1, 5, 3)).astype(np.float32)
  row = np.full((1, 5), -1, np.int32)
  value, gradient = _value_and_gradient(
    lambda x: contrast.sampled_pixels(_truth(row, 2), x, tf.range(5)[tf.newaxis]), feature
  )
  assert value.numpy() == [0.0] and not gradient.numpy().any()
