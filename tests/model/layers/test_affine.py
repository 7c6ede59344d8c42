"""Linear operations with a bias."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model.layers import affine


@pytest.mark.parametrize('spatial_rank', [0, 1, 2])
def test_projection_is_a_matrix_product(spatial_rank):
  x = np.random.RandomState(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
  projection = affine.Projection(
    3, spatial_rank=spatial_rank, activation=tf.nn.relu, kernel_initializer='he_normal'
  )
  projection(x)
  projection.bias.assign([1.0, 2.0, 3.0])
  assert projection.kernel.shape == (1,) * spatial_rank + (6, 3)
  expected = np.maximum(x @ projection.kernel.numpy().reshape(6, 3) + [1, 2, 3], 0)
  np.testing.assert_allclose(projection(x), expected, atol=1e-5)
