"""The inner loop: repeats the training step, and sums up what the steps return."""

from collections.abc import Callable, Sequence
import operator
import time

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2.trainer import loss_means
from deeplab2.trainer import optimizer as optimizer_lib
from deeplab2.trainer import runtime
from deeplab2.trainer import slots
from deeplab2.trainer import step as step_lib


class Trainer:
  """Trains on the batches of a dataset; a step that is not finite ends it, see step.Step."""

  def __init__(
    self,
    dataset,
    *,
    step: step_lib.Step,
    groups: Sequence[optimizer_lib.Group],
    global_step: tf.Variable,
    batch_size: int,
    loop_on_device: bool = False,
  ):
    """Creates a trainer inside the strategy's scope.

    Args:
      dataset: distributed dataset of structures.Sample with targets.
      step: what is done with a batch.
      groups: the step's; the first one's rate is `learning_rate`.
      global_step: the step's.
      batch_size: images per step over all replicas and parts.
      loop_on_device: whether the steps of one `train` are a single call, as TPUs want it; its graph
        takes longer to build.
    """
    self._dataset = dataset
    self._step = step
    self._groups = tuple(groups)
    self._global_step = global_step
    self._batch_size = batch_size
    self._iterator = None
    self._loop_on_device = loop_on_device
    # Of the first step of all; None before it, 0 once it has been left out of a rate.
    self._first_seconds: float | None = None
    # Without autograph, which would translate the source of the whole model first.
    self._call = tf.function(self._loop if loop_on_device else self._one, autograph=False)
    self.beyond_slots = slots.Beyond()

  def train(self, num_steps: int, stop: Callable[[], bool] = bool) -> dict[str, float]:
    """Trains on the next batches.

    Args:
      num_steps: of steps, at least 1.
      stop: returns whether to do no more of them. Asked before every step but the first; not where
        the loop is on the device.

    Returns:
      Means over the steps, and rates, by tag.

    Raises:
      UserError: naming step and terms, if one was not finite.
    """
    if self._iterator is None:
      self._iterator = iter(self._dataset)
      self._build()
    started = time.monotonic()
    if self._loop_on_device:
      steps, sums, latest = self._steps_on_device(num_steps)
    else:
      steps, sums, latest = self._steps_from_host(num_steps, stop)
    timed, seconds = steps, time.monotonic() - started
    if self._first_seconds and steps > 1:
      timed, seconds = steps - 1, seconds - self._first_seconds
    self._first_seconds = 0.0
    done = int(self._global_step.numpy())
    terms = {**latest['losses'], step_lib.GRADIENT_NORM: latest[step_lib.GRADIENT_NORM]}
    bad = {name: value for name, value in terms.items() if not _is_finite(value)}
    if bad:
      raise errors.UserError(
        f'Step {done + 1}: not finite: {_listed(bad)}; all terms: {_listed(terms)}. Training '
        f'stopped with the variables of step {done}; a lower learning rate, a longer warm-up or '
        'gradient clipping may help.'
      )
    self.beyond_slots.add(sums['diagnostics'], done)
    logs = {f'losses/train_{name}': float(sum_) / steps for name, sum_ in sums['losses'].items()}
    skipped = int(sums[step_lib.SKIPPED])
    if steps > skipped:
      logs[step_lib.GRADIENT_NORM] = float(sums[step_lib.GRADIENT_NORM]) / (steps - skipped)
    if skipped:
      logs[step_lib.SKIPPED] = float(skipped)
      logging.info(
        'Up to step %d, %d of %d steps were skipped: their gradients overflowed, and the loss '
        'scale was halved.',
        done,
        skipped,
        steps,
      )
    logs.update(loss_means.diagnostics(sums['diagnostics']))
    for group, tag in zip(self._groups, ('learning_rate', 'learning_rate_backbone'), strict=False):
      logs[tag] = float(group.rate(tf.constant(done - 1)))
    logs['steps_per_second'] = timed / seconds
    logs['images_per_second'] = timed * self._batch_size / seconds
    return logs

  def _build(self):
    """Builds the graph, unless functions run eagerly."""
    if tf.config.functions_run_eagerly():
      return
    logging.info('Building the graph of a training step, which can take minutes.')
    started = time.monotonic()
    argument = tf.constant(1 if self._loop_on_device else True)
    self._call.get_concrete_function(self._iterator, argument)
    # It took more memory than it keeps.
    runtime.release_freed_memory()
    logging.info('It took %.0f s.', time.monotonic() - started)

  def _steps_from_host(self, num_steps, stop):
    """Does up to `num_steps` steps, each by a call; fewer if one is not finite, or `stop()`.

    Returns:
      The number of steps, the sums over them of what the step returns, and that of the last one.
    """
    number, sums, latest = 0, None, None
    for values, finite in self._results(num_steps, stop):
      latest = tf.nest.map_structure(lambda value: value.numpy(), values)
      sums = latest if sums is None else tf.nest.map_structure(operator.add, sums, latest)
      number += 1
      if not finite:
        break
    return number, sums, latest

  def _results(self, num_steps, stop):
    """Yields what the step returns; the next step has begun by then, so that no device waits.

    It changes no variable if the one before was not finite.
    """
    before, finite = None, tf.constant(True)
    for _ in range(num_steps):
      if before is not None and stop():
        break
      step = self._first if self._first_seconds is None else self._call
      result = step(self._iterator, finite)
      _, finite = result
      if before is not None:
        yield before
      before = result
    yield before

  def _first(self, iterator, active):
    """Does the first step, which optimises the graph before."""
    started = time.monotonic()
    # The step comes right after, and would add its memory to what optimising has freed.
    with runtime.releasing_freed_memory():
      result = self._call(iterator, active)
    self._first_seconds = time.monotonic() - started
    logging.info('The first step took %.0f s.', self._first_seconds)
    return result

  def _steps_on_device(self, num_steps):
    """Does what `_steps_from_host` does, by one call that cannot be stopped."""
    results = self._call(self._iterator, tf.constant(num_steps))
    return tf.nest.map_structure(lambda value: value.numpy(), results)

  def _one(self, iterator, active):
    """Does one step if `active`; returns what the step does."""
    values, finite = self._step(iterator, active)
    return _on_host(tf.stack(tf.nest.flatten(values)), values), finite

  def _loop(self, iterator, num_steps):
    """Does up to `num_steps` steps; returns what `_steps_from_host` does."""
    values = {}

    def body(number, finite, sums, latest):
      nonlocal values
      del latest
      values, finite = self._step(iterator, finite)
      flat = tf.stack(tf.nest.flatten(values))
      return number + 1, finite, sums + flat, flat

    # The number of values is known once a step is traced; one zero broadcasts to it.
    some = tf.TensorShape([None])
    number, _, sums, latest = tf.while_loop(
      lambda number, finite, sums, latest: finite & (number < num_steps),
      body,
      (tf.constant(0), tf.constant(True), tf.zeros([1]), tf.zeros([1])),
      shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), some, some),
    )
    size = [len(tf.nest.flatten(values))]
    return number, *(_on_host(tf.broadcast_to(flat, size), values) for flat in (sums, latest))


def _on_host(flat, structure):
  """Returns the elements of a vector as scalars in a structure; it is fetched as a whole."""
  with tf.device('/cpu:0'):
    return tf.nest.pack_sequence_as(structure, tf.unstack(flat))


def _is_finite(value):
  return abs(value) < float('inf')


def _listed(values):
  return ', '.join(f'{name} {value:.4g}' for name, value in values.items())
