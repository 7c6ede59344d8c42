"""The outer loop: trains to a step, saves, writes logs, evaluates on the way."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import os

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import locks
from deeplab2.checkpoint import directory as directory_lib
from deeplab2.checkpoint import run_checkpoints
from deeplab2.trainer import evaluation
from deeplab2.trainer import hosts
from deeplab2.trainer import profile
from deeplab2.trainer import progress
from deeplab2.trainer import stopping
from deeplab2.trainer import summaries as summaries_lib
from deeplab2.trainer import trainer as trainer_lib

_TRAIN_LOSS = 'losses/train_'
_AUXILIARY = 'aux_'


class TrainLoop:
  """Runs a trainer up to a step, from wherever its variables are."""

  def __init__(
    self,
    trainer: trainer_lib.Trainer,
    checkpoints: run_checkpoints.Checkpoints,
    *,
    global_step: tf.Variable,
    steps_per_loop: int,
    save_steps: int,
    summary_steps: int,
    explained: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    stop: stopping.Request | None = None,
    profile_steps: Sequence[int] = (),
    summary_writers: Sequence[summaries_lib.Writer] = (),
  ):
    """Creates the loop.

    Args:
      trainer: does the steps.
      checkpoints: of the run; logs go into `train` below its directory.
      global_step: of the trainer.
      steps_per_loop: steps between two looks at their results; on a TPU, one call.
      save_steps: least number of steps between two checkpoints.
      summary_steps: least number of steps between two entries of TensorBoard.
      explained: raises errors of the input as ones that name the file.
      stop: ends the training after a step, with a checkpoint of it.
      profile_steps: first and last step of which a profile is written next to the logs; none if
        empty.
      summary_writers: get the logs as well.
    """
    self._trainer = trainer
    self._checkpoints = checkpoints
    self._global_step = global_step
    self._steps_per_loop = steps_per_loop
    self._save_steps = save_steps
    self._summary_steps = summary_steps
    self._explained = explained
    self._stop = stop or stopping.Request()
    self._profile = profile.Window(os.path.join(checkpoints.output, 'train'), profile_steps)
    self._summaries = summaries_lib.Summaries(
      os.path.join(checkpoints.output, 'train'), global_step, summary_writers
    )
    self._last_summary = self.step
    self.logs: Mapping[str, float] = {}  # Of the newest inner loop, by tag.

  @property
  def step(self) -> int:
    """Number of updates done."""
    return int(self._global_step.numpy())

  def run(self, until: int, total: int | None = None) -> None:
    """Trains to step `until` of `total`; saves at once, on the way, and (at `total`) at the end.

    Raises:
      UserError: a loss that is not finite, or a checkpoint or the logs cannot be saved. What was
        saved before stays; where the logs cannot, a checkpoint is saved first.
      Stopped: `stop` was requested; the last step is saved.
    """
    total = until if total is None else total
    self.save()
    shown = progress.create('train', total, 'step', self.step)
    try:
      while self.step < until:
        num_steps = self._profile.at_most(
          min(self._steps_per_loop, until - self.step), after=self.step
        )
        with self._explained(), self._profile.running(after=self.step):
          # Several hosts can only stop together.
          stop = self._stop.is_made if hosts.count() == 1 else bool
          self.logs = self._trainer.train(num_steps, stop)
        stopped = hosts.agree(self._stop)
        shown.update(self.step, _main_losses(self.logs))
        self._write(last=self.step == total)
        if self.step >= self._checkpoints.last_saved + self._save_steps or self.step == total:
          self.save()
        if stopped:
          self.save()
          self._stop.check(
            f'Step {self.step} is saved in {self._checkpoints.directory}; the run goes on from '
            'there when it is started again.'
          )
    finally:
      shown.close()
    if self.step == total:
      self._trainer.beyond_slots.report(self.step)

  def save(self) -> None:
    """Saves a checkpoint, unless that of this step is saved.

    Raises:
      UserError: it cannot be saved.
    """
    saved = self._checkpoints.save()
    if saved:
      logging.info('Saved %s', saved)

  def _write(self, last):
    if last or self.step >= self._last_summary + self._summary_steps:
      self._summaries.scalars(self.logs)
      self._last_summary = self.step
      with _saving_before_it_ends(self):
        self._summaries.check()


def train_and_evaluate(
  train: TrainLoop, evaluate: evaluation.Evaluation, *, total: int, interval: int
) -> None:
  """Trains to step `total`; evaluates every `interval` steps and at the end.

  Boundaries are multiples of `interval`, so a resumed run evaluates at the steps at which the
  uninterrupted one would have; also at the step where it resumes, if that was not evaluated yet.

  Raises:
    UserError: as of `train` and `evaluate`. A checkpoint is saved before an evaluation's error.
  """

  def evaluate_now():
    with _saving_before_it_ends(train):
      _evaluate_unless_another_does(evaluate)

  is_boundary = train.step % interval == 0 or train.step >= total
  if train.step and is_boundary and not hosts.of_chief(evaluate.is_done()):
    evaluate_now()
  while train.step < total:
    train.run(min(total, (train.step // interval + 1) * interval), total)
    evaluate_now()


def _evaluate_unless_another_does(evaluate):
  try:
    evaluate.run()
  except locks.InUseError as error:
    logging.warning('This evaluation is left to another process: %s', error)


@contextlib.contextmanager
def _saving_before_it_ends(train):
  """Saves a checkpoint before a UserError passes, or the end that was asked for.

  Not with several hosts, which save together: the others may have no error.
  """
  if hosts.count() > 1:
    yield
    return
  try:
    yield
  except errors.Stopped:
    train.save()
    raise
  except errors.UserError as error:
    try:
      train.save()
    except errors.UserError as second:
      raise errors.UserError(f'{error} {second}') from error
    raise


def evaluate_continuously(
  evaluate: evaluation.Evaluation,
  checkpoints: run_checkpoints.Checkpoints,
  *,
  timeout: float | None,
  total: int,
  stop: stopping.Request,
) -> int:
  """Evaluates the newest checkpoint, then each newer one that appears, up to that of step `total`.

  Args:
    evaluate: what to run.
    checkpoints: of the run that trains elsewhere.
    timeout: seconds to wait for the next checkpoint; None waits for ever.
    total: the last step of the training.
    stop: ends an evaluation after a batch, and the waiting.

  Returns:
    The number of checkpoints that were evaluated, here or by another process at the same time.

  Raises:
    Stopped: `stop` was requested.
  """
  count = 0
  for prefix in directory_lib.follow(checkpoints.directory, timeout, stop.is_made):
    if not directory_lib.exists(prefix):
      logging.warning('%s was deleted before it could be evaluated', prefix)
      continue
    checkpoints.restore(prefix)
    _evaluate_unless_another_does(evaluate)
    count += 1
    if checkpoints.last_saved >= total:
      logging.info('Step %d was the last of the training.', total)
      break
  stop.check(f'{count} checkpoints are evaluated.')
  return count


def _main_losses(logs):
  """Returns the losses to be shown while training: all but those of auxiliary outputs."""
  return {
    tag.removeprefix(_TRAIN_LOSS): value
    for tag, value in logs.items()
    if tag.startswith(_TRAIN_LOSS) and not tag.startswith(_TRAIN_LOSS + _AUXILIARY)
  }
