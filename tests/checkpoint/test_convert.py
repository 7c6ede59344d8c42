"""The converter on a checkpoint with released keys; wrong ones are refused in one line."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2.checkpoint import convert
from deeplab2.checkpoint import released_keys
from deeplab2.checkpoint import restore
from deeplab2.config import load
from deeplab2.data import images
from tests.checkpoint import files
from tests.checkpoint import folded_files
from tests.checkpoint import keras_files
from tests.model import builders

_CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
_CONFIG = str(_CONFIGS / 'shapes' / 'kmax_mobilenet_v3_small.textproto')


@pytest.fixture(scope='module')
def model():
  return assemble.model(load.load(_CONFIG))


@pytest.fixture(scope='module')
def released(model, tmp_path_factory):
  """Prefix of a released checkpoint of `model`, and its values."""
  values = {key: variable.numpy() for key, variable in builders.fill_by_key(model).items()}
  return _write(tmp_path_factory.mktemp('released') / 'ckpt-7', values), values


def _write(path, values):
  tensors = {**values, 'global_step': np.int64(7), 'optimizer/iter': np.int64(7)}
  return files.write(path, {key + files.SUFFIX: value for key, value in tensors.items()})


def _convert(checkpoint, output_dir, config=_CONFIG, more=()):
  return convert.main(
    [f'--config_file={config}', f'--checkpoint={checkpoint}', f'--output_dir={output_dir}', *more]
  )


def test_what_is_converted_is_the_same_model(model, released, tmp_path, capsys):
  prefix, values = released
  assert _convert(prefix, tmp_path / 'new') == 0
  assert f'{tmp_path}/new/ckpt-7, of step 7' in capsys.readouterr().out
  for variable in model.variables:
    variable.assign(tf.zeros_like(variable))
  assert restore.restore_model(model, str(tmp_path / 'new')) == f'{tmp_path}/new/ckpt-7'
  for key, variable in released_keys.of_model(model).items():
    np.testing.assert_array_equal(variable, values[key])
  stored = dict(tf.train.list_variables(str(tmp_path / 'new')))
  assert all(key.startswith(('model/', 'global_step', 'save_counter', '_CHECK')) for key in stored)


def _error(capfd, *arguments):
  assert _convert(*arguments) == 2
  lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1
  return lines[0]


def test_a_directory_with_checkpoints_is_left_alone(released, tmp_path, capfd):
  _convert(released[0], tmp_path)
  assert 'give a new directory' in _error(capfd, released[0], tmp_path)


def test_wrong_checkpoints(released, tmp_path, capfd):
  prefix, values = released
  assert 'no such checkpoint' in _error(capfd, tmp_path / 'nothing', tmp_path)
  lacking = {key: value for key, value in values.items() if key.startswith('encoder/_blocks/0')}
  error = _error(capfd, _write(tmp_path / 'imagenet', lacking), tmp_path / 'new')
  assert 'imagenet: holds the backbone MobileNetV3 with 1 blocks' in error and 'lacks' in error
  whole = {key: value for key, value in values.items() if 'pixel_decoder' not in key}
  error = _error(capfd, _write(tmp_path / 'part', whole), tmp_path / 'new')
  assert 'part: this checkpoint does not fit' in error and 'it lacks pixel_decoder' in error
  assert '/none.textproto' in _error(capfd, prefix, tmp_path, '/none.textproto')
  assert not (tmp_path / 'new').exists()


def _arguments(*more):
  return [f'--set=model_options.backbone.{value}' for value in more]


def test_a_backbone_alone_stays_one_and_training_starts_from_it(released, tmp_path, capfd):
  backbone = {key: value for key, value in released[1].items() if key.startswith('encoder/')}
  path = _write(tmp_path / 'imagenet', backbone)
  gate = _arguments('squeeze_excite_gate=HARD_SIGMOID')
  assert _convert(path, tmp_path / 'other', more=gate) == 2
  assert 'set model_options.backbone.squeeze_excite_gate=SIGMOID' in capfd.readouterr().err
  assert not (tmp_path / 'other').exists()
  assert _convert(path, tmp_path / 'new') == 0
  written = f'{tmp_path}/new/ckpt-0'
  assert f'Wrote {written}, of the backbone alone' in capfd.readouterr().out
  stored = set(dict(tf.train.list_variables(written)))
  other = {key for key in stored if not key.startswith('model/backbone/')}
  names = {'global_step', 'save_counter'}
  assert other == {'_CHECKPOINTABLE_OBJECT_GRAPH', *(name + files.SUFFIX for name in names)}
  model = assemble.model(load.load(_CONFIG))
  for start in (
    lambda: restore.initialize_model(model, str(tmp_path / 'new')),
    lambda: restore.initialize_backbone(model.backbone, written),
  ):
    for variable in model.backbone.variables:
      variable.assign(tf.zeros_like(variable))
    assert start() == written
    for key, variable in released_keys.of_model(model.backbone, 'backbone').items():
      np.testing.assert_array_equal(variable, backbone[key])
  files.refused(lambda: restore.restore_model(model, written), 'holds a backbone alone')
  hard = assemble.model(load.load(_CONFIG, [option.removeprefix('--set=') for option in gate]))
  files.refused(lambda: restore.initialize_model(hard, written), 'squeeze_excite_gate=SIGMOID')


def test_keras_weights(tmp_path, capfd):
  keras_files.mobilenet(include_top=False).save_weights(str(tmp_path / 'small.h5'))
  gate = _arguments('squeeze_excite_gate=HARD_SIGMOID')
  assert _convert(f'keras:{tmp_path}/small.h5', tmp_path / 'new', more=gate) == 0
  assert 'squeeze_excite_gate=HARD_SIGMOID' in _error(capfd, tmp_path / 'small.h5', tmp_path / 'x')
  assert not (tmp_path / 'x').exists()


def _images(directory):
  directory.mkdir()
  for index, shape in enumerate([(40, 64, 3), (33, 33, 3)]):
    pixels = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
    (directory / f'{index}.png').write_bytes(images.encode(pixels, 'png').data)
  return directory


def test_folded_weights_are_unfolded_as_advised(model, tmp_path, capfd):
  folded_files.write(tmp_path / 'folded.npz', model.backbone)
  hard = _arguments('squeeze_excite_gate=HARD_SIGMOID')
  _convert(tmp_path / 'folded.npz', tmp_path / 'new', more=hard)
  advised = capfd.readouterr().err
  assert 'start from noise' in advised and '--statistics_images=IMAGES --output_dir=NEW' in advised
  use = [f'--statistics_images={_images(tmp_path / "images")}', *hard]
  assert _convert(tmp_path / 'folded.npz', tmp_path / 'new', more=use) == 0
  key = 'model/backbone/blocks/0/norm/moving_variance/.ATTRIBUTES/VARIABLE_VALUE'
  variance = tf.train.load_checkpoint(str(tmp_path / 'new')).get_tensor(key)
  assert np.ptp(variance) > 0.01  # Measured, not all the same.


def test_images_that_are_of_no_use(released, model, tmp_path, capfd):
  folded_files.write(tmp_path / 'folded.npz', model.backbone)
  (tmp_path / 'empty').mkdir()
  for checkpoint, directory, message in (
    (released[0], 'empty', 'is for weights whose batch norm is folded in'),
    (tmp_path / 'folded.npz', 'empty', 'no image (.jpg, '),
    (tmp_path / 'folded.npz', 'nowhere', 'no such directory'),
  ):
    place = f'--statistics_images={tmp_path / directory}'
    gate = _arguments('squeeze_excite_gate=HARD_SIGMOID')
    assert _convert(checkpoint, tmp_path / 'new', more=[place, *gate]) == 2
    error = capfd.readouterr().err
    assert place in error and message in error
  assert not (tmp_path / 'new').exists()
