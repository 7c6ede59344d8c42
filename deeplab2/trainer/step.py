"""One training step as a graph: gradients on every replica, their sum, and one update."""

from collections.abc import Callable, Sequence
import itertools

from absl import logging
import tensorflow as tf
import tf_keras

from deeplab2 import randomness
from deeplab2.trainer import averages as averages_lib
from deeplab2.trainer import loss_scale as loss_scale_lib
from deeplab2.trainer import optimizer as optimizer_lib

TOTAL = 'total_loss'
GRADIENT_NORM = 'gradient_norm'
SKIPPED = 'skipped_steps'


class Step:
  """Averages each loss over the global batch, sums the gradients, clips the sum, and updates.

  A step whose losses or gradient are not finite changes no variable, running statistics of
  normalisations included. With a loss scale, such a gradient may be the scale's fault: the step is
  skipped then, and the scale falls.
  """

  def __init__(
    self,
    *,
    model: tf_keras.Model,
    loss: Callable,
    groups: Sequence[optimizer_lib.Group],
    global_step: tf.Variable,
    clip_norm: float | None = None,
    seed: int = 0,
    parts: int = 1,
    loss_scale: loss_scale_lib.LossScale | None = None,
    averages: averages_lib.Averages | None = None,
    jit_compile: bool = False,
  ):
    """Creates a step inside the strategy's scope.

    Args:
      model: images, training -> structures.Prediction, its variables created.
      loss: (Prediction, Targets) -> (losses {name: [B]}, `total_loss` among them; diagnostics
        {name: (numerator [B], denominator [B])}).
      groups: the optimizers with their variables.
      global_step: int64, number of steps done, those that a loss scale skipped included.
      clip_norm: largest global norm of the summed gradient, or None.
      seed: with the step's number, decides all that model and loss draw; in [0, 2**31).
      parts: batches of the dataset that make up the batch of one step. Their gradients are added
        up; each has batch statistics of its own.
      loss_scale: for models that compute in float16.
      averages: of the model's variables, moved after every update.
      jit_compile: whether XLA compiles each replica's work.
    """
    self._strategy = tf.distribute.get_strategy()
    self._model = model
    self._loss = loss
    self._groups = tuple(groups)
    self._global_step = global_step
    self._clip_norm = clip_norm
    self._seed = seed
    self._parts = parts
    self._loss_scale = loss_scale
    self._averages = averages
    self._jit_compile = jit_compile
    self._variables = [v for group in groups for v in group.variables]
    # Running statistics, which the forward pass changes before the loss is known.
    self._statistics = list(model.non_trainable_variables)
    # Sums of the gradients of the parts so far, of each replica by itself; 0 between the steps.
    self._sums = [_sum_of(variable) for variable in self._variables] if parts > 1 else []
    # Numbers of the variables that the loss depends on; known once a part is traced.
    self._used: set[int] = set()

  def __call__(self, iterator, active: tf.Tensor):
    """Does one step if `active`.

    Args:
      iterator: of the distributed dataset.
      active: bool scalar.

    Returns:
      values: of the global batch: losses {name: mean}, diagnostics {name: (sum of numerators, sum
        of denominators)}, gradient_norm, and skipped_steps, 1 if the step was skipped for its loss
        scale (gradient_norm is 0 then); float32 scalars.
      sound: bool scalar, whether the step was active and done or skipped.
    """
    if self._parts == 1:
      result = self._run(self._whole, next(iterator), active)
    else:
      kept = self._run(self._keep)
      values = self._add_parts(iterator)
      result = self._run(self._finish, values, kept, active)
    values, sound = _first(self._strategy, result)
    self._global_step.assign_add(tf.cast(sound, tf.int64))
    if self._loss_scale is not None:
      self._loss_scale.update(sound, skipped=values[SKIPPED] > 0.0)
    return values, sound

  def _run(self, function, *arguments):
    if self._jit_compile:
      function = tf.function(function, autograph=False, jit_compile=True)
    return self._strategy.run(function, args=arguments)

  def _add_parts(self, iterator):
    """Adds up the gradients of all parts; returns the values of the whole batch."""
    structure = {}

    def body(number, sums):
      nonlocal structure
      structure = _first(self._strategy, self._run(self._add_part, next(iterator), number))
      return number + 1, sums + tf.stack(tf.nest.flatten(structure))

    # The number of values is known once a part is traced; one zero broadcasts to it.
    _, sums = tf.while_loop(
      lambda number, sums: number < self._parts,
      body,
      (tf.constant(0), tf.zeros([1])),
      shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
    )
    sums = tf.broadcast_to(sums, [len(tf.nest.flatten(structure))])
    values = tf.nest.pack_sequence_as(structure, tf.unstack(sums))
    return {**values, 'losses': {k: v / self._parts for k, v in values['losses'].items()}}

  def _keep(self):
    """Returns the running statistics of this replica, to be put back if need be."""
    return [tf.identity(v) for v in self._statistics]

  def _whole(self, sample, active):
    """Does one replica's part of a step."""
    kept = self._keep()
    values, gradients = self._gradients(sample, 0)
    return self._finished(values, gradients, kept, active)

  def _add_part(self, sample, number):
    """Adds one part's gradients to the sums; returns its values."""
    values, gradients = self._gradients(sample, number)
    self._used = set(gradients)
    for index, gradient in gradients.items():
      self._sums[index].assign_add(gradient / self._parts)
    return values

  def _finish(self, values, kept, active):
    """Does one replica's part of the update by the sums of gradients."""
    gradients = {index: tf.identity(self._sums[index]) for index in sorted(self._used)}
    result = self._finished(values, gradients, kept, active)
    for sum_ in self._sums:
      sum_.assign(tf.zeros_like(sum_))
    return result

  def _gradients(self, sample, part):
    """Returns values of the global batch, and this replica's {variable's index: gradient}.

    Gradients of a loss scale are scaled.
    """
    context = tf.distribute.get_replica_context()
    key = tf.random.experimental.stateless_fold_in(
      randomness.stream('training step', self._seed, self._global_step),
      tf.cast(context.replica_id_in_sync_group, tf.int64),
    )
    if self._parts > 1:
      key = tf.random.experimental.stateless_fold_in(key, tf.cast(part, tf.int64))
    # Recomputed blocks draw again while the gradient is taken.
    with randomness.keyed(key):
      with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(self._variables)
        losses, ratios = self._loss(self._model(sample.image, training=True), sample.targets)
        num_replicas = self._strategy.num_replicas_in_sync
        losses = {name: tf.reduce_mean(value) / num_replicas for name, value in losses.items()}
        scale = 1.0 if self._loss_scale is None else self._loss_scale.value
        total = losses[TOTAL] * scale
      gradients = tape.gradient(total, self._variables)
    unused = [v.name for v, g in zip(self._variables, gradients, strict=True) if g is None]
    if unused:
      logging.warning('No loss depends on these variables, which keep their values: %s', unused)
    values = {'losses': losses, 'diagnostics': tf.nest.map_structure(tf.reduce_sum, dict(ratios))}
    # One reduction of a vector instead of many of scalars.
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(tf.nest.flatten(values)))
    values = tf.nest.pack_sequence_as(values, tf.unstack(summed))
    return values, {i: tf.convert_to_tensor(g) for i, g in enumerate(gradients) if g is not None}

  def _finished(self, values, gradients, kept, active):
    """Updates by the sum of all replicas' gradients, if it is finite; returns what a step does."""
    context = tf.distribute.get_replica_context()
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    if self._loss_scale is not None:
      gradients = {i: gradient / self._loss_scale.value for i, gradient in gradients.items()}
    norm = tf.linalg.global_norm(list(gradients.values()))
    sound = active & tf.reduce_all(tf.math.is_finite([*values['losses'].values()]))
    updated = sound & tf.math.is_finite(norm)
    if self._loss_scale is None:
      sound = updated
    else:
      sound &= tf.math.is_finite(norm) | self._loss_scale.can_fall()
    skipped = sound & ~updated
    values = {
      **values,
      GRADIENT_NORM: tf.where(skipped, 0.0, norm),
      SKIPPED: tf.cast(skipped, tf.float32),
    }
    clipped = optimizer_lib.clip(list(gradients.values()), norm, self._clip_norm)
    self._update_or_undo(updated, dict(zip(gradients, clipped, strict=True)), kept)
    return values, sound

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
    if self._averages is not None:
      self._averages.move(self._global_step)
    return tf.constant(True)

  def _undo(self, kept):
    for variable, value in zip(self._statistics, kept, strict=True):
      variable.assign(value)
    return tf.constant(False)


def _sum_of(variable):
  """Creates a variable for the sum of the gradients of `variable`, one on each replica."""
  return tf.Variable(
    tf.zeros(variable.shape),
    trainable=False,
    synchronization=tf.VariableSynchronization.ON_READ,
    aggregation=tf.VariableAggregation.SUM,
    name='sum_of_gradients',
  )


def _first(strategy, result):
  """Returns the values of the first replica."""
  return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], result)
