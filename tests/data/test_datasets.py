"""Tests for deeplab2.data.datasets."""

import json

import numpy as np
import pytest

from deeplab2 import errors
from deeplab2.data import datasets


# num_classes, ignore, divisor, things, stuff: spec of DeepLab2's descriptors.
@pytest.mark.parametrize(
  'name, expected',
  [
    ('coco_panoptic', (134, 0, 256, 80, 53)),
    ('cityscapes_panoptic', (19, 255, 1000, 8, 11)),
    ('ade20k_panoptic', (151, 0, 1000, 100, 50)),
    ('shapes', (10, 0, 256, 5, 4)),
  ],
)
def test_numbers_of_known_datasets(name, expected):
  info = datasets.get(name)
  space = info.label_space
  assert (
    space.num_classes,
    space.ignore_label,
    space.label_divisor,
    len(space.thing_ids),
    len(space.stuff_ids),
  ) == expected
  assert info.name == name
  for sequence in (info.class_names, info.colors, info.original_ids):
    assert len(sequence) == space.num_classes


def test_thing_ids():
  assert datasets.get('coco_panoptic').label_space.thing_ids == tuple(range(1, 81))
  assert datasets.get('cityscapes_panoptic').label_space.thing_ids == tuple(range(11, 19))


def test_names_and_split_sizes():
  coco = datasets.get('coco_panoptic')
  assert [coco.class_names[i] for i in (1, 80, 126)] == ['person', 'toothbrush', 'grass-merged']
  assert coco.split_sizes == {'train': 118287, 'val': 5000, 'test': 40670}
  assert datasets.get('cityscapes_panoptic').split_sizes['train_fine'] == 2975


def test_coco_ids_both_ways():
  info = datasets.get('coco_panoptic')
  # Originals 1..90 are things, 92..200 stuff; 13th thing is original 13, the 12th-hole 14.
  assert info.dataset_ids[1] == 1 and info.dataset_ids[90] == 80 and info.dataset_ids[200] == 133
  assert 0 not in info.dataset_ids and 12 not in info.dataset_ids and 91 not in info.dataset_ids
  table = datasets.original_id_table(info)
  assert table.shape == (256,) and table[0] == 0 and table[80] == 90 and table[134:].sum() == 0
  for original, index in info.dataset_ids.items():
    assert table[index] == original


def test_cityscapes_original_ids():
  table = datasets.original_id_table(datasets.get('cityscapes_panoptic'))
  assert table[:19].tolist() == [
    7,
    8,
    11,
    12,
    13,
    17,
    19,
    20,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    31,
    32,
    33,
  ]
  assert not table[19:].any() and len(table) == 256


def test_ade20k_original_ids_and_mended_colour():
  info = datasets.get('ade20k_panoptic')
  table = datasets.original_id_table(info)
  assert table[0] == 255
  np.testing.assert_array_equal(table[1:151], np.arange(150))
  assert 'skyscraper' in info.class_names[49] and info.colors[49] == (140, 140, 200)
  assert info.colors[7] == (140, 140, 140)


def test_unknown_dataset_names_the_known():
  with pytest.raises(errors.UserError, match="'coco' is unknown.*ade20k_panoptic.*coco_panoptic"):
    datasets.get('coco')


@pytest.mark.parametrize('name', datasets.DATASETS)
def test_json_round_trip(tmp_path, name):
  path = tmp_path / 'own.json'
  path.write_text(datasets.to_json(datasets.get(name)), encoding='utf-8')
  assert datasets.load(str(path)) == datasets.get(name)


def _change(key, value):
  def change(content):
    content[key] = value

  return change


