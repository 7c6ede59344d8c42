"""Paths are literal, writes are whole, errors are one line."""

import json
import os
import pwd
import resource
import signal

import pytest

from deeplab2 import errors
from deeplab2 import files
from tests import hostile_names


def _touch(path, content=''):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(content, encoding='utf-8')
  return str(path)


@pytest.fixture
def small_files():
  """Lets no file of this process grow beyond 1 KiB, as on a full disk."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, before)
  signal.signal(signal.SIGXFSZ, handler)


def test_home_directories_are_expanded():
  home = os.path.expanduser('~')
  assert files.expand('~/runs') == os.path.join(home, 'runs')
  user = pwd.getpwuid(os.getuid())
  assert files.expand(f'~{user.pw_name}/x') == os.path.join(user.pw_dir, 'x')
  assert files.expand('a/~/b') == 'a/~/b'
  assert files.expand('gs://bucket/~x') == 'gs://bucket/~x'


@pytest.mark.parametrize(
  'path, words',
  [
    ('', 'empty path'),
    ('a\0b', 'NUL'),
    ('~nobody-of-this-name/x', 'there is no user'),
    (os.fsdecode(b'caf\xe9'), 'is not UTF-8; rename'),
  ],
)
def test_paths_that_are_none_are_refused(path, words):
  with pytest.raises(errors.UserError, match=words):
    files.expand(path)


@pytest.mark.parametrize('name', hostile_names.HOSTILE_NAMES)
def test_names_are_literal(tmp_path, name):
  directory = tmp_path / name
  wanted = {_touch(directory / 'train-0.tfrecord'), _touch(directory / 'train-1.tfrecord')}
  _touch(directory / 'val-0.tfrecord')
  assert set(files.expand_pattern(str(directory / 'train-*.tfrecord'))) == wanted
  assert set(files.expand_pattern(str(directory / 'train-[0-9].tfrecord'))) == wanted
  assert set(files.expand_pattern(str(directory / 'train-?.tfrecord'))) == wanted
  assert files.matching(str(directory), r'val-.*') == ['val-0.tfrecord']
  file = _touch(tmp_path / 'files' / name)
  _touch(tmp_path / 'files' / 'other')
  assert files.expand_pattern(file) == [file]


def test_patterns_match_several_directories(tmp_path):
  wanted = [_touch(tmp_path / place / 'x.tfrecord') for place in ('a', 'b')]
  assert files.expand_pattern(str(tmp_path / '*' / 'x.tfrecord')) == wanted
  assert files.expand_pattern(str(tmp_path / 'nothing*')) == []


def test_json_takes_a_byte_order_mark(tmp_path):
  path = tmp_path / 'a.json'
  path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
  assert files.read_json(str(path)) == {'a': 1}


@pytest.mark.parametrize(
  'content, words',
  [
    (b'{"a": NaN}', 'NaN is no JSON number'),
    (b'{', 'not a JSON file'),
    (b'\xff{}', 'not UTF-8'),
    (b'[' * 100000, 'nested too deeply'),
    (b'1' * 5000, 'not a JSON file'),
    (b'', 'not a JSON'),
  ],
)
def test_bad_json_is_named(tmp_path, content, words):
  path = tmp_path / 'a.json'
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match=words) as error:
    files.read_json(str(path))
  assert str(error.value).startswith(f'{path}: ')


def test_missing_files_and_directories_are_named(tmp_path):
  with pytest.raises(errors.UserError, match='no such file'):
    files.read_text(str(tmp_path / 'none'))
  with pytest.raises(errors.UserError, match='is a directory'):
    files.read_text(str(tmp_path))
  with pytest.raises(errors.UserError, match='is a directory'):
    files.write_whole(str(tmp_path), b'')
  file = _touch(tmp_path / 'file')
  with pytest.raises(errors.UserError, match='cannot be made|is a file'):
    files.make_directory(file, '--output_dir')
  with pytest.raises(errors.UserError, match='cannot be made'):
    files.write_whole(os.path.join(file, 'x'), b'')


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, small_files):
  path = tmp_path / 'deep' / 'a.json'
  files.write_json(str(path), {'a': 1})
  with pytest.raises(errors.UserError, match=f'{path}: cannot be written'):
    files.write_json(str(path), {'a': 'x' * 5000})
  assert json.loads(path.read_text()) == {'a': 1}
  assert os.listdir(path.parent) == ['a.json']


def test_writing_functions_get_a_path_of_the_same_ending(tmp_path):
  seen = []

  def write(path):
    seen.append(os.path.splitext(path)[1])
    with open(path, 'w', encoding='utf-8') as file:
      file.write('x')

  files.write_whole(str(tmp_path / 'a.png'), write)
  assert seen == ['.png'] and (tmp_path / 'a.png').read_text() == 'x'
