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
from tests.checkpoint import files
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


def _convert(checkpoint, output_dir, config=_CONFIG):
  return convert.main(
    [f'--config_file={config}', f'--checkpoint={checkpoint}', f'--output_dir={output_dir}']
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
  backbone = {key: value for key, value in values.items() if key.startswith('encoder/')}
  error = _error(capfd, _write(tmp_path / 'imagenet', backbone), tmp_path / 'new')
  assert 'imagenet: holds a backbone' in error and 'whole kMaX-DeepLab' in error
  assert '/none.textproto' in _error(capfd, prefix, tmp_path, '/none.textproto')
  assert not (tmp_path / 'new').exists()
