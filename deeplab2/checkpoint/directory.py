"""The checkpoints of one directory: `ckpt-<step>`, and the file `checkpoint` that names the newest.

The file is TensorFlow's (a CheckpointState in text form), so that TensorFlow and DeepLab2 find the
newest checkpoint too. All paths are literal.
"""

from collections.abc import Callable, Iterator, Sequence
import os
import re
import time

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import reading

STATE = 'checkpoint'
_NATIVE = re.compile(r'ckpt-(\d+)')
_POLL_SECONDS = 1.0


def prefix_of(directory: str, step: int) -> str:
  """Returns the prefix of the checkpoint of a step."""
  return os.path.join(directory, f'ckpt-{step}')


def recorded(directory: str) -> list[str]:
  """Returns the prefixes that the file `checkpoint` names, oldest first; [] without that file.

  The last one is the newest; none of them need exist.

  Raises:
    UserError: the file cannot be read or names nothing.
  """
  path = os.path.join(directory, STATE)
  try:
    if not tf.io.gfile.exists(path):
      return []
    state = tf.train.get_checkpoint_state(directory)
  except (ValueError, OSError, tf.errors.OpError) as error:
    raise errors.UserError(f'{path}: names no checkpoint (empty or damaged?).') from error
  if state is None:
    raise errors.UserError(f'{path}: names no checkpoint (damaged?).')
  newest = state.model_checkpoint_path
  older = [prefix for prefix in state.all_model_checkpoint_paths if prefix != newest]
  return [*older, newest]


def exists(prefix: str) -> bool:
  """Returns whether there is a checkpoint; its index is written last."""
  return tf.io.gfile.exists(f'{prefix}.index')


def stored(directory: str) -> list[str]:
  """Returns the prefixes of all `ckpt-<step>` in a directory, whatever `checkpoint` names.

  The one of the fewest steps is first.
  """
  names = (name.removesuffix('.index') for name in files.matching(directory, r'ckpt-\d+\.index'))
  return [os.path.join(directory, name) for name in sorted(names, key=_step)]


def _step(name):
  return int(_NATIVE.fullmatch(os.path.basename(name))[1])


def newest(directory: str) -> str | None:
  """Returns the prefix of the newest checkpoint of a run; None if nothing has been saved.

  Raises:
    UserError: there are checkpoints, or the file `checkpoint`, and it is unknown which is the
      newest; says which there are and how to go on.
  """
  try:
    named = recorded(directory)
  except errors.UserError as error:
    raise errors.UserError(f'{error} {_advice(directory)}') from error
  if named and exists(named[-1]):
    return named[-1]
  there = files.matching(directory, rf'ckpt-\d+{reading.FILE_ENDING}')
  if not named and all(name.startswith('ckpt-0.') for name in there):
    # A run that ended while it saved for the first time, before its first step.
    first = prefix_of(directory, 0)
    return first if exists(first) else None
  path = os.path.join(directory, STATE)
  if named:
    raise errors.UserError(f'{path}: names {named[-1]}, which is missing. {_advice(directory)}')
  raise errors.UserError(
    f'{directory}: there are checkpoints ({", ".join(there[:3])}{", ..." * (len(there) > 3)}), '
    f'but the file `{STATE}` that says which is the newest is missing. {_advice(directory)}'
  )


def _advice(directory):
  """Returns how to go on in a directory whose newest checkpoint is unknown."""
  whole = newest_whole(stored(directory))
  scratch = 'To start from scratch, give another experiment_name.'
  if whole is None:
    return f'No checkpoint there is whole. {scratch}'
  return f'The newest that is whole is {whole}. {how_to_resume(whole)} {scratch}'


def newest_whole(prefixes: Sequence[str]) -> str | None:
  """Returns the last of some checkpoints of which everything can be read, None without one."""
  return next((prefix for prefix in reversed(prefixes) if reading.is_whole(prefix)), None)


def how_to_resume(prefix: str) -> str:
  """Returns a sentence that says how a run is made to go on from one of its checkpoints."""
  directory, name = os.path.split(prefix)
  return (
    f'To go on from it, make the line model_checkpoint_path: "{name}" the whole content of '
    f'the file {os.path.join(directory, STATE)}.'
  )


