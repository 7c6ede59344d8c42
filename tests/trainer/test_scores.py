"""Numbers of an evaluation, against counts by hand."""

import json

import numpy as np
import pytest

from deeplab2 import structures
from deeplab2.trainer import evaluator
from deeplab2.trainer import scores

SPACE = structures.LabelSpace(num_classes=4, ignore_label=0, label_divisor=10, thing_ids=(1,))
NAMES = ('void', 'thing', 'left', 'right')


def image(ground_truth, prediction, crop_ground_truth=None, crop_prediction=None, index=0):
  """Returns an image of these panoptic maps, with scores of 1."""

  def maps(panoptic):
    ones = np.ones(panoptic.shape, np.float32)
    # The semantic pass is never void.
    semantic = np.where(panoptic == 0, 3, panoptic // 10)
    return structures.PanopticMap(panoptic, panoptic % 10 + 1, semantic, ones, ones)

  ground_truth, prediction = np.asarray(ground_truth), np.asarray(prediction)
  crop_ground_truth = ground_truth if crop_ground_truth is None else np.asarray(crop_ground_truth)
  crop_prediction = prediction if crop_prediction is None else np.asarray(crop_prediction)
  return evaluator.EvaluatedImage(
    index,
    'name',
    np.zeros([*crop_ground_truth.shape, 3], np.float32),
    maps(prediction),
    maps(crop_prediction),
    ground_truth,
    crop_ground_truth,
  )


@pytest.fixture
def numbers():
  """Stuff 20 found with IoU 3/4; stuff 30 missed; one thing found exactly, one made up."""
  scored = scores.Scores(SPACE, with_ap=True)
  scored.update(
    image(
      [[20, 20, 20, 20], [11, 11, 30, 0]],
      [[20, 20, 20, 12], [11, 11, 0, 0]],
      crop_ground_truth=[[20, 20]],
      crop_prediction=[[20, 20]],
    )
  )
  return scored.result()


def test_json_in_percent_with_all_keys(numbers):
  content = json.loads(json.dumps({'step': 1, **scores.as_json(numbers, SPACE, NAMES)}))
  # thing: TP 1, FP 1, IoU 1: SQ 1, RQ 2/3. left: SQ 3/4, RQ 1. right: 0.
  assert content['PQ'] == pytest.approx(100 * (2 / 3 + 3 / 4 + 0) / 3)
  assert content['SQ'] == pytest.approx(100 * (1 + 3 / 4 + 0) / 3)
  assert content['RQ'] == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
  assert content['PQ_things'] == pytest.approx(100 * 2 / 3)
  assert content['PQ_stuff'] == pytest.approx(100 * 3 / 8)
  assert content['crop']['PQ'] == 100 and content['crop']['PQ_things'] == 0
  assert content['reference']['PQ'] == content['PQ']  # There is no crowd.
  assert content['num_images'] == 1
  assert [(c['name'], c['TP'], c['FN'], c['FP']) for c in content['per_class']] == [
    ('thing', 1, 0, 1),
    ('left', 1, 0, 0),
    ('right', 0, 1, 0),
  ]
  assert content['per_class'][1]['PQ'] == pytest.approx(75)
  # Semantic: thing 2 of 3, left 3 of 4, right 1 of 1.
  assert content['mIoU'] == pytest.approx(100 * (2 / 3 + 3 / 4 + 1) / 3)
  # Both detections score 1, the made-up one counts first or last: precision 1 or 1/2 by COCO.
  assert content['AP']['AP_Mask'] in (pytest.approx(100), pytest.approx(50))
  assert content['AP']['AP_Mask_large'] is None


def test_scalars_under_the_tags_of_deeplab2(numbers):
  scalars = scores.as_scalars(numbers, detailed_ap=False)
  assert scalars['evaluation/pq/PQ'] == pytest.approx((2 / 3 + 3 / 4) / 3)
  assert scalars['evaluation/pq/TP'] == pytest.approx(2 / 3)
  assert scalars['evaluation/pq/FN'] == scalars['evaluation/pq/FP'] == pytest.approx(1 / 3)
  assert scalars['evaluation/pq_crop/PQ'] == 1
  assert scalars['evaluation/iou/IoU'] == pytest.approx((2 / 3 + 3 / 4 + 1) / 3)
  assert [tag for tag in scalars if '/ap/' in tag] == ['evaluation/ap/AP_Mask']
  assert len([tag for tag in scores.as_scalars(numbers, detailed_ap=True) if '/ap/' in tag]) == 12


def test_table_lists_groups_and_the_classes_that_occur(numbers):
  lines = scores.as_table(numbers, SPACE, NAMES).splitlines()
  assert lines[2].split() == ['all', '47.22', '58.33', '55.56', '3']
  assert lines[-3].split() == ['thing', '66.67', '100.00', '66.67', '66.67', '1', '0', '1']


def test_crowd_sets_the_two_protocols_apart():
  scored = scores.Scores(SPACE, with_ap=False)
  # Half of the prediction of class 2 lies on crowd of class 1: excused by DeepLab2 alone.
  scored.update(image([[10, 10, 10, 30]], [[20, 20, 20, 30]]))
  content = scores.as_json(scored.result(), SPACE, NAMES)
  assert content['PQ'] == pytest.approx(50)
  assert content['reference']['PQ'] == pytest.approx(100)
  assert 'AP' not in content


def test_nothing_to_find_is_said():
  scored = scores.Scores(SPACE, with_ap=True)
  scored.update(image([[0, 0]], [[0, 0]]))
  result = scored.result()
  assert 'No class occurs' in scores.as_table(result, SPACE, NAMES)
  assert scores.as_json(result, SPACE, NAMES)['PQ'] == 0
  assert scores.as_scalars(result, detailed_ap=True)['evaluation/pq/TP'] == 0
