"""One training step, and the inner loop that repeats it on the device."""

from collections.abc import Callable, Sequence
import itertools
import operator
import time

from absl import logging
import tensorflow as tf
import tf_keras

from deeplab2 import errors
from deeplab2 import randomness
from deeplab2.trainer import loss_means
from deeplab2.trainer import optimizer as optimizer_lib
from deeplab2.trainer import runtime
from deeplab2.trainer import slots

TOTAL = 'total_loss'
GRADIENT_NORM = 'gradient_norm'


class Trainer:
  """Trains on the batches of a dataset.

  A step averages each loss over the global batch, sums the gradients over the replicas, clips the
  sum, and updates. A step with a loss or gradient that is not finite changes no variable (running
  statistics of normalisations included) and ends the loop.
  """

  def __init__(
    self,
    dataset,
    *,
    model: tf_keras.Model,
    loss: Callable,
    groups: Sequence[optimizer_lib.Group],
    global_step: tf.Variable,
    batch_size: int,
    clip_norm: float | None = None,
    seed: int = 0,
    loop_on_device: bool = False,
  ):
    """Creates a trainer inside the strategy's scope.

    Args:
      dataset: distributed dataset of structures.Sample with targets.
      model: images, training -> structures.Prediction, its variables created.
      loss: (Prediction, Targets) -> (losses {name: [B]}, `total_loss` among them; diagnostics
        {name: (numerator [B], denominator [B])}).
      groups: the optimizers with their variables; the first one's rate is `learning_rate`.
      global_step: int64, number of updates done.
      batch_size: images per step over all replicas.
      clip_norm: largest global norm of the summed gradient, or None.
      seed: with the step's number, decides all that model and loss draw; in [0, 2**31).
      loop_on_device: whether the steps of one `train` are a single call, as TPUs want it; its graph
        takes longer to build.
    """
    self._dataset = dataset
    self._strategy = tf.distribute.get_strategy()
    self._model = model
    self._loss = loss
    self._groups = tuple(groups)
    self._global_step = global_step
    self._batch_size = batch_size
    self._clip_norm = clip_norm
    self._seed = seed
    self._variables = [v for group in groups for v in group.variables]
    # Running statistics, which the forward pass changes before the loss is known.
    self._statistics = list(model.non_trainable_variables)
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
    started = time.monotonic()
    if self._iterator is None:
      logging.info('Building the graph of a training step, which can take minutes.')
      self._iterator = iter(self._dataset)
    if self._loop_on_device:
      steps, sums, latest = self._steps_on_device(num_steps)
    else:
      steps, sums, latest = self._steps_from_host(num_steps, stop)
    timed, seconds = steps, time.monotonic() - started
    if self._first_seconds and steps > 1:
      timed, seconds = steps - 1, seconds - self._first_seconds
    self._first_seconds = 0.0
    done = int(self._global_step.numpy())
    terms = {**latest['losses'], GRADIENT_NORM: latest[GRADIENT_NORM]}
    bad = {name: value for name, value in terms.items() if not _is_finite(value)}
    if bad:
      raise errors.UserError(
        f'Step {done + 1}: not finite: {_listed(bad)}; all terms: {_listed(terms)}. Training '
        f'stopped with the variables of step {done}; a lower learning rate, a longer warm-up or '
        'gradient clipping may help.'
      )
    self.beyond_slots.add(sums['diagnostics'], done)
    logs = {f'losses/train_{name}': float(sum_) / steps for name, sum_ in sums['losses'].items()}
    logs[GRADIENT_NORM] = float(sums[GRADIENT_NORM]) / steps
    logs.update(loss_means.diagnostics(sums['diagnostics']))
    for group, tag in zip(self._groups, ('learning_rate', 'learning_rate_backbone'), strict=False):
      logs[tag] = float(group.rate(tf.constant(done - 1)))
    logs['steps_per_second'] = timed / seconds
    logs['images_per_second'] = timed * self._batch_size / seconds
    return logs

  def _steps_from_host(self, num_steps, stop):
    """Does up to `num_steps` steps, each by a call; fewer if one is not finite, or `stop()`.

    Returns:
      The number of steps, the sums over them of what `_step` returns, and that of the last one.
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
    """Yields what `_step` returns; the next step has begun by then, so that no device waits.

    It changes no variable if the one before was not finite.
    """
    before, finite, started = None, tf.constant(True), time.monotonic()
    for _ in range(num_steps):
      if before is not None and stop():
        break
      result = self._call(self._iterator, finite)
      _, finite = result
      if before is not None:
        yield before
      elif self._first_seconds is None:
        # Building the graph and optimising it took more memory than it keeps.
        runtime.release_freed_memory()
        self._first_seconds = time.monotonic() - started
        logging.info('The first step took %.0f s.', self._first_seconds)
      before = result
    yield before

  def _steps_on_device(self, num_steps):
    """Does what `_steps_from_host` does, by one call that cannot be stopped."""
    results = self._call(self._iterator, tf.constant(num_steps))
    return tf.nest.map_structure(lambda value: value.numpy(), results)

  def _one(self, iterator, active):
    """Does one step if `active`; returns what `_step` does."""
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

  def _step(self, iterator, active):
    """Does one step if `active`.

    Returns:
      values: of the global batch: losses {name: mean}, diagnostics {name: (sum of numerators, sum
        of denominators)}, gradient_norm; float32 scalars.
      finite: whether losses and gradient are, so that variables were updated.
    """
    result = self._strategy.run(self._replica_step, args=(next(iterator), active))
    values, finite = tf.nest.map_structure(
      lambda value: self._strategy.experimental_local_results(value)[0], result
    )
    self._global_step.assign_add(tf.cast(finite, tf.int64))
    return values, finite

  def _replica_step(self, sample, active):
    """Does one replica's part; returns what `_step` does."""
    context = tf.distribute.get_replica_context()
    kept = [tf.identity(v) for v in self._statistics]
    key = tf.random.experimental.stateless_fold_in(
      randomness.stream('training step', self._seed, self._global_step),
      tf.cast(context.replica_id_in_sync_group, tf.int64),
    )
    with randomness.keyed(key):
      values, gradients = self._gradients(sample)
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    norm = tf.linalg.global_norm(list(gradients.values()))
    # One reduction of a vector instead of many of scalars.
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(tf.nest.flatten(values)))
    values = {
      **tf.nest.pack_sequence_as(values, tf.unstack(summed)),
      GRADIENT_NORM: norm,
    }
    finite = active & tf.reduce_all(tf.math.is_finite([*values['losses'].values(), norm]))
    clipped = optimizer_lib.clip(list(gradients.values()), norm, self._clip_norm)
    self._update_or_undo(finite, dict(zip(gradients, clipped, strict=True)), kept)
    return values, finite

  def _gradients(self, sample):
    """Returns this replica's part of losses and diagnostics, and {variable's index: gradient}."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(self._variables)
      losses, ratios = self._loss(self._model(sample.image, training=True), sample.targets)
      num_replicas = self._strategy.num_replicas_in_sync
      losses = {name: tf.reduce_mean(value) / num_replicas for name, value in losses.items()}
    gradients = tape.gradient(losses[TOTAL], self._variables)
    unused = [v.name for v, g in zip(self._variables, gradients, strict=True) if g is None]
    if unused:
      logging.warning('No loss depends on these variables, which keep their values: %s', unused)
    values = {'losses': losses, 'diagnostics': tf.nest.map_structure(tf.reduce_sum, dict(ratios))}
    return values, {i: tf.convert_to_tensor(g) for i, g in enumerate(gradients) if g is not None}

  def _update_or_undo(self, finite, gradients, kept):
    """Updates if `finite`, else puts back the running statistics."""

    # A branch of a condition may not enter the cross-replica context, so the condition is taken
    # in that context, and each branch enters the replicas again.
    def in_cross_replica(strategy, finite, gradients, kept):
      each = strategy.extended.call_for_each_replica
      tf.cond(
        strategy.experimental_local_results(finite)[0],
        lambda: each(self._update, args=(gradients,)),
        lambda: each(self._undo, args=(kept,)),
      )

    if tf.__internal__.distribute.strategy_supports_no_merge_call():
      tf.cond(finite, lambda: self._update(gradients), lambda: self._undo(kept))
    else:
      tf.distribute.get_replica_context().merge_call(
        in_cross_replica, args=(finite, gradients, kept)
      )

  def _update(self, gradients):
    """Applies gradients that are summed over the replicas already."""
    index = itertools.count()
    for group in self._groups:
      pairs = [(gradients.get(i), v) for v, i in zip(group.variables, index, strict=False)]
      pairs = [(gradient, v) for gradient, v in pairs if gradient is not None]
      if pairs:
        group.optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    return tf.constant(True)

  def _undo(self, kept):
    for variable, value in zip(self._statistics, kept, strict=True):
      variable.assign(value)
    return tf.constant(False)


def _on_host(flat, structure):
  """Returns the elements of a vector as scalars in a structure; it is fetched as a whole."""
  with tf.device('/cpu:0'):
    return tf.nest.pack_sequence_as(structure, tf.unstack(flat))


def _is_finite(value):
  return abs(value) < float('inf')


def _listed(values):
  return ', '.join(f'{name} {value:.4g}' for name, value in values.items())
