"""Tests for deeplab2.data.coco_panoptic: real annotations against DeepLab2's label maps."""

import json
import os
import pathlib

import numpy as np
import PIL.Image
import pytest

from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets

_ANNOTATIONS = (
  pathlib.Path(__file__).parents[1] / 'goldens' / 'coco_sample_annotations' / 'annotations'
)
_JSON = str(_ANNOTATIONS / 'panoptic_val2017.json')


@pytest.fixture(name='coco', scope='module')
def _coco():
  return datasets.get('coco_panoptic')


@pytest.mark.parametrize('image_id', [142238, 439180])
@pytest.mark.parametrize('ignore, key', [(True, 'label'), (False, 'label_keep_crowd')])
def test_real_annotations_equal_deeplab2(golden, coco, image_id, ignore, key):
  annotation = coco_panoptic.read_annotations(_JSON, coco)[f'{image_id:012d}']
  assert annotation.image_id == image_id
  label = coco_panoptic.read_label(
    str(_ANNOTATIONS / 'panoptic_val2017' / annotation.file_name),
    annotation,
    coco,
    treat_crowd_as_ignore=ignore,
  )
  np.testing.assert_array_equal(label, golden('data_coco_labels')[f'{key}_{image_id}'])


def test_encode_by_hand():
  info = datasets.get('cityscapes_panoptic')
  panoptic = np.array([[0, 0, 255000], [11001, 0, 18999]])
  rgb, segments = coco_panoptic.encode(panoptic, info)
  # Road is class 0 without instance: its segment id must differ from void's 0.
  assert segments == [
    {'id': 1, 'category_id': 7, 'area': 3, 'bbox': [0, 0, 2, 2], 'iscrowd': 0},
    {'id': 11002, 'category_id': 24, 'area': 1, 'bbox': [0, 1, 1, 1], 'iscrowd': 0},
    {'id': 19000, 'category_id': 33, 'area': 1, 'bbox': [2, 1, 1, 1], 'iscrowd': 0},
  ]
  assert rgb.dtype == np.uint8
  assert rgb[0, 2].tolist() == [0, 0, 0]
  assert rgb[1, 0].tolist() == [11002 % 256, 11002 // 256, 0]


def test_encode_uses_all_three_bytes():
  info = datasets.get('ade20k_panoptic')
  rgb, (segment,) = coco_panoptic.encode(np.array([[150003]]), info)
  assert segment['id'] == 150004 and segment['category_id'] == 149
  assert (rgb.astype(int) @ [1, 256, 65536]).item() == 150004


def test_encode_refuses_foreign_ids(coco):
  with pytest.raises(ValueError, match='class 134'):
    coco_panoptic.encode(np.array([[134 * 256]]), coco)


def _segment(**changes):
  return {'id': 5, 'category_id': 1, 'area': 4, 'iscrowd': 0, **changes}


def _annotation(**changes):
  return {'image_id': 3, 'file_name': '3.png', 'segments_info': [_segment()], **changes}


@pytest.mark.parametrize(
  'content, message',
  [
    ([], "has no list 'annotations'"),
    ({'images': [], 'categories': []}, "has no list 'annotations'"),
    ({'annotations': [{'image_id': 3, 'segmentation': [], 'bbox': []}]}, 'a COCO instances'),
    ({'annotations': [{'segmentation': [], 'keypoints': []}]}, 'a COCO keypoints file'),
    ({'annotations': [{'image_id': 3, 'caption': 'x'}]}, 'a COCO captions file'),
    ({'annotations': [{'image_id': 3}]}, 'of an unknown type'),
    (
      {'annotations': [_annotation(), _annotation()]},
      r'annotations\[1\]: image_id 3 is also that of annotations\[0\]',
    ),
    (
      {'annotations': [_annotation(), _annotation(image_id=4)]},
      r'annotations\[1\]: file_name 3.png is also that of annotations\[0\]',
    ),
    (
      {'annotations': [_annotation(segments_info=[_segment(category_id=12)])]},
      r'image 3, segment 5: category_id 12 is not a class of coco_panoptic \(133 ids',
    ),
    (
      {'annotations': [_annotation(segments_info=[{'id': 5, 'category_id': 1}])]},
      "segment 5: field 'area' is missing",
    ),
    ({'annotations': [{'segments_info': []}]}, "field 'image_id' is missing"),
  ],
)
def test_wrong_files_are_explained(tmp_path, coco, content, message):
  path = tmp_path / 'a.json'
  path.write_text(json.dumps(content))
  with pytest.raises(errors.UserError, match=message) as caught:
    coco_panoptic.read_annotations(str(path), coco)
  assert str(caught.value).startswith(str(path))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'field, value, kind',
  [
    ('id', [1], 'integer'),
    ('id', True, 'integer'),
    ('category_id', {}, 'integer'),
    ('area', None, 'number'),
    ('iscrowd', 2, '0 or 1'),
    ('iscrowd', None, '0 or 1'),
  ],
)
def test_fields_of_segments_of_the_wrong_kind(tmp_path, coco, field, value, kind):
  segment = {'id': 5, 'category_id': 1, 'area': 3} | {field: value}
  path = tmp_path / 'x.json'
  path.write_text(
    json.dumps({'annotations': [{'image_id': 1, 'file_name': '1.png', 'segments_info': [segment]}]})
  )
  with pytest.raises(errors.UserError) as caught:
    coco_panoptic.read_annotations(str(path), coco)
  assert str(caught.value).startswith(f'{path}, image 1')
  assert f'{field!r} is {json.dumps(value)}; must be' in str(caught.value)
  assert str(caught.value).endswith(f'{kind}.')


@pytest.mark.parametrize(
  'field, value', [('image_id', [1]), ('image_id', None), ('file_name', 7), ('segments_info', {})]
)
def test_fields_of_images_of_the_wrong_kind(tmp_path, coco, field, value):
  # The first entry tells the kind of the file.
  entries = [
    {'image_id': number, 'file_name': f'{number}.png', 'segments_info': []} for number in (1, 2)
  ]
  entries[1][field] = value
  path = tmp_path / 'x.json'
  path.write_text(json.dumps({'annotations': entries}))
  with pytest.raises(errors.UserError) as caught:
    coco_panoptic.read_annotations(str(path), coco)
  assert str(path) in str(caught.value)
  assert f'{field!r} is {json.dumps(value)}; must be a' in str(caught.value)


def test_png_errors(tmp_path):
  with pytest.raises(errors.UserError, match='no such annotation PNG'):
    coco_panoptic.read_segment_ids(str(tmp_path / 'a.png'))
  PIL.Image.new('L', (3, 2)).save(tmp_path / 'grey.png')
  with pytest.raises(errors.UserError, match="grey.png: mode 'L'; panoptic PNGs must be RGB"):
    coco_panoptic.read_segment_ids(str(tmp_path / 'grey.png'))
  noise = np.random.randint(0, 255, (40, 40, 3), np.uint8)
  PIL.Image.fromarray(noise).save(tmp_path / 'cut.png')
  os.truncate(tmp_path / 'cut.png', 2000)
  with pytest.raises(errors.UserError, match='cut.png: the PNG cannot be decoded'):
    coco_panoptic.read_segment_ids(str(tmp_path / 'cut.png'))


def test_a_dataset_without_original_ids_has_no_class_of_the_annotations(tmp_path, coco):
  path = tmp_path / 'x.json'
  path.write_text(json.dumps({'annotations': [_annotation()]}))
  with pytest.raises(errors.UserError, match='category_id 1 is not a class of coco_panoptic'):
    coco_panoptic.read_annotations(str(path), coco._replace(dataset_ids={}))
