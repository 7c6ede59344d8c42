"""Writes the TFRecord shards of a split: all or none get their names, and a killed run goes on.

Until all shards are complete, complete ones wait as `<shard>.part`, and `unfinished-<split>.json`
says what they are of and what is in them. The same command then makes only what is missing. At the
end, the shards get their names and `manifest-<split>.json` says what is in them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import os
import re
from typing import Any, NamedTuple

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files as disk
from deeplab2.data import framing


class Made(NamedTuple):
  """The outcome of a task."""

  record: bytes | None  # None: it is left out.
  name: str = ''
  reason: str = ''  # Why it is left out.
  segments: int = 0  # In its label map.
  notes: Mapping[str, int] = {}  # Numbers of segments, by what is to be said of them.


@dataclasses.dataclass
class Summary:
  """The content of a shard, or of all shards.

  Attributes:
    records: their number.
    left_out: {name, reason} of each task that became no record.
    most_segments: the most in one label map.
    notes: by key, [segments, records, name of the first].
  """

  records: int = 0
  left_out: list[dict[str, str]] = dataclasses.field(default_factory=list)
  most_segments: int = 0
  notes: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

  def add(self, made: Made) -> None:
    """Adds what became of a task."""
    if made.record is None:
      self.left_out.append({'name': made.name, 'reason': made.reason})
    else:
      self.merge(
        Summary(
          1, [], made.segments, {key: [count, 1, made.name] for key, count in made.notes.items()}
        )
      )

  def merge(self, other: 'Summary') -> None:
    """Adds what is in later records."""
    self.records += other.records
    self.left_out += other.left_out
    self.most_segments = max(self.most_segments, other.most_segments)
    for key, (count, records, name) in other.notes.items():
      before = self.notes.setdefault(key, [0, 0, name])
      self.notes[key] = [before[0] + count, before[1] + records, before[2]]


# Makes the records of tasks, in order: one Made a task.
Serialize = Callable[[Sequence[Any]], Iterable[Made]]


class Written(NamedTuple):
  """The files on disk."""

  files: list[str]
  num_bytes: int
  resumed: int  # Records that an earlier, unfinished run had written.
  summary: Summary

  @property
  def records(self) -> int:
    """The number of records."""
    return self.summary.records


def write(
  serialize: Serialize,
  tasks: Sequence[Any],
  output_dir: str,
  split: str,
  num_shards: int,
  settings: dict[str, Any],
  *,
  identity: str = '',
  versions: Sequence[Any] | None = None,
  skip: bool = False,
) -> Written:
  """Writes `<split>-<i>-of-<n>.tfrecord`.

  There are at most as many shards as tasks, of even numbers of tasks; a shard is smaller, or even
  empty, where tasks are left out.

  Args:
    serialize: makes the records of tasks, in order.
    tasks: at least one.
    output_dir: local directory, made if missing.
    split: first part of the file names.
    num_shards: number of files, at least 1.
    settings: what else the records depend on; becomes part of the manifest.
    identity: what else they depend on and the manifest need not say.
    versions: one a task, for what its files hold: a shard of other versions is made again.
    skip: whether shards of an earlier run that leave tasks out are taken over.

  Raises:
    UserError: the directory holds shards of this split of another number (a pattern would mix the
      two) or with other settings, or cannot be written (disk full, no permission); all tasks are
      left out. What `serialize` raises passes. In all cases complete shards wait for the next run,
      and earlier files stay as they are.
    ValueError: `serialize` makes another number of records than there are tasks.
  """
  num_shards = min(num_shards, len(tasks))
  files = [
    os.path.join(output_dir, f'{split}-{i:05d}-of-{num_shards:05d}.tfrecord')
    for i in range(num_shards)
  ]
  _refuse_others(files, output_dir, split, num_shards)
  if any(map(os.path.exists, files)):
    _refuse_other_settings(output_dir, split, settings)
  # Sizes differ by one at most.
  bounds = [len(tasks) * i // num_shards for i in range(num_shards + 1)]
  unfinished = os.path.join(output_dir, f'unfinished-{split}.json')
  disk.make_directory(output_dir)
  try:
    digests = [_digest((versions or tasks)[low:high]) for low, high in itertools.pairwise(bounds)]
    kept = _kept(
      files,
      unfinished,
      split,
      digests,
      _digest([sorted(settings.items()), num_shards, identity, *tasks]),
      skip,
    )
    missing = [i for i in range(num_shards) if i not in kept]
    made = iter(serialize([task for i in missing for task in tasks[bounds[i] : bounds[i + 1]]]))
    try:
      for i in missing:
        _write_shard(
          f'{files[i]}.part',
          made,
          bounds[i + 1] - bounds[i],
          functools.partial(_note, unfinished, i),
        )
      if next(made, None) is not None:
        raise ValueError(f'More than {len(tasks)} records were made.')
    except BaseException:
      if not disk.matching(output_dir, rf'{re.escape(split)}-.*\.part'):
        disk.remove_if_exists(unfinished)
      raise
    return _finish(files, kept, unfinished, split, settings)
  except (OSError, tf.errors.OpError) as error:
    raise errors.UserError(
      f'{output_dir}: cannot be written ({disk.reason(error)}); complete shards are kept, and '
      'the same command goes on from there.'
    ) from error


def _refuse_others(files, output_dir, split, num_shards):
  others = {
    os.path.join(output_dir, name)
    for name in disk.matching(output_dir, rf'{re.escape(split)}-\d+-of-\d+\.tfrecord')
  } - set(files)
  if others:
    raise errors.UserError(
      f'{output_dir}: holds {min(others)} of an earlier run with another '
      f'number of shards than {num_shards}; delete those or choose another '
      'directory.'
    )


def _refuse_other_settings(output_dir, split, settings):
  path = os.path.join(output_dir, f'manifest-{split}.json')
  earlier = _read(path)
  for key, value in settings.items():
    if key in earlier and earlier[key] != value:
      raise errors.UserError(
        f'{path}: these shards are of {key} {earlier[key]}, not {value}; '
        'delete them or choose another directory.'
      )


def _digest(entries):
  """Returns a digest of a list of tasks, which hold paths, and annotations as they were read."""
  content = hashlib.sha256()
  for entry in entries:
    content.update(repr(entry).encode(errors='surrogateescape'))
  return content.hexdigest()


def _kept(files, unfinished, split, digests, fingerprint, skip) -> dict[int, Summary]:
  """Returns the content of the shards that stay; removes everything else that another run left."""
  earlier = _read(unfinished)
  kept = {}
  if earlier.get('fingerprint') == fingerprint:
    for i, (digest, before) in enumerate(zip(digests, earlier['shards'], strict=True)):
      content = earlier.get('complete', {}).get(str(i))
      if (
        digest == before
        and content
        and os.path.exists(f'{files[i]}.part')
        and (skip or not content['left_out'])
      ):
        kept[i] = Summary(**content)
    if kept:
      logging.info(
        '%s: going on with %d of %d shards.', unfinished, len(files) - len(kept), len(files)
      )
  parts = {os.path.basename(f'{files[i]}.part') for i in kept}
  directory = os.path.dirname(unfinished)
  # Half shards, and half files of this module (files.write_whole), of runs that were killed.
  for stale in disk.matching(
    directory,
    rf'{re.escape(split)}-.*\.tfrecord\.part.*|'
    rf'\.writing-\d+-(unfinished|manifest)-{re.escape(split)}\.json',
  ):
    if stale not in parts:
      logging.info('%s: of an unfinished run with other settings or files; removed.', stale)
      os.remove(os.path.join(directory, stale))
  _write_json(
    unfinished,
    {
      'fingerprint': fingerprint,
      'shards': digests,
      'complete': {str(i): dataclasses.asdict(summary) for i, summary in kept.items()},
    },
  )
  return kept


def _note(unfinished, i, summary):
  """Notes what is in shard `i`; before the shard gets its name, so that none is without."""
  content = _read(unfinished)
  content['complete'][str(i)] = dataclasses.asdict(summary)
  _write_json(unfinished, content)


def _write_shard(path, made: Iterator[Made], size, note):
  """Writes the records of the next `size` tasks; the file appears when it is complete."""
  temporary = f'{path}.tmp'
  summary, expected = Summary(), 0
  try:
    with tf.io.TFRecordWriter(temporary) as writer:
      for index in range(size):
        result = next(made, None)
        if result is None:
          raise ValueError(f'{size - index} records are missing for {path}.')
        summary.add(result)
        if result.record is not None:
          writer.write(result.record)
          expected += len(result.record) + framing.FRAME_BYTES
    written = os.path.getsize(temporary)
    if written != expected:
      raise OSError(f'{path} has {written} instead of {expected} bytes; is the disk full?')
    note(summary)
    os.replace(temporary, path)
  finally:
    disk.remove_if_exists(temporary)


def _finish(files, kept, unfinished, split, settings):
  """Gives the shards their names and writes the manifest."""
  complete = _read(unfinished)['complete']
  shards = [Summary(**complete[str(i)]) for i in range(len(files))]
  total = Summary()
  for shard in shards:
    total.merge(shard)
  if not total.records:
    for file in files:
      disk.remove_if_exists(f'{file}.part')
    disk.remove_if_exists(unfinished)
    raise errors.UserError(
      f'all {len(total.left_out)} images are left out, nothing is written; '
      f'first {total.left_out[0]["name"]}: {total.left_out[0]["reason"]}'
    )
  for file in files:
    os.replace(f'{file}.part', file)
  num_bytes = [os.path.getsize(file) for file in files]
  _write_json(
    os.path.join(os.path.dirname(unfinished), f'manifest-{split}.json'),
    {
      **settings,
      'records': total.records,
      'bytes': sum(num_bytes),
      'most_segments': total.most_segments,
      'left_out': total.left_out,
      'shards': [
        {'file': os.path.basename(file), 'records': shard.records, 'bytes': count}
        for file, shard, count in zip(files, shards, num_bytes, strict=True)
      ],
    },
  )
  os.remove(unfinished)
  return Written(files, sum(num_bytes), sum(summary.records for summary in kept.values()), total)


def _read(path) -> dict[str, Any]:
  """Returns the content of a JSON file of this module, {} if it is not there or cut off."""
  try:
    content = disk.read_json(path)
  except errors.UserError:  # Nothing to go on from.
    return {}
  return content if isinstance(content, dict) else {}


def _write_json(path, content):
  """Writes a JSON file whole; OSError or OpError if it cannot be, as for a shard."""
  try:
    disk.write_json(path, content)
  except errors.UserError as error:
    if isinstance(error.__cause__, OSError | tf.errors.OpError):
      raise error.__cause__ from None
    raise
