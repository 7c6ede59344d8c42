"""Atrous spatial pyramid pooling; its goldens are those of the semantic branch."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model.layers import aspp
from tests.model import builders


def test_dropout_of_the_pyramid_in_training_only():
  pyramid = aspp.ASPP(64, (6, 12, 18), norm=builders.NORM, dropout=0.5)
  x = tf.random.normal([2, 5, 5, 8])
  pyramid(x)
  zeros = np.mean(pyramid(x, training=True) == 0.0)
  assert 0.4 < zeros < 0.6
  assert not np.any(pyramid(x) == 0.0)


def test_another_number_of_rates():
  with pytest.raises(ValueError, match='three atrous rates'):
    aspp.ASPP(8, (6, 12), norm=builders.NORM)
