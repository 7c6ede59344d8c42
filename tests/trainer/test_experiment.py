"""The modes, with a tiny model and dataset in place of the configured ones."""

import json
import logging

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import errors
from deeplab2.config import load
from deeplab2.trainer import experiment
from deeplab2.trainer import train
from tests.trainer import fakes
from tests.trainer import runs

CONFIG, OVERRIDES, _SOLVER, _run = runs.CONFIG, runs.OVERRIDES, runs.SOLVER, runs.run
pytestmark = pytest.mark.usefixtures('parts')


def _metrics(directory):
  return sorted(
    int(path.stem.removeprefix('metrics-')) for path in (directory / 'eval').glob('metrics-*.json')
  )


def test_train_and_eval_then_finished_then_longer(tmp_path, caplog):
  with caplog.at_level(logging.INFO):
    _run('train_and_eval', tmp_path)
  assert 'Started from scratch' in caplog.text
  assert _metrics(tmp_path) == [4, 6]
  assert (tmp_path / 'ckpt-6.index').exists() and (tmp_path / 'ckpt-0.index').exists()
  assert len(list((tmp_path / 'vis').glob('*_panel.png'))) == 3
  content = json.loads((tmp_path / 'eval' / 'metrics-6.json').read_text())
  assert content['num_images'] == 3 and 'semantic_loss' in content['losses']
  assert 'logit_of_0' in content['diagnostics']
  assert {'diagnostics/logit_of_0', 'gradient_norm'} <= set(content['training'])
  before = (tmp_path / 'checkpoint').read_text()
  caplog.clear()
  with caplog.at_level(logging.INFO):
    _run('train_and_eval', tmp_path)
  assert 'This run is finished' in caplog.text
  assert (tmp_path / 'checkpoint').read_text() == before
  _run('train', tmp_path, f'{_SOLVER}.training_number_of_steps=8')
  assert (tmp_path / 'ckpt-8.index').exists()


def test_evaluation_of_the_newest_checkpoint(tmp_path):
  _run('train', tmp_path)
  assert not (tmp_path / 'eval').exists()
  _run(
    'eval',
    tmp_path,
    'evaluator_options.save_raw_predictions=true',
    'evaluator_options.save_predictions=false',
  )
  assert _metrics(tmp_path) == [6]
  names = sorted(path.name for path in (tmp_path / 'vis' / 'raw_panoptic').iterdir())
  assert names == ['image_0.png', 'image_1.png', 'image_2.png']
  assert not list((tmp_path / 'vis').glob('*.png'))
  _run('continuous_eval', tmp_path)
  assert _metrics(tmp_path) == [6]


@pytest.mark.parametrize('mode', ['eval', 'continuous_eval'])
def test_without_a_checkpoint_there_is_nothing_to_evaluate(tmp_path, mode):
  with pytest.raises(errors.UserError, match='nothing to evaluate') as caught:
    _run(mode, tmp_path)
  assert str(tmp_path) in str(caught.value)


def test_initial_checkpoint_is_trained_from_and_evaluated(tmp_path, caplog):
  _run('train', tmp_path / 'first')
  initial = f'model_options.initial_checkpoint={tmp_path / "first"}'
  _run('eval', tmp_path / 'second', initial)
  assert _metrics(tmp_path / 'second') == [0]  # The step is not that of the other run.
  with caplog.at_level(logging.INFO):
    _run('train', tmp_path / 'second', initial)
  assert f'Started from {tmp_path}/first/ckpt-6' in caplog.text
  first, second = (
    tf.train.load_checkpoint(str(path))
    for path in (tmp_path / 'first' / 'ckpt-6', tmp_path / 'second' / 'ckpt-0')
  )
  key = 'model/head/kernel/.ATTRIBUTES/VARIABLE_VALUE'
  np.testing.assert_array_equal(first.get_tensor(key), second.get_tensor(key))
  assert second.get_tensor('optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE') == 0


