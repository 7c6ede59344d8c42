"""Shards: even, all or none, resumed after whatever happened, and a manifest that counts them."""

import itertools
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
from tests import hostile_names


def _write(directory, tasks, num_shards, serialize=None, split='val', **settings):
  return shards.write(
    serialize or (lambda tasks: [_made(task) for task in tasks]),
    tasks,
    str(directory),
    split,
    num_shards,
    settings,
  )


def _made(task):
  return shards.Made(task.encode(), task)


def _content(files):
  return [
    [record.numpy().decode() for record in tf.data.TFRecordDataset(str(file))]
    for file in sorted(files)
  ]


@pytest.mark.parametrize(
  'tasks, num_shards, sizes', [(5, 2, [2, 3]), (2, 1000, [1, 1]), (7, 3, [2, 2, 3]), (1, 1, [1])]
)
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
    len(tasks),
    sum(sizes_on_disk),
    0,
  )
  assert json.loads((tmp_path / 'new' / 'manifest-val.json').read_text()) == {
    'dataset': 'made',
    'records': len(tasks),
    'bytes': sum(sizes_on_disk),
    'most_segments': 0,
    'left_out': [],
    'shards': [
      {'file': name, 'records': size, 'bytes': count}
      for name, size, count in zip(names, sizes, sizes_on_disk, strict=True)
    ],
  }


_TASKS = ['a', 'b', 'c', 'd', 'e', 'f']


def _stops_at(bad, made):
  """Returns a serializer that notes what it makes, and stops at task `bad`."""

  def serialize(tasks):
    for task in tasks:
      if task == bad:
        raise errors.UserError('bad image')
      made.append(task)
      yield _made(task)

  return serialize


def test_a_run_that_stopped_goes_on_with_the_missing_shards(tmp_path):
  made = []
  with pytest.raises(errors.UserError, match='bad image'):
    _write(tmp_path, _TASKS, 3, _stops_at('d', made))
  assert made == ['a', 'b', 'c']
  assert sorted(os.listdir(tmp_path)) == ['unfinished-val.json', 'val-00000-of-00003.tfrecord.part']
  made.clear()
  written = _write(tmp_path, _TASKS, 3, _stops_at(None, made))
  assert made == ['c', 'd', 'e', 'f'] and written.resumed == 2
  assert _content(written.files) == [['a', 'b'], ['c', 'd'], ['e', 'f']]
  assert 'manifest-val.json' in os.listdir(tmp_path) and len(os.listdir(tmp_path)) == 4


@pytest.mark.parametrize(
  'tasks, settings', [(_TASKS[:-1] + ['z'], {}), (_TASKS, {'crowd': 'void'})]
)
def test_what_another_run_left_is_not_taken_over(tmp_path, tasks, settings):
  with pytest.raises(errors.UserError):
    _write(tmp_path, _TASKS, 3, _stops_at('d', []))
  made = []
  written = _write(tmp_path, tasks, 3, _stops_at(None, made), **settings)
  assert made == tasks and written.resumed == 0
  assert sum(_content(written.files), []) == tasks


def test_failing_at_once_leaves_nothing_and_keeps_the_earlier_files(tmp_path):
  _write(tmp_path, ['old', 'old'], 2)
  with pytest.raises(errors.UserError, match='bad image'):
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
    yield shards.Made(task.encode(), task)

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
    _write(tmp_path, ['a', 'b'], 1, lambda tasks: [_made('a')] * count)


