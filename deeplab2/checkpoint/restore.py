"""Filling a model or its backbone from checkpoints of this program, DeepLab2, or PyTorch kMaX."""

import os
import re
from typing import Any

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2 import structures
from deeplab2.checkpoint import conventions as conventions_lib
from deeplab2.checkpoint import directory as directory_lib
from deeplab2.checkpoint import gates
from deeplab2.checkpoint import native
from deeplab2.checkpoint import pretrained
from deeplab2.checkpoint import reading
from deeplab2.checkpoint import released
from deeplab2.checkpoint import released_keys
from deeplab2.checkpoint import torch_file
from deeplab2.checkpoint import torch_kmax

_ARCHIVES = ('.tar.gz', '.tgz', '.tar', '.zip')


def newest(path: str) -> str:
  """Returns the checkpoint prefix that `path` means: itself, or the newest of a directory.

  The newest is what the file `checkpoint` in a directory names, or the only one there is. A file of
  PyTorch is its own prefix.

  Raises:
    UserError: if there is no checkpoint, or it is unknown which is the newest.
  """
  try:
    return _newest_in(path) if tf.io.gfile.isdir(path) else _existing(path)
  except reading.UNREADABLE as error:
    raise errors.UserError(f'{path}: cannot be looked up: {files.reason(error)}') from error


def _newest_in(directory):
  named = directory_lib.recorded(directory)
  if named and directory_lib.exists(named[-1]):
    return named[-1]
  found = [
    os.path.join(directory, name.removesuffix('.index'))
    for name in files.matching(directory, r'.*\.index')
  ]
  if not found:
    raise errors.UserError(f'{directory}: no checkpoint in this directory.')
  if len(found) > 1:
    raise errors.UserError(
      f'{directory}: the file `checkpoint` that says which is the newest is missing or names '
      f'none of {", ".join(found)}; give one of these.'
    )
  return found[0]


def _existing(path):
  if path.endswith(_ARCHIVES):
    raise errors.UserError(
      f'{path}: an archive; unpack it, and give the prefix of the checkpoint '
      'inside, or its directory.'
    )
  prefix = re.sub(f'{reading.FILE_ENDING}$', '', path)
  if not directory_lib.exists(prefix):
    if torch_file.is_torch(path):
      return torch_file.existing(path)
    raise errors.UserError(
      f'{path}: no such checkpoint; give the prefix of {prefix}.index without '
      'its ending, or a directory with checkpoints.'
    )
  return prefix


def restore_model(
  model: tf.Module,
  path: str,
  *,
  averages: bool = False,
  semantic_heads: bool = False,
  conventions: structures.Conventions | None = None,
) -> str:
  """Fills all variables of `model`, for use without further training.

  Args:
    model: with its variables created.
    path: native or released DeepLab2 checkpoint, prefix or directory (its newest); or a file of
      PyTorch kMaX-DeepLab.
    averages: whether to fill them with their moving averages, see trainer_options.ema_decay.
    semantic_heads: whether the semantic heads of the model are filled too, which only training has.
    conventions: of the model, against which those of a released checkpoint are checked; without
      them, no file of PyTorch is read.

  Returns:
    The prefix of the checkpoint that was read.

  Raises:
    UserError: if there is none, it cannot be read, it is not of exactly this model, or has no
      averages or semantic heads where they are asked for.
  """
  reader = _open(path, conventions)
  if native.is_native(reader):
    native.check_whole(reader)
    gates.check_native(reader, native.backbone_of(model))
    heads = native.semantic_heads(model) if semantic_heads else {}
    native.restore_parts(reader, {'model': model, **heads}, for_classes=native.TO_USE)
    if averages:
      native.apply_averages(reader, model)
  elif semantic_heads:
    raise errors.UserError(
      f'{reader.prefix}: has no semantic heads: it is of no training of this program.'
    )
  elif averages:
    raise native.without_averages(reader)
  else:
    _restore_released(reader, released.load, model, conventions, for_classes=native.TO_USE)
  return reader.prefix


def _open(path, conventions):
  """Returns a reader of the checkpoint that a path means."""
  prefix = newest(path)
  if not _is_of_torch(prefix):
    return reading.Reader(prefix)
  if conventions is None:
    raise ValueError(f'{prefix} is of PyTorch: the conventions of the model are needed.')
  return torch_kmax.Reader(prefix, conventions.label_space)


def _is_of_torch(prefix):
  return torch_file.is_torch(prefix) and not directory_lib.exists(prefix)


def holds_backbone_alone(path: str) -> bool:
  """Returns whether a checkpoint, native or released, has nothing of a model but its backbone.

  Raises:
    UserError: if there is none, or it cannot be read.
  """
  prefix = newest(path)
  if _is_of_torch(prefix):
    return False
  reader = reading.Reader(prefix)
  if native.is_native(reader):
    return native.is_backbone_alone(reader)
  return released.is_released(reader) and not released.is_whole(reader)


