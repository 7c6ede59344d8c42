"""Checks of TFRecords that go on after a problem."""

from collections.abc import Iterable, Iterator

import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2 import structures
from deeplab2.data import inspection
from deeplab2.data import labels
from deeplab2.data import tfrecord

Problem = inspection.Problem
Report = inspection.Report


def check(
  serialized: bytes | tf.Tensor,
  where: str,
  space: structures.LabelSpace,
  *,
  max_instances: int,
  max_instance_id: int,
) -> Report:
  """Decodes one record and checks its label map.

  An instance number beyond the label divisor cannot be told from a number of the next class, so it
  is found only where that class is unknown or stuff.

  Args:
    serialized: [] string, a tf.Example.
    where: file and record, for problems.
    space: how ids are numbered.
    max_instances: the most instances that training takes in one image.
    max_instance_id: the largest number of an instance that training takes.
  """
  serialized = tf.convert_to_tensor(serialized)
  try:
    record = tfrecord.parse_example(serialized, True)
  except (tf.errors.OpError, UnicodeDecodeError):  # Messages may quote bytes of no tf.Example.
    try:
      tfrecord.check_record(serialized, where, True, None)
    except errors.UserError as error:
      return Report([Problem('unreadable', where, inspection.without_path(error, where))])
    raise
  name = record.name.numpy().decode(errors='replace')
  try:
    regions = labels.regions(record.label.numpy()[..., 0])
  except errors.UserError as error:
    return Report([Problem('unreadable', f'{where}, image {name!r}', str(error))])
  problems, segments = [], []

  def find(category, message, segment=None, pixel=None):
    problems.append(Problem(category, f'{where}, image {name!r}', message, segment, pixel))

  num_instances = 0
  for value, (area, _, pixel) in regions.items():
    class_id, instance = divmod(value, space.label_divisor)
    if class_id == space.ignore_label:
      continue
    if not 0 <= class_id < space.num_classes:
      find(
        'class',
        f'class {class_id} (id {value} / {space.label_divisor}) of {area} pixels is '
        f'unknown; must be below {space.num_classes}',
        value,
        pixel,
      )
      continue
    is_thing = class_id in space.thing_ids
    if instance and not is_thing:
      find('isthing', f'is instance {instance} of class {class_id}, which is stuff', value, pixel)
    elif instance > max_instance_id:
      find(
        'too many',
        f'is instance {instance} of class {class_id}; training takes numbers up to '
        f'{max_instance_id}',
        value,
        pixel,
      )
    num_instances += is_thing and instance > 0
    segments.append(labels.Segment(value, class_id, area, is_thing and instance == 0))
  if num_instances > max_instances:
    find('too many', f'shows {num_instances} instances, more than max_thing_id = {max_instances}')
  if not segments:
    find('no segments', 'all pixels are void')
  return Report(problems, tuple(record.label.shape[:2]), tuple(segments), name)


def stored_records(paths: Iterable[str]) -> Iterator[tuple[str, bytes | Problem]]:
  """Yields (file and number, serialized record) of all files, or a Problem where one is broken."""
  for file in paths:
    number = position = 0
    problem = None
    try:
      for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator():
        yield f'{file}, record {number}', serialized
        number += 1
        position += len(serialized) + tfrecord.FRAME_BYTES
    except tf.errors.OpError as error:
      problem = f'the file is truncated or corrupt from here on ({files.reason(error)})'
    else:
      # TensorFlow takes a file that is cut within the length of a record for one that ends there.
      lost = tf.io.gfile.stat(file).length - position
      if lost:
        problem = f'the file is truncated here, {lost} bytes into the record'
    if problem:
      where = f'{file}, record {number}'
      yield where, Problem('unreadable', where, problem)
