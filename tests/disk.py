"""Full and read-only disks for tests."""

import contextlib
import os
import resource
import signal
import subprocess

import pytest


@pytest.fixture
def limited_files():
  """Returns a function after which no file of this process grows beyond some bytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

  def limit(num_bytes=None):
    resource.setrlimit(
      resource.RLIMIT_FSIZE, before if num_bytes is None else (num_bytes, before[1])
    )

  yield limit
  limit()
  signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def read_only(path):
  """Mounts a directory read-only as long as the context lasts; skips the test where it cannot."""
  path = os.fspath(path)
  mounted = subprocess.run(['mount', '--bind', path, path], capture_output=True, check=False)
  if mounted.returncode:
    pytest.skip('nothing can be mounted here')
  try:
    subprocess.run(['mount', '-o', 'remount,ro,bind', path], check=True)
    yield
  finally:
    subprocess.run(['umount', path], check=True)