def initialize_model(
  model: tf.Module,
  path: str,
  *,
  fresh_class_heads: bool = False,
  conventions: structures.Conventions | None = None,
) -> str:
  """Fills `model` from the checkpoint of another run, to train it further; logs a report.

  Args:
    model: with its variables created. Semantic heads are filled if the checkpoint has them.
    path: as of `restore_model`; a checkpoint of the backbone alone will also do.
    fresh_class_heads: leave the last semantic layers, and class heads with another number of
      classes, as they were initialised.
    conventions: as of `restore_model`.

  Returns:
    The prefix of the checkpoint that was read.

  Raises:
    UserError: as `restore_model`.
  """
  if pretrained.is_meant(path):
    raise errors.UserError(
      f'{path}: weights of a backbone that are in no checkpoint; give them by '
      f'model_options.backbone.pretrained_weights={path}.'
    )
  reader = _open(path, conventions)
  if native.is_native(reader) and native.is_backbone_alone(reader):
    _initialize_backbone(reader, model.backbone)
    fresh = [
      key for key in native.variable_keys({'model': model}) if not key.startswith(native.BACKBONE)
    ]
    logging.info(
      '%s holds a backbone alone: %d variables start from scratch: %s.',
      reader.prefix,
      len(fresh),
      errors.listed(fresh),
    )
    return reader.prefix
  heads = native.semantic_heads(model)
  stored = any(key.startswith(f'{native.HEADS}/') for key in reader.shapes())
  if heads and not stored:
    logging.info('%s has no %s, which start from scratch.', reader.prefix, native.HEADS)
  elif stored and not heads:
    logging.info('%s has %s, which the model has not: skipped.', reader.prefix, native.HEADS)
  classes: dict[str, Any] = {
    'fresh_class_heads': fresh_class_heads,
    'for_classes': native.TO_INITIALIZE,
  }
  if native.is_native(reader):
    gates.check_native(reader, native.backbone_of(model))
    native.restore_parts(reader, {'model': model, **(heads if stored else {})}, **classes)
  else:
    _restore_released(reader, released.load, model, conventions, backbone_alone=True, **classes)
  return reader.prefix


def initialize_backbone(
  backbone: tf.Module, path: str, *, conventions: structures.Conventions | None = None
) -> str:
  """Fills a backbone from a checkpoint of it alone, or of a whole model; logs a report.

  Args:
    backbone: with its variables created.
    path: as of `restore_model`, or one of the sources of pretrained.py.
    conventions: of the model that it is of, as of `restore_model`.

  Returns:
    The prefix of the checkpoint, or the path of the file that was read.

  Raises:
    UserError: as `restore_model`.
  """
  if pretrained.is_meant(path):
    return pretrained.initialize(backbone, path)
  reader = _open(path, conventions)
  if native.is_native(reader):
    _initialize_backbone(reader, backbone)
  else:
    _restore_released(reader, released.load_backbone, backbone, conventions)
  return reader.prefix


def _initialize_backbone(reader, backbone):
  """Fills a backbone from a native checkpoint of it alone, or of a whole model."""
  gates.check_native(reader, backbone)
  native.restore_parts(reader, {'model': native.holder(backbone)}, below=native.BACKBONE)


def stored_step(prefix: str) -> int:
  """Returns the number of updates that a checkpoint was saved after, 0 if it does not say.

  Files of PyTorch do not.

  Raises:
    UserError: if the checkpoint cannot be read.
  """
  return 0 if _is_of_torch(prefix) else native.number(reading.Reader(prefix), native.STEP)


def _restore_released(reader, load, model, conventions, **settings):
  """Calls `load`, a function of released.py, on a released checkpoint and logs its report."""
  prefix, origin, left_out = reader.prefix, 'DeepLab2', ''
  if not released.is_released(reader):
    known = (key for key in reader.stripped_shapes() if not native.OF_TENSORFLOW.search(key))
    some = errors.listed(sorted(key for key in known if key != native.STEP) or ['nothing'], 1)
    raise errors.UserError(
      f'{prefix}: neither a checkpoint of this program nor one of DeepLab2; it holds {some}.'
    )
  # What has these keys has no other gate.
  gates.check(gates.SIGMOID, getattr(model, 'backbone', model), prefix)
  if isinstance(reader, torch_kmax.Reader):
    origin = 'PyTorch kMaX-DeepLab'
    left_out = f'; left out: {len(reader.counters)} counters of batches (num_batches_tracked)'
  if conventions is not None:
    _check_conventions(reader, origin, model, conventions, load is not released.load_backbone)
  report = load(reader, model, **settings)
  # Next to a backbone there may be a classifier's head, or all of another model.
  log = logging.warning if report.unused else logging.info
  log('%s, a checkpoint of %s: %s%s.', prefix, origin, report.summary(), left_out)


def _check_conventions(reader, origin, model, configured, whole):
  """Raises UserError if the model of a released checkpoint computes otherwise."""
  keys = reader.stripped_shapes()
  if not isinstance(reader, torch_kmax.Reader):
    computed = conventions_lib.of_deeplab2(keys, configured)
  else:
    computed = reader.computed
    variables = released_keys.of_model(model, '' if whole else 'backbone')
    if _of_backbone(keys) != _of_backbone(variables):
      return  # Another backbone, which is refused as such.
  conventions_lib.check(computed, configured, whole=whole, prefix=reader.prefix, origin=origin)


def _of_backbone(keys):
  return {key for key in keys if key.startswith('encoder/')}
