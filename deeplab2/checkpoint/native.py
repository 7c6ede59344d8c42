"""Native checkpoints: the keys of their variables, and filling parts of a run from them.

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
import re

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import gates
from deeplab2.checkpoint import reading
from deeplab2.checkpoint import released

_SLOT = '/.OPTIMIZER_SLOT/'
MODEL = 'model/'
BACKBONE = 'model/backbone/'
STEP = 'global_step'
HEADS = 'remask_semantic_heads'
AVERAGES = 'averages'
# Written by TensorFlow for its own use.
OF_TENSORFLOW = re.compile(r'(save_counter|_CHECKPOINTABLE_OBJECT_GRAPH)$')
# The last semantic layers, and what else has an axis of classes.
_LAST_SEMANTIC_LAYERS = re.compile(rf'(^|/)(semantic_branch/final|{HEADS}/heads/\d+/final)/')
_CLASS_HEADS = re.compile(r'(^|/)class_head/')
# The options that decide whether a training has a part.
_OF_PARTS = {
  AVERAGES: 'trainer_options.ema_decay',
  'loss_scale': 'trainer_options.precision',
  'backbone_optimizer': 'trainer_options.solver_options.backbone_learning_rate_multiplier',
}
# What to do about another number of classes, by what is done with the checkpoint {prefix}.
_FRESH_HEADS = 'model_options.restore_semantic_last_layer_from_initial_checkpoint'
TO_INITIALIZE = f'to start with its other layers alone, set {_FRESH_HEADS}=false'
TO_RESUME = (
  'a run keeps its classes: to train on with others, give another experiment_name, '
  f'model_options.initial_checkpoint={{prefix}} and {_FRESH_HEADS}=false'
)
TO_USE = 'it needs a configuration of the dataset that it was trained on'


def is_native(reader: reading.Reader) -> bool:
  """Returns whether a checkpoint is of this program."""
  # Model Garden's classifiers hold their head below `model/` too.
  return not released.is_released(reader) and any(key.startswith(MODEL) for key in reader.shapes())


def is_backbone_alone(reader: reading.Reader) -> bool:
  """Returns whether a native checkpoint holds a backbone and nothing else of a model."""
  keys = [key for key in reader.shapes() if key.startswith(MODEL)]
  return all(key.startswith(BACKBONE) for key in keys)


def check_whole(reader: reading.Reader) -> None:
  """Raises UserError if a native checkpoint holds a backbone alone."""
  if is_backbone_alone(reader):
    raise errors.UserError(
      f'{reader.prefix}: holds a backbone alone, where a whole model is expected; training can '
      'start from it.'
    )


def backbone_of(model: tf.Module) -> tf.Module | None:
  """Returns the backbone of a model; None if it has none."""
  return getattr(model, 'backbone', None)


def semantic_heads(model: tf.Module) -> dict[str, tf.Module]:
  """Returns the semantic heads of a model as a part of checkpoints; {} if it has none."""
  heads = getattr(model, 'semantic_heads', None)
  return {} if heads is None else {HEADS: heads}


def holder(backbone: tf.Module) -> tf.Module:
  """Returns a module that gives the variables of a backbone the keys that models give them."""
  model = tf.Module()
  model.backbone = backbone
  return model


def number(reader: reading.Reader, name: str) -> int:
  """Returns an integer of a checkpoint, 0 if it does not hold it."""
  key = name + reading.SUFFIX
  return int(reader.get(key)) if reader.has(key) else 0


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


def restore_parts(
  reader: reading.Reader,
  parts: Mapping[str, object],
  *,
  fresh_class_heads: bool = False,
  below: str = '',
  whole: bool = False,
  for_classes: str = '',
) -> None:
  """Restores native `parts`.

  Args:
    reader: of the checkpoint.
    parts: name -> object.
    fresh_class_heads: whether class heads are left alone, as of `initialize_model`.
    below: start of the keys that matter, all others are left alone.
    whole: whether the checkpoint must hold nothing but `parts`, their optimizer slots included.
    for_classes: what to do about another number of classes; {prefix} is the checkpoint's.

  Raises:
    UserError: if it cannot be read, or does not hold exactly the parts.
  """
  prefix = reader.prefix
  stored = {
    key: shape
    for key, shape in reader.stripped_shapes().items()
    if _SLOT not in key
    and key != gates.KEY
    and not OF_TENSORFLOW.search(key)
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


def apply_averages(reader: reading.Reader, model: tf.Module) -> None:
  """Sets the variables of a model to the averages that a native checkpoint has of them.

  Raises:
    UserError: it has none, or they cannot be read.
  """
  keys = {
    key: f'{AVERAGES}/by_key/{key.replace(".", "..").replace("/", ".S")}{reading.SUFFIX}'
    for key in variable_keys({'model': model})
  }
  if not all(map(reader.has, keys.values())):
    raise without_averages(reader)
  try:
    for key, variable in variable_keys({'model': model}).items():
      variable.assign(reader.get(keys[key]))
  except reading.UNREADABLE as error:
    raise reader.unreadable(error) from error
  logging.info('%s: the moving averages of the variables are used.', reader.prefix)


def without_averages(reader: reading.Reader) -> errors.UserError:
  """Returns the error that a checkpoint has no moving averages."""
  return errors.UserError(
    f'{reader.prefix}: has no moving averages of the variables, which trainer_options.ema_decay '
    'asks for; evaluator_options.use_raw_weights=true takes the variables themselves.'
  )
