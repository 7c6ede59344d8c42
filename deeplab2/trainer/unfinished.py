"""The state of an evaluation on the way, so that an interrupted one goes on where it stopped."""

from collections.abc import Callable, Mapping
import io
import json
import time
from typing import Any
from zipfile import BadZipFile

from absl import logging
import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files

_IDENTITY = 'identity'
SECONDS_BETWEEN = 20.0  # The least time between two writes.
TIMES_AS_LONG = 50  # And as many times as the last write took.


class Never:
  """Keeps no state: the evaluation starts over."""

  def load(self) -> None:
    """Returns None."""

  def save(self, arrays: Callable[[], Mapping[str, np.ndarray]], now: bool = False) -> None:
    """Does nothing."""

  def remove(self) -> None:
    """Does nothing."""


class Unfinished:
  """A file of arrays, `unfinished-<step>-<digest>.npz`, that holds for one identity alone."""

  def __init__(self, path: str, identity: Mapping[str, object]):
    """Creates the keeper; nothing is read or written yet.

    Args:
      path: the file of the evaluation.
      identity: what must be the same for the file to be of use, as JSON: weights, images, options.
    """
    self._path = path
    self._identity = json.dumps(identity, sort_keys=True, default=str)
    self._next = time.monotonic() + SECONDS_BETWEEN
    self._can_write = True

  def load(self) -> Mapping[str, np.ndarray] | None:
    """Returns the arrays of the same evaluation that was interrupted, or None."""
    if not tf.io.gfile.exists(self._path):
      return None
    try:
      with tf.io.gfile.GFile(self._path, 'rb') as file:
        content = file.read()
      with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
      if str(arrays.pop(_IDENTITY)) == self._identity:
        return arrays
      reason = 'it is of other weights, images or options'
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, tf.errors.OpError) as error:
      reason = f'it cannot be read ({files.reason(error)})'
    logging.warning('%s: not used, %s: the evaluation starts over.', self._path, reason)
    return None

  def save(self, arrays: Callable[[], Mapping[str, np.ndarray]], now: bool = False) -> None:
    """Writes the state if `now` or the last one is old enough; a failure is a warning, once."""
    started = time.monotonic()
    if not self._can_write or not now and started < self._next:
      return
    buffer = io.BytesIO()
    content: dict[str, Any] = {_IDENTITY: np.array(self._identity), **arrays()}
    np.savez(buffer, **content)
    try:
      files.write_whole(self._path, buffer.getvalue())
    except errors.UserError as error:
      logging.warning('An interrupted evaluation would start over: %s', error)
      self._can_write = False
    taken = time.monotonic() - started
    self._next = started + max(SECONDS_BETWEEN, TIMES_AS_LONG * taken)

  def remove(self) -> None:
    """Removes the file of a finished evaluation."""
    files.remove_if_exists(self._path)
