"""Average precision against DeepLab2's recorded numbers, masks against their pixels."""

import json

import numpy as np
from pycocotools import mask as coco_mask
import pytest

from deeplab2 import structures
from deeplab2.metrics import instance_ap

_COCO = structures.LabelSpace(134, 0, 256, tuple(range(1, 81)))


def _metric_of(arrays, name):
  about = json.loads(str(arrays['meta_json']))[name]
  metric = instance_ap.InstanceAP(
    structures.LabelSpace(
      about['num_classes'], about['ignore'], about['div'], tuple(about['things'])
    )
  )
  for maps in zip(
    *(arrays[f'{name}/{key}'] for key in ('gt', 'pred', 'semantic_score', 'instance_score')),
    strict=True,
  ):
    metric.update(*maps[:2], *(np.float32(scores) / np.float32(255) for scores in maps[2:]))
  return metric


@pytest.mark.parametrize('name', 'ABC')
def test_meets_recorded_precision(golden, name):
  arrays = golden('eval_pq_ap')
  metric = _metric_of(arrays, name)
  first = metric.result()
  np.testing.assert_allclose(first, arrays[f'{name}/ap'], atol=1e-6)
  assert metric.result() == first, 'asking twice changes nothing'
  detections = [(d['image_id'], d['category_id'], d['score']) for d in metric.detections]
  np.testing.assert_allclose(
    sorted(detections), sorted(arrays[f'{name}/ap_detections'].tolist()), atol=1e-5
  )
  ground_truths = [
    (t['image_id'], t['category_id'], t['iscrowd'], t['area']) for t in metric.ground_truths
  ]
  assert sorted(ground_truths) == sorted(map(tuple, arrays[f'{name}/ap_groundtruth'].tolist()))


@pytest.mark.parametrize('label, key', [('label', 'ap'), ('label_keep_crowd', 'ap_crowd_kept')])
def test_meets_recorded_precision_on_coco(golden, label, key):
  arrays, labels = golden('eval_pq_ap'), golden('data_coco_labels')
  metric = instance_ap.InstanceAP(_COCO)
  for image in (142238, 439180):
    prediction = arrays[f'D/pred_{image}'].astype(np.int32)
    scores = np.zeros([2, *prediction.shape], np.float32)
    for panoptic_id, semantic, instance in arrays[f'D/scores_{image}']:
      scores[:, prediction == panoptic_id] = np.array([[semantic], [instance]])
    metric.update(np.squeeze(labels[f'{label}_{image}']), prediction, *scores)
  np.testing.assert_allclose(metric.result(), arrays[f'D/{key}'], atol=1e-6)


def test_masks_are_the_pixels_of_their_ids(golden):
  arrays = golden('eval_pq_ap')
  ground_truth = arrays['A/gt'][0]
  metric = instance_ap.InstanceAP(structures.LabelSpace(8, 255, 1000, (4, 5, 6, 7)))
  scores = np.ones(ground_truth.shape, np.float32)
  metric.update(ground_truth, ground_truth, scores, scores / 2)
  ids = [
    panoptic_id for panoptic_id in np.unique(ground_truth) if panoptic_id // 1000 in (4, 5, 6, 7)
  ]
  assert len(ids) == len(metric.ground_truths) == len(metric.detections) > 2
  for panoptic_id, instance, detection in zip(
    ids, metric.ground_truths, metric.detections, strict=True
  ):
    inside = ground_truth == panoptic_id
    rows, columns = np.nonzero(inside)
    for one in (instance, detection):
      np.testing.assert_array_equal(coco_mask.decode(one['segmentation']), inside)
    assert instance['bbox'] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert detection['score'] == pytest.approx(0.5)


def test_no_detection_is_zero():
  metric = instance_ap.InstanceAP(_COCO)
  assert metric.result() == (0,) * 12
  empty = np.zeros([4, 4], np.float32)
  metric.update(np.full([4, 4], 257), np.zeros([4, 4], int), empty, empty)
  assert metric.result() == (0,) * 12


def test_bad_maps_are_refused():
  empty = np.zeros([4, 4], np.float32)
  with pytest.raises(ValueError, match='differ in size'):
    instance_ap.InstanceAP(_COCO).update(empty, empty, empty, empty[:2])


def test_state_goes_on_bit_for_bit(golden, tmp_path):
  arrays = golden('eval_pq_ap')
  whole = _metric_of(arrays, 'A')
  np.savez(tmp_path / 'state.npz', ap=whole.state())
  resumed = instance_ap.InstanceAP(whole._space)
  with np.load(tmp_path / 'state.npz', allow_pickle=False) as stored:
    resumed.set_state(stored['ap'])
  assert resumed.ground_truths == whole.ground_truths and resumed.detections == whole.detections
  assert whole.detections and resumed.result() == whole.result()
  # It can be added to.
  maps = np.full([4, 4], 10 * whole._space.label_divisor + 1), np.zeros([4, 4], np.float32)
  for metric in (whole, resumed):
    metric.update(maps[0], maps[0], maps[1], maps[1])
  assert resumed.result() == whole.result()
