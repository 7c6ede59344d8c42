"""Batch norm against numpy, in one replica and in two; layer norm against numpy."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model.layers import norm as norm_lib


def _filled(layer):
  layer.build()
  for index, variable in enumerate(layer.variables):
    values = np.random.RandomState(index).uniform(0.5, 1.5, variable.shape)
    variable.assign(values)
  return layer


def _expected(x, axes, gamma, beta, mean, variance):
  shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
  gamma, beta, mean, variance = (np.reshape(v, shape) for v in (gamma, beta, mean, variance))
  return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


@pytest.mark.parametrize(
  'input_shape, shape, axis, axes',
  [
    ((2, 3, 4, 5), (5,), -1, (0, 1, 2)),
    ((6, 3, 5), (5,), -1, (0, 1)),
    ((6, 5), (5,), -1, (0,)),
    ((4, 3, 6), (1, 2, 1, 3), -1, (0, 1)),
    ((4, 6, 3, 3), (3, 1, 2, 1, 1), 1, (0, 2, 3)),
    ((4, 1, 7, 3), (1,), 1, (0, 1, 2, 3)),
  ],
)
@pytest.mark.parametrize('training', [False, True])
def test_batch_norm(input_shape, shape, axis, axes, training):
  layer = _filled(norm_lib.BatchNorm(norm_lib.NormSettings(momentum=0.9), shape, axis=axis))
  gamma, beta, moving_mean, moving_variance = (
    v.numpy() for v in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
  )
  x = np.random.RandomState(7).normal(2.0, 3.0, input_shape).astype(np.float32)
  result = layer(x, training=training)

  if not training:
    expected = _expected(x, axes, gamma, beta, moving_mean, moving_variance)
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(layer.moving_mean, moving_mean)
    return
  mean, variance = x.mean(axes), x.var(axes)
  np.testing.assert_allclose(
    result, _expected(x, axes, gamma, beta, mean, variance), rtol=1e-4, atol=1e-4
  )
  np.testing.assert_allclose(
    layer.moving_mean, 0.9 * moving_mean + 0.1 * mean.reshape(shape), rtol=1e-5
  )
  np.testing.assert_allclose(
    layer.moving_variance, 0.9 * moving_variance + 0.1 * variance.reshape(shape), rtol=1e-5
  )


def test_affine_is_what_inference_computes():
  layer = _filled(norm_lib.BatchNorm(norm_lib.NormSettings(), (5,)))
  x = np.random.RandomState(1).normal(size=(3, 5)).astype(np.float32)
  scale, offset = layer.affine()
  np.testing.assert_allclose(layer(x), x * scale + offset, rtol=1e-6)


def test_half_precision_keeps_its_dtype_and_float32_statistics():
  layer = norm_lib.BatchNorm(norm_lib.NormSettings(), (4,), dtype='mixed_float16')
  x = tf.cast(tf.random.normal([64, 4], mean=100.0), tf.float16)
  result = layer(x, training=True)
  assert result.dtype == tf.float16 and layer.moving_mean.dtype == tf.float32
  np.testing.assert_allclose(
    layer.moving_mean, tf.reduce_mean(tf.cast(x, tf.float32), 0) / 100, rtol=1e-4
  )


# Two replicas need two logical devices, which a process must ask for before anything else.
_TWO_REPLICAS = """
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from deeplab2.model.layers import norm as norm_lib

strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
x = np.random.RandomState(0).normal(2, 3, (4, 5, 3)).astype(np.float32)
weight = np.random.RandomState(1).normal(size=x.shape).astype(np.float32)
with strategy.scope():
  layers = {flag: norm_lib.BatchNorm(norm_lib.NormSettings(synchronized=flag), (3,))
            for flag in (True, False)}
  for layer in layers.values():
    layer.build()

def run(layer, x, weight):
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = layer(x, training=True)
    loss = tf.reduce_sum(y * weight)
  return y, tape.gradient(loss, x)

@tf.function
def both(flag):
  def per_replica():
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    rows = tf.range(2) + 2 * replica
    return run(layers[flag], tf.gather(x, rows), tf.gather(weight, rows))
  return strategy.run(per_replica)

def joined(value):
  return np.concatenate([v.numpy() for v in strategy.experimental_local_results(value)])

alone = norm_lib.BatchNorm(norm_lib.NormSettings(), (3,))
y, gradient = run(alone, tf.constant(x), weight)
results = both(True)
np.testing.assert_allclose(joined(results[0]), y, atol=1e-5)
np.testing.assert_allclose(joined(results[1]), gradient, atol=1e-5)
np.testing.assert_allclose(layers[True].moving_mean.numpy(), alone.moving_mean, rtol=1e-5)
np.testing.assert_allclose(layers[True].moving_variance.numpy(), alone.moving_variance, rtol=1e-5)

halves = [run(norm_lib.BatchNorm(norm_lib.NormSettings(), (3,)), tf.constant(x[rows]),
              weight[rows]) for rows in (slice(0, 2), slice(2, 4))]
results = both(False)
for i in range(2):
  np.testing.assert_allclose(joined(results[i]), np.concatenate([h[i] for h in halves]), atol=1e-5)
print('two replicas agree')
"""


def test_two_replicas_are_one_batch_if_synchronized_and_two_if_not():
  result = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(_TWO_REPLICAS)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert 'two replicas agree' in result.stdout, result.stderr[-2000:]


def test_layer_norm():
  layer = norm_lib.LayerNorm()
  x = np.random.RandomState(0).normal(3.0, 2.0, (2, 3, 3, 8)).astype(np.float32)
  layer.build(x.shape)
  layer.gamma.assign(np.arange(1.0, 9.0))
  layer.beta.assign(np.arange(8.0))
  normalized = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(
    layer(x), normalized * np.arange(1.0, 9.0) + np.arange(8.0), rtol=1e-4, atol=1e-5
  )


def test_graphs_of_constant_norms_read_two_variables_and_compute_the_same():
  model = tf.Module()
  model.norms = [
    _filled(norm_lib.BatchNorm(norm_lib.NormSettings(), shape)) for shape in ((3,), (1, 1, 1, 3))
  ]
  x = tf.constant(np.random.RandomState(9).normal(size=(2, 5, 5, 3)), tf.float32)

  def call(x):
    for norm in model.norms:
      x = norm(x, training=False)
    return x

  before = call(x)
  with norm_lib.constant(model):
    traced = tf.function(call).get_concrete_function(tf.TensorSpec(x.shape))
    assert len(traced.graph.variables) == 4
    np.testing.assert_array_equal(traced(x), before)
  assert [len(norm.variables) for norm in model.norms] == [4, 4]
  after = tf.function(call).get_concrete_function(tf.TensorSpec(x.shape))
  assert len(after.graph.variables) == 8
