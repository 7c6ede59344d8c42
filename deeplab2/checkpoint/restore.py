"""Checkpoints of a run: save, resume, and initialise a model from those of another run.

A native checkpoint holds `model`, `global_step`, and by name what training alone has: optimizers,
and with ReMask `remask_semantic_heads`. Whatever is restored
is accounted for both ways: every variable must be in the file, and every tensor of the file must
have its variable. Nothing is changed before that is known; only a file that turns out to be damaged
while it is read may leave a part restored.
"""
from collections import deque
from collections.abc import Mapping
import re

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2.checkpoint import released

_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'
_SLOT = '/.OPTIMIZER_SLOT/'
_MODEL = 'model/'
_STEP = 'global_step'
# Written by TensorFlow for its own use.
_OF_TENSORFLOW = re.compile(r'(save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)$')
# The last semantic layers, and what else has an axis of classes.
_LAST_SEMANTIC_LAYERS = re.compile(
    r'(^|/)(semantic_branch/final|remask_semantic_heads/heads/\d+/final)/')
_CLASS_HEADS = re.compile(r'(^|/)class_head/')
# What TensorFlow's readers raise for files that are truncated, damaged, or no checkpoints.
_UNREADABLE = (OSError, ValueError, RuntimeError, LookupError, tf.errors.OpError)
# Words of TensorFlow's messages that only speak of its own graph.
_NOISE = re.compile(r'\{\{function_node [^}]*\}\} ?| ?\[Op:\w+\]')
_ARCHIVES = ('.tar.gz', '.tgz', '.tar', '.zip')
_FILE_ENDING = re.compile(r'\.(index|data-\d{5}-of-\d{5})$')


def newest(path: str) -> str:
  """Returns the checkpoint prefix that `path` means: itself, or the newest of a directory.

  The newest is what the file `checkpoint` in a directory names, or the only one there is.

  Raises:
    UserError: if there is no checkpoint, or it is unknown which is the newest.
  """
  try:
    return _newest_in(path) if tf.io.gfile.isdir(path) else _existing(path)
  except _UNREADABLE as error:
    raise errors.UserError(f'{path}: cannot be looked up: {_first_line(error)}') from error


def _newest_in(directory):
  listed = tf.train.latest_checkpoint(directory)
  if listed is not None:
    return listed
  found = sorted(path.removesuffix('.index') for path in tf.io.gfile.glob(f'{directory}/*.index'))
  if not found:
    raise errors.UserError(f'{directory}: no checkpoint in this directory.')
  if len(found) > 1:
    raise errors.UserError(
        f'{directory}: the file `checkpoint` that says which is the newest is missing or names '
        f'none of {", ".join(found)}; give one of these.')
  return found[0]


def _existing(path):
  if path.endswith(_ARCHIVES):
    raise errors.UserError(f'{path}: an archive; unpack it, and give the prefix of the checkpoint '
                           'inside, or its directory.')
  prefix = _FILE_ENDING.sub('', path)
  if not tf.io.gfile.exists(f'{prefix}.index'):
    raise errors.UserError(f'{path}: no such checkpoint; give the prefix of {prefix}.index without '
                           'its ending, or a directory with checkpoints.')
  return prefix


def restore_model(model: tf.Module, path: str) -> str:
  """Fills all variables of `model`, for use without further training.

  Args:
    model: with its variables created.
    path: native or released DeepLab2 checkpoint, prefix or directory (its newest).

  Returns:
    The prefix of the checkpoint that was read.

  Raises:
    UserError: if there is none, it cannot be read, or it is not of exactly this model.
  """
  prefix = newest(path)
  reader = _open(prefix)
  if _is_native(reader):
    _restore_parts(prefix, reader, {'model': model})
  else:
    _restore_released(prefix, reader, lambda: released.load(prefix, model))
  return prefix


def initialize_model(model: tf.Module, path: str, *, fresh_class_heads: bool = False,
                     training_parts: Mapping[str, tf.Module] | None = None) -> str:
  """Fills `model` from the checkpoint of another run, to train it further; logs a report.

  Args:
    model: with its variables created.
    path: as of `restore_model`; a checkpoint of the backbone alone will also do.
    fresh_class_heads: leave the last semantic layers, and class heads with another number of
      classes, as they were initialised.
    training_parts: layers by name that are filled as well if the checkpoint has them.

  Returns:
    The prefix of the checkpoint that was read.

  Raises:
    UserError: as `restore_model`.
  """
  prefix = newest(path)
  reader = _open(prefix)
  if _is_native(reader):
    stored = {key.partition('/')[0] for key in reader.get_variable_to_shape_map()}
    parts = {'model': model}
    for name, part in (training_parts or {}).items():
      if name in stored:
        parts[name] = part
      else:
        logging.info('%s has no %s, which start from scratch.', prefix, name)
    _restore_parts(prefix, reader, parts, fresh_class_heads=fresh_class_heads)
  else:
    _restore_released(prefix, reader, lambda: released.load(
        prefix, model, fresh_class_heads=fresh_class_heads, backbone_alone=True))
  return prefix


