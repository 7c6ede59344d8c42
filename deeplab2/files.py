"""Files and directories that users name: literal paths, whole writes, one-line errors.

A path is never read as a pattern: `runs[lr=0.1]` is a directory of that name. TensorFlow's
`latest_checkpoint`, `CheckpointManager` and `gfile.glob` do read it as one, so the package does not
use them for paths; `expand_pattern` alone is for options that are patterns by definition. Paths
with a scheme (`gs://...`) go through TensorFlow's file systems as they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import json
import os
import re
from typing import Any

import tensorflow as tf

from deeplab2 import errors

_STATS_AT_A_TIME = 16  # Remote files take some 50 ms each.
# Words of TensorFlow's messages that only speak of its own graph.
_GRAPH_WORDS = re.compile(r'\{\{function_node [^}]*\}\} ?| ?\[Op:\w+\].*')


def expand(path: str) -> str:
  """Returns `path` with a leading `~` or `~user` replaced by that home directory.

  Raises:
    UserError: the path is empty, holds a NUL character, is not UTF-8, or there is no such user.
  """
  if not path:
    raise errors.UserError('an empty path; give a file or directory.')
  if '\0' in path:
    raise errors.UserError(f'{path!r}: a path cannot hold a NUL character.')
  if path != path.encode(errors='replace').decode():  # TensorFlow's file systems take no other.
    raise errors.UserError(f'{path!r}: the path is not UTF-8; rename the file or directory.')
  expanded = os.path.expanduser(path)
  if expanded == path and re.match(r'~[^/]+(/|$)', path) and not os.path.lexists(path):
    user = path[1:].partition('/')[0]
    raise errors.UserError(
      f'{path}: there is no user {user!r} whose home directory it could be; '
      f'write ./{path} for a file of that name.'
    )
  return expanded


def expand_pattern(pattern: str) -> list[str]:
  """Returns the files that a pattern matches, sorted.

  A file that has literally this name is the only match, whatever `*`, `?` and `[` in it mean.

  Raises:
    UserError: as `expand`, or the place cannot be looked up.
  """
  pattern = expand(pattern)
  try:
    if tf.io.gfile.exists(pattern):
      return [pattern]
    # The directory may be literal where the file name is the pattern.
    directory, name = os.path.split(pattern)
    if is_pattern(directory) and tf.io.gfile.isdir(directory):
      return sorted(
        os.path.join(directory, match) for match in matching(directory, _as_regex(name))
      )
    return sorted(tf.io.gfile.glob(pattern))
  except (OSError, ValueError, tf.errors.OpError) as error:
    raise errors.UserError(f'{pattern}: cannot be looked up ({reason(error)}).') from error


def is_pattern(path: str) -> bool:
  """Returns whether `path` has characters that patterns give a meaning."""
  return any(character in path for character in '*?[\\')


def _as_regex(name):
  """Returns the regular expression of a file name pattern as TensorFlow understands it."""
  parts = []
  for token in re.findall(r'\\.|\[[^\]]+\]|.', name, re.DOTALL):
    if token == '*':
      parts.append('[^/]*')
    elif token == '?':
      parts.append('[^/]')
    elif token.startswith('[') and token.endswith(']') and len(token) > 2:
      parts.append(token.replace('\\', '\\\\').replace('[!', '[^', 1))
    else:
      parts.append(re.escape(token.removeprefix('\\') or token))
  return ''.join(parts)


def matching(directory: str, regex: str) -> list[str]:
  """Returns the names in `directory` that a regular expression matches as a whole, sorted.

  A directory that does not exist has none.
  """
  if not tf.io.gfile.isdir(directory):
    return []
  found = re.compile(regex, re.DOTALL)
  names = (name.rstrip('/') for name in tf.io.gfile.listdir(directory))
  return sorted(name for name in names if found.fullmatch(name))


def make_directory(path: str, what: str = '') -> str:
  """Makes a directory with all above it; returns `path`.

  Args:
    path: of the directory, which may exist.
    what: put before the path in the error: the option that named it.

  Raises:
    UserError: it cannot be made, or a file is in its place.
  """
  shown = f'{what}={path}' if what else path
  with explained(f'{shown}: the directory cannot be made'):
    tf.io.gfile.makedirs(path)
  if not tf.io.gfile.isdir(path):
    raise errors.UserError(f'{shown}: is a file; must be a directory.')
  return path


def read_text(path: str) -> str:
  """Returns the text of a UTF-8 file without its byte-order mark.

  Raises:
    UserError: the file is missing, cannot be read, or is not UTF-8.
  """
  try:
    if tf.io.gfile.isdir(path):
      raise errors.UserError(f'{path}: is a directory; must be a file.')
    with tf.io.gfile.GFile(path, 'rb') as file:
      return file.read().decode('utf-8-sig')
  except tf.errors.NotFoundError as error:
    raise errors.UserError(f'{path}: no such file.') from error
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f'{path}: is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}).'
    ) from error
  except (OSError, tf.errors.OpError) as error:
    raise errors.UserError(f'{path}: cannot be read ({reason(error)}).') from error


def read_json(path: str) -> Any:
  """Returns the content of a JSON file, with or without a byte-order mark.

  Raises:
    UserError: as `read_text`, or it is no JSON (NaN and Infinity are none).
  """
  return parse_json(read_text(path), path)


def parse_json(text: str, path: str) -> Any:
  """Returns the content of a JSON text; UserError naming `path` if it is none."""

  def refuse(constant):
    raise ValueError(f'{constant} is no JSON number')

  try:
    return json.loads(text, parse_constant=refuse)
  except ValueError as error:
    raise errors.UserError(f'{path}: not a JSON file ({error}).') from error
  except RecursionError as error:
    raise errors.UserError(f'{path}: nested too deeply.') from error


def write_whole(path: str, content: bytes | Callable[[str], None]) -> None:
  """Writes a file so that it is there whole or not at all; makes the directory that it is in.

  Args:
    path: of the file, replaced if it exists.
    content: its bytes, or a function that writes them to the local path that it is given.

  Raises:
    UserError: it cannot be written: the disk is full, the place is read-only, or no such place. A
      file of that name stays as it was.
  """
  directory, name = os.path.split(path)
  # The ending stays, as libraries choose the format by it.
  temporary = os.path.join(directory, f'.writing-{os.getpid()}-{name}')
  try:
    if tf.io.gfile.isdir(path):
      raise errors.UserError(f'{path}: is a directory; must be a file.')
    if directory:
      make_directory(directory)
    if callable(content):
      content(temporary)
    else:
      with tf.io.gfile.GFile(temporary, 'wb') as file:
        file.write(content)
    tf.io.gfile.rename(temporary, path, overwrite=True)
  except (OSError, tf.errors.OpError) as error:
    remove_if_exists(temporary)
    raise errors.UserError(f'{path}: cannot be written ({reason(error)}).') from error
  except BaseException:
    remove_if_exists(temporary)
    raise


def remove_half_written(directory: str, name: str = '') -> None:
  """Removes what `write_whole` left behind in processes that were killed.

  Args:
    directory: which no other process writes to.
    name: of the file that was to be written; all files, if empty.
  """
  for found in matching(directory, rf'\.writing-\d+-{re.escape(name) or ".*"}'):
    remove_if_exists(os.path.join(directory, found))


def write_json(path: str, content: Mapping[str, Any]) -> None:
  """Writes a JSON file whole or not at all; UserError as `write_whole`.

  Raises:
    ValueError: a number is not finite.
  """
  text = json.dumps(content, indent=1, allow_nan=False, default=float, ensure_ascii=False)
  write_whole(path, text.encode())


def remove_if_exists(path: str) -> None:
  """Removes a file; one that is not there or cannot be removed is left."""
  try:
    tf.io.gfile.remove(path)
  except (OSError, tf.errors.OpError):
    pass


def sizes(paths: Sequence[str]) -> list[int]:
  """Returns the sizes of files in bytes; OSError or OpError if one cannot be looked up."""
  with concurrent.futures.ThreadPoolExecutor(_STATS_AT_A_TIME) as pool:
    return list(pool.map(lambda path: tf.io.gfile.stat(path).length, paths))


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
  """Says what a system call or an operation of TensorFlow that fails in the context was for.

  Args:
    what: 'PATH: cannot be read'; the reason follows in brackets.

  Raises:
    UserError: instead of OSError and OpError.
  """
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    raise errors.UserError(f'{what} ({reason(error)}).') from error


def reason(error: BaseException) -> str:
  """Returns why a system call or an operation of TensorFlow failed, on one line."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = _GRAPH_WORDS.sub('\n', getattr(error, 'message', None) or str(error)).strip()
  return text.splitlines()[0].strip().rstrip('. ') if text else type(error).__name__
