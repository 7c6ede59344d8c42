"""Checkpoints say which squeeze-and-excite gate their weights are for, and others are refused."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.checkpoint import gates
from deeplab2.checkpoint import restore
from deeplab2.checkpoint import run_checkpoints
from tests.checkpoint import files
from tests.model import builders

_OPTION = 'model_options.backbone.squeeze_excite_gate'


class _Backbone(tf.Module):
  def __init__(self, gate):
    super().__init__()
    self.squeeze_excite_gate = gate
    self.kernel = tf.Variable(tf.ones([3]))


class _Model(tf.Module):
  def __init__(self, gate):
    super().__init__()
    self.backbone = _Backbone(gate)
    self.head = tf.Variable(tf.zeros([2]))


def _checkpoints(directory, model, training=None):
  step = tf.Variable(4, dtype=tf.int64, trainable=False)
  return run_checkpoints.Checkpoints(
    str(directory), model=model, global_step=step, training=training
  )


def _saved(directory, gate):
  return _checkpoints(directory, _Model(gate), training={}).save()


_USES = [
  lambda model, prefix: restore.restore_model(model, prefix),
  lambda model, prefix: restore.initialize_model(model, prefix),
  lambda model, prefix: restore.initialize_backbone(model.backbone, prefix),
  lambda model, prefix: _checkpoints('', model).restore(prefix),
  lambda model, prefix: _checkpoints('', model, training={}).restore(prefix),
]


@pytest.mark.parametrize('use', _USES)
@pytest.mark.parametrize('gate', ['SIGMOID', 'HARD_SIGMOID'])
def test_the_wrong_gate_is_refused_and_the_advice_works(tmp_path, use, gate):
  prefix = _saved(tmp_path, gate)
  (other,) = {'SIGMOID', 'HARD_SIGMOID'} - {gate}
  model = _Model(other)
  model.backbone.kernel.assign(tf.zeros([3]))
  files.refused(
    lambda: use(model, prefix), f'{prefix}: its squeeze', f'in a {other}', f'set {_OPTION}={gate}'
  )
  np.testing.assert_array_equal(model.backbone.kernel, 0)
  model = _Model(gate)
  model.backbone.kernel.assign(tf.zeros([3]))
  use(model, prefix)
  np.testing.assert_array_equal(model.backbone.kernel, 1)


def test_only_what_is_no_sigmoid_is_recorded(tmp_path):
  plain, hard = (
    set(dict(tf.train.list_variables(_saved(tmp_path / gate, gate))))
    for gate in ('SIGMOID', 'HARD_SIGMOID')
  )
  assert hard - plain == {gates.KEY} and not plain - hard
  without = set(dict(tf.train.list_variables(_saved(tmp_path / 'none', None))))
  assert without == plain
  # One without gates goes with everything.
  restore.restore_model(_Model(None), str(tmp_path / 'HARD_SIGMOID'))


def test_released_checkpoints_are_for_the_sigmoid(tmp_path):
  model = builders.tiny()
  tensors = {key + files.SUFFIX: value for key, value in builders.fill_by_key(model).items()}
  path = files.write(tmp_path / 'ckpt', tensors)
  restore.initialize_backbone(model.backbone, path)
  model.backbone.squeeze_excite_gate = 'HARD_SIGMOID'
  files.refused(
    lambda: restore.initialize_backbone(model.backbone, path), f'{path}:', 'gate=SIGMOID'
  )
  files.refused(lambda: restore.restore_model(model, path), f'{path}:', 'gate=SIGMOID')
  model.backbone.squeeze_excite_gate = 'SIGMOID'
  restore.restore_model(model, path)
