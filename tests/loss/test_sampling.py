"""How often pixels are drawn, against 40,000 draws of DeepLab2."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import randomness
from deeplab2.loss import contrast
from deeplab2.loss import ground_truth
from deeplab2.loss import sampling
from tests.loss import cases

_DRAWS = 4000


@pytest.mark.parametrize('temperature', [0.6, 1.5, 2.0])
def test_first_draw_prefers_masks_as_the_temperature_says(temperature, golden):
  inputs = cases.inputs('wide')
  gt = ground_truth.prepare(inputs.targets, (9, 9), inputs.space)
  probability = tf.nn.softmax(sampling.logits(gt, temperature)).numpy()
  # Images 2 (nothing annotated) and 3 (crowd) follow another rule here.
  wanted = golden('losses_sampling')[f'first_draw_prob_T{temperature}'][:2]
  np.testing.assert_allclose(probability[:2], wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('temperature', [0.6, 2.0])
def test_inclusion_frequencies(temperature, golden):
  inputs = cases.inputs('wide')
  gt = ground_truth.prepare(inputs.targets, (9, 9), inputs.space)
  wanted = golden('losses_sampling')[f'inclusion_T{temperature}_k24']

  @tf.function
  def count():
    def draw(total, _):
      index = sampling.draw(gt, sampling.Sampling(24, temperature))
      return total + tf.reduce_sum(tf.one_hot(index, 81), axis=1)

    return tf.scan(draw, tf.range(_DRAWS), tf.zeros([4, 81]))[-1]

  found = count().numpy()[:2] / _DRAWS
  # Five standard errors of both estimates, and of one count more or less.
  error = np.sqrt(wanted * (1 - wanted) * (1 / _DRAWS + 1 / 40000)) + 1 / _DRAWS
  assert (np.abs(found - wanted) < 5 * error).all()


@pytest.mark.parametrize('name', cases.CASES)
def test_drawn_pixels(name, golden):
  """With DeepLab2's noise, its pixels, in its order."""
  inputs, stored = cases.inputs(name), golden(f'losses_case_{name}')
  gt = ground_truth.prepare(inputs.targets, (9, 9), inputs.space)
  logits = sampling.logits(gt, 1.5).numpy()
  # Image 2 has no mask to prefer, and DeepLab2 draws the crowd of image 3 first.
  np.testing.assert_allclose(logits[:3], stored['b_sample_logits_0'][:3], rtol=1e-5, atol=0.02)
  with randomness.use(inputs.draws()):
    for call in range(inputs.case.num_aux + 1):
      index = sampling.draw(gt, sampling.Sampling(24, 1.5))
      np.testing.assert_array_equal(index[:2], stored[f'b_sample_indices_{call}'][:2])


@pytest.mark.parametrize('temperature', [0.6, 1.5])
def test_mean_instance_loss_over_draws(temperature, golden):
  """Fresh noise, against the mean and deviation of 3,000 evaluations of DeepLab2."""
  inputs, draws = cases.inputs('wide'), 300
  gt = ground_truth.prepare(inputs.targets, (9, 9), inputs.space)
  feature = tf.reshape(inputs.outputs[0].pixel_feature, [4, 81, -1])

  @tf.function
  def losses():
    def one(_):
      index = sampling.draw(gt, sampling.Sampling(24, temperature))
      return contrast.sampled_pixels(gt, feature, index)

    return tf.map_fn(one, tf.range(draws), fn_output_signature=tf.float32)

  found = losses().numpy()[:, :2]
  stored = golden('losses_sampling')
  mean, deviation = (stored[f'insdis_T{temperature}_k24_{kind}'][:2] for kind in ('mean', 'std'))
  assert (np.abs(found.mean(axis=0) - mean) < 5 * deviation / np.sqrt(draws)).all()
  # The standard error of a deviation is about deviation / sqrt(2 n).
  assert (np.abs(found.std(axis=0) / deviation - 1) < 5 / np.sqrt(2 * draws)).all()


def test_no_more_pixels_than_there_are():
  inputs = cases.inputs('wide')
  gt = ground_truth.prepare(inputs.targets, (9, 9), inputs.space)
  index = sampling.draw(gt, sampling.Sampling(1000, 1.0)).numpy()
  np.testing.assert_array_equal(np.sort(index, axis=1), np.tile(np.arange(81), (4, 1)))
