"""Reads back the scalars of TensorBoard's files."""

import os

from absl import logging
from google.protobuf import message
import tensorflow as tf

from deeplab2 import files


def read_scalars(directory: str) -> dict[str, list[tuple[int, float]]]:
  """Returns (step, value) by tag, in the order of steps; of a step written twice, the last value.

  Of a file that is cut or damaged, what comes before; a warning says so. A directory that does not
  exist has none.
  """
  curves: dict[str, dict[int, float]] = {}
  for file in files.matching(directory, 'events.*'):
    path = os.path.join(directory, file)
    try:
      for step, tag, value in _scalars(path):
        curves.setdefault(tag, {})[step] = value
    except (message.DecodeError, ValueError, TypeError, tf.errors.OpError) as error:
      logging.warning('%s: is read up to where it is damaged (%s).', path, files.reason(error))
  return {tag: sorted(points.items()) for tag, points in curves.items()}


def _scalars(path):
  """Yields (step, tag, value) of the scalars of an event file, until it ends or is damaged."""
  for record in tf.data.TFRecordDataset(path):
    event = tf.compat.v1.Event.FromString(record.numpy())
    for value in event.summary.value:
      if value.HasField('tensor') and not value.tensor.tensor_shape.dim:
        yield event.step, value.tag, float(tf.make_ndarray(value.tensor))
