"""Activations against their formulas; statistics of drop path."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model.layers import activations


def test_hard_swish():
  x = tf.constant([-4.0, -3.0, -1.0, 0.0, 1.0, 3.0, 4.0])
  np.testing.assert_allclose(
    activations.hard_swish(x), [0, 0, -2 / 6, 0, 4 / 6, 3, 4], rtol=1e-6, atol=1e-7
  )


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
  residual = tf.ones([4000, 2, 3])
  dropped = activations.drop_path(residual, 0.8, training=True).numpy()
  assert (dropped == dropped[:, :1, :1]).all()
  np.testing.assert_allclose(np.unique(dropped), [0, 1.25], rtol=1e-6)
  # 4000 samples: 5 standard deviations of the rate are 0.03.
  assert (dropped[:, 0, 0] > 0).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize('keep_prob, training', [(0.5, False), (1.0, True)])
def test_drop_path_off(keep_prob, training):
  residual = tf.random.normal([3, 4])
  assert activations.drop_path(residual, keep_prob, training) is residual


def test_dropout_keeps_the_mean_and_drops_single_values():
  x = tf.fill([4, 50, 50, 2], 3.0)
  dropped = activations.dropout(x, 0.25, True).numpy()
  np.testing.assert_allclose(np.unique(dropped), [0.0, 4.0], rtol=1e-6)
  assert abs((dropped == 0).mean() - 0.25) < 0.02
  assert activations.dropout(x, 0.25, False) is x and activations.dropout(x, 0.0, True) is x
