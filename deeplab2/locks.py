"""One writer at a time for a directory or file: a lock that says who holds it, and that goes stale.

A lock is a JSON file with host, process, the moment that the process was started, and the command.
While it is held, its time of change is renewed once a minute. It is stale when its process is gone
(same host, same boot), or when it has not been renewed for ten minutes (another host, or one that
was started again since); whoever comes next then takes it over and says so.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any
import uuid

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files

RENEW_SECONDS = 60.0
STALE_SECONDS = 600.0


class InUseError(errors.UserError):
  """Another process holds the lock."""


@contextlib.contextmanager
def hold(path: str, what: str) -> Iterator[None]:
  """Holds the lock file `path` for as long as the context lasts.

  Args:
    path: of the lock file; its directory is made if it is missing.
    what: what it protects, for the error: 'the run RUNS/NAME'.

  Raises:
    InUseError: another process holds the lock: naming its host, process and start.
    UserError: the file cannot be written.
  """
  if os.path.dirname(path):
    files.make_directory(os.path.dirname(path))
  owner = _describe_owner()
  _acquire(path, owner, what)
  stop = threading.Event()
  renewing = threading.Thread(target=_renew, args=(path, owner, stop), daemon=True)
  renewing.start()
  try:
    yield
  finally:
    stop.set()
    renewing.join()
    if _read(path).get('token') == owner['token']:
      files.remove_if_exists(path)


def _acquire(path, owner, what):
  for _ in range(3):
    if _create(path, owner):
      return
    holder = _read(path)
    why_stale = _why_stale(path, holder)
    if not why_stale:
      raise InUseError(
        f'{what} is in use by process {holder.get("process")} on {holder.get("host")}, started '
        f'{holder.get("started")} ({holder.get("command")}). Wait for it or stop it; if it no '
        f'longer exists, delete {path}.'
      )
    logging.warning(
      '%s: taken over from process %s on %s, started %s: %s.',
      path,
      holder.get('process'),
      holder.get('host'),
      holder.get('started'),
      why_stale,
    )
    files.remove_if_exists(path)
  raise errors.UserError(f'{path}: the lock cannot be taken; several processes try at once.')


def _create(path, owner) -> bool:
  """Writes the lock file; returns False if there is one."""
  text = json.dumps(owner, indent=1)
  with files.explained(f'{path}: the lock cannot be written'):
    if '://' not in path:
      # Written aside and linked, so that nobody ever reads half of it.
      temporary = f'{path}.{owner["token"]}'
      try:
        with open(temporary, 'w', encoding='utf-8') as file:
          file.write(text)
        os.link(temporary, path)
        return True
      except FileExistsError:
        return False
      finally:
        files.remove_if_exists(temporary)
    if tf.io.gfile.exists(path):
      return False
    # Object stores have no exclusive creation: the last of several that write at once has it.
    _write(path, text)
    time.sleep(1)
    return _read(path).get('token') == owner['token']


def _write(path, text):
  with tf.io.gfile.GFile(path, 'w') as file:
    file.write(text)


def _read(path) -> dict[str, Any]:
  try:
    with tf.io.gfile.GFile(path) as file:
      content = json.loads(file.read())
    return content if isinstance(content, dict) else {}
  except (OSError, ValueError, tf.errors.OpError):
    return {}


def _why_stale(path, holder) -> str:
  """Returns why nobody holds the lock any more, '' if somebody may."""
  if holder.get('host') == socket.gethostname() and holder.get('boot') == _boot():
    if _process_start(holder.get('process')) != holder.get('process_start'):
      return 'that process has ended'
    return ''
  try:
    age = time.time() - tf.io.gfile.stat(path).mtime_nsec / 1e9
  except tf.errors.OpError:
    return 'it was released just now'
  return f'not renewed for {age:.0f} seconds' if age > STALE_SECONDS else ''


def _renew(path, owner, stop):
  """Renews the time of change of the lock until `stop` is set."""
  while not stop.wait(RENEW_SECONDS):
    try:
      if '://' in path:
        _write(path, json.dumps(owner, indent=1))
      else:
        os.utime(path)
    except (OSError, tf.errors.OpError) as error:
      logging.warning('%s: the lock cannot be renewed (%s).', path, files.reason(error))


def _describe_owner() -> dict[str, Any]:
  return {
    'host': socket.gethostname(),
    'process': os.getpid(),
    'process_start': _process_start(os.getpid()),
    'boot': _boot(),
    'started': time.strftime('%Y-%m-%d %H:%M:%S %z'),
    'command': ' '.join(sys.argv)[:200],
    'token': uuid.uuid4().hex,
  }


def _boot() -> str | None:
  """Returns the identifier of this boot of the machine, None where unknown."""
  try:
    with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as file:
      return file.read().strip()
  except OSError:
    return None


def _process_start(process) -> str | None:
  """Returns when a process of this machine was started, None if there is no such process.

  Process numbers are used again; number and start together are not. Where /proc is missing, the
  start is unknown and a living process counts as the holder.
  """
  try:
    with open(f'/proc/{int(process)}/stat', encoding='utf-8', errors='replace') as file:
      # The second field, the name in brackets, may hold anything.
      after_name = file.read().rpartition(')')[2].split()
    # State: a zombie holds nothing any more.
    return None if after_name[0] in 'ZX' else after_name[19]
  except (OSError, TypeError, ValueError, IndexError):
    pass
  if os.path.isdir('/proc/self'):
    return None
  try:
    os.kill(int(process), 0)
  except PermissionError:  # It lives, as another user's.
    pass
  except (OSError, TypeError, ValueError):
    return None
  return 'unknown'
