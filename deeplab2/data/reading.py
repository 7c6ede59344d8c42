"""TFRecord files -> decoded records, and what becomes of records that cannot be read.

There are three parts, for a pipeline to put its shuffling between them: `sources` (what is known of
files before they are opened), and of a reader `read` (one source -> records as stored) and `decode`
(those -> `tfrecord.Record`). `Fail` ends at the first bad record, `Skip` leaves bad ones out and
counts them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab2 import files as disk
from deeplab2.data import framing
from deeplab2.data import tfrecord

# Fractions are of at least so many records, or the first bad record would be too many.
_LEAST = 1000


class Fail(NamedTuple):
  """Reads records until one is bad; an error of TensorFlow then ends the pipeline."""

  def read(self, file: tf.Tensor, num_bytes: tf.Tensor) -> tf.data.Dataset:
    """Returns the serialized records of a file.

    Raises:
      tf.errors.DataLossError: (when run) the file is cut within a record, or a checksum is wrong.
      tf.errors.InvalidArgumentError: (when run) it is cut within the length of a record, which
        TensorFlow takes for its end.
    """

    def check(serialized, number, position, is_end):
      problem = ('File', file, 'is cut in record', number, 'at byte', position)
      return serialized, tfrecord.require(is_end, ~is_end | (position >= num_bytes), *problem)

    records = _with_end(tf.data.TFRecordDataset(file)).map(check)
    records = records.filter(lambda serialized, is_end: ~is_end)
    return records.map(lambda serialized, is_end: serialized)

  def decode(self, stored: tf.data.Dataset, *, with_label: bool, void_id: int) -> tf.data.Dataset:
    """Returns a dataset of tfrecord.Record from what `read` returns."""
    del void_id
    return stored.map(
      lambda serialized: tfrecord.parse_example(serialized, with_label),
      num_parallel_calls=tf.data.AUTOTUNE,
    )


class Skip(NamedTuple):
  """Replaces bad records by blanks and names each in the log, up to a fraction of what was read.

  Bad is what `tfrecord.parse_example` refuses, and the rest of a file from a wrong checksum or a
  cut on, which counts as one record, as nobody knows how many it held. TensorFlow's reason is in
  the log too, one line before.
  """

  max_fraction: float = 0.01  # Of the records read so far; fewer than 1000 count as 1000.

  def read(self, file: tf.Tensor, num_bytes: tf.Tensor) -> tf.data.Dataset:
    """Returns (serialized record, its place); an empty record stands for what cannot be read."""

    def locate(serialized, number, position, is_end):
      place = tf.strings.join([file, ', record ', tf.strings.as_string(number)])
      left, size = map(tf.strings.as_string, (num_bytes - position, num_bytes))
      lost = tf.strings.join([place, ' to the end: ', left, ' bytes of ', size])
      return serialized, tf.where(is_end, lost, place), ~is_end | (position < num_bytes)

    records = _with_end(tf.data.TFRecordDataset(file).ignore_errors(log_warning=True)).map(locate)
    records = records.filter(lambda serialized, place, is_needed: is_needed)
    return records.map(lambda serialized, place, is_needed: (serialized, place))

  def decode(self, stored: tf.data.Dataset, *, with_label: bool, void_id: int) -> tf.data.Dataset:
    """Returns a dataset of tfrecord.Record from what `read` returns.

    A bad record has size (0, 0), one pixel of void, and its place for a name.

    Raises:
      tf.errors.InvalidArgumentError: (when run) more than `max_fraction` are bad.
    """

    def attempt(serialized, place):
      # Where the record is bad, the blank is first.
      record = tf.data.Dataset.from_tensors(serialized).map(
        lambda serialized: tfrecord.parse_example(serialized, with_label)
      )
      record = record.ignore_errors(log_warning=True)
      record = record.concatenate(
        tf.data.Dataset.from_tensors(blank(place, with_label=with_label, void_id=void_id))
      )
      return record.take(1).get_single_element()

    start = tf.constant(0, tf.int64), tf.constant(0, tf.int64)
    return stored.map(attempt, num_parallel_calls=tf.data.AUTOTUNE).scan(start, self._count)

  def _count(self, state, record):
    """Counts (read, skipped) on by one record; logs it if it is bad, and refuses one too many."""
    is_bad = is_blank(record)
    read = state[0] + 1
    skipped = state[1] + tf.cast(is_bad, tf.int64)
    count = [tf.strings.as_string(skipped), ' of ', tf.strings.as_string(read)]
    limit = self.max_fraction * tf.cast(tf.maximum(read, _LEAST), tf.float64)
    too_many = (
      f' records read cannot be used, more than max_corrupt_fraction = {self.max_fraction:.7g} '
      'allows; the last is '
    )
    message = tf.strings.join(['Corrupt records: ', *count, too_many, record.name, '.'])

    def report():
      text = tf.strings.join(['Skipped ', record.name, ': ', *count, ' records read are corrupt'])
      with tf.control_dependencies([tf.print(text)]):
        return tf.constant(True)

    with tf.control_dependencies(
      [
        tf.cond(is_bad, report, lambda: False),
        tf.debugging.Assert(~is_bad | (tf.cast(skipped, tf.float64) <= limit), [message]),
      ]
    ):
      return (read, skipped), record._replace(name=tf.identity(record.name))


def sources(files: Sequence[str]) -> tf.data.Dataset:
  """Returns (file, bytes) of the files, in order, as readers take them."""
  sizes = tf.constant(disk.sizes(files), tf.int64)
  return tf.data.Dataset.from_tensor_slices((list(files), sizes))


def _with_end(records):
  """Adds number and position in bytes to the records of a file, and a last element with is_end.

  Returns:
    A dataset of (serialized, number, position, is_end).
  """

  def locate(state, element):
    (number, position), (serialized, is_end) = state, element
    size = tf.cast(tf.strings.length(serialized), tf.int64) + framing.FRAME_BYTES
    return (number + 1, position + size), (serialized, number, position, is_end)

  start = tf.constant(0, tf.int64), tf.constant(0, tf.int64)
  records = records.map(lambda serialized: (serialized, False))
  return records.concatenate(tf.data.Dataset.from_tensors((b'', True))).scan(start, locate)


def blank(name: tf.Tensor | str, *, with_label: bool, void_id: int) -> tfrecord.Record:
  """Returns a record of one void pixel, marked by the size (0, 0) that it claims."""
  label = tf.fill([1, 1, 1], void_id) if with_label else None
  return tfrecord.Record(
    tf.zeros([1, 1, 3], tf.uint8), label, tf.convert_to_tensor(name), tf.constant(0), tf.constant(0)
  )


def is_blank(record: tfrecord.Record) -> tf.Tensor:
  """Returns [] bool, whether a record is one of `blank`."""
  return record.height == 0
