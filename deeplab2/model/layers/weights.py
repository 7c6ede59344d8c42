"""Variables of layers."""

from collections.abc import Iterator
import contextlib

import tensorflow as tf
import tf_keras

_drawn = True


@contextlib.contextmanager
def not_drawn() -> Iterator[None]:
  """Starts all variables that are created in the context at zero.

  For models whose every variable is restored: drawing random weights takes half the time of
  building one.
  """
  global _drawn
  outer, _drawn = _drawn, False
  try:
    yield
  finally:
    _drawn = outer


def add(
  layer: tf_keras.layers.Layer, name: str, shape: tuple[int, ...], initializer, **kwargs
) -> tf.Variable:
  """Creates a variable that stays float32 in whatever dtype its layer computes.

  Args:
    layer: that gets it.
    name: decides about decay by its last part, see trainer/optimizer.py.
    shape: of the variable.
    initializer: of Keras, or the name of one.
    **kwargs: passed on to Keras.
  """
  return layer.add_weight(
    name,
    shape,
    initializer=initializer if _drawn else 'zeros',
    experimental_autocast=False,
    **kwargs,
  )
