"""Bands of a resized map against the whole of it."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import resampling
from deeplab2.kernels import bands


@pytest.mark.parametrize(
  'source, size, rows',
  [
    ((9, 9), (33, 33), 8),
    ((9, 9), (33, 33), 5),
    ((9, 9), (33, 65), 100),
    ((9, 17), (9, 17), 3),
    ((5, 9), (33, 33), 4),
    ((9, 9), (30, 21), 4),
    ((9, 9), (13, 9), 3),
    ((1, 1), (7, 5), 2),
  ],
)
def test_the_result_is_that_of_the_whole(source, size, rows, each_form):
  image = np.random.default_rng(0).normal(size=(*source, 3)).astype(np.float32)
  heights = []

  def function(band):
    heights.append(band.shape[0])
    return band, tf.cast(band[..., 0] > 0, tf.int32)

  resized, positive = tf.function(
    lambda: bands.map_resized(function, image, size, (tf.float32, tf.int32), rows)
  )()
  whole = resampling.resize_bilinear(image[None], size)[0]
  np.testing.assert_allclose(resized, whole, atol=1e-6)
  np.testing.assert_array_equal(positive, whole[..., 0] > 0)
  if each_form == 'plain':
    assert heights == [size[0]]
  elif source == (9, 9) and size == (33, 33):
    assert heights[0] == rows - rows % 4, 'bands end where both grids have a sample'
