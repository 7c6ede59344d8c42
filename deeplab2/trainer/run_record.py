"""What a run is, kept in its directory: its configuration, and where and when it was trained.

`config.textproto` is the configuration of the last start, complete: with overrides, environment
variables and filled-in defaults. `run.json` has an entry for every start: mode, command, devices,
versions, git commit, times, and how it ended.
"""

from collections.abc import Iterator
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from typing import Any

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import directory as directory_lib
from deeplab2.config import changes
from deeplab2.config.experiment import Config

CONFIG = changes.OF_RUN
RECORD = 'run.json'
_PACKAGES = ('deeplab2-remax', 'tensorflow', 'tf_keras', 'tf-models-official', 'numpy', 'protobuf')
# Fields by which the model computes something else. Many of them fit the same variables, so that
# restoring would not notice.
_OF_MODEL = (
  'model_options.',
  'train_dataset_options.dataset',
  'trainer_options.solver_options.batchnorm_epsilon',
  'trainer_options.loss_options.remask.enable',
  'trainer_options.loss_options.remask.num_relaxed_layers',
  'trainer_options.loss_options.remask.head_channels',
)
# Of the model's, those that matter at the start alone, or are of the training.
_OF_TRAINING = (
  'model_options.initial_checkpoint',
  'model_options.restore_',
  'model_options.backbone.pretrained_weights',
  'model_options.backbone.drop_path_keep_prob',
  'model_options.kmax.decoder_drop_path_keep_prob',
  'model_options.max_deeplab.instance_discrimination_sample_',
  'model_options.max_deeplab.semantic_sample_',
  'model_options.max_deeplab.transformer_decoder_drop_path_keep_prob',
)


@contextlib.contextmanager
def kept(config: Config, directory: str, mode: str) -> Iterator[None]:
  """Keeps both files for a training that lasts as long as the context.

  Args:
    config: of this start.
    directory: of the run.
    mode: of the trainer.

  Raises:
    UserError: the run has checkpoints of another model, naming the fields; or a file cannot be
      written.
  """
  path = os.path.join(directory, CONFIG)
  if directory_lib.stored(directory):
    _compare(config, path)
  files.write_whole(path, changes.as_text(config).encode())
  starts = _read(os.path.join(directory, RECORD))
  entry = _describe(mode)
  starts.append(entry)
  _write(directory, starts)
  try:
    yield
  except BaseException as error:
    text = str(error).splitlines()
    entry['outcome'] = ': '.join([type(error).__name__, *text[:1]])
    raise
  else:
    entry['outcome'] = 'finished'
  finally:
    entry['ended'] = _now()
    with contextlib.suppress(errors.UserError):  # The disk may be what ended it.
      _write(directory, starts)


def _compare(config, path):
  """Logs in which fields the run goes on otherwise than before, and refuses another model."""
  if not tf.io.gfile.exists(path):
    return
  changed = changes.since(config, path)
  of_model = [
    field for field in changed if field.startswith(_OF_MODEL) and not field.startswith(_OF_TRAINING)
  ]
  if of_model:
    listed = '; '.join(
      f'{field} = {changed[field][0]}, now {changed[field][1]}' for field in of_model
    )
    raise errors.UserError(
      f'{config.origin(of_model[0].partition("[")[0])}: the run in {os.path.dirname(path)} was '
      f'started with another model: {listed}. A run keeps its model: take the old values, or give '
      'another experiment_name to start a new one.'
    )
  for field, (old, new) in changed.items():
    logging.info('%s: %s was %s when the run was started, and is %s now.', path, field, old, new)


def _describe(mode):
  """Returns the entry of a start."""
  return {
    'mode': mode,
    'started': _now(),
    'ended': None,
    'outcome': None,
    'command': shlex.join(sys.argv),
    'host': socket.gethostname(),
    'process': os.getpid(),
    'strategy': type(tf.distribute.get_strategy()).__name__,
    'replicas': tf.distribute.get_strategy().num_replicas_in_sync,
    'devices': [_device(device) for device in tf.config.list_physical_devices()],
    'versions': {'python': platform.python_version(), **_versions()},
    'git': _git_commit(),
  }


def _device(device):
  details = tf.config.experimental.get_device_details(device)
  return ' '.join(filter(None, [device.name, details.get('device_name')]))


def _versions():
  found = {}
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


def _git_commit() -> str | None:
  """Returns the commit of the package's working tree, '-dirty' appended if changed, or None."""
  root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
  if not os.path.exists(os.path.join(root, '.git')):
    return None
  try:
    return subprocess.run(
      ['git', '-C', root, 'describe', '--always', '--abbrev=40', '--dirty', '--exclude=*'],
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def _now():
  return time.strftime('%Y-%m-%d %H:%M:%S %z')


def _read(path) -> list[dict[str, Any]]:
  """Returns the entries of the starts before; none if the file is missing or damaged."""
  if not tf.io.gfile.exists(path):
    return []
  try:
    starts = json.loads(files.read_text(path))['starts']
    return [dict(start) for start in starts]
  except (ValueError, KeyError, TypeError, errors.UserError) as error:
    logging.warning('%s: cannot be read (%s); it is begun anew.', path, error)
    return []


def _write(directory, starts):
  content = json.dumps({'starts': starts}, indent=1) + '\n'
  files.write_whole(os.path.join(directory, RECORD), content.encode())
