"""Running what is under test without building its graph, which takes most of the time of few steps.

The graph of a training is under test in test_end_to_end.py and test_exact_resume.py.
"""

from collections.abc import Iterator
import contextlib

import tensorflow as tf


@contextlib.contextmanager
def functions() -> Iterator[None]:
  """Runs every tf.function operation by operation while the context lasts."""
  tf.config.run_functions_eagerly(True)
  try:
    yield
  finally:
    tf.config.run_functions_eagerly(False)
