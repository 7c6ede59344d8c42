"""Shards: even, all or none, resumed after whatever happened, and a manifest that counts them."""
import json
import os
import resource
import signal
import subprocess
import sys

import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import shards


def _write(folder, tasks, num_shards, serialize=None, split='val', **settings):
  return shards.write(serialize or (lambda tasks: [task.encode() for task in tasks]), tasks,
                      str(folder), split, num_shards, settings)


def _content(files):
  return [[record.numpy().decode() for record in tf.data.TFRecordDataset(str(file))]
          for file in sorted(files)]


@pytest.mark.parametrize('tasks, num_shards, sizes', [
    (5, 2, [2, 3]), (2, 1000, [1, 1]), (7, 3, [2, 2, 3]), (1, 1, [1])])
def test_shards_are_even_and_never_empty(tmp_path, tasks, num_shards, sizes):
  tasks = [str(number) for number in range(tasks)]
  written = _write(tmp_path / 'new', tasks, num_shards, dataset='made')
  names = [f'val-{i:05d}-of-{len(sizes):05d}.tfrecord' for i in range(len(sizes))]
  assert written.files == [str(tmp_path / 'new' / name) for name in names]
  assert sorted(os.listdir(tmp_path / 'new')) == ['manifest-val.json', *names]
  content = _content(written.files)
  assert [len(part) for part in content] == sizes and sum(content, []) == tasks
  sizes_on_disk = [os.path.getsize(file) for file in written.files]
  assert (written.records, written.num_bytes, written.resumed) == (
      len(tasks), sum(sizes_on_disk), 0)
  assert json.loads((tmp_path / 'new' / 'manifest-val.json').read_text()) == {
      'dataset': 'made', 'records': len(tasks), 'bytes': sum(sizes_on_disk),
      'shards': [{'file': name, 'records': size, 'bytes': count}
                 for name, size, count in zip(names, sizes, sizes_on_disk, strict=True)]}


_TASKS = ['a', 'b', 'c', 'd', 'e', 'f']


def _stops_at(bad, made):
  """Returns a serializer that notes what it makes, and stops at task `bad`."""

  def serialize(tasks):
    for task in tasks:
      if task == bad:
        raise errors.UserError('bad picture')
      made.append(task)
      yield task.encode()

  return serialize


def test_a_run_that_stopped_goes_on_with_the_missing_shards(tmp_path):
  made = []
  with pytest.raises(errors.UserError, match='bad picture'):
    _write(tmp_path, _TASKS, 3, _stops_at('d', made))
  assert made == ['a', 'b', 'c']
  assert sorted(os.listdir(tmp_path)) == ['unfinished-val.json', 'val-00000-of-00003.tfrecord.part']
  made.clear()
  written = _write(tmp_path, _TASKS, 3, _stops_at(None, made))
  assert made == ['c', 'd', 'e', 'f'] and written.resumed == 2
  assert _content(written.files) == [['a', 'b'], ['c', 'd'], ['e', 'f']]
  assert 'manifest-val.json' in os.listdir(tmp_path) and len(os.listdir(tmp_path)) == 4


@pytest.mark.parametrize('tasks, settings', [
    (_TASKS[:-1] + ['z'], {}), (_TASKS, {'crowd': 'void'})])
def test_what_another_run_left_is_not_taken_over(tmp_path, tasks, settings):
  with pytest.raises(errors.UserError):
    _write(tmp_path, _TASKS, 3, _stops_at('d', []))
  made = []
  written = _write(tmp_path, tasks, 3, _stops_at(None, made), **settings)
  assert made == tasks and written.resumed == 0
  assert sum(_content(written.files), []) == tasks


def test_failing_at_once_leaves_nothing_and_keeps_the_earlier_files(tmp_path):
  _write(tmp_path, ['old', 'old'], 2)
  with pytest.raises(errors.UserError, match='bad picture'):
    _write(tmp_path, ['new', 'bad'], 2, _stops_at('new', []))
  assert len(os.listdir(tmp_path)) == 3
  assert _content(tmp_path.glob('*.tfrecord')) == [['old'], ['old']]


