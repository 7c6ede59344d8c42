"""Locks refuse a second writer, and know when the first is gone."""

import json
import os
import subprocess
import sys

import pytest

from deeplab2 import errors
from deeplab2 import locks

HOLDER = """
import sys
from deeplab2 import locks
with locks.hold(sys.argv[1], 'the run'):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
  """A process that holds the lock until its standard input ends."""
  path = str(tmp_path / 'train.lock')
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'held\n'
  yield process, path
  process.kill()
  process.wait()


def test_a_second_process_is_refused_until_the_first_ends(holder):
  process, path = holder
  with pytest.raises(errors.UserError, match='the run is in use by process') as error:
    with locks.hold(path, 'the run'):
      pass
  assert str(process.pid) in str(error.value) and path in str(error.value)
  process.stdin.close()
  process.wait()
  assert not os.path.exists(path)
  with locks.hold(path, 'the run'):
    assert json.load(open(path))['process'] == os.getpid()


def test_the_lock_of_a_killed_process_is_taken_over(holder):
  process, path = holder
  process.kill()
  process.wait()
  assert os.path.exists(path)
  with locks.hold(path, 'the run'):
    assert json.load(open(path))['process'] == os.getpid()
  assert not os.path.exists(path)


def test_a_process_holds_a_lock_once(tmp_path):
  path = str(tmp_path / 'lock')
  with locks.hold(path, 'it'), pytest.raises(errors.UserError, match='in use'):
    with locks.hold(path, 'it'):
      pass


def test_a_lock_of_another_host_is_stale_when_it_is_old(tmp_path):
  path = tmp_path / 'lock'
  path.write_text(json.dumps({'host': 'elsewhere', 'process': 1, 'started': 'then'}))
  with pytest.raises(errors.UserError, match='process 1 on elsewhere, started then'):
    with locks.hold(str(path), 'it'):
      pass
  long_ago = os.stat(path).st_mtime - locks.STALE_SECONDS - 60
  os.utime(path, (long_ago, long_ago))
  with locks.hold(str(path), 'it'):
    pass


def test_a_reused_process_number_is_not_the_holder(tmp_path):
  path = tmp_path / 'lock'
  with locks.hold(str(path), 'it'):
    content = json.loads(path.read_text())
  path.write_text(json.dumps({**content, 'process_start': '1'}))
  with locks.hold(str(path), 'it'):
    pass


def test_a_place_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='file'):
    with locks.hold(str(tmp_path / 'file' / 'lock'), 'it'):
      pass
