"""Squeeze-and-excite by hand, and in half precision; its goldens are those of backbones."""

import numpy as np
import tensorflow as tf
import tf_keras

from deeplab2.model.layers import squeeze_excite


def _layer():
  return squeeze_excite.SqueezeExcite(
    2, 3, activation=tf.nn.relu, initializer=tf_keras.initializers.HeNormal
  )


def test_by_hand():
  layer = _layer()
  x = np.random.RandomState(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
  result = layer(x)
  hidden = np.maximum(x.mean((1, 2)) @ layer.reduce.kernel.numpy()[0, 0], 0)
  gate = 1 / (1 + np.exp(-hidden @ layer.expand.kernel.numpy()[0, 0]))
  np.testing.assert_allclose(result, x * gate[:, np.newaxis, np.newaxis], atol=1e-5)


def test_the_mean_of_a_large_map_fits_into_float16():
  tf_keras.mixed_precision.set_global_policy('mixed_float16')
  try:
    gated = _layer()(tf.ones([1, 300, 300, 3], tf.float16))
  finally:
    tf_keras.mixed_precision.set_global_policy('float32')
  assert gated.dtype == tf.float16 and np.isfinite(gated).all()
