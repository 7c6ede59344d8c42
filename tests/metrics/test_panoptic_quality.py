"""Panoptic quality against panopticapi's and DeepLab2's recorded counts, and by hand."""

import json

import numpy as np
import pytest

from deeplab2 import structures
from deeplab2.metrics import panoptic_quality

_COCO = structures.LabelSpace(134, 0, 256, tuple(range(1, 81)))


@pytest.fixture(scope='module')
def sets(golden):
  """Returns a loader: name -> (label space, truths, predictions, recorded arrays)."""
  arrays, labels = golden('eval_pq_ap'), golden('data_coco_labels')
  meta = json.loads(str(arrays['meta_json']))

  def load(name):
    recorded = {key[2:]: arrays[key] for key in arrays.files if key.startswith(f'{name}/')}
    if name == 'D':
      images = (142238, 439180)
      return (
        _COCO,
        [labels[f'label_keep_crowd_{image}'] for image in images],
        [arrays[f'D/pred_{image}'] for image in images],
        recorded,
      )
    about = meta[name]
    space = structures.LabelSpace(
      about['num_classes'], about['ignore'], about['div'], tuple(about['things'])
    )
    return space, recorded['gt'], recorded['pred'], recorded

  return load


@pytest.mark.parametrize('name', 'ABCD')
def test_meets_recorded_counts(sets, name):
  space, ground_truths, predictions, recorded = sets(name)
  metric = panoptic_quality.PanopticQuality(space)
  for index, (ground_truth, prediction) in enumerate(zip(ground_truths, predictions, strict=True)):
    official, reference = metric.update(np.squeeze(ground_truth), prediction)
    np.testing.assert_allclose(official, recorded['panopticapi_per_image'][index], atol=1e-9)
    np.testing.assert_allclose(reference, recorded['per_image'][index], atol=1e-9)
  result = metric.result()
  groups = [result.official.all, result.official.things, result.official.stuff]
  np.testing.assert_allclose(groups, recorded['panopticapi_average'], atol=1e-6)
  reference = result.reference
  occurs = reference.tp + reference.fn + reference.fp > 0
  means = [counts[occurs].mean() for counts in (reference.tp, reference.fn, reference.fp)]
  np.testing.assert_allclose([*reference.all[:3], *means], recorded['result'], atol=1e-6)


def test_by_hand():
  """One thing found (IoU 3/5), one missed and one dreamt, stuff found but for a pixel."""
  space = structures.LabelSpace(3, 0, 10, (1,))
  ground_truth = np.array([[11, 11, 11, 11, 12, 12, 20, 20, 20, 0]])
  prediction = np.array([[11, 11, 11, 20, 13, 20, 20, 20, 20, 11]])
  metric = panoptic_quality.PanopticQuality(space)
  metric.update(ground_truth, prediction)
  official = metric.result().official
  # Thing 11: 3 shared, 4 true, 4 predicted of which one on void: 3 / (4 + 4 - 3 - 1).
  np.testing.assert_allclose(official.iou, [0, 3 / 4, 3 / 5])
  np.testing.assert_array_equal(
    [official.tp, official.fn, official.fp], [[0, 1, 1], [0, 1, 0], [0, 1, 0]]
  )
  assert official.things == pytest.approx((0.375, 0.75, 0.5, 1))
  assert official.stuff == pytest.approx((0.6, 0.6, 1, 1))
  assert official.all == pytest.approx((0.4875, 0.675, 0.75, 2))


def test_crowd_excuses_other_classes_in_the_reference_protocol_only():
  space = structures.LabelSpace(3, 0, 10, (1, 2))
  metric = panoptic_quality.PanopticQuality(space)
  ground_truth = np.array([[10, 10, 10, 10, 10]])
  official, reference = metric.update(ground_truth, np.array([[11, 11, 21, 21, 0]]))
  np.testing.assert_array_equal(official[3], [0, 0, 1])
  np.testing.assert_array_equal(reference[3], [0, 0, 0])


def test_nothing_seen_is_zero_and_says_so():
  result = panoptic_quality.PanopticQuality(_COCO).result()
  assert result.official.all == (0, 0, 0, 0)
  metric = panoptic_quality.PanopticQuality(_COCO)
  metric.update(np.zeros([3, 4], np.int32), np.full([3, 4], 257))
  assert metric.result().official.all.num_classes == 0, 'a prediction on void counts nowhere'


def test_counts_do_not_overflow_with_a_large_ignore_label():
  space = structures.LabelSpace(19, 255, 1000, tuple(range(11, 19)))
  metric = panoptic_quality.PanopticQuality(space)
  ground_truth = np.full([2, 2], 255000, np.int32)
  prediction = np.array([[18001, 18001], [255000, 3000]], np.int32)
  assert not metric.update(ground_truth, prediction).any()


def test_bad_maps_are_refused():
  metric = panoptic_quality.PanopticQuality(_COCO)
  with pytest.raises(ValueError, match='must be two maps of one size'):
    metric.update(np.zeros([2, 2], np.int32), np.zeros([2, 3], np.int32))
  with pytest.raises(ValueError, match='The prediction has class 134; known are 0 to 133'):
    metric.update(np.zeros([2, 2], np.int32), np.full([2, 2], 134 * 256))


def test_state_goes_on_bit_for_bit():
  space = structures.LabelSpace(4, 0, 10, (1,))
  ground_truth, prediction = np.array([[20, 20, 20, 11]]), np.array([[20, 20, 30, 11]])
  whole = panoptic_quality.PanopticQuality(space)
  whole.update(ground_truth, prediction)
  resumed = panoptic_quality.PanopticQuality(space)
  state = whole.state()
  resumed.set_state(state)
  for metric in (whole, resumed):
    metric.update(ground_truth, ground_truth)
  np.testing.assert_array_equal(resumed.state(), whole.state())
  assert not np.array_equal(state, whole.state())  # A copy.
