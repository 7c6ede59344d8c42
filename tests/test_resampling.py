"""Corner-aligned resizing, by hand and against numpy's interpolation."""

import numpy as np
import pytest

from deeplab2 import resampling


def _by_hand(image_hwc, size):
  for axis, side in enumerate(size):
    samples = np.linspace(0, image_hwc.shape[axis] - 1, side)
    known = np.arange(image_hwc.shape[axis])
    image_hwc = np.apply_along_axis(
      lambda line, s=samples, k=known: np.interp(s, k, line), axis, image_hwc
    )
  return image_hwc


@pytest.mark.parametrize('size', [(33, 65), (9, 17), (21, 12), (5, 4), (9, 3)])
def test_resizing_keeps_corners_on_corners(size):
  image = np.random.default_rng(0).normal(size=(9, 17, 3)).astype(np.float32)
  resized = resampling.resize_bilinear(image[None], size)
  np.testing.assert_allclose(resized[0], _by_hand(image, size), atol=1e-5)


def test_subsample_takes_the_nested_grid():
  labels = np.arange(33 * 65).reshape(1, 33, 65)
  np.testing.assert_array_equal(resampling.subsample(labels, (9, 17)), labels[:, ::4, ::4])
  with pytest.raises(ValueError, match='33x65 cannot be brought to 9x9'):
    resampling.subsample(labels, (9, 9))
