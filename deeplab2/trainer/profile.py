"""A profile of some training steps, for TensorBoard's profiler."""

from collections.abc import Iterator, Sequence
import contextlib

from absl import logging
import tensorflow as tf


class Window:
  """Profiles from one step to another, both included."""

  def __init__(self, directory: str, steps: Sequence[int]):
    """Creates the window.

    Args:
      directory: that `plugins/profile` is written in.
      steps: the first and the last; none are profiled if empty.
    """
    self._directory = directory
    self._steps = tuple(steps)

  def at_most(self, num_steps: int, after: int) -> int:
    """Returns how many of `num_steps` steps can be done at once after step `after`.

    The window begins and ends between two such groups.
    """
    if not self._steps:
      return num_steps
    first, last = self._steps
    border = first - 1 if after < first - 1 else last
    return min(num_steps, border - after) if after < border else num_steps

  @contextlib.contextmanager
  def running(self, after: int) -> Iterator[None]:
    """Profiles what is inside the context if the step after `after` is in the window."""
    if not self._steps or not self._steps[0] <= after + 1 <= self._steps[1]:
      yield
      return
    tf.profiler.experimental.start(self._directory)
    try:
      yield
    finally:
      tf.profiler.experimental.stop()
      logging.info('Wrote a profile from step %d on to %s', after + 1, self._directory)
