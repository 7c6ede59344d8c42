"""The semantic heads of ReMask in checkpoints: next to the model, and passed over without harm."""

import logging

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab2.checkpoint import native
from deeplab2.checkpoint import released_keys
from deeplab2.checkpoint import restore
from deeplab2.checkpoint import run_checkpoints
from tests.checkpoint import files
from tests.model import builders

_NORM = ('beta', 'gamma', 'moving_mean', 'moving_variance')
# The keys of two heads as they have always been.
_KEYS = {
  f'remask_semantic_heads/heads/{head}/{key}'
  for head in (0, 1)
  for key in (
    'final/bias',
    'final/kernel',
    *(
      f'pyramid/{layer}/{leaf}'
      for layer in ('conv', 'atrous/0', 'atrous/1', 'atrous/2', 'pool', 'project')
      for leaf in ('kernel', *(f'norm/{name}' for name in _NORM))
    ),
  )
}


def _fill(variables, seed):
  generator = np.random.default_rng(seed)
  for variable in variables:
    variable.assign(generator.normal(size=variable.shape))


def _build(heads):
  return builders.tiny(heads=builders.semantic_heads(2) if heads else None)


@pytest.fixture(scope='module')
def built():
  """The two models that tests fill: {whether with heads: model}."""
  return {heads: _build(heads) for heads in (False, True)}


@pytest.fixture
def filled(built):
  """Returns a function: filled(heads, seed) -> the model with or without heads, filled."""

  def fill(heads, seed):
    _fill(built[heads].variables, seed)
    return built[heads]

  return fill


def _optimizer(variables, seed):
  optimizer = tf_keras.optimizers.legacy.Adam(0.1)
  optimizer._create_all_weights(variables)
  _fill([v for v in optimizer.variables() if v.shape.rank], seed)
  return optimizer


def _checkpoints(directory, model, optimizer=None):
  step = tf.Variable(0, dtype=tf.int64, trainable=False)
  return run_checkpoints.Checkpoints(
    str(directory), model=model, global_step=step, training={'optimizer': optimizer}
  )


def _keys(path):
  return {key.removesuffix(files.SUFFIX) for key, _ in tf.train.list_variables(str(path))}


def _assert_same(ours, theirs):
  for one, other in zip(ours, theirs, strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.fixture(scope='module', name='saved')
def _saved(tmp_path_factory):
  """Returns {whether with heads: (model, its checkpoint)}."""
  found = {}
  for heads in (False, True):
    model = _build(heads)
    _fill(model.variables, seed=1)
    optimizer = _optimizer(model.trainable_variables, seed=2)
    directory = tmp_path_factory.mktemp(f'heads-{heads}')
    found[heads] = model, _checkpoints(directory, model, optimizer).save()
  return found


def test_keys(saved):
  plain, relaxed = (_keys(saved[heads][1]) for heads in (False, True))
  assert plain < relaxed
  assert {key for key in relaxed - plain if '.OPTIMIZER_SLOT' not in key} == _KEYS
  slots = {key for key in relaxed - plain if '.OPTIMIZER_SLOT' in key}
  trainable = {key for key in _KEYS if 'moving_' not in key}
  assert slots == {f'{key}/.OPTIMIZER_SLOT/optimizer/{m}' for key in trainable for m in 'mv'}


def test_heads_saved_as_an_object_of_their_own_resume_and_the_other_way_round(tmp_path, filled):
  """As it was before the heads became a part of the model."""
  model, heads = filled(False, seed=3), builders.semantic_heads(2)
  heads([tf.zeros([1, 3, 3, 64]), tf.zeros([1, 5, 5, 64])])
  _fill(heads.variables, seed=4)
  optimizer = _optimizer(model.trainable_variables + heads.trainable_variables, seed=5)
  step = tf.Variable(7, dtype=tf.int64, trainable=False)
  parts = {
    'model': model,
    'global_step': step,
    'remask_semantic_heads': heads,
    'optimizer': optimizer,
  }
  former = tf.train.Checkpoint(**parts)
  former.save_counter.assign(1)
  former.write(str(tmp_path / 'ckpt-7'))
  (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "ckpt-7"\n')

  resumed = filled(True, seed=6)
  new_optimizer = _optimizer(resumed.trainable_variables, seed=7)
  checkpoints = _checkpoints(tmp_path, resumed, new_optimizer)
  assert checkpoints.resume() == str(tmp_path / 'ckpt-7') and checkpoints.last_saved == 7
  _assert_same(resumed.variables, model.variables + heads.variables)
  _assert_same(new_optimizer.variables(), optimizer.variables())

  new = _checkpoints(tmp_path / 'new', resumed, new_optimizer).save()
  assert _keys(new) == _keys(tmp_path / 'ckpt-7')
  _fill(heads.variables, seed=8)
  _fill(model.variables, seed=9)
  former.read(new).assert_existing_objects_matched()
  _assert_same(model.variables + heads.variables, resumed.variables)


@pytest.mark.parametrize('stored', [False, True])
@pytest.mark.parametrize('wanted', [False, True])
def test_a_run_starts_from_one_with_or_without(saved, filled, stored, wanted, caplog):
  source, path = saved[stored]
  model = filled(wanted, seed=10)
  before = [v.numpy() for v in model.semantic_heads.variables] if wanted else []
  with caplog.at_level(logging.INFO):
    restore.initialize_model(model, path)
  _assert_same(_without_heads(model), _without_heads(source))
  assert ('has no remask_semantic_heads' in caplog.text) == (wanted and not stored)
  assert ('has remask_semantic_heads, which' in caplog.text) == (stored and not wanted)
  if wanted:
    _assert_same(
      model.semantic_heads.variables, source.semantic_heads.variables if stored else before
    )


def _without_heads(model):
  return list(native.variable_keys({'model': model}).values())


@pytest.mark.parametrize('stored', [False, True])
def test_inference_needs_no_heads(saved, filled, stored):
  source, path = saved[stored]
  model = filled(True, seed=11)
  heads = [v.numpy() for v in model.semantic_heads.variables]
  restore.restore_model(model, path)
  _assert_same(_without_heads(model), _without_heads(source))
  _assert_same(model.semantic_heads.variables, heads)


def test_a_run_is_not_resumed_as_one_with_or_without(saved, filled):
  for stored, words in ((False, 'it lacks remask_'), (True, 'it has remask_')):
    model = filled(not stored, seed=12)
    checkpoints = _checkpoints('unused', model, _optimizer(model.trainable_variables, seed=13))
    files.refused(lambda c=checkpoints, p=saved[stored][1]: c.restore(p), words)


def test_released_checkpoints_have_no_heads(tmp_path, filled, caplog):
  model = filled(True, seed=14)
  heads = [v.numpy() for v in model.semantic_heads.variables]
  path = files.write(
    tmp_path / 'released',
    {key + files.SUFFIX: tf.ones_like(v) for key, v in released_keys.of_model(model).items()},
  )
  with caplog.at_level(logging.INFO):
    restore.initialize_model(model, path)
  assert 'has no remask_semantic_heads' in caplog.text
  assert all((v.numpy() == 1).all() for v in _without_heads(model))
  _assert_same(model.semantic_heads.variables, heads)
