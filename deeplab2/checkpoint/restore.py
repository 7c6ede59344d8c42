"""Checkpoints of a run: save, resume, and initialise a model from those of another run.

A native checkpoint holds `model`, `global_step`, and what training alone has: optimizers by name,
the loss scale of float16, moving `averages` of the model's variables, and `remask_semantic_heads`,
the semantic heads of a model that has them, which are no part of `model` there: checkpoints with
and without load into each other.

Whatever is restored is accounted for both ways: every variable must be in the file, and every
tensor of the file must have its variable. Nothing is changed before that is known; only a file that
turns out to be damaged while it is read may leave a part restored.
"""

from collections import deque
from collections.abc import Mapping
import os
import re

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2 import structures
from deeplab2.checkpoint import conventions as conventions_lib
from deeplab2.checkpoint import directory as directory_lib
from deeplab2.checkpoint import gates
from deeplab2.checkpoint import pretrained
from deeplab2.checkpoint import reading
from deeplab2.checkpoint import released
from deeplab2.checkpoint import released_keys
from deeplab2.checkpoint import torch_file
from deeplab2.checkpoint import torch_kmax

_SLOT = '/.OPTIMIZER_SLOT/'
_MODEL = 'model/'
_BACKBONE = 'model/backbone/'
_STEP = 'global_step'
_HEADS = 'remask_semantic_heads'
AVERAGES = 'averages'
# Written by TensorFlow for its own use.
_OF_TENSORFLOW = re.compile(r'(save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)$')
# The last semantic layers, and what else has an axis of classes.
_LAST_SEMANTIC_LAYERS = re.compile(rf'(^|/)(semantic_branch/final|{_HEADS}/heads/\d+/final)/')
_CLASS_HEADS = re.compile(r'(^|/)class_head/')
# The options that decide whether a training has a part.
_OF_PARTS = {
  AVERAGES: 'trainer_options.ema_decay',
  'loss_scale': 'trainer_options.precision',
  'backbone_optimizer': 'trainer_options.solver_options.backbone_learning_rate_multiplier',
}
_ARCHIVES = ('.tar.gz', '.tgz', '.tar', '.zip')
# What to do about another number of classes, by what is done with the checkpoint {prefix}.
_FRESH_HEADS = 'model_options.restore_semantic_last_layer_from_initial_checkpoint'
_TO_INITIALIZE = f'to start with its other layers alone, set {_FRESH_HEADS}=false'
_TO_RESUME = (
  'a run keeps its classes: to train on with others, give another experiment_name, '
  f'model_options.initial_checkpoint={{prefix}} and {_FRESH_HEADS}=false'
)
_TO_USE = 'it needs a configuration of the dataset that it was trained on'


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
  conventions: structures.Conventions | None = None,
) -> str:
  """Fills all variables of `model`, for use without further training.

  Args:
    model: with its variables created.
    path: native or released DeepLab2 checkpoint, prefix or directory (its newest); or a file of
      PyTorch kMaX-DeepLab.
    averages: whether to fill them with their moving averages, see trainer_options.ema_decay.
    conventions: of the model, against which those of a released checkpoint are checked; without
      them, no file of PyTorch is read.

  Returns:
    The prefix of the checkpoint that was read.

  Raises:
    UserError: if there is none, it cannot be read, it is not of exactly this model, or has no
      averages.
  """
  reader = _open(path, conventions)
  if _is_native(reader):
    _check_whole(reader)
    gates.check_native(reader, _backbone(model))
    _restore_parts(reader, {'model': model}, for_classes=_TO_USE)
    if averages:
      _apply_averages(reader, model)
  elif averages:
    raise _without_averages(reader)
  else:
    _restore_released(reader, released.load, model, conventions, for_classes=_TO_USE)
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


def _backbone(model):
  return getattr(model, 'backbone', None)


def _is_backbone_alone(reader):
  """Returns whether a native checkpoint holds a backbone and nothing else of a model."""
  keys = [key for key in reader.shapes() if key.startswith(_MODEL)]
  return all(key.startswith(_BACKBONE) for key in keys)


def holds_backbone_alone(path: str) -> bool:
  """Returns whether a checkpoint, native or released, has nothing of a model but its backbone.

  Raises:
    UserError: if there is none, or it cannot be read.
  """
  prefix = newest(path)
  if _is_of_torch(prefix):
    return False
  reader = reading.Reader(prefix)
  if _is_native(reader):
    return _is_backbone_alone(reader)
  return released.is_released(reader) and not released.is_whole(reader)