_KILLED = """
import os, signal, sys
from deeplab2.data import shards

def serialize(tasks):
  for task in tasks:
    if task == 'd':
      os.kill(os.getpid(), signal.SIGKILL)
    yield task.encode()

shards.write(serialize, list('abcdef'), sys.argv[1], 'val', 3, {})
"""


def test_a_killed_run_leaves_no_half_shard(tmp_path):
  done = subprocess.run([sys.executable, '-c', _KILLED, str(tmp_path)], check=False, timeout=120)
  assert done.returncode == -signal.SIGKILL
  assert (tmp_path / 'val-00000-of-00003.tfrecord.part').exists()
  written = _write(tmp_path, _TASKS, 3)
  assert written.resumed == 2 and sum(_content(written.files), []) == _TASKS
  assert not list(tmp_path.glob('*.part*')) and not list(tmp_path.glob('*.tmp'))


def test_another_number_of_shards_is_refused(tmp_path):
  _write(tmp_path, ['a', 'b', 'c'], 3)
  with pytest.raises(errors.UserError, match='val-00000-of-00003.*another number of shards than 2'):
    _write(tmp_path, ['a', 'b'], 2)
  _write(tmp_path, ['a', 'b'], 2, split='train')


@pytest.mark.parametrize('count', [1, 3])
def test_wrong_number_of_records(tmp_path, count):
  with pytest.raises(ValueError, match='records'):
    _write(tmp_path, ['a', 'b'], 1, lambda tasks: [b'a'] * count)


def test_full_disk(tmp_path):
  """A limit on file sizes fails the write like a full disk does."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
  try:
    with pytest.raises(errors.UserError, match='cannot be written .*goes on from there'):
      _write(tmp_path, ['a', 'b', 'c'], 2, lambda tasks: [bytes(60_000)] * len(tasks))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
  assert not list(tmp_path.glob('*.tfrecord')) and not list(tmp_path.glob('*.tmp'))


def test_output_folder_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='file: cannot be written'):
    _write(tmp_path / 'file', ['a'], 1)


def test_shards_of_another_converter_or_of_changed_files_are_made_again(tmp_path):
  for versions, identity, made_again in (
      ('aabbc', 'x', ['d', 'e']), ('aaBbc', 'x', list('bcde')), ('Aabbc', 'x', list('ade')),
      ('aabbc', 'y', list('abcde'))):
    folder = tmp_path / f'{versions}-{identity}'
    with pytest.raises(errors.UserError):
      shards.write(_stops_at('e', []), list('abcde'), str(folder), 'val', 3, {}, identity='x',
                   versions='aabbc')
    made = []
    shards.write(_stops_at(None, made), list('abcde'), str(folder), 'val', 3, {},
                 identity=identity, versions=versions)
    assert made == made_again, (versions, identity)
    assert not list(folder.glob('*.part*'))


def test_shards_with_other_settings_are_refused(tmp_path):
  _write(tmp_path, ['a'], 1, dataset='orchard')
  with pytest.raises(errors.UserError, match='manifest-val.json: these shards are of dataset '
                                             'orchard, not shapes; delete them'):
    _write(tmp_path, ['b'], 1, dataset='shapes')
  assert _content(tmp_path.glob('*.tfrecord')) == [['a']]
  _write(tmp_path, ['c'], 1, dataset='orchard')
  assert _content(tmp_path.glob('*.tfrecord')) == [['c']]
  (shard,) = tmp_path.glob('*.tfrecord')
  shard.unlink()  # As the message says; the manifest may stay.
  _write(tmp_path, ['b'], 1, dataset='shapes')
  assert _content(tmp_path.glob('*.tfrecord')) == [['b']]
