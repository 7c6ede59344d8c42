"""Squeeze-and-excite by hand, and in half precision; its goldens are those of backbones."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab2.model.layers import squeeze_excite

_BY_HAND = {
  'SIGMOID': lambda x: 1 / (1 + np.exp(-x)),
  'HARD_SIGMOID': lambda x: np.clip(x + 3, 0, 6) / 6,
}


def _layer(gate='SIGMOID'):
  return squeeze_excite.SqueezeExcite(
    2,
    3,
    activation=tf.nn.relu,
    initializer=tf_keras.initializers.HeNormal,
    gate=squeeze_excite.GATES[gate],
  )


@pytest.mark.parametrize('gate', list(squeeze_excite.GATES))
def test_by_hand(gate):
  layer = _layer(gate)
  x = np.random.RandomState(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
  result = layer(x)
  hidden = np.maximum(x.mean((1, 2)) @ layer.reduce.kernel.numpy()[0, 0], 0)
  factors = _BY_HAND[gate](hidden @ layer.expand.kernel.numpy()[0, 0])
  np.testing.assert_allclose(result, x * factors[:, np.newaxis, np.newaxis], atol=1e-5)


def test_the_mean_of_a_large_map_fits_into_float16():
  tf_keras.mixed_precision.set_global_policy('mixed_float16')
  try:
    gated = _layer()(tf.ones([1, 300, 300, 3], tf.float16))
  finally:
    tf_keras.mixed_precision.set_global_policy('float32')
  assert gated.dtype == tf.float16 and np.isfinite(gated).all()
