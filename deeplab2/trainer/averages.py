"""Moving averages of a model's variables, which often predict better than the variables."""

from collections.abc import Iterator, Mapping
import contextlib

import tensorflow as tf


class Averages:
  """Exponential moving averages of variables (Polyak & Juditsky 1992).

  After update number t (1 is the first): average <- d * average + (1 - d) * variable, with
  d = min(decay, (1 + t) / (10 + t)), so that a short training does not average its start. Running
  statistics are averaged like weights.
  """

  def __init__(self, variables: Mapping[str, tf.Variable], decay: float):
    """Creates the averages inside the strategy's scope, equal to the variables.

    Args:
      variables: by the keys that checkpoints hold them under.
      decay: limit of the weight of the old average, in [0, 1).
    """
    self._decay = decay
    self._variables = tuple(variables.values())
    # What checkpoints hold, which is not the variables themselves once more.
    self.saved = tf.Module(name='averages')
    self.saved.by_key = {key: _average_of(variable) for key, variable in variables.items()}

  def move(self, step: tf.Tensor) -> None:
    """Moves the averages towards the variables, in the replica context; `step` is t - 1."""
    number = tf.cast(step, tf.float32) + 1.0
    rate = 1.0 - tf.minimum(self._decay, (1.0 + number) / (10.0 + number))
    for average, variable in self._pairs():
      average.assign_sub(rate * (average - variable))

  def start(self) -> None:
    """Sets the averages to the variables."""
    for average, variable in self._pairs():
      average.assign(variable.read_value())

  def apply(self) -> None:
    """Sets the variables to the averages."""
    for average, variable in self._pairs():
      variable.assign(average.read_value())

  @contextlib.contextmanager
  def applied(self) -> Iterator[None]:
    """Lets the variables be the averages inside the context, which may not train."""
    kept = [variable.numpy() for variable in self._variables]
    self.apply()
    try:
      yield
    finally:
      for variable, value in zip(self._variables, kept, strict=True):
        variable.assign(value)

  def _pairs(self):
    return zip(self.saved.by_key.values(), self._variables, strict=True)


def _average_of(variable):
  # Every replica moves its own copy, which needs no communication: the copies of weights are equal.
  aggregation = tf.VariableAggregation
  return tf.Variable(
    variable.read_value(),
    trainable=False,
    synchronization=tf.VariableSynchronization.ON_READ,
    aggregation=aggregation.ONLY_FIRST_REPLICA if variable.trainable else aggregation.MEAN,
    name='average',
  )
