"""Blocks whose inner features are computed again in the backward pass instead of being kept.

(Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", sec. 3.) It trades a second
forward pass of the blocks for the memory of all features inside them. Results are the same bits,
gradients the same to rounding.
"""

from collections.abc import Iterator
import contextlib
import threading

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.ops import control_flow_util
import tf_keras

from deeplab2 import randomness

# Replicas are traced in threads of their own.
_current = threading.local()


@contextlib.contextmanager
def blocks(enabled: bool) -> Iterator[None]:
  """Lets every `block` inside the context, at the time of tracing, keep its input alone."""
  outer = getattr(_current, 'enabled', False)
  _current.enabled = enabled
  try:
    yield
  finally:
    _current.enabled = outer


def is_repeated() -> bool:
  """Returns whether what is being traced was computed before, so that no variable may change."""
  return getattr(_current, 'repeated', False)


def block(layer: tf_keras.layers.Layer, x: tf.Tensor, training: bool):
  """Returns `layer(x, training=training)`.

  Inside `blocks(True)` its gradient computes the layer again from `x`, with the same random
  numbers, and no running statistics move a second time.

  Args:
    layer: that returns one tensor or a tuple of them, built.
    x: its input.
    training: passed on.
  """
  if not getattr(_current, 'enabled', False):
    return layer(x, training=training)
  draws = randomness.position()

  @tf.custom_gradient
  def computed(x):
    def gradient(*upstream, variables=()):
      again = _after(upstream, x)
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([again, *variables])
        with _repeated(), randomness.at(draws):
          result = layer(again, training=training)
      gradients = tape.gradient(result, [again, *variables], _like(result, upstream))
      return gradients[0], gradients[1:]

    return layer(x, training=training), gradient

  return computed(x)


@contextlib.contextmanager
def _repeated():
  _current.repeated = True
  try:
    yield
  finally:
    _current.repeated = False


def _like(result, upstream):
  return tf.nest.pack_sequence_as(result, upstream)


def _after(upstream, x):
  """Returns `x`, but not before `upstream` is known; else both computations would be merged."""
  # TensorFlow has no public way to ask, and no public barrier.
  if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
    return gen_xla_ops.xla_optimization_barrier([x, *upstream])[0]
  with tf.control_dependencies(upstream):
    return tf.identity(x)
