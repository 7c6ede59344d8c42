"""Random numbers of a step: decided by seed, step and replica, not by what ran before.

The layers and losses that draw numbers call `uniform`, and `use` decides which generator they draw
from. Around a training step that is `keyed` by step and replica: the n-th call within the step
draws the n-th stream of that key. So a run that was interrupted draws what the uninterrupted one
would have drawn. The operations have no state, which XLA and TPUs prefer. Without a generator,
numbers come from TensorFlow's global one.

The input pipeline draws from streams that have names, see `stream`.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import threading
from typing import Any

import tensorflow as tf

Shape = Any  # Integers, or a tensor of them.
# Replicas are traced in threads of their own.
_current = threading.local()


class _Keyed:
  """Draws a new stream of a key in every call."""

  def __init__(self, key):
    self._key = key
    self._calls = 0

  def uniform(self, shape):
    self._calls += 1
    stream = tf.random.experimental.stateless_fold_in(self._key, self._calls - 1)
    return tf.random.stateless_uniform(shape, stream)

  @property
  def position(self):
    """Number of calls so far."""
    return self._calls

  def at(self, position):
    """Returns a generator that goes on from a position."""
    moved = _Keyed(self._key)
    moved._calls = position
    return moved

  def named(self, name):
    """Returns a generator of streams that belong to the key and a name."""
    return _Keyed(tf.random.experimental.stateless_fold_in(self._key, _number_of(name)))


@contextlib.contextmanager
def use(generator) -> Iterator[None]:
  """Lets every `uniform` inside the context return `generator.uniform(shape)`."""
  outer = getattr(_current, 'generator', None)
  _current.generator = generator
  try:
    yield
  finally:
    _current.generator = outer


def keyed(key: tf.Tensor) -> contextlib.AbstractContextManager[None]:
  """Lets every `uniform` inside the context depend on `key`, [2] int32 or int64, alone."""
  return use(_Keyed(key))


def position() -> int:
  """Returns the number of calls of `uniform` so far in the innermost context `keyed`.

  Raises:
    RuntimeError: outside such a context, where draws cannot be repeated.
  """
  return _keyed_one().position


def at(position: int) -> contextlib.AbstractContextManager[None]:
  """Lets `uniform` inside the context return again what it returned from `position` on."""
  return use(_keyed_one().at(position))


@contextlib.contextmanager
def apart(name: str) -> Iterator[None]:
  """Lets `uniform` inside the context draw from streams that have a name.

  What is drawn outside is the same with and without such a part, so that two models draw the same
  in what they have in common. Nothing changes outside of a context `keyed`.
  """
  generator = getattr(_current, 'generator', None)
  with use(generator.named(name) if isinstance(generator, _Keyed) else generator):
    yield


def _keyed_one():
  generator = getattr(_current, 'generator', None)
  if not isinstance(generator, _Keyed):
    raise RuntimeError('Only draws inside randomness.keyed can be repeated.')
  return generator


def stream(name: str, seed: int | tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
  """Returns the seed [2] int64 of the draws that have a number in a named stream.

  Names are hashed, not counted: no stream of one run is another stream of a run with the next seed.

  Args:
    name: of the stream.
    seed: of the run; an integer, or [] of an integer type.
    number: of the image, epoch or step; an integer, or [] of an integer type.
  """
  key = tf.stack([tf.cast(seed, tf.int64), _number_of(name)])
  return tf.random.experimental.stateless_fold_in(key, tf.cast(number, tf.int64))


def _number_of(name):
  digest = hashlib.sha256(name.encode()).digest()[:8]
  return tf.constant(int.from_bytes(digest, 'little', signed=True), tf.int64)


def uniform(shape: Shape) -> tf.Tensor:
  """Returns float32 numbers of `shape`, uniform in [0, 1)."""
  return (getattr(_current, 'generator', None) or tf.random).uniform(shape)
