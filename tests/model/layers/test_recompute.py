"""Recomputed blocks: the same results, gradients and statistics."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import randomness
from deeplab2.model.backbones import convnext
from deeplab2.model.backbones import moat
from deeplab2.model.backbones import mobilenet_v3
from deeplab2.model.layers import activations
from deeplab2.model.layers import bottleneck
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import recompute

_NORM = norm_lib.NormSettings(momentum=0.9)
_BLOCKS = {
  'bottleneck': lambda: bottleneck.Bottleneck(
    2, norm=_NORM, activation=tf.nn.relu, stride=2, drop_path_keep_prob=0.5
  ),
  'axial': lambda: bottleneck.AxialBottleneck(8, norm=_NORM, activation=activations.gelu),
  'convnext': lambda: convnext.Block(8, drop_path_keep_prob=0.5),
  'moat': lambda: moat.MOATBlock(8, 32, norm=_NORM, stride=2, window=None, drop_path_keep_prob=0.5),
  'mobilenet_v3': lambda: mobilenet_v3.InvertedBottleneck(
    mobilenet_v3.Inverted(3, 1, 8, tf.nn.relu, 0.25, 2), 8, norm=_NORM, gate=tf.sigmoid
  ),
}


def _results(layer, start, *, recomputed, jit_compile=None):
  """Returns the outputs, the gradients, and the statistics afterwards."""
  layer.set_weights(start)
  x = tf.random.stateless_normal([4, 9, 9, 8], [1, 2])

  @tf.function(jit_compile=jit_compile)
  def run(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      with randomness.keyed(tf.constant([3, 4])), recompute.blocks(recomputed):
        first = recompute.block(layer, x, True)
        y = tf.nest.flatten(first)
        # What comes after the block draws other numbers.
        noise = randomness.uniform(y[0].shape)
        loss = tf.add_n([tf.reduce_sum(tf.square(part)) for part in y])
        loss += tf.reduce_sum(noise * y[0])
        gradients = tape.gradient(loss, [x, *layer.trainable_variables])
    return y, gradients

  return run(x), [v.numpy() for v in layer.non_trainable_variables]


@pytest.fixture(params=_BLOCKS)
def layer(request):
  built = _BLOCKS[request.param]()
  built(tf.zeros([1, 9, 9, 8]))
  return built


def test_a_recomputed_block_is_the_same(layer):
  start = [
    tf.random.stateless_uniform(v.shape, [index, 9], 0.1, 0.5).numpy()
    for index, v in enumerate(layer.variables)
  ]
  order = {v.ref(): value for v, value in zip(layer.variables, start, strict=True)}
  start = [order[v.ref()] for v in layer.weights]
  expected, kept = _results(layer, start, recomputed=False)
  found, statistics = _results(layer, start, recomputed=True)
  for ours, theirs in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
  for ours, theirs in zip(statistics, kept, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_the_backward_pass_computes_it_again_also_under_xla():
  layer = _BLOCKS['bottleneck']()
  layer(tf.zeros([1, 9, 9, 8]))
  start = layer.get_weights()
  expected, kept = _results(layer, start, recomputed=False, jit_compile=True)
  found, statistics = _results(layer, start, recomputed=True, jit_compile=True)
  for ours, theirs in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
  for ours, theirs in zip(statistics, kept, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def _convolutions(recomputed):
  """Returns the number of convolutions in a block's optimised XLA program, forward and backward."""
  layer = _BLOCKS['bottleneck']()
  layer(tf.zeros([1, 9, 9, 8]))

  @tf.function(jit_compile=True)
  def run(x):
    with tf.GradientTape() as tape:
      with randomness.keyed(tf.constant([3, 4])), recompute.blocks(recomputed):
        loss = tf.reduce_sum(tf.square(recompute.block(layer, x, True)))
        return tape.gradient(loss, layer.trainable_variables)

  text = run.experimental_get_compiler_ir(tf.zeros([4, 9, 9, 8]))(stage='optimized_hlo')
  return text.count(' convolution(') + text.count('custom-call') + text.count(' dot(')


def test_xla_does_not_merge_both_computations():
  assert _convolutions(True) > _convolutions(False)


def test_without_keyed_randomness_nothing_can_be_repeated():
  layer = _BLOCKS['bottleneck']()
  with recompute.blocks(True), pytest.raises(RuntimeError, match='randomness.keyed'):
    recompute.block(layer, tf.zeros([1, 9, 9, 8]), True)
