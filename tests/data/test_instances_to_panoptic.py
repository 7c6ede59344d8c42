"""Instances to panoptic: overlaps, crowds, polygons and RLE, categories, mistakes."""
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from deeplab2.data import coco_panoptic
from deeplab2.data import datasets

_SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts' / 'instances_to_panoptic.py'


@pytest.fixture(scope='module')
def script():
  spec = importlib.util.spec_from_file_location('instances_to_panoptic', _SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _box(left, top, right, bottom):
  return [[left, top, right, top, right, bottom, left, bottom]]


@pytest.fixture
def instances():
  """A picture of 6x8: a car, a person on it, a crowd below both; and one without annotations."""
  # Column-major runs: nothing, then columns 2 to 7 whole.
  crowd = {'size': [6, 8], 'counts': [12, 36]}
  return {
      'images': [{'id': 3, 'file_name': 'a.jpg', 'height': 6, 'width': 8},
                 {'id': 4, 'file_name': 'b.jpg', 'height': 2, 'width': 2}],
      'annotations': [
          {'id': 1, 'image_id': 3, 'category_id': 1, 'segmentation': _box(2, 1, 4, 3)},
          {'id': 2, 'image_id': 3, 'category_id': 9, 'segmentation': _box(0, 0, 6, 4)},
          {'id': 5, 'image_id': 3, 'category_id': 1, 'segmentation': crowd, 'iscrowd': 1}],
      'categories': [{'id': 1, 'name': 'person'}, {'id': 9, 'name': 'car', 'color': [9, 8, 7]}]}


def _run(script, tmp_path, content, **flags):
  (tmp_path / 'instances.json').write_text(json.dumps(content))
  flags = {'annotations': tmp_path / 'instances.json', 'dataset': tmp_path / 'mine.json',
           'output': tmp_path / 'panoptic.json', **flags}
  return script.main([f'--{key}={value}' for key, value in flags.items()])


def test_instances_become_panoptic_maps_that_are_read_back(script, tmp_path, instances):
  assert _run(script, tmp_path, instances) == 0
  info = datasets.get(str(tmp_path / 'mine.json'))
  assert info.class_names == ('void', 'person', 'car') and info.colors[2] == (9, 8, 7)
  assert info.label_space.thing_ids == (1, 2) and info.dataset_ids == {1: 1, 9: 2}
  annotations = coco_panoptic.read_annotations(str(tmp_path / 'panoptic.json'), info)
  label = coco_panoptic.read_label(
      str(tmp_path / 'panoptic/a.png'), annotations['a'], info, treat_crowd_as_ignore=False)
  expected = np.zeros((6, 8), np.int32)
  expected[:, 2:] = 1000  # The crowd, below all.
  expected[:4, :6] = 2001
  expected[1:3, 2:4] = 1001  # The smaller instance, on top.
  np.testing.assert_array_equal(label, expected)
  assert annotations['b'].segments == ()


@pytest.mark.parametrize('edit, words', [
    (lambda content: content['annotations'][0].update(segmentation='x'),
     ['image 3, annotation 1', 'neither polygons nor RLE']),
    (lambda content: content['annotations'][0].update(category_id=2),
     ['annotation 1: category_id 2 is not a thing of mine']),
    (lambda content: content['annotations'][0].update(image_id=7), ['image 7', "list 'images'"]),
    (lambda content: content['annotations'][0].pop('segmentation'), ["'segmentation' is missing"]),
    (lambda content: content['images'][1].pop('width'), ['image 4', "'width' is missing"]),
    (lambda content: content['images'][1].update(height=0), ['image 4', 'positive numbers']),
    (lambda content: content['images'][1].update(file_name=3),
     ['image 4', "'file_name' is 3; must be a text"]),
    (lambda content: content['images'].append(content['images'][0]), ['the id 3']),
    (lambda content: content['images'].append(
        {**content['images'][0], 'id': 9,
         'file_name': 'south/' + content['images'][0]['file_name'].rpartition('/')[2]}),
     ['file name', 'would become one']),
    (lambda content: content['images'].append(3), ['images[2]', "'id' is missing"]),
    (lambda content: content['annotations'][0].update(image_id=[1]),
     ['annotations[0]', "'image_id' is [1]; must be a whole number or text"]),
    (lambda content: content['annotations'][0].update(iscrowd='no'),
     ["'iscrowd' is \"no\"", 'must be 0 or 1']),
    (lambda content: content.pop('categories'), ["no list 'categories'"]),
    (lambda content: content['categories'][0].pop('name'), ['categories[0]', "'name' is missing"]),
    (lambda content: content['annotations'][0].update(segments_info=[]),
     ['is a panoptic JSON already'])])
def test_mistakes_are_one_line(script, tmp_path, instances, capsys, edit, words):
  edit(instances)
  assert _run(script, tmp_path, instances) == 2
  message = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert len(message) == 1 and all(word in message[0] for word in words), message


def test_describing_alone(script, tmp_path, instances):
  (tmp_path / 'instances.json').write_text(json.dumps(instances))
  assert script.main([f'--annotations={tmp_path}/instances.json', '--describe_only',
                      f'--dataset={tmp_path}/mine.json', '--label_divisor=256']) == 0
  assert datasets.get(str(tmp_path / 'mine.json')).label_space.label_divisor == 256
  assert not (tmp_path / 'panoptic.json').exists()