def initialize_backbone(backbone: tf.Module, path: str) -> str:
  """Fills a backbone from a checkpoint of it alone, or of a whole model; logs a report.

  Args:
    backbone: with its variables created.
    path: as of `restore_model`.

  Returns:
    The prefix of the checkpoint that was read.

  Raises:
    UserError: as `restore_model`.
  """
  prefix = newest(path)
  reader = _open(prefix)
  if _is_native(reader):
    model = tf.Module()
    model.backbone = backbone
    _restore_parts(prefix, reader, {'model': model}, below='model/backbone/')
  else:
    _restore_released(prefix, reader, lambda: released.load_backbone(prefix, backbone))
  return prefix


def stored_step(prefix: str) -> int:
  """Returns the number of updates that a checkpoint was saved after, 0 if it does not say.

  Raises:
    UserError: if the checkpoint cannot be read.
  """
  reader = _open(prefix)
  key = _STEP + _SUFFIX
  try:
    return int(reader.get_tensor(key)) if reader.has_tensor(key) else 0
  except _UNREADABLE as error:
    raise _unreadable(prefix, error) from error


class Checkpoints:
  """The checkpoints of one run, in its work directory."""

  def __init__(self, directory: str, *, model: tf.Module, global_step: tf.Variable,
               training_parts: Mapping[str, tf.Module] | None = None, keep: int = 5):
    """Creates the keeper; reads and writes nothing yet.

    Args:
      directory: work directory, need not exist.
      model: with its variables created.
      global_step: number of updates done, restored and saved along.
      training_parts: name -> optimizer or layer with its state created. None: this run only
        evaluates, and passes over what checkpoints hold of them.
      keep: number of newest checkpoints that are kept.
    """
    self.directory = directory
    self._global_step = global_step
    self._parts = {'model': model, _STEP: global_step, **(training_parts or {})}
    self._whole = training_parts is not None
    self._keep = keep
    self._manager = None
    self.last_saved: int | None = None  # The step of the newest checkpoint.

  def resume(self) -> str | None:
    """Restores the newest checkpoint of the directory; returns its prefix, None without one.

    Raises:
      UserError: as `restore`.
    """
    prefix = tf.train.latest_checkpoint(self.directory)
    if prefix is not None:
      self.restore(prefix)
    elif tf.io.gfile.glob(f'{self.directory}/ckpt-*.index'):
      raise errors.UserError(
          f'{self.directory}: there are checkpoints (ckpt-*), but the file `checkpoint` that says '
          'which is the newest is missing or names none of them. Restore that file, or move the '
          'checkpoints away to start from scratch.')
    return prefix

  def restore(self, prefix: str) -> None:
    """Restores everything from a checkpoint of this run.

    Raises:
      UserError: if it cannot be read or does not have all, or has more than, this run needs.
    """
    reader = _open(prefix)
    if not _is_native(reader):
      raise errors.UserError(
          f'{prefix} is not of a run of this program; a checkpoint to start from belongs into '
          'model_options.initial_checkpoint, and the work directory should hold none at first.')
    _restore_parts(prefix, reader, self._parts, whole=self._whole)
    self.last_saved = int(self._global_step.numpy())

  def save(self) -> str | None:
    """Saves all parts under the step's number; returns the prefix, None if it is saved already.

    Raises:
      UserError: naming the path, if it cannot be written. Older checkpoints are all kept then.
    """
    step = int(self._global_step.numpy())
    if step == self.last_saved:
      return None
    prefix = f'{self.directory}/ckpt-{step}'
    try:
      saved = self._created_manager().save(checkpoint_number=step)
    except (OSError, tf.errors.OpError) as error:
      _remove_partial(prefix)
      last = tf.train.latest_checkpoint(self.directory)
      raise errors.UserError(
          f'{prefix}: the checkpoint cannot be saved: {_first_line(error)}. '
          f'{f"The last good one is {last}." if last else "None has been saved before."}'
      ) from error
    self.last_saved = step
    return saved

  def _created_manager(self):
    if self._manager is None:
      self._manager = tf.train.CheckpointManager(
          tf.train.Checkpoint(**self._parts), self.directory, max_to_keep=self._keep)
    return self._manager


def _open(prefix):
  try:
    return tf.train.load_checkpoint(prefix)
  except _UNREADABLE as error:
    raise _unreadable(prefix, error) from error


def _unreadable(prefix, error):
  return errors.UserError(
      f'{prefix}: not a readable checkpoint (truncated or damaged?): {_first_line(error)}')


def _first_line(error):
  text = _NOISE.sub('', getattr(error, 'message', None) or str(error))
  return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def _is_native(reader):
  # Model Garden's classifiers hold their head below `model/` too.
  return not released.is_released(reader) and any(
      key.startswith(_MODEL) for key in reader.get_variable_to_shape_map())


