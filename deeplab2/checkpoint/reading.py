"""Opens checkpoints by their literal prefix.

TensorFlow's readers look a prefix up as a pattern first, so a checkpoint in `runs[lr=0.1]` is not
found. Such a one is read through symbolic links with plain names.
"""

from collections.abc import Iterable
import os
import re
import tempfile

import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files

# What TensorFlow's readers raise for files that are truncated, damaged, or no checkpoints.
UNREADABLE = (OSError, ValueError, RuntimeError, LookupError, tf.errors.OpError)
FILE_ENDING = r'\.(index|data-\d{5}-of-\d{5})'
SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'  # TensorFlow's ending of the keys of variables.
_LINKED_NAME = 'checkpoint'


class UnreadableError(errors.UserError):
  """A checkpoint whose files are truncated, damaged, or of something else."""

  def __init__(self, prefix: str, error: BaseException, read_as: str | None = None):
    """Creates the error; `read_as` is the prefix that TensorFlow's message may speak of."""
    reason = files.reason(error).replace(read_as or prefix, prefix)
    super().__init__(f'{prefix}: not a readable checkpoint (truncated or damaged?): {reason}.')


class Reader:
  """One checkpoint. `path` is the prefix by which TensorFlow finds it while this object lives."""

  def __init__(self, prefix: str):
    """Opens a checkpoint.

    Raises:
      UnreadableError: it is missing or cannot be read.
    """
    self.prefix = prefix
    self.path = prefix
    try:
      if files.is_pattern(prefix) and '://' not in prefix:
        self._link()
      self._reader = tf.train.load_checkpoint(self.path)
    except UNREADABLE as error:
      raise self.unreadable(error) from error

  def _link(self):
    directory, name = os.path.split(os.path.abspath(self.prefix))
    # Removed with this object.
    self._links = tempfile.TemporaryDirectory(prefix='deeplab2-')
    for file in files.matching(directory, re.escape(name) + FILE_ENDING):
      os.symlink(
        os.path.join(directory, file),
        os.path.join(self._links.name, _LINKED_NAME + file[len(name) :]),
      )
    self.path = os.path.join(self._links.name, _LINKED_NAME)

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all tensors by key."""
    return {
      key: tuple(shape) for key, shape in sorted(self._reader.get_variable_to_shape_map().items())
    }

  def stripped_shapes(self) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all tensors by key without TensorFlow's ending."""
    return {key.removesuffix(SUFFIX): shape for key, shape in self.shapes().items()}

  def has(self, key: str) -> bool:
    """Returns whether there is a tensor of this key."""
    return self._reader.has_tensor(key)

  def get(self, key: str) -> np.ndarray:
    """Returns a tensor.

    Raises:
      UnreadableError: its bytes are missing or changed.
    """
    try:
      return self._reader.get_tensor(key)
    except UNREADABLE as error:
      raise self.unreadable(error) from error

  def check(self, keys: Iterable[str]) -> None:
    """Reads tensors to see that they can be read.

    Raises:
      UnreadableError: bytes of one are missing or changed.
    """
    for key in keys:
      self.get(key)

  def unreadable(self, error: BaseException) -> UnreadableError:
    """Returns the error of a failed attempt to read, in terms of the literal prefix."""
    return UnreadableError(self.prefix, error, self.path)


def is_whole(prefix: str) -> bool:
  """Returns whether every tensor of a checkpoint can be read; reads all of it."""
  try:
    reader = Reader(prefix)
    reader.check(reader.shapes())
  except UnreadableError:
    return False
  return True
