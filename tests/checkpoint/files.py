"""Checkpoints with any keys for tests, and what a refusal has to look like."""

import pytest
import tensorflow as tf

from deeplab2 import errors

SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'


def write(path, tensors):
  """Writes a checkpoint with these keys and no object graph; returns its prefix."""
  names = sorted(tensors)
  path.parent.mkdir(exist_ok=True)
  tf.raw_ops.SaveV2(
    prefix=str(path),
    tensor_names=names,
    shape_and_slices=[''] * len(names),
    tensors=[tf.constant(tensors[name]) for name in names],
  )
  return str(path)


def refused(call, *words):
  """Asserts that `call` raises one line with all `words`."""
  with pytest.raises(errors.UserError) as caught:
    call()
  message = str(caught.value)
  assert '\n' not in message
  for word in words:
    assert word in message, message