def _check_whole(reader):
  """Raises UserError if a native checkpoint holds a backbone alone."""
  if _is_backbone_alone(reader):
    raise errors.UserError(
      f'{reader.prefix}: holds a backbone alone, where a whole model is expected; training can '
      'start from it.'
    )


def _apply_averages(reader, model):
  """Sets the variables of a model to the averages that a native checkpoint has of them.

  Raises:
    UserError: it has none, or they cannot be read.
  """
  keys = {
    key: f'{AVERAGES}/by_key/{key.replace(".", "..").replace("/", ".S")}{reading.SUFFIX}'
    for key in variable_keys({'model': model})
  }
  if not all(map(reader.has, keys.values())):
    raise _without_averages(reader)
  try:
    for key, variable in variable_keys({'model': model}).items():
      variable.assign(reader.get(keys[key]))
  except reading.UNREADABLE as error:
    raise reader.unreadable(error) from error
  logging.info('%s: the moving averages of the variables are used.', reader.prefix)


def _without_averages(reader):
  return errors.UserError(
    f'{reader.prefix}: has no moving averages of the variables, which trainer_options.ema_decay '
    'asks for; evaluator_options.use_raw_weights=true takes the variables themselves.'
  )


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
  if _is_native(reader) and _is_backbone_alone(reader):
    _initialize_backbone(reader, model.backbone)
    fresh = [key for key in variable_keys({'model': model}) if not key.startswith(_BACKBONE)]
    logging.info(
      '%s holds a backbone alone: %d variables start from scratch: %s.',
      reader.prefix,
      len(fresh),
      errors.listed(fresh),
    )
    return reader.prefix
  heads = _semantic_heads(model)
  stored = any(key.startswith(f'{_HEADS}/') for key in reader.shapes())
  if heads and not stored:
    logging.info('%s has no %s, which start from scratch.', reader.prefix, _HEADS)
  elif stored and not heads:
    logging.info('%s has %s, which the model has not: skipped.', reader.prefix, _HEADS)
  classes = {'fresh_class_heads': fresh_class_heads, 'for_classes': _TO_INITIALIZE}
  if _is_native(reader):
    gates.check_native(reader, _backbone(model))
    _restore_parts(reader, {'model': model, **(heads if stored else {})}, **classes)
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
  if _is_native(reader):
    _initialize_backbone(reader, backbone)
  else:
    _restore_released(reader, released.load_backbone, backbone, conventions)
  return reader.prefix


def _initialize_backbone(reader, backbone):
  """Fills a backbone from a native checkpoint of it alone, or of a whole model."""
  gates.check_native(reader, backbone)
  _restore_parts(reader, {'model': _holder(backbone)}, below=_BACKBONE)


def _holder(backbone):
  """Returns a module that gives the variables of a backbone the keys that models give them."""
  model = tf.Module()
  model.backbone = backbone
  return model


def save_backbone(backbone: tf.Module, directory: str) -> str:
  """Saves a backbone alone, as a native checkpoint of step 0; returns its prefix.

  Raises:
    UserError: naming the path, if it cannot be written.
  """
  step = tf.Variable(0, dtype=tf.int64, trainable=False)
  saved = Checkpoints(directory, model=_holder(backbone), global_step=step).save()
  assert saved is not None
  return saved


def stored_step(prefix: str) -> int:
  """Returns the number of updates that a checkpoint was saved after, 0 if it does not say.

  Files of PyTorch do not.

  Raises:
    UserError: if the checkpoint cannot be read.
  """
  return 0 if _is_of_torch(prefix) else _number(reading.Reader(prefix), _STEP)


def _number(reader, name):
  """Returns an integer of a checkpoint, 0 if it does not hold it."""
  key = name + reading.SUFFIX
  return int(reader.get(key)) if reader.has(key) else 0