def check_unused(directory: str) -> None:
  """Checks that a directory without checkpoints has nothing of an earlier training either.

  Raises:
    UserError: naming what there is, which a training from scratch would mix with its own.
  """
  found = []
  for place, regex in (('train', r'events\..*'), ('eval', r'metrics-0*[1-9]\d*(-.*)?\.json')):
    names = files.matching(os.path.join(directory, place), regex)
    if names:
      found.append(f'{place}/{errors.listed(names, 1)}')
  if found:
    raise errors.UserError(
      f'{directory}: holds results of an earlier training ({"; ".join(found)}), but no '
      'checkpoint to go on from. Put its checkpoints back, give another experiment_name, or '
      'move these files away to start from scratch.'
    )


def record(directory: str, prefixes: Sequence[str]) -> None:
  """Writes the file `checkpoint`: `prefixes` in the directory, oldest first.

  Raises:
    UserError: it cannot be written; it stays as it was then.
  """
  # Without times, TensorFlow's CheckpointManager would pass over all but the newest.
  now = time.time()
  names = [os.path.basename(prefix) for prefix in prefixes]
  lines = [f'model_checkpoint_path: "{names[-1]}"']
  lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
  lines += [f'all_model_checkpoint_timestamps: {now}'] * len(names)
  files.write_whole(os.path.join(directory, STATE), ('\n'.join(lines) + '\n').encode())


def keep_newest(directory: str, new: str, keep: int) -> None:
  """Records a checkpoint that was just written, and deletes those before the `keep` newest.

  Only what is recorded is deleted, and only `ckpt-<step>` of the directory itself.

  Raises:
    UserError: the file `checkpoint` cannot be read or written; nothing has been deleted then.
  """
  named = [
    os.path.join(directory, os.path.basename(prefix))
    for prefix in recorded(directory)
    if _NATIVE.fullmatch(os.path.basename(prefix))
    and os.path.normpath(os.path.dirname(prefix)) == os.path.normpath(directory)
  ]
  for prefix in named:
    if prefix != new and not exists(prefix):
      delete(prefix)  # The rest of a deletion that was interrupted.
  prefixes = [prefix for prefix in named if prefix != new and exists(prefix)] + [new]
  if prefixes != named:
    record(directory, prefixes)
  for prefix in prefixes[:-keep]:
    delete(prefix)
  if prefixes[:-keep]:
    record(directory, prefixes[-keep:])


def delete(prefix: str) -> None:
  """Deletes the files of a checkpoint, its index first, and what an interrupted save left."""
  directory, name = os.path.split(prefix)
  found = files.matching(directory, re.escape(name) + rf'({reading.FILE_ENDING}.*|_temp.*)')
  for file in sorted(found, key=lambda file: not file.endswith('.index')):
    path = os.path.join(directory, file)
    try:
      if tf.io.gfile.isdir(path):
        tf.io.gfile.rmtree(path)
      else:
        tf.io.gfile.remove(path)
    except (OSError, tf.errors.OpError) as error:
      logging.warning('%s: cannot be deleted: %s', path, files.reason(error))


def remove_unfinished(directory: str) -> None:
  """Removes what saves left behind that were killed on their way; nobody else may be saving."""
  for name in files.matching(directory, rf'ckpt-\d+_temp|\.writing-\d+-{STATE}'):
    path = os.path.join(directory, name)
    if tf.io.gfile.isdir(path):
      tf.io.gfile.rmtree(path)
    else:
      files.remove_if_exists(path)


def follow(directory: str, timeout: float | None, stop: Callable[[], bool] = bool) -> Iterator[str]:
  """Yields the newest checkpoint, then each newer one that another process saves.

  Args:
    directory: of the run; need not exist yet.
    timeout: seconds to wait for the next checkpoint before it ends; None waits for ever.
    stop: returns whether to wait no longer; asked every few seconds.
  """
  seen: str | None = None
  waiting_since = time.monotonic()
  while True:
    named = recorded(directory)
    if named and named[-1] != seen and exists(named[-1]):
      seen = named[-1]
      yield seen
      waiting_since = time.monotonic()
      continue
    left = _POLL_SECONDS if timeout is None else waiting_since + timeout - time.monotonic()
    if left <= 0 or stop():
      return
    time.sleep(min(left, _POLL_SECONDS))
