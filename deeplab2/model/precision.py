"""What the layers of a model compute in; their variables are float32 whatever it is."""

from collections.abc import Iterator
import contextlib

import tf_keras

_POLICIES = {'FLOAT32': 'float32', 'BFLOAT16': 'mixed_bfloat16', 'FLOAT16': 'mixed_float16'}


@contextlib.contextmanager
def computing_in(name: str) -> Iterator[None]:
  """Lets layers that are created inside the context compute in FLOAT32, BFLOAT16 or FLOAT16.

  Raises:
    KeyError: for another name.
  """
  policy = _POLICIES[name]
  outer = tf_keras.mixed_precision.global_policy()
  tf_keras.mixed_precision.set_global_policy(policy)
  try:
    yield
  finally:
    tf_keras.mixed_precision.set_global_policy(outer)
