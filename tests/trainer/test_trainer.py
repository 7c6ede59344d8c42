"""One training step: what it averages, sums, clips, updates, and when it refuses to."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from tests.trainer import fakes

each_loop = pytest.mark.parametrize('loop_on_device', [False, True], ids=['calls', 'loop'])


def _values(model):
  return [v.numpy() for v in model.variables]


def _assert_equal(first, second):
  for one, other in zip(first, second, strict=True):
    np.testing.assert_array_equal(one, other)


def test_a_step_is_the_optimizer_s_step_on_the_mean_loss():
  trainer, model, step = fakes.trainer(fakes.dataset())
  twin = fakes.TinyModel()
  twin(tf.zeros([1, fakes.SIZE, fakes.SIZE, 3]))
  twin.set_weights(model.get_weights())
  groups = fakes.groups(twin)

  logs = trainer.train(1)

  sample = fakes.sample(0)
  with tf.GradientTape() as tape:
    losses, ratios = fakes.loss(twin(sample.image, training=True), sample.targets)
    total = tf.reduce_mean(losses['total_loss'])
  variables = [v for group in groups for v in group.variables]
  gradients = tape.gradient(total, variables)
  for group in groups:
    mine = [
      (g, v)
      for g, v in zip(gradients, variables, strict=True)
      if any(v is other for other in group.variables)
    ]
    group.optimizer.apply_gradients(mine)
  for ours, theirs in zip(model.variables, twin.variables, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-7)
  assert step.numpy() == 1
  for name, value in losses.items():
    assert logs[f'losses/train_{name}'] == pytest.approx(np.mean(value), rel=1e-6)
  norm = np.sqrt(sum(np.sum(np.square(g.numpy())) for g in gradients))
  assert logs['gradient_norm'] == pytest.approx(norm, rel=1e-6)
  numerator, denominator = (np.sum(part) for part in ratios['logit_of_0'])
  assert logs['diagnostics/logit_of_0'] == pytest.approx(numerator / denominator, rel=1e-5)
  assert logs['learning_rate'] == pytest.approx(0.01)
  assert logs['learning_rate_backbone'] == pytest.approx(0.001)
  assert logs['images_per_second'] == pytest.approx(4 * logs['steps_per_second'])


@each_loop
def test_logs_are_means_over_the_loop_and_rates_those_of_its_last_step(loop_on_device):
  trainer, model, _ = fakes.trainer(fakes.dataset(), loop_on_device=loop_on_device)
  once, _, _ = fakes.trainer(fakes.dataset())
  once._step._model.set_weights(model.get_weights())
  singles = [once.train(1) for _ in range(3)]
  logs = trainer.train(3)
  for name in ('losses/train_total_loss', 'gradient_norm'):
    assert logs[name] == pytest.approx(np.mean([s[name] for s in singles]), rel=1e-5)
  # poly with power 0.9 over 100 steps, of the third update.
  assert logs['learning_rate'] == pytest.approx(0.01 * (1 - 2 / 100) ** 0.9, rel=1e-5)
  assert trainer.train(1)['losses/train_total_loss'] < logs['losses/train_total_loss']


@each_loop
@pytest.mark.parametrize('weight', [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_before_its_update(weight, loop_on_device):
  batches = fakes.dataset([1.0, 1.0, weight, 1.0])
  bad, model, step = fakes.trainer(batches, loop_on_device=loop_on_device)
  good, twin, _ = fakes.trainer(fakes.dataset([1.0, 1.0]))
  twin.set_weights(model.get_weights())
  good.train(2)
  with pytest.raises(errors.UserError) as caught:
    bad.train(4)
  message = str(caught.value)
  assert 'Step 3' in message
  assert 'not finite: total_loss' in message and 'semantic_loss' in message
  assert 'size_loss' not in message.split('all terms')[0]
  assert step.numpy() == 2
  _assert_equal(_values(model), _values(twin))
  for ours, theirs in zip(bad._groups, good._groups, strict=True):
    _assert_equal(ours.optimizer.get_weights(), theirs.optimizer.get_weights())


def test_steps_by_calls_and_in_a_loop_on_the_device_are_the_same_bits():
  batches = fakes.dataset([1.0, 0.5, 2.0])
  calls, model, _ = fakes.trainer(batches)
  loop, twin, step = fakes.trainer(batches, loop_on_device=True)
  twin.set_weights(model.get_weights())
  logs, others = calls.train(5), loop.train(5)
  assert step.numpy() == 5
  _assert_equal(_values(model), _values(twin))
  for one, other in zip(calls._groups, loop._groups, strict=True):
    _assert_equal(one.optimizer.get_weights(), other.optimizer.get_weights())
  speeds = {'steps_per_second', 'images_per_second'}
  assert {tag: logs[tag] for tag in logs.keys() - speeds} == {
    tag: others[tag] for tag in others.keys() - speeds
  }


def test_images_that_are_not_finite_leave_running_statistics_alone():
  batch = fakes.sample(0)
  batch = batch._replace(image=batch.image * np.nan)
  dataset = tf.data.Dataset.from_tensors(batch).repeat()
  trainer, model, _ = fakes.trainer(dataset)
  before = _values(model)
  with pytest.raises(errors.UserError, match='Step 1: not finite'):
    trainer.train(5)
  _assert_equal(_values(model), before)


def test_a_gradient_that_is_not_finite_stops_too():
  trainer, model, _ = fakes.trainer(fakes.dataset())

  def square_root_of_zero(prediction, targets):
    losses, ratios = fakes.loss(prediction, targets)
    nothing = tf.sqrt(tf.reduce_sum(0.0 * prediction.semantic_logits, axis=[1, 2, 3]))
    return {**losses, 'total_loss': losses['total_loss'] + nothing}, ratios

  trainer._step._loss = square_root_of_zero
  before = _values(model)
  with pytest.raises(errors.UserError, match='Step 1: not finite: gradient_norm'):
    trainer.train(2)
  _assert_equal(_values(model), before)


@pytest.mark.parametrize('parts', [1, 2])
def test_a_variable_without_gradient_keeps_its_value(caplog, parts):
  trainer, model, _ = fakes.trainer(fakes.dataset(), parts=parts)

  def loss_of_zeroth_class(prediction, targets):
    del targets
    return {'total_loss': tf.reduce_mean(prediction.final.pixel_feature**2, axis=[1, 2, 3])}, {}

  trainer._step._loss = loss_of_zeroth_class
  head = [v.numpy() for v in model.head.variables]
  backbone = [v.numpy() for v in model.backbone.trainable_variables]
  trainer.train(2)
  _assert_equal([v.numpy() for v in model.head.variables], head)
  assert not np.array_equal(model.backbone.trainable_variables[0], backbone[0])
  assert 'kernel' in caplog.text


_REPLICAS = """
import json, sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.trainer import fakes