def test_full_disk(tmp_path):
  """A limit on file sizes fails the write like a full disk does."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
  try:
    with pytest.raises(errors.UserError, match='cannot be written .*goes on from there'):
      _write(tmp_path, ['a', 'b', 'c'], 2, lambda tasks: [shards.Made(bytes(60_000))] * len(tasks))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
  assert not list(tmp_path.glob('*.tfrecord')) and not list(tmp_path.glob('*.tmp'))


def test_output_directory_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='file: the directory cannot be made'):
    _write(tmp_path / 'file', ['a'], 1)


def test_shards_of_another_converter_or_of_changed_files_are_made_again(tmp_path):
  for versions, identity, made_again in (
    ('aabbc', 'x', ['d', 'e']),
    ('aaBbc', 'x', list('bcde')),
    ('Aabbc', 'x', list('ade')),
    ('aabbc', 'y', list('abcde')),
  ):
    directory = tmp_path / f'{versions}-{identity}'
    with pytest.raises(errors.UserError):
      shards.write(
        _stops_at('e', []),
        list('abcde'),
        str(directory),
        'val',
        3,
        {},
        identity='x',
        versions='aabbc',
      )
    made = []
    shards.write(
      _stops_at(None, made),
      list('abcde'),
      str(directory),
      'val',
      3,
      {},
      identity=identity,
      versions=versions,
    )
    assert made == made_again, (versions, identity)
    assert not list(directory.glob('*.part*'))


def test_shards_with_other_settings_are_refused(tmp_path):
  _write(tmp_path, ['a'], 1, dataset='orchard')
  with pytest.raises(
    errors.UserError,
    match='manifest-val.json: these shards are of dataset orchard, not shapes; delete them',
  ):
    _write(tmp_path, ['b'], 1, dataset='shapes')
  assert _content(tmp_path.glob('*.tfrecord')) == [['a']]
  _write(tmp_path, ['c'], 1, dataset='orchard')
  assert _content(tmp_path.glob('*.tfrecord')) == [['c']]
  (shard,) = tmp_path.glob('*.tfrecord')
  shard.unlink()  # As the message says; the manifest may stay.
  _write(tmp_path, ['b'], 1, dataset='shapes')
  assert _content(tmp_path.glob('*.tfrecord')) == [['b']]


def _leaves_out(bad, made, segments=()):
  """Returns a serializer that leaves out the tasks of `bad`, and notes what it is asked for."""

  def serialize(tasks):
    for task in tasks:
      made.append(task)
      if task in bad:
        yield shards.Made(None, task, f'{task} is bad')
      else:
        yield shards.Made(
          task.encode(),
          task,
          '',
          dict(segments).get(task, 0),
          {'hidden': 2} if task in 'bd' else {},
        )

  return serialize


def _manifest(directory):
  return json.loads((directory / 'manifest-val.json').read_text())


def test_what_is_left_out_is_listed(tmp_path):
  written = shards.write(
    _leaves_out('cdf', [], {'a': 7, 'b': 3}), _TASKS, str(tmp_path), 'val', 3, {}, skip=True
  )
  assert _content(written.files) == [['a', 'b'], [], ['e']] and written.records == 3
  manifest = _manifest(tmp_path)
  assert manifest['left_out'] == [{'name': name, 'reason': f'{name} is bad'} for name in 'cdf']
  assert manifest['records'] == 3 and manifest['most_segments'] == 7
  assert [shard['records'] for shard in manifest['shards']] == [2, 0, 1]
  assert written.summary.notes == {'hidden': [2, 1, 'b']}


def test_complete_shards_know_what_they_leave_out(tmp_path):
  """A run that stopped: the next one knows of the first one's records without making them again."""

  def stops(tasks):
    yield from itertools.islice(_leaves_out('b', [], {'a': 9})(tasks), 4)
    raise errors.UserError('stopped')

  with pytest.raises(errors.UserError, match='stopped'):
    shards.write(stops, _TASKS, str(tmp_path), 'val', 3, {}, skip=True)
  made = []
  written = shards.write(_leaves_out('f', made), _TASKS, str(tmp_path), 'val', 3, {}, skip=True)
  assert made == ['e', 'f'] and written.resumed == 3
  assert [entry['name'] for entry in _manifest(tmp_path)['left_out']] == ['b', 'f']
  assert _manifest(tmp_path)['most_segments'] == 9
  assert written.summary.notes == {'hidden': [2, 1, 'd']}


def test_a_run_that_leaves_nothing_out_takes_over_whole_shards_alone(tmp_path):
  def stops(tasks):
    yield from itertools.islice(_leaves_out('b', [])(tasks), 4)
    raise errors.UserError('stopped')

  with pytest.raises(errors.UserError, match='stopped'):
    shards.write(stops, _TASKS, str(tmp_path), 'val', 3, {}, skip=True)
  made = []
  _write(tmp_path, _TASKS, 3, _leaves_out('', made))
  assert made == ['a', 'b', 'e', 'f']


def test_all_left_out_is_an_error_and_writes_nothing(tmp_path):
  with pytest.raises(errors.UserError, match='all 6 images are left out, .* first a: a is bad'):
    shards.write(_leaves_out('abcdef', []), _TASKS, str(tmp_path), 'val', 3, {}, skip=True)
  assert not os.listdir(tmp_path)


def test_names_of_directories_are_literal(tmp_path):
  for name in hostile_names.HOSTILE_NAMES:
    directory = tmp_path / name
    with pytest.raises(errors.UserError, match='bad image'):
      _write(directory, _TASKS, 3, _stops_at('d', []))
    assert _write(directory, _TASKS, 3).resumed == 2
    assert sorted(os.listdir(directory)) == [
      'manifest-val.json',
      *(f'val-0000{i}-of-00003.tfrecord' for i in range(3)),
    ]
    with pytest.raises(errors.UserError, match='another number of shards'):
      _write(directory, ['a', 'b'], 2)


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
  for name in ('.writing-77-unfinished-val.json', 'val-00000-of-00003.tfrecord.part.tmp'):
    (tmp_path / name).write_text('{')
  (tmp_path / '.writing-77-unfinished-train.json').touch()
  _write(tmp_path, _TASKS, 1)
  assert sorted(os.listdir(tmp_path)) == [
    '.writing-77-unfinished-train.json',
    'manifest-val.json',
    'val-00000-of-00001.tfrecord',
  ]
