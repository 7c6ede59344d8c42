"""Building wide models without drawing their random weights, which takes half the time."""

from collections.abc import Iterator
import contextlib

import pytest
import tf_keras

from deeplab2.model.layers import weights


@contextlib.contextmanager
def constant() -> Iterator[None]:
  """Starts all weights of models that are built in the context at one number.

  For tests that count variables or give a value to every one of them.
  """
  add = weights.add

  def add_constant(layer, name, shape, initializer, **kwargs):
    del initializer
    return add(layer, name, shape, tf_keras.initializers.Constant(0.01), **kwargs)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(weights, 'add', add_constant)
    yield