class Checkpoints:
  """The checkpoints of one run, in its work directory."""

  def __init__(
    self,
    directory: str,
    *,
    model: tf.Module,
    global_step: tf.Variable,
    training: Mapping[str, tf.Module] | None = None,
    averages: bool = False,
    keep: int = 5,
    output: str | None = None,
  ):
    """Creates the keeper; reads and writes nothing yet.

    Args:
      directory: work directory, need not exist.
      model: with its variables created.
      global_step: number of updates done, restored and saved along.
      training: what only training has, by name: optimizers, with their state created, and others.
        None: this run only evaluates, and passes over it.
      averages: whether the model gets the moving averages of its variables; of evaluations.
      keep: number of newest checkpoints that are kept.
      output: where checkpoints are written and then deleted, on all hosts but the one that writes
        into `directory`; None on that one.
    """
    self.directory = directory
    self.output = output or directory
    self._keeps = output is None
    self._global_step = global_step
    self._parts = {'model': model, _STEP: global_step}
    self._whole = training is not None
    self._averages = averages
    if training is not None:
      self._parts |= {**_semantic_heads(model), **training}
    self._keep = keep
    self._saves = 0  # TensorFlow's counter of saves, which its own restore looks for.
    self.last_saved = -1  # The step of the newest checkpoint; -1 without one.

  def resume(self) -> str | None:
    """Restores the newest checkpoint of the directory; returns its prefix, None without one.

    Raises:
      UserError: as `restore`; or it is unknown which is the newest, see `directory.newest`.
    """
    prefix = directory_lib.newest(self.directory)
    if prefix is None:
      return None
    try:
      self.restore(prefix)
    except reading.UnreadableError as error:
      older = directory_lib.newest_whole(
        [other for other in directory_lib.stored(self.directory) if other != prefix]
      )
      if older is None:
        raise errors.UserError(
          f'{error} No other checkpoint there is whole. To start from '
          'scratch, give another experiment_name.'
        ) from error
      raise errors.UserError(
        f'{error} The newest other one that is whole is {older}. '
        f'{directory_lib.how_to_resume(older)}'
      ) from error
    if self._whole and self._keeps:
      # The run may have been interrupted between a save and what follows it.
      directory_lib.keep_newest(self.directory, prefix, self._keep)
    return prefix

  def restore(self, prefix: str) -> None:
    """Restores everything from a checkpoint of this run.

    Raises:
      UserError: if it cannot be read or does not have all, or has more than, this run needs.
    """
    reader = reading.Reader(prefix)
    if not _is_native(reader):
      raise errors.UserError(
        f'{prefix} is not of a run of this program; to start from it, give another '
        f'experiment_name and model_options.initial_checkpoint={prefix}.'
      )
    _check_whole(reader)
    gates.check_native(reader, _backbone(self._parts['model']))
    _restore_parts(
      reader, self._parts, whole=self._whole, for_classes=_TO_RESUME if self._whole else _TO_USE
    )
    if self._averages:
      _apply_averages(reader, self._parts['model'])
    self._saves = _number(reader, 'save_counter')
    self.last_saved = int(self._global_step.numpy())

  def save(self) -> str | None:
    """Saves all parts under the step's number; returns the prefix, None if it is saved already.

    Raises:
      UserError: naming the path, if it cannot be written. Older checkpoints are all kept then.
    """
    step = int(self._global_step.numpy())
    if step == self.last_saved:
      return None
    prefix = directory_lib.prefix_of(self.output, step)
    try:
      files.make_directory(self.output)
      gate = gates.parts(_backbone(self._parts['model']))
      checkpoint = tf.train.Checkpoint(**self._parts, **gate)
      checkpoint.save_counter.assign(self._saves + 1)
      checkpoint.write(prefix)
    except (OSError, tf.errors.OpError, errors.UserError) as error:
      # It would fill the disk further.
      directory_lib.delete(prefix)
      raise errors.UserError(
        f'{prefix}: the checkpoint cannot be saved: {files.reason(error)}. {self._last_good()}'
      ) from error
    try:
      if self._keeps:
        directory_lib.keep_newest(self.directory, prefix, self._keep)
      else:
        directory_lib.delete(prefix)
    except errors.UserError as error:
      raise errors.UserError(
        f'{prefix}: saved, but {error} {directory_lib.how_to_resume(prefix)}'
      ) from error
    self._saves += 1
    self.last_saved = step
    return prefix

  def _last_good(self):
    saved = directory_lib.stored(self.directory)
    return f'The last good one is {saved[-1]}.' if saved else 'None has been saved before.'


def _semantic_heads(model):
  """Returns the semantic heads of a model as a part of checkpoints; {} if it has none."""
  heads = getattr(model, 'semantic_heads', None)
  return {} if heads is None else {_HEADS: heads}


