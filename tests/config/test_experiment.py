"""Errors that name their place, and placeholders for environment variables."""

import pytest

from deeplab2 import errors
from deeplab2.config import config_pb2
from deeplab2.config import experiment

STAGE = 'model_options.kmax.pixel_decoder_stages[0]'


def _config(**fields):
  return experiment.Config(
    config_pb2.ExperimentOptions(**fields),
    'a.textproto',
    '',
    {
      'model_options': 'a.textproto:3',
      'model_options.backbone.name': 'a.textproto:5',
      'train_dataset_options.crop_size': '--set',
      'train_dataset_options.file_pattern': 'a.textproto:9',
    },
  )


def test_error_of_a_field_that_is_set():
  config = _config(model_options=dict(backbone=dict(name='x')))
  assert str(config.error('model_options.backbone.name', 'is bad.')) == (
    'a.textproto:5: model_options.backbone.name = "x": is bad.'
  )


def test_error_of_an_override():
  config = _config(train_dataset_options=dict(crop_size=[64, 65]))
  assert str(config.error('train_dataset_options.crop_size', 'is bad.')) == (
    '--set: train_dataset_options.crop_size = [64, 65]: is bad.'
  )


def test_error_of_a_field_that_is_not_set():
  config = _config()
  assert str(config.error('model_options.backbone.drop_path_keep_prob', 'is bad.')) == (
    'a.textproto:3: model_options.backbone.drop_path_keep_prob = 1 (default): is bad.'
  )
  assert str(config.error('train_dataset_options.resize_factor', 'is bad.')) == (
    'a.textproto: train_dataset_options.resize_factor = 0 (default): is bad.'
  )
  assert str(config.error('train_dataset_options.dataset', 'is missing.')) == (
    'a.textproto: train_dataset_options.dataset: is missing.'
  )
  assert str(config.error('model_options.max_deeplab', 'is missing.')) == (
    'a.textproto:3: model_options.max_deeplab: is missing.'
  )


def test_values_read_as_they_were_written():
  config = _config(
    trainer_options=dict(solver_options=dict(poly_learning_power=0.9)),
    model_options=dict(kmax=dict(pixel_decoder_stages=[dict(type='BOTTLENECK')])),
  )
  assert 'power = 0.9 ' in str(
    config.error('trainer_options.solver_options.poly_learning_power', '')
  )
  assert 'type = BOTTLENECK ' in str(config.error(f'{STAGE}.type', ''))


def test_substitute():
  options = config_pb2.ExperimentOptions(
    experiment_name='run-${NAME}-${OTHER}',
    train_dataset_options=dict(file_pattern=['${ROOT}/a', 'b${ROOT}']),
  )
  experiment.substitute(options, {'NAME': '7', 'ROOT': '/d'})
  assert options.experiment_name == 'run-7-${OTHER}'
  assert list(options.train_dataset_options.file_pattern) == ['/d/a', 'b/d']


def test_resolved_refuses_placeholders_that_are_left():
  config = _config(
    model_options=dict(initial_checkpoint='a'),
    train_dataset_options=dict(file_pattern=['a', '${TRAIN_SET}/*']),
  )
  assert config.resolved('model_options.initial_checkpoint') == 'a'
  assert config.resolved('experiment_name') == ''
  with pytest.raises(errors.UserError) as error:
    config.resolved('train_dataset_options.file_pattern')
  assert str(error.value) == (
    'a.textproto:9: train_dataset_options.file_pattern = ["a", "${TRAIN_SET}/*"]: the '
    'environment variable TRAIN_SET is not set; export it, or give the value by --set '
    'train_dataset_options.file_pattern=...'
  )


def test_require_takes_every_kind_of_field():
  config = _config(eval_dataset_options=dict(crop_size=[65, 97], batch_size=2))
  assert config.require('eval_dataset_options.crop_size') == [65, 97]
  assert config.require('eval_dataset_options.batch_size') == 2


def test_require_refuses_what_is_empty():
  with pytest.raises(errors.UserError, match='experiment_name: is missing.'):
    _config().require('experiment_name')
  with pytest.raises(errors.UserError, match='file_pattern: is missing.'):
    _config().require('train_dataset_options.file_pattern')
