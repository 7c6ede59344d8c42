"""The masks that hold each pixel: both forms against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.kernels import members


@pytest.mark.parametrize('threshold', [1e-6, 0.02, 0.4, 0.5, 0.7, 1.0])
@pytest.mark.parametrize('spread', [0.0, 1.0, 20.0])
def test_equal_to_numpy(each_form, threshold, spread):
  """Also where all logits are equal, so that the first mask is the strongest."""
  generator = np.random.default_rng(0)
  logits = (spread * generator.normal(size=(7, 9, 5))).astype(np.float32)
  weights = 2.0 ** np.arange(10).reshape(5, 2).astype(np.float32)
  winner, probability, sums = tf.function(members.members)(
    tf.constant(logits), threshold, tf.constant(weights)
  )
  exact = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
  exact /= exact.sum(-1, keepdims=True)
  np.testing.assert_array_equal(winner, logits.argmax(-1))
  np.testing.assert_allclose(probability, exact.max(-1), rtol=1e-6)
  np.testing.assert_array_equal(sums, (exact.astype(np.float32) > np.float32(threshold)) @ weights)