def _is_native(reader):
  # Model Garden's classifiers hold their head below `model/` too.
  return not released.is_released(reader) and any(key.startswith(_MODEL) for key in reader.shapes())


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


def _restore_parts(
  reader, parts, *, fresh_class_heads=False, below='', whole=False, for_classes=''
):
  """Restores native `parts`.

  Args:
    reader: of the checkpoint.
    parts: name -> object.
    fresh_class_heads: whether class heads are left alone, as of `initialize_model`.
    below: start of the keys that matter, all others are left alone.
    whole: whether the checkpoint must hold nothing but `parts`, their optimizer slots included.
    for_classes: what to do about another number of classes.
  """
  prefix = reader.prefix
  stored = {
    key: shape
    for key, shape in reader.stripped_shapes().items()
    if _SLOT not in key
    and key != gates.KEY
    and not _OF_TENSORFLOW.search(key)
    and key.startswith(below)
    and (whole or key.partition('/')[0] in parts)
  }
  wanted = variable_keys(parts)
  fresh = set()
  if fresh_class_heads:
    fresh = {key for key in wanted if _LAST_SEMANTIC_LAYERS.search(key)}
    fresh |= released.heads_of_other_classes(wanted, stored, _CLASS_HEADS)
    wanted = {key: variable for key, variable in wanted.items() if key not in fresh}
    stored = {key: shape for key, shape in stored.items() if key not in fresh}
    logging.info('%s: left as initialised: %s', prefix, ', '.join(sorted(fresh)))
  _check_account(prefix, wanted, stored, for_classes)
  try:
    if fresh or below:
      for key, variable in wanted.items():
        variable.assign(reader.get(key + reading.SUFFIX))
    else:
      # TensorFlow warns of every value, many lines, if reading fails on the way.
      reader.check(reader.shapes() if whole else [key + reading.SUFFIX for key in wanted])
      status = tf.train.Checkpoint(**parts).read(reader.path).expect_partial()
      status.assert_existing_objects_matched()
  except AssertionError as error:
    raise errors.UserError(
      f'{prefix}: does not hold the whole state of the optimizer (see '
      f'trainer_options.solver_options.optimizer, which a run keeps): {files.reason(error)}.'
    ) from error
  except reading.UNREADABLE as error:
    raise reader.unreadable(error) from error
  logging.info('%s: %d tensors matched.', prefix, len(wanted))


def _check_account(prefix, wanted, stored, for_classes):
  """Raises UserError unless both sides have the same keys with the same shapes."""
  wrong = [
    f'{key} is {list(stored[key])} there and {variable.shape.as_list()} here'
    for key, variable in wanted.items()
    if key in stored and stored[key] != tuple(variable.shape)
  ]
  missing = [key for key in wanted if key not in stored]
  unexpected = sorted(key for key in stored if key not in wanted)
  complaints = []
  if missing:
    complaints.append(f'it lacks {errors.listed(missing, 1)}{_because_of(missing)}')
  if unexpected:
    complaints.append(f'it has {errors.listed(unexpected, 1)} in addition{_because_of(unexpected)}')
  if wrong:
    complaints.append(errors.listed(wrong, 1))
    heads = released.heads_of_other_classes(wanted, stored, _CLASS_HEADS) & set(stored)
    if heads:
      head = min(heads)
      complaints.append(
        f'it was trained with {stored[head][-1]} classes, not {wanted[head].shape[-1]}: '
        + for_classes.format(prefix=prefix)
      )
  if complaints:
    raise errors.UserError(
      f'{prefix}: this checkpoint does not fit the configuration: {"; ".join(complaints)}.'
    )


def _because_of(keys):
  """Returns which options decide whether checkpoints have the parts of `keys`, in parentheses."""
  parts = {key.partition('/')[0] for key in keys}
  options = {option for part, option in _OF_PARTS.items() if part in parts}
  return f' (see {", ".join(sorted(options))}, which a run keeps)' if options else ''


def _restore_released(reader, load, model, conventions, **settings):
  """Calls `load`, a function of released.py, on a released checkpoint and logs its report."""
  prefix, origin, left_out = reader.prefix, 'DeepLab2', ''
  if not released.is_released(reader):
    known = (key for key in reader.stripped_shapes() if not _OF_TENSORFLOW.search(key))
    some = errors.listed(sorted(key for key in known if key != _STEP) or ['nothing'], 1)
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
