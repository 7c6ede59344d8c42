"""Exported models: the map in the crop, damaged files, places that cannot be written."""

import os
import pathlib
import resource
import shutil

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.inference import model_files
from deeplab2.inference import saved_model
from tests import hostile_names
from tests.inference import color_model


@pytest.fixture(name='exported', scope='module')
def _exported(tmp_path_factory):
  return pathlib.Path(color_model.export(str(tmp_path_factory.mktemp('export') / 'model')))


@pytest.fixture(name='model', scope='module')
def _model(exported):
  return saved_model.load(str(exported))


@pytest.fixture(name='copy')
def _copy(exported, tmp_path):
  return shutil.copytree(exported, tmp_path / 'copy')


@pytest.mark.parametrize('size', [(40, 60), (65, 65), (3, 200), (131, 77), (1, 1), (333, 1000)])
def test_the_map_in_the_crop_stretches_to_that_of_the_whole(model, size):
  image = tf.constant(color_model.image(*size)) if min(size) > 1 else tf.zeros([*size, 3], tf.uint8)
  whole = model.segment(image)['panoptic_pred'][0].numpy()
  stretched = model.panoptic(image)
  assert stretched.shape == size == whole.shape
  np.testing.assert_array_equal(stretched.whole(), whole)
  if min(size) > 30:
    assert set(np.unique(whole) // 256) > {1, 2}, 'both things are found'


def test_models_without_list_of_files_or_map_in_the_crop_are_read(exported, tmp_path):
  path = color_model.export_as_first_version(str(tmp_path / 'earlier'))
  image = tf.constant(color_model.image(131, 77))
  earlier, now = saved_model.load(path), saved_model.load(str(exported))
  np.testing.assert_array_equal(earlier.panoptic(image).whole(), now.panoptic(image).whole())
  assert earlier.fingerprint != now.fingerprint


def _files(model):
  return sorted(path for path in model.rglob('*') if path.is_file())


def test_every_file_that_is_damaged_or_cut_or_gone_is_named(copy):
  found = _files(copy)
  assert {path.name for path in found} >= {
    'saved_model.pb',
    'variables.index',
    'variables.data-00000-of-00001',
    'dataset.json',
    'files.json',
  }
  for path in found:
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
    for content in (flipped, data[:middle], b'', None):
      if content is None:
        path.unlink()
      else:
        path.write_bytes(content)
      if content is None and path.name == 'files.json':
        assert saved_model.load(str(copy)).fingerprint, 'as models of earlier versions'
      else:
        with pytest.raises(errors.UserError) as caught:
          saved_model.load(str(copy))
        assert str(copy) in str(caught.value) and '\n' not in str(caught.value)
      path.write_bytes(data)
  assert saved_model.load(str(copy)).info.name == 'shapes'


@pytest.mark.parametrize('name', ['saved_model.pb', 'variables/variables.index'])
def test_damage_without_a_list_of_files_is_one_line(copy, name):
  (copy / model_files.LIST_FILE).unlink()
  data = (copy / name).read_bytes()
  (copy / name).write_bytes(data[: len(data) // 2])
  with pytest.raises(errors.UserError, match='cannot be read') as caught:
    saved_model.load(str(copy))
  assert '\n' not in str(caught.value)


def test_paths_are_literal(exported, tmp_path):
  path = pathlib.Path(tmp_path, *hostile_names.HOSTILE_NAMES)
  (path / 'back\\slash?[a]*').mkdir(parents=True)
  shutil.copytree(exported, path / 'model')
  assert saved_model.load(f'{path}/model/').info.name == 'shapes'
  assert saved_model.load(color_model.export(f'{path}/back\\slash?[a]*/')).info.name == 'shapes'
  assert sorted(os.listdir(path)) == ['back\\slash?[a]*', 'model'], 'nothing is left next to it'


def test_a_model_is_replaced_and_anything_else_is_not(model, copy, tmp_path):
  before = saved_model.load(str(copy)).fingerprint
  assert before == model.fingerprint
  color_model.export(str(copy), classes=(1, 0, 5, 6))
  assert saved_model.load(str(copy)).fingerprint != before
  assert os.listdir(tmp_path) == ['copy']
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'chapter1.tex').write_text('words')
  with pytest.raises(errors.UserError, match='thesis: holds something else.*choose another dir'):
    color_model.export(str(tmp_path / 'thesis'))
  assert (tmp_path / 'thesis' / 'chapter1.tex').read_text() == 'words'
  with pytest.raises(errors.UserError, match='is a file; must be a directory'):
    color_model.export(str(tmp_path / 'thesis' / 'chapter1.tex'))


@pytest.mark.parametrize('limit', [100, 20_000])
def test_a_full_disk_leaves_the_earlier_model_and_no_half_one(copy, tmp_path, limit):
  segmenter, before = color_model.create(), saved_model.load(str(copy)).fingerprint
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
  try:
    for path in (copy, tmp_path / 'new'):
      with pytest.raises(errors.UserError, match='cannot be written') as caught:
        saved_model.save(segmenter, datasets.get('shapes'), str(path))
      assert '\n' not in str(caught.value)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert os.listdir(tmp_path) == ['copy']
  assert saved_model.load(str(copy)).fingerprint == before
