"""The outer loop: saves, resumes bit for bit, stops without losing what was saved."""

import contextlib
import logging
import signal

import gin
import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.checkpoint import restore
from deeplab2.checkpoint import run_checkpoints
from deeplab2.trainer import loop
from deeplab2.trainer import stopping
from tests.trainer import fakes


def _run(
  directory,
  until,
  *,
  total=None,
  weights=(1.0,),
  save_steps=4,
  model_weights=None,
  explained=contextlib.nullcontext,
  batches=None,
  stop=None,
):
  """Trains to step `until` in `directory`, resuming; returns (model, groups, loop)."""
  trainer, model, step = fakes.trainer(fakes.dataset(weights) if batches is None else batches)
  if model_weights is not None:
    model.set_weights(model_weights)
  names = ('optimizer', 'backbone_optimizer')
  checkpoints = run_checkpoints.Checkpoints(
    str(directory),
    model=model,
    global_step=step,
    keep=3,
    training={n: g.optimizer for n, g in zip(names, trainer._groups, strict=True)},
  )
  checkpoints.resume()
  train = loop.TrainLoop(
    trainer,
    checkpoints,
    global_step=step,
    steps_per_loop=2,
    save_steps=save_steps,
    summary_steps=2,
    explained=explained,
    stop=stop,
  )
  train.run(until, total)
  return model, trainer._groups, train


def _state(model, groups):
  return model.get_weights() + [w for group in groups for w in group.optimizer.get_weights()]


def _saved(directory):
  return sorted(int(path.stem.removeprefix('ckpt-')) for path in directory.glob('ckpt-*.index'))


def test_resumed_run_equals_uninterrupted_run_bit_for_bit(tmp_path):
  batches = fakes.dataset([1.0, 0.5, 2.0, 1.5, 0.7, 3.0, 0.2])
  start = fakes.trainer(batches)[1].get_weights()
  whole = _state(*_run(tmp_path / 'whole', 7, model_weights=start, batches=batches)[:2])

  def resumed(name, rest):
    _run(tmp_path / name, 3, total=7, model_weights=start, save_steps=1, batches=batches)
    model, groups, train = _run(tmp_path / name, 7, batches=rest)
    assert train.step == 7
    return _state(model, groups)

  # As assemble.train_dataset, which passes over what the run has taken before.
  for one, other in zip(whole, resumed('parts', batches.skip(3)), strict=True):
    np.testing.assert_array_equal(one, other)
  # Batches matter: taken from the beginning again, they end otherwise.
  assert not np.array_equal(whole[0], resumed('wrong', batches)[0])


def test_checkpoints_at_the_start_on_the_way_and_at_the_end(tmp_path):
  _run(tmp_path, 11)
  assert _saved(tmp_path) == [4, 8, 11]  # The three newest of 0, 4, 8, 11.
  assert tf.train.latest_checkpoint(str(tmp_path)).endswith('ckpt-11')


def test_first_checkpoint_is_written_before_the_first_step(tmp_path):
  with pytest.raises(errors.UserError, match='Step 1: not finite'):
    _run(tmp_path, 5, weights=(np.nan,))
  assert _saved(tmp_path) == [0]


def test_last_good_checkpoint_survives_a_loss_that_is_not_finite(tmp_path):
  with pytest.raises(errors.UserError, match='Step 6: not finite: total_loss'):
    _run(tmp_path, 9, weights=(1.0, 1.0, 1.0, 1.0, 1.0, np.nan))
  assert _saved(tmp_path) == [0, 4]
  model = fakes.trainer(fakes.dataset())[1]
  restore.restore_model(model, str(tmp_path))
  assert all(np.isfinite(w).all() for w in model.get_weights())


def test_tags_in_tensorboard(tmp_path):
  _run(tmp_path, 4)
  (file,) = (tmp_path / 'train').iterdir()
  events = [event for event in tf.compat.v1.train.summary_iterator(str(file)) if event.step]
  assert {event.step for event in events} == {2, 4}
  tags = {value.tag for event in events for value in event.summary.value}
  assert tags == {
    'losses/train_total_loss',
    'losses/train_semantic_loss',
    'losses/train_size_loss',
    'gradient_norm',
    'diagnostics/logit_of_0',
    'learning_rate',
    'learning_rate_backbone',
    'steps_per_second',
    'images_per_second',
  }


