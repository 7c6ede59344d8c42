"""One training step, and the inner loop that repeats it on the device."""

from collections.abc import Callable, Sequence
import functools
import time

from absl import logging
import numpy as np
import orbit
import tensorflow as tf
import tf_keras

from deeplab2 import errors
from deeplab2 import randomness
from deeplab2.trainer import diagnostics
from deeplab2.trainer import optimizer as optimizer_lib
from deeplab2.trainer import runtime
from deeplab2.trainer import slots

TOTAL = 'total_loss'
GRADIENT_NORM = 'gradient_norm'


class Trainer(orbit.StandardTrainer):
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
    """
    super().__init__(dataset)
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
    self._names = ()  # Of the losses and the gradient norm.
    self._diagnostics = ()  # Names.
    self._trained = ()  # For every variable, whether the loss depends on it.
    self._outcome = None  # Steps, whether finite, sums of the values, values of the last step.
    self._started = None
    self.beyond_slots = slots.Beyond()

  def create_train_loop_fn(self):
    """Returns the inner loop: up to `num_steps` steps, fewer if one is not finite."""

    def body(iterator, step, sums):
      values, finite = self.train_step(iterator)
      return step + 1, finite, sums + values, values

    # Without autograph, which would translate the source of the whole model first.
    @functools.partial(tf.function, autograph=False)
    def loop(iterator, num_steps):
      # The number of values is known once a step is traced; one zero broadcasts to it.
      some = tf.TensorShape([None])
      return tf.while_loop(
        lambda step, finite, sums, latest: finite & (step < num_steps),
        lambda step, finite, sums, latest: body(iterator, step, sums),
        (tf.constant(0), tf.constant(True), tf.zeros([1]), tf.zeros([1])),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), some, some),
      )

    def run(iterator, num_steps):
      if self._outcome is None:
        # No step yet: builds and optimises the graph, which takes more memory than it then keeps.
        loop(iterator, tf.constant(0))
        runtime.release_freed_memory()
      self._outcome = loop(iterator, num_steps)

    return run

  def train_step(self, iterator):
    """Does one step; returns (losses, gradient norm, parts of diagnostics; whether finite)."""
    values, finite = self._strategy.run(self._replica_step, args=(next(iterator),))
    values, finite = (self._strategy.experimental_local_results(v)[0] for v in (values, finite))
    self._global_step.assign_add(tf.cast(finite, tf.int64))
    return values, finite

  def train_loop_begin(self):
    """Starts the clock."""
    self._started = time.monotonic()

  def train_loop_end(self):
    """Returns the logs of the loop: name -> float.

    Raises:
      UserError: naming step and terms, if one was not finite.
    """
    steps, _, sums, latest = (value.numpy() for value in self._outcome)
    seconds = time.monotonic() - self._started
    done = int(self._global_step.numpy())
    latest = dict(zip(self._names, latest[: len(self._names)], strict=True))
    bad = {name: value for name, value in latest.items() if not _is_finite(value)}
    if bad:
      raise errors.UserError(
        f'Step {done + 1}: not finite: {_listed(bad)}; all terms: {_listed(latest)}. Training '
        f'stopped with the variables of step {done}; a lower learning rate, a longer warm-up or '
        'gradient clipping may help.'
      )
    sums, parts = np.split(sums, [len(self._names)])
    means = dict(zip(self._names, sums / steps, strict=True))
    logs = {f'losses/train_{name}': float(means[name]) for name in self._names[:-1]}
    logs[GRADIENT_NORM] = float(means[GRADIENT_NORM])
    numerators, denominators = np.split(parts, 2)
    logs.update(diagnostics.scalars(self._diagnostics, numerators, denominators))
    self.beyond_slots.add(
      dict(zip(self._diagnostics, zip(numerators, denominators, strict=True), strict=True)), done
    )
    for group, tag in zip(self._groups, ('learning_rate', 'learning_rate_backbone'), strict=False):
      logs[tag] = float(group.rate(tf.constant(done - 1)))
    logs['steps_per_second'] = steps / seconds
    logs['images_per_second'] = steps * self._batch_size / seconds
    return logs

  def _replica_step(self, sample):
    """Does one replica's part; returns what `train_step` does, of the global batch."""
    context = tf.distribute.get_replica_context()
    kept = [tf.identity(v) for v in self._statistics]
    key = tf.random.experimental.stateless_fold_in(
      tf.stack([self._seed, tf.cast(self._global_step, tf.int32)]), context.replica_id_in_sync_group
    )
    with randomness.keyed(key):
      losses, ratios, gradients = self._gradients(sample)
    self._names = (*losses, GRADIENT_NORM)
    self._diagnostics = tuple(ratios)
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    norm = tf.linalg.global_norm(gradients)
    # Numerators of all diagnostics, then denominators.
    parts = [tf.reduce_sum(ratio[part]) for part in (0, 1) for ratio in ratios.values()]
    values = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([*losses.values(), *parts]))
    values, parts = values[: len(losses)], values[len(losses) :]
    values = tf.concat([values, norm[tf.newaxis]], axis=0)
    finite = tf.reduce_all(tf.math.is_finite(values))
    self._update_or_undo(finite, optimizer_lib.clip(gradients, norm, self._clip_norm), kept)
    return tf.concat([values, parts], axis=0), finite

  def _gradients(self, sample):
    """Returns this replica's part of the losses {name: scalar}, its ratios, dense gradients."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(self._variables)
      losses, ratios = self._loss(self._model(sample.image, training=True), sample.targets)
      num_replicas = self._strategy.num_replicas_in_sync
      losses = {name: tf.reduce_mean(value) / num_replicas for name, value in losses.items()}
    gradients = tape.gradient(losses[TOTAL], self._variables)
    unused = [v.name for v, g in zip(self._variables, gradients, strict=True) if g is None]
    if unused:
      logging.warning('No loss depends on these variables, which keep their values: %s', unused)
    self._trained = [g is not None for g in gradients]
    return losses, ratios, [tf.convert_to_tensor(g) for g in gradients if g is not None]

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
    gradients = iter(gradients)
    trained = iter(self._trained)
    for group in self._groups:
      pairs = [(next(gradients), v) for v in group.variables if next(trained)]
      if pairs:
        group.optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
    return tf.constant(True)

  def _undo(self, kept):
    for variable, value in zip(self._statistics, kept, strict=True):
      variable.assign(value)
    return tf.constant(False)


def _is_finite(value):
  return abs(value) < float('inf')


def _listed(values):
  return ', '.join(f'{name} {value:.4g}' for name, value in values.items())