weights = [1.0, 1.0, float('nan')]
batches = fakes.dataset(weights)

def compare(settings):
  with tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1']).scope():
    trainer, model, step = fakes.trainer(batches, **settings)
  start = [v.numpy() for v in model.variables]
  logs = trainer.train(2)
  replicas = [[np.asarray(copy) for copy in v.values] for v in model.trainable_variables]
  try:
    trainer.train(2)
    stopped = ''
  except Exception as error:
    stopped = f'{type(error).__name__}: {error}'
  after = [[np.asarray(copy) for copy in v.values] for v in model.trainable_variables]

  single, twin, _ = fakes.trainer(batches, **settings)
  twin.set_weights(start)
  twin_logs = single.train(2)
  return {
      'equal': all(np.array_equal(*copies) for copies in replicas),
      'kept': all(np.array_equal(a, b) for x, y in zip(replicas, after) for a, b in zip(x, y)),
      'stopped': stopped, 'step': int(step.numpy()),
      'moved': min(float(np.abs(v[0] - s).max()) for v, s in zip(
          [m.values for m in model.trainable_variables],
          [s for s, v in zip(start, model.variables) if v.trainable])),
      'deviation': max(float(np.abs(v[0] - t.numpy()).max()) for v, t in zip(
          replicas, twin.trainable_variables)),
      'logs': logs, 'twin_logs': twin_logs}

print(json.dumps([compare(settings) for settings in json.loads(sys.argv[1])]))
"""
_SETTINGS = (
  {'name': 'adamw'},
  {'name': 'sgd'},
  {'name': 'sgd', 'clip_norm': 0.05},
  {'name': 'sgd', 'loop_on_device': True},
)


@pytest.fixture(name='compared', scope='module')
def _compared():
  """What one process, for it has two devices, found with each of the settings."""
  result = subprocess.run(
    [sys.executable, '-c', _REPLICAS, json.dumps(_SETTINGS)],
    capture_output=True,
    text=True,
    env={
      **os.environ,
      'TF_CPP_MIN_LOG_LEVEL': '3',
      'PYTHONPATH': os.pathsep.join([os.getcwd(), *sys.path]),
    },
    check=False,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize('index', range(len(_SETTINGS)), ids=map(str, _SETTINGS))
def test_two_replicas_stay_equal_and_agree_with_one(compared, index):
  """Decay on every replica, clipping of the sum: else the copies, or one and two, would differ."""
  settings, found = _SETTINGS[index], compared[index]
  assert found['equal']
  assert found['kept']
  assert found['stopped'].startswith('UserError: Step 3: not finite: total_loss')
  assert found['step'] == 2
  assert found['moved'] > 1e-6
  if settings['name'] == 'sgd':  # Adam divides by gradients that are near zero.
    assert found['deviation'] < 1e-6
    for name in ('losses/train_total_loss', 'losses/train_size_loss', 'gradient_norm'):
      assert found['logs'][name] == pytest.approx(found['twin_logs'][name], rel=1e-5)
  if 'clip_norm' in settings:
    assert found['logs']['gradient_norm'] > settings['clip_norm']
