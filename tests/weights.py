"""Building wide models without drawing their random weights, which takes half the time."""

from collections.abc import Iterator
import contextlib
import math
import mmap

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab2.model.layers import weights


@contextlib.contextmanager
def constant() -> Iterator[None]:
  """Starts all weights of models that are built in the context at one number.

  For tests that count variables or give a value to every one of them.
  """
  with _all_started_by(tf_keras.initializers.Constant(0.01)):
    yield


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
  """Starts all weights of models that are built in the context at zeros that take no memory.

  They are pages that the system hands out when they are first written.
  """
  with _all_started_by(_zeros):
    yield


def _zeros(shape, dtype=None):
  del dtype  # Of all weights: float32.
  size = 4 * math.prod(shape)
  if size < mmap.PAGESIZE:
    return tf.zeros(shape)
  array = np.frombuffer(
    mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.float32
  ).reshape(shape)
  return tf.experimental.dlpack.from_dlpack(array.__dlpack__())  # The array itself, no copy.


@contextlib.contextmanager
def _all_started_by(initializer):
  add = weights.add

  def add_started(layer, name, shape, given, **kwargs):
    del given
    return add(layer, name, shape, initializer, **kwargs)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(weights, 'add', add_started)
    yield