def test_progress_goes_to_the_log_where_there_is_no_terminal(tmp_path, caplog):
  with gin.unlock_config():
    gin.bind_parameter('Lines.seconds_between', 0.0)
  try:
    with caplog.at_level(logging.INFO):
      _run(tmp_path, 6)
  finally:
    gin.clear_config()
  lines = [line for line in caplog.messages if line.startswith('train: step')]
  assert lines[0].startswith('train: step 2/6, first results after 0:00:')
  assert lines[1].startswith('train: step 4/6, ')
  assert 'steps/s' in lines[1] and ' left' in lines[1] and 'total_loss' in lines[1]
  assert lines[-1].startswith('train: step 6/6')


def test_errors_of_the_input_are_explained(tmp_path):
  @contextlib.contextmanager
  def explained():
    with pytest.raises(tf.errors.InvalidArgumentError, match='GetNext'):
      yield
    raise errors.UserError('somewhere')

  def refuse(sample):
    with tf.control_dependencies([tf.debugging.Assert(False, ['bad record'])]):
      return sample._replace(image=tf.identity(sample.image))

  batches = fakes.dataset().map(refuse)
  with pytest.raises(errors.UserError, match='somewhere'):
    _run(tmp_path, 2, batches=batches, explained=explained)


@pytest.mark.parametrize('when', ['between steps', 'between loops'])
def test_a_stop_saves_the_step_at_hand_and_the_run_goes_on(tmp_path, when):
  batches = fakes.dataset([1.0, 0.5, 2.0, 1.5, 0.7, 3.0, 0.2])
  start = fakes.trainer(batches)[1].get_weights()
  whole = _state(*_run(tmp_path / 'whole', 7, model_weights=start, batches=batches)[:2])
  request, loops = stopping.Request(), []

  @contextlib.contextmanager
  def ask_in_the_second_loop():
    loops.append(len(loops))
    if when == 'between steps' and len(loops) == 2:
      request.make(signal.SIGTERM)
    yield
    if when == 'between loops' and len(loops) == 2:
      request.make(signal.SIGTERM)

  arguments = dict(model_weights=start, batches=batches, stop=request)
  with pytest.raises(errors.Stopped, match='Step [34] is saved in .*stopped') as stopped:
    _run(tmp_path / 'stopped', 7, explained=ask_in_the_second_loop, **arguments)
  # Loops have two steps; at least one of them is done.
  done = 3 if when == 'between steps' else 4
  assert stopped.value.exit_code == 143
  assert _saved(tmp_path / 'stopped')[-1] == done
  resumed = _state(*_run(tmp_path / 'stopped', 7, batches=batches.skip(done))[:2])
  for one, other in zip(whole, resumed, strict=True):
    np.testing.assert_array_equal(one, other)


class _Counter:
  """Stands for an Evaluation; notes the steps at which it runs."""

  def __init__(self):
    self.steps = []

  def run(self):
    self.steps.append(self.step())


def test_evaluation_at_multiples_of_the_interval_and_at_the_end():
  class Train:
    step = 0
    total = None

    def run(self, until, total):
      self.step, self.total = until, total

  train, counter = Train(), _Counter()
  counter.step = lambda: train.step
  train.step = 3  # Resumed.
  loop.train_and_evaluate(train, counter, total=11, interval=4)
  assert counter.steps == [4, 8, 11]
  assert train.total == 11


def test_continuous_evaluation_sees_the_newest_then_newer_ones_then_gives_up(tmp_path):
  _run(tmp_path, 6)
  model, step = fakes.trainer(fakes.dataset())[1:]
  checkpoints = run_checkpoints.Checkpoints(str(tmp_path), model=model, global_step=step)
  counter = _Counter()

  def step_now():
    if len(counter.steps) == 0:
      _run(tmp_path, 8)  # Another process goes on meanwhile.
    return int(step.numpy())

  counter.step = step_now
  arguments = dict(timeout=1, stop=stopping.Request())
  assert loop.evaluate_continuously(counter, checkpoints, total=20, **arguments) == 2
  assert counter.steps == [6, 8]


def test_continuous_evaluation_ends_with_the_last_step_or_a_signal(tmp_path):
  _run(tmp_path, 6)
  model, step = fakes.trainer(fakes.dataset())[1:]
  checkpoints = run_checkpoints.Checkpoints(str(tmp_path), model=model, global_step=step)
  counter = _Counter()
  counter.step = lambda: int(step.numpy())
  stop = stopping.Request()
  assert loop.evaluate_continuously(counter, checkpoints, timeout=None, total=6, stop=stop) == 1
  stop.make(signal.SIGINT)
  with pytest.raises(errors.Stopped, match='1 checkpoints are evaluated'):
    loop.evaluate_continuously(counter, checkpoints, timeout=None, total=9, stop=stop)