def variable_keys(parts: Mapping[str, object]) -> dict[str, tf.Variable]:
  """Returns the variables below `parts` by the keys that a tf.train.Checkpoint(**parts) uses.

  Optimizer slots, whose keys are those of their variables with an ending, are left out.
  """
  # Breadth first, as TensorFlow names what can be reached by several paths.
  root = tf.train.Checkpoint(**parts)
  view = tf.train.TrackableView(root)
  queue, seen, found = deque([(root, '')]), {id(root)}, {}
  while queue:
    node, path = queue.popleft()
    for name, child in view.children(node).items():
      if id(child) in seen:
        continue
      seen.add(id(child))
      key = path + name.replace('.', '..').replace('/', '.S')
      if isinstance(child, tf.Variable):
        found[key] = child
      else:
        queue.append((child, f'{key}/'))
  return found


def _restore_parts(prefix, reader, parts, *, fresh_class_heads=False, below='', whole=False):
  """Restores native `parts`.

  Args:
    prefix: the checkpoint.
    reader: of it.
    parts: name -> object.
    fresh_class_heads: whether class heads are left alone, as of `initialize_model`.
    below: start of the keys that matter, all others are left alone.
    whole: whether the checkpoint must hold nothing but `parts`, their optimizer slots included.
  """
  shapes = {key.removesuffix(_SUFFIX): tuple(shape)
            for key, shape in reader.get_variable_to_shape_map().items()}
  stored = {key: shape for key, shape in shapes.items()
            if _SLOT not in key and not _OF_TENSORFLOW.search(key) and key.startswith(below)
            and (whole or key.partition('/')[0] in parts)}
  wanted = variable_keys(parts)
  fresh = set()
  if fresh_class_heads:
    fresh = {key for key in wanted if _LAST_SEMANTIC_LAYERS.search(key)}
    fresh |= released.heads_of_other_classes(wanted, stored, _CLASS_HEADS)
    wanted = {key: variable for key, variable in wanted.items() if key not in fresh}
    stored = {key: shape for key, shape in stored.items() if key not in fresh}
    logging.info('%s: left as initialised: %s', prefix, ', '.join(sorted(fresh)))
  _check_account(prefix, wanted, stored)
  try:
    if fresh or below:
      for key, variable in wanted.items():
        variable.assign(reader.get_tensor(key + _SUFFIX))
    else:
      status = tf.train.Checkpoint(**parts).read(prefix)
      status.assert_existing_objects_matched().expect_partial()
  except AssertionError as error:
    raise errors.UserError(
        f'{prefix}: does not hold the whole state of the optimizer: {_first_line(error)}'
    ) from error
  except _UNREADABLE as error:
    raise _unreadable(prefix, error) from error
  logging.info('%s: %d tensors matched.', prefix, len(wanted))


def _check_account(prefix, wanted, stored):
  """Raises UserError unless both sides have the same keys with the same shapes."""
  wrong = [f'{key} is {list(stored[key])} there and {variable.shape.as_list()} here'
           for key, variable in wanted.items()
           if key in stored and stored[key] != tuple(variable.shape)]
  missing = [key for key in wanted if key not in stored]
  unexpected = sorted(key for key in stored if key not in wanted)
  complaints = []
  if missing:
    complaints.append(f'it lacks {_some(missing)}')
  if unexpected:
    complaints.append(f'it has {_some(unexpected)} besides')
  if wrong:
    complaints.append(_some(wrong))
    heads = released.heads_of_other_classes(wanted, stored, _CLASS_HEADS) & set(stored)
    if heads:
      head = min(heads)
      complaints.append(
          f'it was trained with {stored[head][-1]} classes, not {wanted[head].shape[-1]}: restore '
          'it with restore_semantic_last_layer_from_initial_checkpoint: false')
  if complaints:
    raise errors.UserError(f'{prefix}: this checkpoint does not fit the configuration: '
                           f'{"; ".join(complaints)}.')


def _some(names):
  rest = len(names) - 1
  return names[0] + (f' and {rest} more' if rest else '')


def _restore_released(prefix, reader, load):
  """Calls `load` of a released checkpoint and logs its report."""
  if not released.is_released(reader):
    keys = {key.removesuffix(_SUFFIX) for key in reader.get_variable_to_shape_map()}
    some = _some(sorted(key for key in keys if key != _STEP and not _OF_TENSORFLOW.search(key))
                 or ['nothing'])
    raise errors.UserError(
        f'{prefix}: neither a checkpoint of this program nor one of DeepLab2; it holds {some}.')
  try:
    report = load()
  except _UNREADABLE as error:
    raise _unreadable(prefix, error) from error
  # Beside a backbone there may be a classifier's head, or all of another model.
  log = logging.warning if report.unused else logging.info
  log('%s, a checkpoint of DeepLab2: %s.', prefix, report.summary())


def _remove_partial(prefix):
  """Removes what an interrupted save left behind, so that it does not fill the disk further."""
  for path in tf.io.gfile.glob(f'{prefix}_temp*') + tf.io.gfile.glob(f'{prefix}.*'):
    try:
      if tf.io.gfile.isdir(path):
        tf.io.gfile.rmtree(path)
      else:
        tf.io.gfile.remove(path)
    except tf.errors.OpError as error:
      logging.warning('%s: left over, and cannot be removed: %s', path, _first_line(error))
