"""Random numbers of a step: decided by seed, step and replica, not by what ran before.

The layers and losses that draw numbers call `uniform`. Around a training step, `keyed` says which
step and replica it is; the n-th call within the step then draws the n-th stream of that key. So a
run that was interrupted draws what the uninterrupted one would have drawn. The operations have no
state, which XLA and TPUs prefer. Without `keyed`, numbers come from TensorFlow's global generator.
"""

from collections.abc import Iterator, Sequence
import contextlib
import threading

import tensorflow as tf

# Replicas are traced in threads of their own.
_current = threading.local()


@contextlib.contextmanager
def keyed(key: tf.Tensor) -> Iterator[None]:
  """Lets every `uniform` inside the context depend on `key`, [2] int32 or int64, alone."""
  outer = getattr(_current, 'state', None)
  _current.state = [key, 0]
  try:
    yield
  finally:
    _current.state = outer


def uniform(shape: Sequence[int] | tf.Tensor) -> tf.Tensor:
  """Returns float32 numbers of `shape`, uniform in [0, 1)."""
  state = getattr(_current, 'state', None)
  if state is None:
    return tf.random.uniform(shape)
  key, number = state
  state[1] += 1
  return tf.random.stateless_uniform(shape, tf.random.experimental.stateless_fold_in(key, number))
