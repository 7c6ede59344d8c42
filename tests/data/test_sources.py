"""Cityscapes, ADE20K and one's own data, from small roots made here."""
import json

import numpy as np
import PIL.Image
import pytest

from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import sources

_SHAPE = (6, 8)
_KEEP = sources.Choices(ignore_crowd=False)


def _png(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(np.asarray(array, np.uint8)).save(path)


def _segment_png(path, segment_ids):
  ids = np.asarray(segment_ids)
  _png(path, np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1))


def _json(path, image_id, file_name, segments):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps({'annotations': [
      {'image_id': image_id, 'file_name': file_name, 'segments_info': [
          {'id': number, 'category_id': category, 'area': area, 'iscrowd': crowd}
          for number, category, area, crowd in segments]}]}))


def _ids():
  """Columns 0-1: segment 1000 (stuff); 2-3: 70000; 4-5: 3 (crowd); 6: 9; 7: unlabelled."""
  ids = np.zeros(_SHAPE, np.int64)
  for value, columns in ((1000, (0, 2)), (70000, (2, 4)), (3, (4, 6)), (9, (6, 7))):
    ids[:, slice(*columns)] = value
  return ids


def _expected(values):
  """Returns the label map of five values for the columns of `_ids`."""
  return np.tile(np.repeat(np.asarray(values, np.int32), [2, 2, 2, 1, 1]), (_SHAPE[0], 1))


@pytest.fixture
def cityscapes(tmp_path):
  name = 'bonn_000001_000019'
  _png(tmp_path / 'leftImg8bit/train/bonn' / f'{name}_leftImg8bit.png', np.zeros((*_SHAPE, 3)))
  _segment_png(tmp_path / 'gtFine/cityscapes_panoptic_train_trainId' /
               f'{name}_gtFine_panoptic.png', _ids())
  _json(tmp_path / 'gtFine/cityscapes_panoptic_train_trainId.json', name,
        f'{name}_gtFine_panoptic.png',
        [(1000, 0, 12, 0), (70000, 13, 12, 0), (3, 11, 12, 1), (9, 13, 6, 0)])
  _png(tmp_path / 'gtFine/train/bonn' / f'{name}_gtFine_labelTrainIds.png', np.full(_SHAPE, 7))
  return tmp_path


@pytest.mark.parametrize('ignore_crowd, crowd', [(True, 255000), (False, 11000)])
def test_cityscapes(cityscapes, ignore_crowd, crowd):
  source = sources.cityscapes(str(cityscapes), 'train', sources.Choices(ignore_crowd))
  (item,) = map(source.convert, source.tasks)
  assert (item.name, item.picture.format) == ('bonn_000001_000019', 'png')
  # Train ids stay: road 0, two cars 13; unlabelled pixels are 255.
  np.testing.assert_array_equal(item.label, _expected([0, 13001, crowd, 13002, 255000]))


def test_cityscapes_semantic(cityscapes):
  source = sources.cityscapes_semantic(str(cityscapes), 'train', _KEEP)
  (item,) = map(source.convert, source.tasks)
  path = cityscapes / 'gtFine/train/bonn/bonn_000001_000019_gtFine_labelTrainIds.png'
  assert item.label == path.read_bytes()
  _png(path, np.zeros((3, 3)))
  with pytest.raises(errors.UserError, match='labelTrainIds.png: is 3x3 .*is 6x8; must be equal'):
    source.convert(source.tasks[0])
  path.unlink()
  with pytest.raises(errors.UserError, match='no such annotation PNG'):
    source.convert(source.tasks[0])


def test_cityscapes_test_split_needs_no_labels(cityscapes):
  (cityscapes / 'leftImg8bit/train').rename(cityscapes / 'leftImg8bit/test')
  for make in (lambda: sources.cityscapes(str(cityscapes), 'test', sources.Choices(True)),
               lambda: sources.cityscapes_semantic(str(cityscapes), 'test', _KEEP)):
    source = make()
    assert source.convert(source.tasks[0]).label is None


