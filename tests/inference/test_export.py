"""The command that exports: its paths, and a model of the real network."""

import argparse
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2.config import load
from deeplab2.inference import export
from deeplab2.inference import predict
from deeplab2.inference import saved_model
from tests import hostile_names
from tests.inference import color_model
from tests.inference.small_config import CONFIG
from tests.inference.small_config import OVERRIDES

_FLAGS = [f'--set={override}' for override in OVERRIDES]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
  monkeypatch.setenv('SHAPES_TFRECORDS', 'nowhere')


def _run(config, checkpoint, path, *more):
  paths = [f'--config_file={config}', f'--checkpoint_path={checkpoint}', f'--export_path={path}']
  return export.main([*paths, *_FLAGS, *more])


def test_places_of_something_else_are_refused_before_any_work(tmp_path, capsys):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'photo.jpg').write_bytes(b'x')
  for path, words in (
    (tmp_path / 'mine', 'holds something else than an exported model'),
    (tmp_path / 'mine' / 'photo.jpg', 'is a file; must be a directory'),
  ):
    assert _run(CONFIG, tmp_path / 'no_checkpoint', path) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f'error: {path}: {words}')
  assert os.listdir(tmp_path) == ['mine'] and os.listdir(tmp_path / 'mine') == ['photo.jpg']


def test_an_exported_model_is_replaced_if_that_is_asked_for(tmp_path, capsys):
  path = color_model.export(str(tmp_path / 'model'))
  before = saved_model.load(path).fingerprint
  assert _run(CONFIG, tmp_path / 'no_checkpoint', path) == 2
  assert capsys.readouterr().err == (
    f'error: {path}: holds an exported model; give --overwrite to replace it, or another '
    'directory.\n'
  )
  # Whatever then fails, it is still there.
  assert _run(CONFIG, tmp_path / 'no_checkpoint', path, '--overwrite') == 2
  assert 'no_checkpoint: no such checkpoint' in capsys.readouterr().err
  assert saved_model.load(path).fingerprint == before


@pytest.mark.parametrize(
  'flag,words',
  [
    ('--input_size=640,64', '--input_size=640,64: sides must be of the form 32n + 1; the next such '
     'size is 641,65.'),
    ('--input_size=1', 'the next such size is 33,33.'),
    ('--input_size=65x65', "--input_size: '65x65' must be height and width, like 641,641"),
    ('--input_size=65,65,3', 'must be height and width'),
    ('--input_size=0', 'must be height and width'),
    ('--batch=0', "'0' must be an integer from 1"),
    ('--outputs=batch,masks', "'masks' is no output; choose from batch,encoded,logits"),
    ('--format=onnx', "invalid choice: 'onnx' (choose from"),
  ],
)  # fmt: skip
def test_flags_that_do_not_fit(tmp_path, capsys, flag, words):
  assert _run(CONFIG, tmp_path / 'no_checkpoint', tmp_path / 'model', flag) == 2
  said = capsys.readouterr().err
  assert words in said and said.count('\n') == 1


def test_another_input_size_changes_what_depends_on_it():
  options = argparse.Namespace(input_size=(641, 321), config_file='coco/kmax_resnet50', set=[])
  assert export.input_size_overrides(options) == [
    'eval_dataset_options.crop_size=641,321',
    'eval_dataset_options.min_resize_value=641,321',
    'eval_dataset_options.max_resize_value=641,321',
    f'evaluator_options.thing_area_limit={round(400 * 641 * 321 / 1281**2)}',
    f'evaluator_options.stuff_area_limit={round(6400 * 641 * 321 / 1281**2)}',
  ]
  options.input_size = None
  assert export.input_size_overrides(options) == []


def test_home_and_missing_files(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert _run('~/none.textproto', '~/run', '~/model') == 2
  assert f'{tmp_path}/none.textproto' in capsys.readouterr().err
  assert _run(CONFIG, '~nobody-of-this-name/run', '~/model') == 2
  assert "there is no user 'nobody-of-this-name'" in capsys.readouterr().err


@pytest.mark.parametrize(
  'lost',
  [
    ['saved_model.pb'],
    ['assets.extra/dataset.json'],
    ['variables/variables.index'],
    ['assets.extra/files.json', 'saved_model.pb'],
  ],
)
def test_exporting_again_mends_a_damaged_model(tmp_path, capsys, lost):
  path = color_model.export(str(tmp_path / 'model'))
  for name in lost:
    (tmp_path / 'model' / name).unlink()
  image = pathlib.Path(__file__).parents[2] / 'docs' / 'result.jpg'
  assert predict.main([f'--model={path}', f'--input={image}', f'--output_dir={tmp_path}/out']) == 2
  said = capsys.readouterr().err
  assert 'export it again' in said or 'written by deeplab2.inference.export' in said
  color_model.export(path)
  assert saved_model.load(path).info.name == 'shapes'


@pytest.mark.slow
def test_a_real_model_is_exported_and_predicts(tmp_path):
  model = assemble.model(load.load(str(CONFIG), OVERRIDES))
  tf.train.Checkpoint(model=model).write(str(tmp_path / 'ckpt-1'))
  place = pathlib.Path(tmp_path, *hostile_names.HOSTILE_NAMES)
  place.mkdir(parents=True)
  shutil.copy(CONFIG, place / '[a]*.textproto')
  assert _run(place / '[a]*.textproto', tmp_path / 'ckpt-1', f'{place}/model?/') == 0
  exported = saved_model.load(f'{place}/model?')
  for size in ((65, 65), (200, 90), (31, 333)):
    image = tf.constant(np.random.RandomState(1).randint(0, 255, (*size, 3)), tf.uint8)
    np.testing.assert_array_equal(
      exported.panoptic(image).whole(), exported.segment(image)['panoptic_pred'][0]
    )
  more = ('--overwrite', '--input_size=97,65', '--outputs=batch', '--batch=2')
  assert _run(CONFIG, tmp_path / 'ckpt-1', f'{place}/model?', *more) == 0
  smaller = saved_model.load(f'{place}/model?').functions
  assert set(smaller.signatures) == {'serving_default', 'panoptic_in_crop', 'batch'}
  assert smaller.panoptic_in_crop(image)['values'].shape == (97, 65)
  spec = smaller.signatures['batch'].structured_input_signature[1]['images']
  assert spec.shape.as_list() == [2, None, None, 3]
  listed = json.loads((place / 'model?' / 'assets.extra' / 'files.json').read_text())['files']
  assert {'saved_model.pb', 'assets.extra/dataset.json', 'variables/variables.index'} <= set(listed)
