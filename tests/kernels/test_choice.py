"""Which form is built, and where."""

import types

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import kernels
from deeplab2.kernels import gelu


def _traced(**kwargs):
  """Returns what a graph finds while it is traced, inside a branch."""
  found = []

  def branch():
    found.append(kernels.tuned())
    return tf.constant(0)

  tf.function(lambda x: tf.cond(x > 0, branch, branch), **kwargs)(tf.constant(1))
  return set(found)


def test_cpus_get_the_tuned_form_and_xla_the_plain_one():
  assert _traced() == {True}
  assert _traced(jit_compile=True) == {False}


@pytest.mark.parametrize('device, tuned', [('CPU', True), ('GPU', False), ('TPU', False)])
def test_the_devices_of_the_strategy_decide(device, tuned, monkeypatch):
  names = ('/job:localhost/replica:0/task:0/device:CPU:0', f'/job:worker/task:1/device:{device}:0')
  strategy = types.SimpleNamespace(extended=types.SimpleNamespace(worker_devices=names))
  monkeypatch.setattr(tf.distribute, 'has_strategy', lambda: True)
  monkeypatch.setattr(tf.distribute, 'get_strategy', lambda: strategy)
  assert kernels.tuned() == tuned


def test_a_real_strategy_decides_in_its_replicas():
  strategy = tf.distribute.OneDeviceStrategy('/cpu:0')
  assert strategy.run(kernels.tuned) is True


def test_without_a_strategy_a_gpu_decides(monkeypatch):
  devices = [types.SimpleNamespace(device_type=name) for name in ('CPU', 'GPU')]
  monkeypatch.setattr(tf.config, 'list_logical_devices', lambda: devices)
  assert not kernels.tuned()


def test_a_form_can_be_forced():
  with kernels.use('tuned'):
    assert _traced(jit_compile=True) == {True}
    with kernels.use('plain'):
      assert _traced() == {False}
    with kernels.use('auto'):
      assert _traced() == {True}
    assert kernels.tuned()
  with pytest.raises(ValueError, match='no form .fast.'), kernels.use('fast'):
    pass


def test_graphs_without_gradients_compute_the_same_by_fewer_operations():
  x = tf.linspace(-3.0, 3.0, 7)
  call = tf.function(gelu.gelu).get_concrete_function(tf.TensorSpec([7]))
  with kernels.without_gradients():
    plain = tf.function(gelu.gelu).get_concrete_function(tf.TensorSpec([7]))
  types = [[op.type for op in traced.graph.get_operations()] for traced in (call, plain)]
  assert 'IdentityN' in types[0] and 'IdentityN' not in types[1]
  np.testing.assert_array_equal(call(x), plain(x))
  with tf.GradientTape() as tape:
    tape.watch(x)
    value = gelu.gelu(x)
  assert tape.gradient(value, x) is not None
