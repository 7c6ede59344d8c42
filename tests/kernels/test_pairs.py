"""Log-sum-exp over all pairs against float64; more in tests/loss/test_contrast.py."""

import numpy as np
import pytest
from scipy import special
import tensorflow as tf

from deeplab2 import kernels
from deeplab2.kernels import pairs


def _mean(loss_nk, weight_nk):
  return tf.reduce_sum(weight_nk * loss_nk, axis=1)


@pytest.mark.usefixtures('each_form')
def test_value_and_gradient_by_hand():
  generator = np.random.default_rng(0)
  feature = generator.normal(size=(2, 30, 3)) / 2
  pull, weight = generator.normal(size=(2, 2, 30))
  arguments = [tf.constant(part, tf.float32) for part in (feature, pull)]
  with tf.GradientTape() as tape:
    tape.watch(arguments)
    value = pairs.mean_contrast(*arguments, 0.5, _mean, tf.constant(weight, tf.float32))
    total = tf.reduce_sum(value * [1.0, 3.0])
  of_feature, of_pull = tape.gradient(total, arguments)
  product = np.einsum('bid,bjd->bij', feature, feature) / 0.5
  np.testing.assert_allclose(
    value, (weight * (special.logsumexp(product, axis=2) - pull)).sum(axis=1), rtol=1e-5
  )
  weight *= np.array([[1.0], [3.0]])
  np.testing.assert_allclose(of_pull, -weight, rtol=1e-6)
  slope = weight[:, :, np.newaxis] * special.softmax(product, axis=2)
  slope += slope.transpose(0, 2, 1)
  np.testing.assert_allclose(of_feature, slope @ feature / 0.5, rtol=1e-4, atol=1e-5)


def test_products_beyond_float32_do_not_pass_as_numbers_in_the_tuned_form():
  feature = tf.fill([1, 5, 3], 20.0)
  with kernels.use('tuned'):
    value = pairs.mean_contrast(feature, tf.zeros([1, 5]), 0.3, _mean, tf.ones([1, 5]))
  assert not np.isfinite(value.numpy()).any()
