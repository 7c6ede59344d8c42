"""Learning-rate schedules and optimizers.

The optimizers are those of tf_keras with fused update kernels (`optimizers.legacy`), so their
checkpoint keys are the ones that DeepLab2 writes: `<variable>/.OPTIMIZER_SLOT/<optimizer>/m`.
"""

from collections.abc import Mapping, Sequence
import types
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

_SCHEDULES: Any = tf_keras.optimizers.schedules
_LEGACY: Any = tf_keras.optimizers.legacy

# The last words of the names of variables that decay: convolution and dense kernels, depthwise
# and attention kernels. Biases, norms, embeddings and cluster centres do not decay.
_DECAYED = ('kernel', 'weight')


class WarmUp(_SCHEDULES.LearningRateSchedule):
  """Rises linearly from a start over the first `steps`, then follows `decay` at its own step.

  The decay is not shifted by the warm-up, so the rate falls a little where they meet.
  """

  def __init__(self, base_rate: float, steps: int, decay: Any, start_rate: float = 0.0):
    """Creates the schedule.

    Args:
      base_rate: that is aimed at.
      steps: length of the rise.
      decay: schedule that follows.
      start_rate: of the first update.
    """
    super().__init__()
    self._start_rate = start_rate
    self._base_rate = base_rate
    self._steps = steps
    self._decay = decay

  def __call__(self, step):
    """Returns the rate of update number `step` (0 is the first), float32."""
    step = tf.cast(step, tf.float32)
    rising = self._start_rate + (self._base_rate - self._start_rate) * step / self._steps
    return tf.where(step < self._steps, rising, self._decay(step))

  def get_config(self):
    """Returns the constructor's arguments."""
    return {
      'base_rate': self._base_rate,
      'steps': self._steps,
      'decay': self._decay,
      'start_rate': self._start_rate,
    }


def poly(base_rate: float, num_steps: int, power: float = 0.9, end_rate: float = 0.0):
  """Returns the schedule (base - end) * (1 - step / num_steps)^power + end."""
  return _SCHEDULES.PolynomialDecay(base_rate, num_steps, end_rate, power)


def cosine(base_rate: float, num_steps: int):
  """Returns the schedule base * (1 + cos(pi * step / num_steps)) / 2."""
  return _SCHEDULES.CosineDecay(base_rate, num_steps)


def with_warm_up(decay, base_rate: float, steps: int, start_rate: float = 0.0):
  """Returns `decay` with a linear rise to `base_rate` in its first `steps`; as it is for 0."""
  return WarmUp(base_rate, steps, decay, start_rate) if steps else decay


class _OwnRates:
  """Updates some variables of a Keras optimizer at a multiple of its rate, with its own kernels."""

  # Reference of a variable -> multiple of the rate.
  multiples: Mapping[Any, float] = types.MappingProxyType({})

  def _resource_apply_dense(self, grad, var, apply_state=None):
    multiple = self.multiples.get(_primary(var).ref(), 1.0)
    if multiple != 1.0:
      key = var.device, var.dtype.base_dtype
      state = apply_state[key]
      apply_state = {key: {**state, 'lr_t': state['lr_t'] * multiple}}
    return super()._resource_apply_dense(grad, var, apply_state)


class _DecoupledDecay(_LEGACY.Adam):
  """What AdamW is, without rates of single variables."""

  def __init__(self, learning_rate, weight_decay: float, name: str = 'AdamW'):
    super().__init__(learning_rate, name=name)
    self._weight_decay = weight_decay
    self._decayed: set[Any] = set()

  def _create_slots(self, var_list):
    super()._create_slots(var_list)
    # Decided here, where every variable has its primary name: the copies on other replicas are
    # called `.../replica_1`, and all copies must decay alike.
    self._decayed |= {var.ref() for var in var_list if decays(var.name)}

  def _resource_apply_dense(self, grad, var, apply_state=None):
    if self._weight_decay and _primary(var).ref() in self._decayed:
      rate = apply_state[(var.device, var.dtype.base_dtype)]['lr_t']
      var.assign_sub((rate * self._weight_decay) * var, read_value=False)
    return super()._resource_apply_dense(grad, var, apply_state)


