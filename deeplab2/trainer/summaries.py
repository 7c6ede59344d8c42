"""TensorBoard's files of one directory, whose failures wait until what matters more is saved."""

from collections.abc import Mapping

from absl import logging
import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files


class Summaries:
  """Writes scalars and images; after a failure it writes nothing more and keeps the error."""

  def __init__(self, directory: str, global_step: tf.Variable):
    """Creates the writer; nothing is written before the first value.

    Args:
      directory: for the event files; need not exist.
      global_step: the step that values are written under.
    """
    self._directory = directory
    self._global_step = global_step
    self._writer: tf.summary.SummaryWriter | None = None
    self.failure: errors.UserError | None = None

  def scalars(self, values: Mapping[str, float]) -> None:
    """Writes values by tag, and whatever has not reached the file yet."""

    def write():
      for tag, value in values.items():
        tf.summary.scalar(tag, value, step=self._global_step)

    self._attempt(write)
    self.flush()

  def image(self, tag: str, pixels: np.ndarray) -> None:
    """Writes an image [H, W, 3] uint8."""
    self._attempt(lambda: tf.summary.image(tag, pixels[np.newaxis], step=self._global_step))

  def flush(self) -> None:
    """Writes what has not reached the file yet."""
    if self._writer is not None:
      self._attempt(self._writer.flush)

  def check(self) -> None:
    """Raises what failed before, if anything did.

    Raises:
      UserError: naming the directory.
    """
    if self.failure is not None:
      raise self.failure

  def _attempt(self, write):
    if self.failure is not None:
      return
    try:
      if self._writer is None:
        self._writer = tf.summary.create_file_writer(self._directory)
      with self._writer.as_default():
        write()
    except (OSError, tf.errors.OpError) as error:
      self.failure = errors.UserError(
        f'{self._directory}: the logs for TensorBoard cannot be written '
        f'({files.reason(error)}); make space there, or make it writable, and start again.'
      )
      logging.warning('%s', self.failure)
