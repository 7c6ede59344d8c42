"""Limits of painting instances: the label divisor, and the size of the picture."""
import pytest

from deeplab2 import errors
from deeplab2.data import coco_instances
from deeplab2.data import datasets

_SQUARE = {'category_id': 1, 'segmentation': [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]]}


def test_more_instances_than_the_divisor_can_number():
  info = datasets.get('coco_panoptic')
  info = info._replace(label_space=info.label_space._replace(label_divisor=3))
  coco_instances.label_of_instances([_SQUARE] * 2, (8, 8), info, 'here')
  with pytest.raises(errors.UserError, match='here: 3 instances of class 1; the label divisor 3'):
    coco_instances.label_of_instances([_SQUARE] * 3, (8, 8), info, 'here')


def test_run_lengths_of_another_size():
  annotation = {'id': 5, 'category_id': 1, 'segmentation': {'counts': [2, 4], 'size': [2, 3]}}
  with pytest.raises(errors.UserError, match=r'annotation 5: .* of size \(2, 3\), .*\(8, 8\)'):
    coco_instances.label_of_instances(
        [annotation], (8, 8), datasets.get('coco_panoptic'), 'here')
