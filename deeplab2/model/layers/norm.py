"""Batch normalisation, synchronised over replicas, and layer normalisation."""

from collections.abc import Callable, Iterator
import contextlib
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from deeplab2.model.layers import activations
from deeplab2.model.layers import recompute
from deeplab2.model.layers import shapes
from deeplab2.model.layers import weights


class NormSettings(NamedTuple):
  """Settings of every batch norm of a model."""

  synchronized: bool = True  # Statistics over the batch of all replicas, not of each alone.
  momentum: float = 0.99  # Weight of the old value when the moving statistics are updated.
  epsilon: float = 1e-3  # Added to the variance.


# Scale and offset of norms in the context `constant`. As attributes, Keras would take them
# for weights of the layer.
_constants: dict['BatchNorm', tuple[tf.Variable, tf.Variable]] = {}


class BatchNorm(tf_keras.layers.Layer):
  """Batch normalisation (Ioffe & Szegedy 2015) whose statistics are taken in float32.

  The moving variance takes up the biased variance of the batch, `E[x^2] - E[x]^2`, whether or not
  statistics are synchronised.
  """

  def __init__(
    self,
    settings: NormSettings,
    shape: tuple[int, ...],
    *,
    axis: int = -1,
    gamma_initializer='ones',
    **kwargs,
  ):
    """Creates a batch norm.

    Args:
      settings: synchronisation, momentum and epsilon.
      shape: shape of the variables, as checkpoints store them. They have one element per channel.
      axis: of the channels, -1 or 1. All other axes are averaged over.
      gamma_initializer: initial scale.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(autocast=False, **kwargs)  # The result has the dtype of the input.
    self._settings = settings
    self._shape = tuple(shape)
    self._axis = axis
    self._gamma_initializer = gamma_initializer
    # Called with what inference would normalise, where the norm is folded into a convolution. Not
    # for graphs: it gets tensors that may have no values.
    self.observer: Callable[[tf.Tensor], None] | None = None

  def build(self, input_shape=None):
    """Creates gamma, beta and the moving statistics, float32 of the constructor's shape.

    Args:
      input_shape: of no use; the constructor knows the shape.
    """
    del input_shape
    statistic = {
      'trainable': False,
      'synchronization': tf.VariableSynchronization.ON_READ,
      'aggregation': tf.VariableAggregation.MEAN,
    }
    self.gamma = weights.add(self, 'gamma', self._shape, self._gamma_initializer)
    self.beta = weights.add(self, 'beta', self._shape, 'zeros')
    self.moving_mean = weights.add(self, 'moving_mean', self._shape, 'zeros', **statistic)
    self.moving_variance = weights.add(self, 'moving_variance', self._shape, 'ones', **statistic)
    self.built = True

  @property
  def epsilon(self) -> float:
    """What is added to the variance."""
    return self._settings.epsilon

  def affine(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (scale, offset), float32 of one axis: inference computes `x * scale + offset`."""
    if self in _constants:
      scale, offset = _constants[self]
      return tf.convert_to_tensor(scale), tf.convert_to_tensor(offset)
    scale = self.gamma * tf.math.rsqrt(self.moving_variance + self._settings.epsilon)
    return self._flat(scale), self._flat(self.beta - self.moving_mean * scale)

  def call(self, x: tf.Tensor, training: bool = False, activation=activations.linear) -> tf.Tensor:
    """Returns `activation` of the normalised `x`, in its dtype."""
    if not training:
      scale, offset = self.affine()
      return activation(self._scaled(tf.cast(x, tf.float32), scale, offset, x.dtype))
    if self._axis == -1 and not self._across_replicas():
      return self._fused(x, activation)
    return activation(self._unfused(x))

  def _flat(self, value):
    return value if len(self._shape) == 1 else tf.reshape(value, [-1])

  def _scaled(self, values, scale, offset, dtype):
    if self._axis == 1:
      broadcast = [-1] + [1] * (values.shape.rank - 2)
      scale, offset = tf.reshape(scale, broadcast), tf.reshape(offset, broadcast)
    return tf.cast(values * scale + offset, dtype)

  def _across_replicas(self) -> bool:
    return self._settings.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1

  def _fused(self, x, activation):
    shape = shapes.sizes(x)
    maps = x if len(shape) == 4 else tf.reshape(x, [-1, 1, 1, shape[-1]])
    y, mean, variance, _, _, _ = tf.raw_ops.FusedBatchNormV3(
      x=maps,
      scale=self._flat(self.gamma),
      offset=self._flat(self.beta),
      mean=[],
      variance=[],
      epsilon=self._settings.epsilon,
      is_training=True,
    )
    rows = x.shape[:-1].num_elements() or tf.cast(tf.size(x) // shape[-1], tf.float32)
    variance *= (rows - 1.0) / rows  # The op returns the unbiased variance.
    self._move(mean, variance)
    if activation is activations.gelu:
      scale = self._flat(self.gamma) * tf.math.rsqrt(variance + self._settings.epsilon)
      scale, offset = (
        tf.stop_gradient(part) for part in (scale, self._flat(self.beta) - mean * scale)
      )
      y = activations.gelu_of_affine(y, maps, scale, offset)
    else:
      y = activation(y)
    return y if len(shape) == 4 else tf.reshape(y, shape)

  def _unfused(self, x):
    values = tf.cast(x, tf.float32)
    channels = self._axis % x.shape.rank
    axes = [axis for axis in range(x.shape.rank) if axis != channels]
    mean = tf.reduce_mean(values, axes)
    mean_of_squares = tf.reduce_mean(tf.square(values), axes)
    if self._across_replicas():
      mean, mean_of_squares = tf.unstack(
        tf.distribute.get_replica_context().all_reduce(
          tf.distribute.ReduceOp.MEAN, tf.stack([mean, mean_of_squares])
        )
      )
    variance = tf.maximum(mean_of_squares - tf.square(mean), 0.0)
    self._move(mean, variance)
    scale = self._flat(self.gamma) * tf.math.rsqrt(variance + self._settings.epsilon)
    return self._scaled(values, scale, self._flat(self.beta) - mean * scale, x.dtype)

  def _move(self, mean, variance):
    if recompute.is_repeated():
      return
    rate = 1.0 - self._settings.momentum
    for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
      if len(self._shape) > 1:
        value = tf.reshape(value, self._shape)
      moving.assign_sub(rate * (moving - value))


@contextlib.contextmanager
def constant(model: tf.Module) -> Iterator[None]:
  """Lets graphs that are traced in the context read scale and offset of every batch norm.

  Of the four variables of each, inference needs these two: a model that is only used is smaller
  then, and traced and written in less time. The graphs are of use in the context alone, which owns
  these variables.

  Args:
    model: whose variables are not changed any more.
  """
  norms = [module for module in model.submodules if isinstance(module, BatchNorm)]
  for norm in norms:
    scale, offset = norm.affine()
    _constants[norm] = tf.Variable(scale), tf.Variable(offset)
  try:
    yield
  finally:
    for norm in norms:
      del _constants[norm]


class LayerNorm(tf_keras.layers.Layer):
  """Layer normalisation over the channels (Ba et al. 2016), in float32."""

  def __init__(self, epsilon: float = 1e-6, **kwargs):
    """Creates a norm; `epsilon` is added to the variance."""
    super().__init__(autocast=False, **kwargs)  # The result has the dtype of the input.
    self._epsilon = epsilon

  def build(self, input_shape):
    """Creates gamma and beta, float32 [C]."""
    self.gamma = weights.add(self, 'gamma', (input_shape[-1],), 'ones')
    self.beta = weights.add(self, 'beta', (input_shape[-1],), 'zeros')
    self.built = True

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Returns the normalised `x` [..., C], in its dtype."""
    values = tf.cast(x, tf.float32)
    centered = values - tf.reduce_mean(values, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
    normalized = centered * tf.math.rsqrt(variance + self._epsilon)
    return tf.cast(normalized * self.gamma + self.beta, x.dtype)
