"""Classes that are collapsed: label maps by hand, descriptions, what goes on, mistakes."""

import json

import numpy as np
import PIL.Image
import pytest

from deeplab2.commands import collapse_classes
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets

CATEGORIES = [
  {'id': 1, 'name': 'cat', 'isthing': 1, 'supercategory': 'animal', 'color': [1, 2, 3]},
  {'id': 7, 'name': 'grass', 'isthing': 0, 'supercategory': 'ground'},
  {'id': 4, 'name': 'dog', 'isthing': 1, 'supercategory': 'animal', 'color': [9, 9, 9]},
  {'id': 9, 'name': 'sand', 'isthing': 0, 'supercategory': 'ground'},
  {'id': 11, 'name': 'car', 'isthing': 1, 'supercategory': 'vehicle'},
]
# Segment ids of the PNG, and their categories: two cats that touch, a dog, crowds of cats and of
# dogs, grass and sand, a car; 0 is void.
IDS = np.array([[1, 2, 2, 70000, 5], [3, 0, 4, 300, 6], [3, 0, 4, 300, 6]])
SEGMENTS = {1: 1, 2: 1, 70000: 4, 5: 1, 6: 4, 3: 7, 4: 9, 300: 11}
CROWDS = (5, 6)


@pytest.fixture(scope='module', name='script')
def _script():
  return collapse_classes


@pytest.fixture(name='source')
def _source(tmp_path):
  """An image in COCO's panoptic format."""
  (tmp_path / 'all').mkdir()
  rgb = np.stack([IDS % 256, IDS // 256 % 256, IDS // 65536], -1).astype(np.uint8)
  PIL.Image.fromarray(rgb).save(tmp_path / 'all' / 'a.png')
  segments = [
    {
      'id': key,
      'category_id': category,
      'area': int((key == IDS).sum()),
      'iscrowd': int(key in CROWDS),
      'bbox': [0, 0, 1, 1],
    }
    for key, category in SEGMENTS.items()
  ]
  return {
    'images': [{'id': 3, 'file_name': 'a.jpg', 'height': 3, 'width': 5, 'license': 2}],
    'annotations': [{'image_id': 3, 'file_name': 'a.png', 'segments_info': segments}],
    'categories': CATEGORIES,
  }


def _call(script, directory, source, *flags, mapping=None):
  (directory / 'all.json').write_text(json.dumps(source))
  flags = list(flags)
  if mapping is not None:
    (directory / 'mapping.json').write_text(json.dumps(mapping))
    flags.append(f'--mapping={directory / "mapping.json"}')
  return script.main(
    [
      f'--annotations={directory / "all.json"}',
      f'--dataset={directory / "few.json"}',
      f'--output={directory / "few_train.json"}',
      *flags,
    ]
  )


def _label(directory):
  info = datasets.load(str(directory / 'few.json'))
  annotations = coco_panoptic.read_annotations(str(directory / 'few_train.json'), info)
  return info, coco_panoptic.read_label(
    str(directory / 'few_train' / 'a.png'), annotations['a'], info, treat_crowd_as_ignore=False
  )


def test_supercategories(script, tmp_path, source, capsys):
  assert _call(script, tmp_path, source) == 0
  assert 'Wrote 1 images with 3 classes (of 5)' in capsys.readouterr().out
  info, label = _label(tmp_path)
  assert info.class_names == ('void', 'animal', 'ground', 'vehicle')
  assert info.label_space.thing_ids == (1, 3) and info.colors[1] == (1, 2, 3)
  assert info.dataset_ids == {1: 1, 2: 2, 3: 3}
  # Cats are animals 1 and 2, the dog is the third; crowds and stuff are one each.
  expected = [
    [1001, 1002, 1002, 1003, 1000],
    [2000, 0, 2000, 3001, 1000],
    [2000, 0, 2000, 3001, 1000],
  ]
  np.testing.assert_array_equal(label, expected)
  content = json.loads((tmp_path / 'few_train.json').read_text())
  assert content['images'] == source['images']
  [annotation] = content['annotations']
  # 3 animals, their crowd, the ground, the car.
  found = sorted(
    (segment['category_id'], segment['area'], segment['iscrowd'])
    for segment in annotation['segments_info']
  )
  assert found == [(1, 1, 0), (1, 1, 0), (1, 2, 0), (1, 3, 1), (2, 4, 0), (3, 2, 0)]


def test_a_mapping_and_void(script, tmp_path, source):
  mapping = {'cat': 'pet', 'dog': 'pet', 'grass': 'grass', 'sand': None, 'car': None}
  assert _call(script, tmp_path, source, mapping=mapping) == 0
  info, label = _label(tmp_path)
  assert info.class_names == ('void', 'pet', 'grass')
  expected = [[1001, 1002, 1002, 1003, 1000], [2000, 0, 0, 0, 1000], [2000, 0, 0, 0, 1000]]
  np.testing.assert_array_equal(label, expected)


def test_what_is_done_stays_and_what_changed_is_made_again(script, tmp_path, source):
  assert _call(script, tmp_path, source) == 0
  png = tmp_path / 'few_train' / 'a.png'
  before = png.stat().st_mtime_ns
  assert _call(script, tmp_path, source) == 0
  assert png.stat().st_mtime_ns == before
  source['annotations'][0]['segments_info'][0]['category_id'] = 11  # The first cat is a car.
  assert _call(script, tmp_path, source) == 0
  assert _label(tmp_path)[1][0].tolist() == [3001, 1001, 1001, 1002, 1000]


@pytest.mark.parametrize(
  'mapping, message',
  [
    ({'cat': 'pet'}, "says nothing of 4 categories, first 'grass'"),
    ({'cow': 'pet'}, "'cow' is no category"),
    ({'cat': 3}, "'cat': 3 must be the name"),
    (['cat'], 'must be {"old name"'),
    (dict.fromkeys(('cat', 'dog', 'grass', 'sand', 'car')), 'leaves no class'),
    (dict.fromkeys(('cat', 'dog', 'grass', 'sand', 'car'), 'x'), "'x' would be of things and of"),
  ],
)
def test_mappings_that_are_wrong(script, tmp_path, source, capfd, mapping, message):
  assert _call(script, tmp_path, source, mapping=mapping) == 2
  assert message in capfd.readouterr().err


def test_other_mistakes(script, tmp_path, source, capfd):
  assert _call(script, tmp_path, source, '--label_divisor=3') == 2
  assert '3 instances of new class 1; the label divisor 3 allows fewer' in capfd.readouterr().err
  (tmp_path / 'few.json').unlink()
  assert _call(script, tmp_path, source, f'--output={tmp_path / "all.json"}') == 2
  assert 'would overwrite it' in capfd.readouterr().err
  del source['categories'][0]['supercategory']
  assert _call(script, tmp_path, source) == 2
  assert "category cat: field 'supercategory' is missing" in capfd.readouterr().err
  source['categories'][0]['supercategory'] = 'animal'
  source['images'][0]['id'] = 4
  assert _call(script, tmp_path, source, '--overwrite') == 2
  assert 'annotates image 3, which is not in the list' in capfd.readouterr().err
