"""The loss scale of training in float16, which keeps small gradients from becoming 0."""

import tensorflow as tf


class LossScale(tf.Module):
  """A factor of the loss that adapts itself (Micikevicius et al. 2018, "Mixed Precision Training").

  It halves when gradients overflow, which skips the step, and doubles after `growth_steps` steps
  without. Both numbers are saved in checkpoints.
  """

  def __init__(self, initial: float = 2.0**15, growth_steps: int = 2000):
    """Creates the scale inside the strategy's scope; the values are those of tf_keras."""
    super().__init__(name='loss_scale')
    self._growth_steps = growth_steps
    settings = {
      'trainable': False,
      'aggregation': tf.VariableAggregation.ONLY_FIRST_REPLICA,
    }
    self.value = tf.Variable(initial, name='value', dtype=tf.float32, **settings)
    self.good_steps = tf.Variable(0, name='good_steps', dtype=tf.int64, **settings)

  def can_fall(self) -> tf.Tensor:
    """Returns whether gradients that are not finite may be the fault of the scale."""
    return self.value > 1.0

  def update(self, sound: tf.Tensor, skipped: tf.Tensor) -> None:
    """Adapts the scale to a step, in the cross-replica context.

    Args:
      sound: bool scalar; if not, the training ends, and nothing changes.
      skipped: bool scalar, whether the gradients overflowed.
    """
    good = tf.where(skipped, tf.zeros_like(self.good_steps), self.good_steps + 1)
    grown = good >= self._growth_steps
    value = tf.where(
      skipped, tf.maximum(self.value / 2.0, 1.0), tf.where(grown, self.value * 2.0, self.value)
    )
    # Without an infinite scale.
    value = tf.where(tf.math.is_finite(value), value, self.value)
    self.value.assign(tf.where(sound, value, self.value))
    self.good_steps.assign(
      tf.where(sound, tf.where(grown, tf.zeros_like(good), good), self.good_steps)
    )