class AdamW(_OwnRates, _DecoupledDecay):
  """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

  With rate a_t of a variable and decay w, before Adam's own update of step t:
    x <- x - a_t * w * x, for the variables whose name ends in `kernel` or `weight`.
  """


class Adam(_OwnRates, _LEGACY.Adam):
  """Adam (Kingma & Ba 2015)."""


class SGD(_OwnRates, _LEGACY.SGD):
  """Gradient descent with momentum."""


def _primary(variable):
  """Returns the variable that `variable` is one replica's copy of, or itself."""
  container = getattr(variable, '_distributed_container', None)
  return container() if container is not None else variable


def decays(name: str) -> bool:
  """Returns whether weight decay applies to the variable of this name."""
  return name.partition(':')[0].endswith(_DECAYED)


OPTIMIZERS: dict[str, Any] = {
  'adamw': AdamW,
  'adam': lambda learning_rate, weight_decay: Adam(learning_rate),
  'sgd': lambda learning_rate, weight_decay: SGD(learning_rate, momentum=0.9),
}


class Group(NamedTuple):
  """Variables that share an optimizer."""

  optimizer: tf_keras.optimizers.legacy.Optimizer
  variables: tuple[tf.Variable, ...]

  def rate(self, step):
    """Returns the learning rate of update number `step`."""
    rate = self.optimizer.learning_rate
    return rate(step) if callable(rate) else rate


def create(
  name: str,
  learning_rate,
  weight_decay: float,
  variables: Sequence[tf.Variable],
  multiples: Mapping[Any, float] | None = None,
):
  """Creates an optimizer with its state for `variables`, inside the strategy's scope.

  Args:
    name: one of OPTIMIZERS. Only `adamw` decays.
    learning_rate: a number, or a schedule from step to rate.
    weight_decay: of the decayed variables, see AdamW.
    variables: the trainable variables that it will update.
    multiples: reference of a variable -> multiple of the rate, 1 for those that it lacks.

  Raises:
    ValueError: for an unknown name.
  """
  if name not in OPTIMIZERS:
    raise ValueError(f'{name!r} is no optimizer; choose from {sorted(OPTIMIZERS)}.')
  optimizer = OPTIMIZERS[name](learning_rate, weight_decay)
  if multiples:
    optimizer.multiples = types.MappingProxyType(dict(multiples))
  # The state exists before a checkpoint is restored, so that all of it is accounted for.
  optimizer._create_all_weights(variables)  # pylint: disable=protected-access
  return Group(optimizer, tuple(variables))


def split(variables: Sequence[tf.Variable], backbone: Sequence[tf.Variable]):
  """Returns (variables outside the backbone, variables of the backbone), by identity."""
  members = {variable.ref() for variable in backbone}
  rest = tuple(v for v in variables if v.ref() not in members)
  return rest, tuple(v for v in variables if v.ref() in members)


def by_depth(groups, decay: float) -> dict[Any, float]:
  """Returns multiples of the rate that fall towards the images, for `create`.

  Args:
    groups: layers from the images on, see model/backbones/depth.py.
    decay: multiple of the last group; the one before it has decay^2, and so on.
  """
  return {
    variable.ref(): decay ** (len(groups) - depth)
    for depth, layers in enumerate(groups)
    for layer in layers
    for variable in layer.trainable_variables
  }


def clip(gradients, norm, limit: float | None):
  """Scales `gradients` of global norm `norm` down to `limit`; as they are without a limit."""
  if limit is None:
    return gradients
  return tf.clip_by_global_norm(gradients, limit, use_norm=norm)[0]
