"""The checkpoints of one run: saved in its work directory, resumed, and the oldest deleted."""

from collections.abc import Mapping

import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import directory as directory_lib
from deeplab2.checkpoint import gates
from deeplab2.checkpoint import native
from deeplab2.checkpoint import reading


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
    self._parts = {'model': model, native.STEP: global_step}
    self._whole = training is not None
    self._averages = averages
    if training is not None:
      self._parts |= {**native.semantic_heads(model), **training}
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
    if not native.is_native(reader):
      raise errors.UserError(
        f'{prefix} is not of a run of this program; to start from it, give another '
        f'experiment_name and model_options.initial_checkpoint={prefix}.'
      )
    native.check_whole(reader)
    gates.check_native(reader, native.backbone_of(self._parts['model']))
    native.restore_parts(
      reader,
      self._parts,
      whole=self._whole,
      for_classes=native.TO_RESUME if self._whole else native.TO_USE,
    )
    if self._averages:
      native.apply_averages(reader, self._parts['model'])
    self._saves = native.number(reader, 'save_counter')
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
      gate = gates.parts(native.backbone_of(self._parts['model']))
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


def save_backbone(backbone: tf.Module, directory: str) -> str:
  """Saves a backbone alone, as a native checkpoint of step 0; returns its prefix.

  Raises:
    UserError: naming the path, if it cannot be written.
  """
  step = tf.Variable(0, dtype=tf.int64, trainable=False)
  saved = Checkpoints(directory, model=native.holder(backbone), global_step=step).save()
  assert saved is not None
  return saved
