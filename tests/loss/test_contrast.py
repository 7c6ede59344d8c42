"""Instance discrimination against the plain formula and its automatic gradient."""
import numpy as np
import pytest
import tensorflow as tf

from deeplab2.loss import contrast


def _naive(feature, scale):
  products = scale * tf.matmul(feature, feature, transpose_b=True)
  return tf.reduce_logsumexp(products, axis=2)


@pytest.mark.parametrize('count, norm', [(7, 1.0), (2100, 1.0), (40, 30.0)])
def test_log_sum_exp_and_its_gradient(count, norm):
  random = np.random.RandomState(count)
  feature = random.standard_normal((2, count, 6)).astype(np.float32)
  feature *= norm / np.linalg.norm(feature, axis=2, keepdims=True)
  upstream = random.standard_normal((2, count)).astype(np.float32)
  results = []
  for function in (contrast.log_sum_exp_of_products, _naive):
    x = tf.Variable(feature)
    with tf.GradientTape() as tape:
      value = function(x, 1.0 / 0.3)
      total = tf.reduce_sum(value * upstream)
    results.append((value.numpy(), tape.gradient(total, x).numpy()))
  np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(results[0][1], results[1][1], rtol=0,
                             atol=1e-5 * np.abs(results[1][1]).max())
