"""Raw prediction files against those that DeepLab2 writes."""

import os

import numpy as np
import PIL.Image
import pytest

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.data import datasets
from deeplab2.inference import raw_predictions


def _maps(panoptic, semantic, instance=None, score=None):
  score = np.zeros(panoptic.shape, np.float32) if score is None else score
  return structures.PanopticMap(panoptic, instance, semantic, score, score)


def _read(path):
  return np.load(path) if path.endswith('.npy') else np.asarray(PIL.Image.open(path))


@pytest.mark.parametrize('ids', ['train_ids', 'eval_ids'])
@pytest.mark.parametrize('file_format', raw_predictions.PANOPTIC_FORMATS)
@pytest.mark.parametrize('dataset', ['cityscapes_panoptic', 'coco_panoptic', 'ade20k_panoptic'])
def test_meets_recorded_files(golden, tmp_path, dataset, file_format, ids):
  arrays, info = golden('eval_outputs'), datasets.get(dataset)
  inputs = {
    key: arrays[f'raw/{dataset}/{key}']
    for key in ('panoptic', 'instance', 'semantic', 'instance_score', 'semantic_score')
  }
  has_instances = f'raw/{dataset}/{ids}/instance_txt' in arrays
  writer = raw_predictions.RawPredictions(
    str(tmp_path),
    info.label_space,
    panoptic_format=file_format,
    class_table=datasets.original_id_table(info) if ids == 'eval_ids' else None,
    instance_files=has_instances,
  )
  writer.add('frame_7', structures.PanopticMap(*inputs.values()))
  ending = 'npy' if file_format.endswith('array') else 'png'
  written = _read(str(tmp_path / 'raw_panoptic' / f'frame_7.{ending}'))
  expected = arrays[f'raw/{dataset}/{ids}/{file_format}']
  np.testing.assert_array_equal(written, expected)
  assert written.dtype == expected.dtype
  np.testing.assert_array_equal(
    _read(str(tmp_path / 'raw_semantic' / 'frame_7.png')), arrays[f'raw/{dataset}/{ids}/semantic']
  )
  assert (tmp_path / 'raw_instance').exists() == has_instances
  if has_instances:
    text = (tmp_path / 'raw_instance' / 'frame_7.txt').read_text()
    assert text == str(arrays[f'raw/{dataset}/{ids}/instance_txt'])
    masks = [_read(str(tmp_path / 'raw_instance' / line.split()[0])) for line in text.splitlines()]
    np.testing.assert_array_equal(masks, arrays[f'raw/{dataset}/{ids}/instance_masks'])


_SPACE = structures.LabelSpace(4, 0, 1000, (1, 2))


def test_instances_are_numbered_within_their_class(tmp_path):
  writer = raw_predictions.RawPredictions(str(tmp_path), _SPACE, panoptic_format='two_channel_png')
  panoptic = np.array([[1256, 1300, 2300, 3000, 0]])
  writer.add('some/where', _maps(panoptic, panoptic // 1000))
  written = _read(str(tmp_path / 'raw_panoptic' / 'some' / 'where.png'))
  assert written[0].tolist() == [[1, 1, 0], [1, 2, 0], [2, 1, 0], [3, 0, 0], [0, 0, 0]]


def test_what_does_not_fit_is_refused(tmp_path):
  writer = raw_predictions.RawPredictions(str(tmp_path), _SPACE, panoptic_format='two_channel_png')
  panoptic = 1001 + np.arange(300).reshape(10, 30)
  with pytest.raises(errors.UserError, match='many.png: instance 300 does not fit, 0 to 255 do'):
    writer.add('many', _maps(panoptic, panoptic // 1000))
  wide = raw_predictions.RawPredictions(str(tmp_path), _SPACE, panoptic_format='three_channel_png')
  wide.add('many', _maps(panoptic, panoptic // 1000))
  assert _read(str(tmp_path / 'raw_panoptic' / 'many.png'))[9, 29].tolist() == [1, 1, 44]
  table = raw_predictions.RawPredictions(
    str(tmp_path), _SPACE, panoptic_format='two_channel_png', class_table=[0, 256, 2, 3]
  )
  with pytest.raises(errors.UserError, match='class 256 does not fit'):
    table.add('one', _maps(panoptic, panoptic // 1000))


def test_an_unknown_format_and_an_unwritable_directory_are_user_errors(tmp_path):
  with pytest.raises(errors.UserError, match="'png'; choose from two_channel_png, three_channel"):
    raw_predictions.RawPredictions(str(tmp_path), _SPACE, panoptic_format='png')
  (tmp_path / 'raw_semantic').write_text('in the way')
  with pytest.raises(errors.UserError, match='raw_semantic: the directory cannot be made'):
    raw_predictions.RawPredictions(str(tmp_path), _SPACE, panoptic_format='two_channel_png')
  assert os.listdir(tmp_path) == ['raw_semantic']


@pytest.mark.parametrize('name', ['../out', '/tmp/out', 'a/../../out'])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
  writer = raw_predictions.RawPredictions(
    str(tmp_path / 'raw'), _SPACE, panoptic_format='two_channel_png'
  )
  with pytest.raises(errors.UserError, match='would be written outside of .*raw'):
    writer.add(name, _maps(np.array([[1001]]), np.array([[1]])))
  assert os.listdir(tmp_path) == ['raw']


def test_advice_on_what_does_not_fit_is_right(tmp_path):
  panoptic = 1001 + np.arange(300).reshape(10, 30)
  narrow = raw_predictions.RawPredictions(str(tmp_path), _SPACE, panoptic_format='two_channel_png')
  with pytest.raises(errors.UserError, match='choose raw_panoptic_format "(.*)"') as caught:
    narrow.add('many', _maps(panoptic, panoptic // 1000))
  advised = str(caught.value).split('"')[1]
  raw_predictions.RawPredictions(str(tmp_path), _SPACE, panoptic_format=advised).add(
    'many', _maps(panoptic, panoptic // 1000)
  )
  assert _read(str(tmp_path / 'raw_panoptic' / 'many.npy'))[9, 29].tolist() == [1, 300, 0]
