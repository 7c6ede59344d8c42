"""Boundaries of segments against erosion, mask by mask."""

import numpy as np
import pytest
from scipy import ndimage

from deeplab2.metrics import boundaries
from deeplab2.metrics import overlaps


def eroded_boundary(mask):
  """What is left of a mask when it is eroded by a 3 x 3 square as often as the paper says."""
  height, width = mask.shape
  distance = max(1, int(round(0.02 * np.sqrt(height**2 + width**2))))
  framed = np.pad(mask, 1)
  inner = ndimage.binary_erosion(framed, np.ones((3, 3)), iterations=distance, border_value=1)
  return mask & ~inner[1:-1, 1:-1]


@pytest.mark.parametrize('size', [(90, 120), (37, 51), (3, 4), (1, 1), (1, 200), (300, 2)])
def test_equal_to_erosion(size):
  generator = np.random.default_rng(0)
  blocks = generator.integers(0, 5, ((size[0] + 14) // 15, (size[1] + 14) // 15))
  ids = np.kron(blocks, np.ones((15, 15), np.int32))[: size[0], : size[1]]
  ids[generator.uniform(size=size) < 0.002] = 7
  expected = np.zeros(size, bool)
  for value in np.unique(ids):
    expected |= eroded_boundary(ids == value)
  np.testing.assert_array_equal(boundaries.find_boundaries(ids), expected)


def test_width_of_coco_and_of_cityscapes():
  assert boundaries.width((480, 640)) == 16  # 2 % of 800.
  assert boundaries.width((1024, 2048)) == 46
  assert boundaries.width((3, 4)) == 1


def test_iou_of_boundaries_by_hand():
  """Two segments of 2 rows, frame included all boundary; the prediction is one row too low."""
  truth = np.array([[1] * 4, [1] * 4, [2] * 4, [2] * 4])
  prediction = np.array([[1] * 4, [1] * 4, [1] * 4, [2] * 4])
  found = overlaps.overlaps(
    truth, prediction, (np.ones((4, 4), bool), boundaries.find_boundaries(prediction))
  )
  np.testing.assert_array_equal(
    boundaries.find_boundaries(prediction),
    [[True] * 4, [True, False, False, True], [True] * 4, [True] * 4],
  )
  # 1: 6 of 8 true and 10 predicted pixels. 2: 4 of 8 and 4. Across: 4 of 8 and 10.
  iou = found.boundary_iou(np.zeros(2, bool))
  np.testing.assert_allclose(iou, [6 / 12, 4 / 14, 4 / 8])


def test_boundaries_that_were_not_asked_for():
  found = overlaps.overlaps(np.ones((2, 2), int), np.ones((2, 2), int))
  with pytest.raises(ValueError, match='not asked for'):
    found.boundary_iou(np.zeros(1, bool))
