"""Checks of TFRecords that go on after a problem."""

from collections.abc import Iterable, Iterator, Sequence
import concurrent.futures
import itertools

import tensorflow as tf
import tqdm

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.data import framing
from deeplab2.data import inspection
from deeplab2.data import labels
from deeplab2.data import parallel
from deeplab2.data import problems
from deeplab2.data import tfrecord
from deeplab2.data.problems import Problem

Report = inspection.Report
# Records are checked so many at a time: label maps of large images take megabytes.
_AT_A_TIME = 64


def check(
  serialized: bytes,
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
    serialized: a tf.Example.
    where: file and record, for problems.
    space: how ids are numbered.
    max_instances: the most instances that training takes in one image.
    max_instance_id: the largest number of an instance that training takes.
  """
  try:
    record = tfrecord.check_record(serialized, where)
  except errors.UserError as error:
    return Report([problems.of_error('unreadable', where, error)])
  assert record.label is not None  # It was asked for.
  name = record.name.numpy().decode(errors='replace')
  place = f'{where}, image {name!r}'
  try:
    regions = labels.regions(record.label.numpy()[..., 0])
  except errors.UserError as error:
    return Report([problems.of_error('unreadable', place, error)])
  wrong, segments, num_instances = [], [], 0
  for value, (area, _, pixel) in regions.items():
    class_id, instance = divmod(value, space.label_divisor)
    if class_id == space.ignore_label:
      continue
    problem = labels.id_problem(value, space)
    if problem:
      wrong.append(Problem(problem[0], place, f'{problem[1]} ({area} pixels)', value, pixel))
    if not 0 <= class_id < space.num_classes:
      continue
    is_thing = class_id in space.thing_ids
    if is_thing and instance > max_instance_id:
      message = (
        f'is instance {instance} of class {class_id}; training takes numbers up to '
        f'{max_instance_id}'
      )
      wrong.append(Problem('too many', place, message, value, pixel))
    num_instances += is_thing and instance > 0
    segments.append(labels.Segment(value, class_id, area, is_thing and instance == 0))
  if num_instances > max_instances:
    message = f'shows {num_instances} instances, more than max_thing_id = {max_instances}'
    wrong.append(Problem('too many', place, message))
  if not segments:
    wrong.append(Problem('no segments', place, 'all pixels are void'))
  return Report(wrong, tuple(record.label.shape[:2]), tuple(segments), name)


def stored_records(paths: Iterable[str]) -> Iterator[tuple[str, bytes | Problem]]:
  """Yields (file and number, serialized record) of all files, or a Problem where one is broken."""
  for file in paths:
    number = 0
    try:
      for serialized in framing.records(file):
        yield f'{file}, record {number}', serialized
        number += 1
    except errors.UserError as error:
      where = f'{file}, record {number}'
      yield where, problems.of_error('unreadable', where, error)


def check_files(
  paths: Sequence[str], space: structures.LabelSpace, **limits: int
) -> Iterator[Report]:
  """Yields what `check` says of every record of some files, and of names that come twice."""
  names: dict[str, str] = {}

  def of(stored):
    where, content = stored
    return (
      Report([content]) if isinstance(content, Problem) else check(content, where, space, **limits)
    )

  stream = stored_records(paths)
  with (
    concurrent.futures.ThreadPoolExecutor(parallel.usable_cores()) as pool,
    tqdm.tqdm(
      total=sum(tf.io.gfile.stat(path).length for path in paths),
      unit='B',
      unit_scale=True,
      desc='records',
      disable=None,
      leave=False,
    ) as bar,
  ):
    while some := list(itertools.islice(stream, _AT_A_TIME)):
      for (where, content), report in zip(some, pool.map(of, some), strict=True):
        if isinstance(content, bytes):
          bar.update(len(content))
        first = names.setdefault(report.name, where) if report.name else where
        if first != where:
          message = f'is named {report.name!r} like {first}'
          report.problems.append(Problem('duplicate', where, message))
        yield report
