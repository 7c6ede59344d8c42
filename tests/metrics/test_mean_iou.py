"""Mean IoU by hand."""

import numpy as np
import pytest

from deeplab2 import structures
from deeplab2.metrics import mean_iou


def _metric():
  return mean_iou.MeanIoU(structures.LabelSpace(4, 255, 1000, (3,)))


def test_by_hand():
  metric = _metric()
  metric.update(np.array([[0, 0, 1, 255]]), np.array([[0, 1, 1, 2]]))
  metric.update(np.array([[0, 1, 1, 1]], np.uint8), np.array([[0, 1, 0, 1]], np.int32))
  result = metric.result()
  # Class 0: 2 hits, 3 true, 3 predicted. Class 1: 3 hits, 4 true, 4 predicted. 2: on void only.
  np.testing.assert_allclose(result.per_class, [2 / 4, 3 / 5, 0, 0])
  np.testing.assert_array_equal(result.occurs, [True, True, False, False])
  assert result.mean == pytest.approx(0.55)


def test_predicted_classes_without_ground_truth_count_as_zero():
  metric = _metric()
  metric.update(np.array([[0, 0]]), np.array([[0, 3]]))
  assert metric.result().mean == pytest.approx(0.25)


def test_ignored_class_zero_does_not_occur():
  metric = mean_iou.MeanIoU(structures.LabelSpace(3, 0, 256, (1,)))
  metric.update(np.array([[0, 1, 2]]), np.array([[1, 1, 2]]))
  np.testing.assert_array_equal(metric.result().occurs, [False, True, True])
  assert metric.result().mean == 1


def test_nothing_seen_is_zero():
  assert _metric().result().mean == 0


def test_bad_maps_are_refused():
  with pytest.raises(ValueError, match='differ in size'):
    _metric().update(np.zeros([2, 2], int), np.zeros([2, 3], int))
  with pytest.raises(ValueError, match='prediction has classes 0 to 4; known are 0 to 3'):
    _metric().update(np.zeros([1, 2], int), np.array([[0, 4]]))


def test_state_goes_on():
  whole, resumed = _metric(), _metric()
  whole.update(np.array([[1, 1]]), np.array([[1, 2]]))
  resumed.set_state(whole.state())
  for metric in (whole, resumed):
    metric.update(np.array([[2, 1]]), np.array([[2, 2]]))
  np.testing.assert_array_equal(resumed.state(), whole.state())
  assert resumed.state().sum() == 4