def test_pretrained_weights_are_those_of_the_backbone_alone(tmp_path, caplog):
  _run('train', tmp_path / 'first')
  pretrained = f'model_options.backbone.pretrained_weights={tmp_path / "first"}'
  with caplog.at_level(logging.INFO):
    _run('train', tmp_path / 'second', pretrained)
  assert f'Backbone from {tmp_path}/first/ckpt-6' in caplog.text
  first, second = (
    tf.train.load_checkpoint(str(path))
    for path in (tmp_path / 'first' / 'ckpt-6', tmp_path / 'second' / 'ckpt-0')
  )
  keys = [
    key
    for key in first.get_variable_to_shape_map()
    if key.startswith('model/') and 'SLOT' not in key
  ]
  assert any('backbone' in key for key in keys)
  for key in keys:
    same = np.array_equal(first.get_tensor(key), second.get_tensor(key))
    assert same == ('backbone' in key), key


def test_wrong_pretrained_weights_are_refused_before_training(tmp_path):
  with pytest.raises(errors.UserError, match='nowhere: no such checkpoint'):
    _run('train', tmp_path / 'run', 'model_options.backbone.pretrained_weights=/nowhere')
  assert not list(tmp_path.glob('run/ckpt*'))


def test_wrong_initial_checkpoint_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match='nowhere: no such checkpoint'):
    _run('train', tmp_path, 'model_options.initial_checkpoint=/nowhere')


def test_images_without_labels_need_a_purpose(tmp_path, monkeypatch):
  _run('train', tmp_path)
  monkeypatch.setattr(
    assemble, 'eval_dataset', lambda config, skip=0: fakes.eval_dataset(labels=False).skip(skip)
  )
  unlabelled = [
    'eval_dataset_options.decode_groundtruth_label=false',
    'evaluator_options.save_predictions=false',
  ]
  with pytest.raises(errors.UserError, match='save_raw_predictions'):
    _run('eval', tmp_path, *unlabelled)
  _run('eval', tmp_path, *unlabelled, 'evaluator_options.save_raw_predictions=true')
  assert len(list((tmp_path / 'vis' / 'raw_semantic').iterdir())) == 3
  assert not _metrics(tmp_path)


def test_optimizer_groups_follow_the_options():
  model = assemble.model(None)
  rate = f'{_SOLVER}.base_learning_rate=0.002'
  groups = experiment.optimizer_groups(load.load(CONFIG, [*OVERRIDES, rate]), model)
  assert list(groups) == ['optimizer', 'backbone_optimizer']
  assert [v.name for v in groups['backbone_optimizer'].variables] == [
    v.name for v in model.backbone.trainable_variables
  ]
  assert float(groups['optimizer'].rate(tf.constant(0))) == pytest.approx(2e-3)
  assert float(groups['backbone_optimizer'].rate(tf.constant(0))) == pytest.approx(2e-4)
  assert groups['optimizer'].optimizer._weight_decay == pytest.approx(0.05)
  one = experiment.optimizer_groups(
    load.load(
      CONFIG,
      [
        rate,
        f'{_SOLVER}.learning_policy=cosine',
        f'{_SOLVER}.warmup_steps=100',
        f'{_SOLVER}.training_number_of_steps=1500',
      ],
    ),
    assemble.model(None),
  )
  assert list(one) == ['optimizer']
  # Half way, past the warm-up.
  assert float(one['optimizer'].rate(tf.constant(750))) == pytest.approx(1e-3)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--mode=train'], ['--config_file', '--model_dir']),
    (['--config_file=x', '--model_dir=y', '--mode=test'], ['--mode', 'train_and_eval']),
    (['--config_file=missing.textproto', '--model_dir=y', '--mode=eval'], ['missing.textproto']),
    (['--config_file=x', '--model_dir=y', '--mode=eval', '--gpus=1'], ['--gpus']),
  ],
)
def test_mistakes_in_flags_are_one_line_and_exit_code_2(arguments, words, capsys, monkeypatch):
  monkeypatch.setattr(train.runtime, 'start_logging', lambda: None)
  assert train.main(arguments) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  for word in words:
    assert word in line