def test_ade20k(tmp_path):
  (tmp_path / 'images/validation').mkdir(parents=True)
  PIL.Image.new('RGB', _SHAPE[::-1]).save(tmp_path / 'images/validation/ADE_val_1.jpg')
  _segment_png(tmp_path / 'ade20k_panoptic_val/ADE_val_1.png', _ids())
  # Category = class - 1; 255 is void. Wrong areas are not looked at, as in DeepLab2.
  _json(tmp_path / 'ade20k_panoptic_val.json', 'ADE_val_1', 'ADE_val_1.png',
        [(1000, 0, 40, 0), (70000, 7, 12, 0), (3, 255, 12, 0), (9, 7, 6, 0)])
  source = sources.ade20k(str(tmp_path), 'val', _KEEP)
  (item,) = map(source.convert, source.tasks)
  assert (item.name, item.picture.format) == ('ADE_val_1', 'jpeg')
  # Class 1 is wall, stuff; class 8 is bed, a thing.
  np.testing.assert_array_equal(item.label, _expected([1000, 8001, 0, 8002, 0]))
  with pytest.raises(errors.UserError, match='no such split'):
    sources.ade20k(str(tmp_path), 'test', _KEEP)


@pytest.fixture
def own(tmp_path):
  """Returns (dataset.json, folder of pictures, panoptic JSON)."""
  categories = [(None, 'void', 0), (41, 'tree', 0), (17, 'apple', 1)]
  (tmp_path / 'dataset.json').write_text(json.dumps({
      'dataset': 'orchard', 'num_classes': 3, 'ignore_label': 0, 'panoptic_label_divisor': 100,
      'original_ignore_id': 0, 'splits': {}, 'categories': [
          {'id': index, 'original_id': original, 'name': name, 'isthing': isthing,
           'color': [index, 0, 0]} for index, (original, name, isthing) in enumerate(categories)]}))
  _png(tmp_path / 'pictures/a.png', np.zeros((*_SHAPE, 3)))
  _segment_png(tmp_path / 'train/a.png', _ids())
  _json(tmp_path / 'train.json', 5, 'a.png',
        [(1000, 41, 12, 0), (70000, 17, 12, 0), (3, 17, 12, 1), (9, 17, 6, 0)])
  return tmp_path / 'dataset.json', tmp_path / 'pictures', tmp_path / 'train.json'


def test_own(own):
  dataset, folder, annotations = own
  source = sources.own(str(folder), str(annotations), datasets.get(str(dataset)),
                       _KEEP)
  (item,) = map(source.convert, source.tasks)
  np.testing.assert_array_equal(item.label, _expected([100, 201, 200, 202, 0]))


def test_own_mistakes(own, tmp_path):
  dataset, folder, annotations = own
  info = datasets.get(str(dataset))

  def refused(match, json_path=annotations):
    with pytest.raises(errors.UserError, match=match):
      sources.own(str(folder), str(json_path), info, _KEEP)

  instances = tmp_path / 'instances.json'
  instances.write_text(json.dumps({'annotations': [{'image_id': 5, 'segmentation': []}]}))
  refused('instances.json: is a COCO instances or stuff file; a COCO panoptic JSON is needed',
          instances)
  _json(annotations, 5, 'a.png', [(1000, 99, 12, 0)])
  refused('train.json, image 5, segment 1000: category_id 99 is not a class of orchard')
  _png(folder / 'b.png', np.zeros((2, 2, 3)))
  _json(annotations, 5, 'a.png', [])
  refused('1 pictures have no annotation in .*first b')
  (folder / 'a.jpg').write_bytes(b'')
  refused('a.jpg and a.png differ in their ending alone')


def test_panoptic_pngs_of_a_writer_are_read_back(tmp_path, own):
  """The way round: what coco_panoptic writes, own reads."""
  dataset, _, _ = own
  info = datasets.get(str(dataset))
  label = _expected([100, 201, 200, 202, 0])
  writer = coco_panoptic.Writer(str(tmp_path / 'written'), info)
  writer.add('a', label)
  writer.save(str(tmp_path / 'written.json'))
  source = sources.own(str(tmp_path / 'pictures'), str(tmp_path / 'written.json'), info,
                       _KEEP)
  np.testing.assert_array_equal(source.convert(source.tasks[0]).label, label)
