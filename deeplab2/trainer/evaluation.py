"""The evaluation loop: every image goes through the metrics and the writers, in order."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import time
from typing import NamedTuple

from absl import logging
import numpy as np

from deeplab2 import errors
from deeplab2.trainer import evaluator as evaluator_lib
from deeplab2.trainer import progress
from deeplab2.trainer import reports
from deeplab2.trainer import stopping
from deeplab2.trainer import summaries as summaries_lib
from deeplab2.trainer import unfinished as unfinished_lib


class Position(NamedTuple):
  """The progress of an evaluation."""

  batches: int = 0
  images: int = 0
  corrupt: int = 0  # Records.


class Evaluation:
  """Evaluates the model as it is, as often as asked.

  Metrics come first. If a writer fails, none gets anything more, and the error is raised after the
  evaluation.
  """

  def __init__(
    self,
    evaluator: evaluator_lib.Evaluator,
    *,
    report: reports.Report | None,
    writers: Sequence[Callable[[evaluator_lib.EvaluatedImage], None]],
    unfinished: Callable[[], unfinished_lib.Unfinished | unfinished_lib.Never],
    summaries: summaries_lib.Summaries,
    num_steps: int = -1,
    num_images: int | None = None,
    guard: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    stop: stopping.Request | None = None,
    finish: Callable[[], None] = lambda: None,
  ):
    """Creates the loop.

    Args:
      evaluator: segments the images.
      report: has the metrics, and writes their results; None for images without labels.
      writers: called with every image, in order.
      unfinished: returns what keeps the state of the evaluation that begins.
      summaries: TensorBoard's, for the scalars.
      num_steps: batches per evaluation, -1 for all.
      num_images: how many there will be, if known, for the progress shown.
      guard: keeps other processes from the same evaluation, and explains errors of the input.
      stop: ends an evaluation after a batch.
      finish: called when the writers have got all images.
    """
    self._finish = finish
    self._evaluator = evaluator
    self._report = report
    self._writers = tuple(writers)
    self._unfinished = unfinished
    self._summaries = summaries
    self._num_steps = num_steps
    self._num_images = num_images
    self._guard = guard
    self._stop = stop or stopping.Request()

  def is_done(self) -> bool:
    """Returns whether there is nothing to measure, or the numbers of this step are written."""
    return self._report is None or self._report.is_written()

  def run(self) -> Mapping[str, float]:
    """Evaluates once, those images included that an interrupted evaluation has done.

    Returns:
      The scalars by tag: mean losses, diagnostics, metrics, throughput.

    Raises:
      InUseError: another process does the same evaluation.
      UserError: something could not be written, or there was no image to evaluate.
      Stopped: `stop` was requested; the state is saved.
    """
    with self._guard():
      scalars, failure = self._evaluate()
    self._summaries.scalars(scalars)
    if failure is not None:
      raise failure
    self._summaries.check()
    return scalars

  def _evaluate(self):
    """Returns the scalars, and the error of a writer or None."""
    metrics = {} if self._report is None else self._report.metrics()
    unfinished = self._unfinished()
    first = position = _restore(unfinished.load(), metrics)
    failure, started = None, time.monotonic()
    limit = None if self._num_steps == -1 else max(self._num_steps - first.batches, 0)
    with (
      contextlib.closing(progress.create('eval', self._num_images, 'image', first.images)) as shown,
      contextlib.closing(self._evaluator.batches(first.batches, limit)) as batches,
    ):
      for batch in batches:
        images, corrupt = position.images, position.corrupt
        for part in batch:
          corrupt += part.num_corrupt
          for image in part.images(images):
            for metric in metrics.values():
              metric.update(image)
            failure = failure or self._write(image)
            images += 1
        position = Position(position.batches + 1, images, corrupt)
        shown.update(images, {})
        # Started again after a failure, it shall write what is missing.
        if failure is None:
          unfinished.save(lambda: _state(position, metrics), now=self._stop.is_made())  # noqa: B023
        self._stop.check(f'The evaluation goes on after {images} images when it is started again.')
    self._check(position)
    results = {name: metric.result() for name, metric in metrics.items()}
    scalars = {} if self._report is None else self._report.write(results, position.corrupt)
    if failure is None:
      failure = self._finished()
    if failure is None:
      unfinished.remove()
    if position.corrupt:
      scalars[reports.SKIPPED] = float(position.corrupt)
    speed = (position.images - first.images) / (time.monotonic() - started)
    return {**scalars, 'images_per_second': speed}, failure

  def _write(self, image):
    """Gives an image to the writers; returns the error of one that failed, or None."""
    try:
      for writer in self._writers:
        writer(image)
    except errors.UserError as error:
      logging.warning('%s Nothing more is written of single images; the evaluation goes on.', error)
      return error
    return None

  def _finished(self):
    """Lets the writers finish; returns an error or None."""
    try:
      self._finish()
    except errors.UserError as error:
      return error
    return None

  def _check(self, position):
    """Says what was not evaluated.

    Raises:
      UserError: there was no image, but corrupt records only.
    """
    if not position.images:
      raise errors.UserError(
        f'There is no image to evaluate: all {position.corrupt} records are corrupt.'
      )
    if position.corrupt:
      logging.warning(
        '%d corrupt records were skipped: the numbers are of the other %d.',
        position.corrupt,
        position.images,
      )
    if position.batches < self._num_steps:
      logging.warning(
        'The set has %d batches, fewer than eval_steps = %d: all were evaluated.',
        position.batches,
        self._num_steps,
      )


def _state(position, metrics):
  """Returns the state after a batch as arrays."""
  return {
    'position': np.array(position),
    **{
      f'{name}/{key}': array
      for name, metric in metrics.items()
      for key, array in metric.state().items()
    },
  }


def _restore(arrays, metrics):
  """Gives metrics the state that was stored, if any; returns the position."""
  if arrays is None:
    return Position()
  for name, metric in metrics.items():
    prefix = f'{name}/'
    metric.set_state(
      {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    )
  position = Position(*map(int, arrays['position']))
  logging.info('The evaluation goes on after %d images, where it was interrupted.', position.images)
  return position