def _change_category(index, key, value):
  def change(content):
    content['categories'][index][key] = value

  return change


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda c: c.pop('num_classes'), "field 'num_classes' is missing"),
    (_change('num_classes', '10'), 'num_classes. is "10"; must be an integer'),
    (_change('num_classes', 11), 'must be a list of 11 categories'),
    (_change('panoptic_label_divisor', True), 'panoptic_label_divisor. is true'),
    (_change('panoptic_label_divisor', 2**21), r'must be below 2\*\*24'),
    (_change('ignore_label', 2), 'ignore_label 2 is a thing'),
    (_change('ignore_label', -1), 'ignore_label. is -1'),
    (_change_category(3, 'id', 4), r"categories\[3\]: field 'id' is 4; must be 3"),
    (_change_category(3, 'color', [1, 2, 300]), r"categories\[3\]: field 'color' is \[1, 2, 300\]"),
    (_change_category(3, 'isthing', 2), "'isthing' is 2; must be 0 or 1"),
    (_change_category(3, 'original_id', 2), 'original_id 2 is also that of category 2'),
    (_change_category(3, 'name', ''), 'name. is ""'),
  ],
)
def test_mistakes_in_a_file_are_named(tmp_path, change, message):
  content = json.loads(datasets.to_json(datasets.get('shapes')))
  change(content)
  path = tmp_path / 'own.json'
  path.write_text(json.dumps(content), encoding='utf-8')
  with pytest.raises(errors.UserError, match=message) as caught:
    datasets.load(str(path))
  assert str(path) in str(caught.value)


def test_file_that_is_missing_or_no_json(tmp_path):
  with pytest.raises(errors.UserError, match='no such file'):
    datasets.load(str(tmp_path / 'none.json'))
  (tmp_path / 'bad.json').write_text('{"dataset": ')
  with pytest.raises(errors.UserError, match='not a JSON file'):
    datasets.load(str(tmp_path / 'bad.json'))
  (tmp_path / 'list.json').write_text('[]')
  with pytest.raises(errors.UserError, match='must be a JSON object'):
    datasets.load(str(tmp_path / 'list.json'))


def test_a_byte_order_mark_is_accepted(tmp_path):
  path = tmp_path / 'own.json'
  path.write_text(datasets.to_json(datasets.get('shapes')), encoding='utf-8-sig')
  assert datasets.load(str(path)) == datasets.get('shapes')


@pytest.mark.parametrize(
  'name, file_name, image_id',
  [
    ('coco_panoptic', 'val2017/000000000139.jpg', 139),
    ('coco_panoptic', 'holiday.2.jpg', 'holiday.2'),
    ('ade20k_panoptic', 'ADE_val_00000001.jpg', 'ADE_val_00000001'),
    (
      'cityscapes_panoptic',
      'frankfurt/frankfurt_000000_000294_leftImg8bit.png',
      'frankfurt_000000_000294',
    ),
    ('cityscapes_panoptic', 'my_street.png', 'my_street'),
    ('cityscapes_panoptic', '_leftImg8bit.png', '_leftImg8bit'),
    ('shapes', '\u0663.png', '\u0663'),
  ],
)
def test_image_ids_follow_from_names(name, file_name, image_id):
  assert datasets.image_id(datasets.get(name), file_name) == image_id


def test_descriptions_without_suffix_take_that_of_the_built_in_dataset(tmp_path):
  content = json.loads(datasets.to_json(datasets.get('cityscapes_panoptic')))
  assert 'image_id_suffix' not in content, 'files of earlier versions are the same'
  path = tmp_path / 'exported.json'
  path.write_text(json.dumps(content))
  assert datasets.load(str(path)).image_id_suffix == '_leftImg8bit'
  path.write_text(json.dumps({**content, 'dataset': 'streets'}))
  assert datasets.load(str(path)).image_id_suffix == ''
  path.write_text(json.dumps({**content, 'dataset': 'streets', 'image_id_suffix': '_rgb'}))
  assert datasets.load(str(path)).image_id_suffix == '_rgb'
  assert json.loads(datasets.to_json(datasets.load(str(path))))['image_id_suffix'] == '_rgb'
  path.write_text(json.dumps({**content, 'image_id_suffix': ''}))
  own = datasets.load(str(path))
  assert own.image_id_suffix == ''
  path.write_text(datasets.to_json(own))
  assert datasets.load(str(path)) == own
  path.write_text(json.dumps({**content, 'image_id_suffix': 3}))
  with pytest.raises(errors.UserError, match="'image_id_suffix' is 3; must be a text"):
    datasets.load(str(path))
