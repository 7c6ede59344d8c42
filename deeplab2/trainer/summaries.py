"""The logs of a run: TensorBoard's files, and writers of the user's own.

Failures wait until what matters more is saved.
"""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Protocol

from absl import logging
import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files


class Writer(Protocol):
  """What a run hands its logs to, next to TensorBoard: any object with these three methods.

  Tags begin with `train/` or `eval/`; what follows is TensorBoard's tag. Values come at the
  steps at which TensorBoard's do, in the process that trains or evaluates; of several hosts, on the
  first one alone. What a method raises ends the run, after a checkpoint is saved.
  """

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Takes values by tag."""

  def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Takes images [H, W, 3] uint8 RGB by tag."""

  def close(self) -> None:
    """Is called once, at the end of the run, however it ended."""


class Summaries:
  """Writes scalars and images; after a failure it writes nothing more and keeps the error."""

  def __init__(self, directory: str, global_step: tf.Variable, writers: Sequence[Writer] = ()):
    """Creates the writer; nothing is written before the first value.

    Args:
      directory: for the event files; need not exist. Its last part begins the writers' tags.
      global_step: the step that values are written under.
      writers: get every value as well.
    """
    self._directory = directory
    self._global_step = global_step
    self._writer: tf.summary.SummaryWriter | None = None
    self._writers = tuple(writers)
    self._prefix = f'{os.path.basename(directory)}/'
    self.failure: errors.UserError | None = None

  def scalars(self, values: Mapping[str, float]) -> None:
    """Writes values by tag, and whatever has not reached the file yet."""

    def write():
      for tag, value in values.items():
        tf.summary.scalar(tag, value, step=self._global_step)

    self._attempt(write)
    self.flush()
    numbers = {self._prefix + tag: float(value) for tag, value in values.items()}
    self._hand(lambda writer: writer.scalars(int(self._global_step.numpy()), numbers))

  def image(self, tag: str, pixels: np.ndarray) -> None:
    """Writes an image [H, W, 3] uint8."""
    self._attempt(lambda: tf.summary.image(tag, pixels[np.newaxis], step=self._global_step))
    images = {self._prefix + tag: pixels}
    self._hand(lambda writer: writer.images(int(self._global_step.numpy()), images))

  def flush(self) -> None:
    """Writes what has not reached the file yet."""
    if self._writer is not None:
      self._attempt(self._writer.flush)

  def check(self) -> None:
    """Raises what failed before, if anything did.

    Raises:
      UserError: naming the directory, or the writer.
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
      self._fail(
        f'{self._directory}: the logs for TensorBoard cannot be written '
        f'({files.reason(error)}); make space there, or make it writable, and start again.'
      )

  def _hand(self, give: Callable[[Writer], None]) -> None:
    """Gives something to every writer, unless something has failed before."""
    for writer in self._writers:
      if self.failure is not None:
        return
      try:
        give(writer)
      except Exception as error:  # noqa: BLE001  It is the user's own, and may raise anything.
        logging.exception('A summary writer failed.')
        self._fail(
          f'summary_writers: {type(writer).__name__} failed ({type(error).__name__}: '
          f'{files.reason(error)}); correct it, and start again.'
        )

  def _fail(self, message):
    self.failure = errors.UserError(message)
    logging.warning('%s', message)
