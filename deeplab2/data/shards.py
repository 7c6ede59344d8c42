"""Writes the TFRecord shards of a split: all or none get their names, and a killed run goes on.

Until all shards are complete, complete ones wait as `<shard>.part`, and `unfinished-<split>.json`
says what they are of. The same command then makes only what is missing. At the end, the shards get
their names and `manifest-<split>.json` says what is in them.
"""
from collections.abc import Callable, Iterable, Iterator, Sequence
import glob
import hashlib
import itertools
import json
import os
from typing import Any, NamedTuple

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import tfrecord

# Serializes tasks, in order: tasks -> records.
Serialize = Callable[[Sequence[Any]], Iterable[bytes]]


class Written(NamedTuple):
  """What is on disk."""
  files: list[str]
  records: int
  num_bytes: int
  resumed: int  # Records that an earlier, unfinished run had written.


def write(serialize: Serialize, tasks: Sequence[Any], output_dir: str, split: str,
          num_shards: int, settings: dict[str, Any], *, identity: str = '',
          versions: Sequence[Any] | None = None) -> Written:
  """Writes `<split>-<i>-of-<n>.tfrecord`. No shard is empty: there are at most as many as tasks.

  Args:
    serialize: makes the records of tasks, in order.
    tasks: at least one.
    output_dir: local folder, made if missing.
    split: first part of the file names.
    num_shards: number of files, at least 1.
    settings: what else the records depend on; becomes part of the manifest.
    identity: what else they depend on and the manifest need not say.
    versions: one a task, for what its files hold: a shard of other versions is made again.

  Raises:
    UserError: the folder holds shards of this split of another number (a pattern would mix the
      two) or with other settings, or cannot be written (disk full, no permission). What `serialize`
      raises passes. In all cases complete shards wait for the next run, and earlier files stay as
      they are.
    ValueError: `serialize` makes another number of records than there are tasks.
  """
  num_shards = min(num_shards, len(tasks))
  files = [os.path.join(output_dir, f'{split}-{i:05d}-of-{num_shards:05d}.tfrecord')
           for i in range(num_shards)]
  _refuse_others(files, output_dir, split, num_shards)
  if any(map(os.path.exists, files)):
    _refuse_other_settings(output_dir, split, settings)
  # Sizes differ by one at most.
  bounds = [len(tasks) * i // num_shards for i in range(num_shards + 1)]
  unfinished = os.path.join(output_dir, f'unfinished-{split}.json')
  try:
    os.makedirs(output_dir, exist_ok=True)
    digests = [_digest((versions or tasks)[low:high])
               for low, high in itertools.pairwise(bounds)]
    missing = _missing(files, unfinished, split, digests, _digest(
        [sorted(settings.items()), num_shards, identity, *tasks]))
    records = iter(serialize([task for i in missing for task in tasks[bounds[i]:bounds[i + 1]]]))
    try:
      for i in missing:
        _write_shard(f'{files[i]}.part', records, bounds[i + 1] - bounds[i])
      if next(records, None) is not None:
        raise ValueError(f'More than {len(tasks)} records were made.')
    except BaseException:
      if not glob.glob(f'{glob.escape(output_dir)}/{split}-*.part'):
        os.remove(unfinished)
      raise
    return _finish(files, bounds, missing, unfinished, split, settings)
  except (OSError, tf.errors.OpError) as error:
    raise errors.UserError(
        f'{output_dir}: cannot be written ({_first_line(error)}); complete shards are kept, and '
        'the same command goes on from there.') from error


def _refuse_others(files, output_dir, split, num_shards):
  others = set(glob.glob(os.path.join(glob.escape(output_dir), f'{split}-*-of-*.tfrecord')))
  others -= set(files)
  if others:
    raise errors.UserError(f'{output_dir}: holds {min(others)} of an earlier run with another '
                           f'number of shards than {num_shards}; delete those or choose another '
                           'folder.')


def _refuse_other_settings(output_dir, split, settings):
  path = os.path.join(output_dir, f'manifest-{split}.json')
  earlier = _read(path)
  for key, value in settings.items():
    if key in earlier and earlier[key] != value:
      raise errors.UserError(f'{path}: these shards are of {key} {earlier[key]}, not {value}; '
                             'delete them or choose another folder.')


def _digest(entries):
  """Returns what tells lists apart: tasks hold paths, and annotations as they were read."""
  content = hashlib.sha256()
  for entry in entries:
    content.update(repr(entry).encode(errors='surrogateescape'))
  return content.hexdigest()


def _missing(files, unfinished, split, digests, fingerprint) -> list[int]:
  """Returns which shards are to be written, having dropped what another run has left."""
  parts = [f'{file}.part' for file in files]
  earlier = _read(unfinished)
  kept = []
  if earlier.get('fingerprint') == fingerprint:
    kept = [part for part, digest, before in zip(parts, digests, earlier['shards'], strict=True)
            if digest == before and os.path.exists(part)]
    if kept:
      logging.info('%s: going on with %d of %d shards.', unfinished, len(files) - len(kept),
                   len(files))
  folder = glob.escape(os.path.dirname(unfinished))
  for stale in glob.glob(os.path.join(folder, f'{split}-*.tfrecord.part*')):
    if stale not in kept:
      logging.info('%s: of an unfinished run with other settings or files; removed.', stale)
      os.remove(stale)
  _write_json(unfinished, {'fingerprint': fingerprint, 'shards': digests})
  return [i for i, part in enumerate(parts) if part not in kept]


def _write_shard(path, records: Iterator[bytes], size):
  """Writes the next `size` records; the file appears when it is complete."""
  temporary = f'{path}.tmp'
  expected = 0
  try:
    with tf.io.TFRecordWriter(temporary) as writer:
      for index in range(size):
        record = next(records, None)
        if record is None:
          raise ValueError(f'{size - index} records are missing for {path}.')
        writer.write(record)
        expected += len(record) + tfrecord.FRAME_BYTES
    written = os.path.getsize(temporary)
    if written != expected:
      raise OSError(f'{path} has {written} instead of {expected} bytes; is the disk full?')
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.remove(temporary)


def _finish(files, bounds, missing, unfinished, split, settings):
  """Gives the shards their names and writes the manifest."""
  for file in files:
    os.replace(f'{file}.part', file)
  sizes = [bounds[i + 1] - bounds[i] for i in range(len(files))]
  num_bytes = [os.path.getsize(file) for file in files]
  _write_json(os.path.join(os.path.dirname(unfinished), f'manifest-{split}.json'), {
      **settings, 'records': sum(sizes), 'bytes': sum(num_bytes),
      'shards': [{'file': os.path.basename(file), 'records': size, 'bytes': count}
                 for file, size, count in zip(files, sizes, num_bytes, strict=True)]})
  os.remove(unfinished)
  resumed = sum(sizes) - sum(sizes[i] for i in missing)
  return Written(files, sum(sizes), sum(num_bytes), resumed)


def _read(path):
  try:
    with open(path, encoding='utf-8') as file:
      return json.load(file)
  except (OSError, ValueError):  # Not there, or cut off: nothing to go on from.
    return {}


def _write_json(path, content):
  with open(f'{path}.tmp', 'w', encoding='utf-8') as file:
    json.dump(content, file, indent=1)
  os.replace(f'{path}.tmp', path)


def _first_line(error):
  message = getattr(error, 'message', None) or str(error)
  return message.strip().splitlines()[0].rstrip('. ')
