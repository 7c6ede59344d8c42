"""AutoAugment (Cubuk et al. 2019): photometric operations by a policy, on uint8 images.

Policies and operations are those that DeepLab2 trains with, its departures from the paper included:
without them published results are not reproduced. Labels never change.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import tensorflow as tf

Operation = Callable[[tf.Tensor, float], tf.Tensor]


class Step(NamedTuple):
  """One operation of a policy."""

  operation: Operation
  probability: float
  level: float  # 0..10, from which the operation takes its strength.


# One sub-policy is chosen, and its steps are taken one after the other, each by its probability.
Policy = tuple[tuple[Step, Step], ...]


def apply(image: tf.Tensor, policy: Policy, uniform: tf.Tensor) -> tf.Tensor:
  """Changes an image by one sub-policy.

  Args:
    image: [h, w, 3] uint8.
    policy: what may be done.
    uniform: [3] float32 in [0, 1): the draw of the sub-policy, and of its two steps.

  Returns:
    [h, w, 3] uint8.
  """
  chosen = tf.cast(uniform[0] * len(policy), tf.int32)
  branches = [functools.partial(_apply, image, steps, uniform[1:]) for steps in policy]
  return tf.switch_case(chosen, branches)


def _apply(image, steps, uniform):
  for index, step in enumerate(steps):
    if step.probability > 0:
      image = tf.cond(
        uniform[index] + step.probability >= 1.0,
        functools.partial(step.operation, image, step.level),
        functools.partial(tf.identity, image),
      )
  return image


def brightness(image: tf.Tensor, level: float) -> tf.Tensor:
  """Blends with black."""
  return _blend(tf.constant(0, tf.uint8), image, _factor(level))


def color(image: tf.Tensor, level: float) -> tf.Tensor:
  """Blends with the grey image."""
  red, green, blue = tf.unstack(tf.cast(image, tf.float32) * (1.0 / 255.0), axis=-1)
  luma = 0.2989 * red + 0.587 * green + 0.114 * blue
  grey = tf.cast(tf.minimum(luma * 255.5, 255.0), tf.uint8)
  return _blend(grey[..., tf.newaxis], image, _factor(level))


def contrast(image: tf.Tensor, level: float) -> tf.Tensor:
  """Blends with one grey: the number of pixels over 256, at most 255.

  The mean grey was meant; from 65,280 pixels on this one is white. DeepLab2's models have been
  trained so.
  """
  pixels = tf.cast(tf.shape(image)[0] * tf.shape(image)[1], tf.float32)
  return _blend(tf.cast(tf.minimum(pixels / 256.0, 255.0), tf.uint8), image, _factor(level))


def sharpness(image: tf.Tensor, level: float) -> tf.Tensor:
  """Blends with the smoothed image, whose outermost pixels stay as they are."""
  has_inside = tf.reduce_min(tf.shape(image)[:2]) > 2
  return tf.cond(has_inside, lambda: _sharpened(image, _factor(level)), lambda: image)


def _sharpened(image, factor):
  inside = _blend(_smoothed(image), image[1:-1, 1:-1], factor)
  rows = tf.concat([image[1:-1, :1], inside, image[1:-1, -1:]], axis=1)
  return tf.concat([image[:1], rows, image[-1:]], axis=0)


def _smoothed(image):
  """Returns uint8 [H - 2, W - 2, 3]: means over 3x3 pixels, of weight 1, the central one 5.

  They are cut to integers. Where a mean is an integer, rounding decides whether it or the one below
  is taken. DeepLab2's convolution, whose kernel depends on the CPU, adds up row by row with fused
  multiply-adds; products of float32 are exact in float64, so these means come out the same here on
  every CPU.
  """
  whole = tf.cast(image, tf.int32)
  columns = whole[:-2] + whole[1:-1] + whole[2:]
  sums = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] + 4 * whole[1:-1, 1:-1]
  means = tf.cast(tf.floor(tf.cast(sums, tf.float32) / 13.0), tf.int32)
  places = tf.where(13 * means == sums)
  weights = tf.cast(tf.constant([1.0, 5.0]) / 13.0, tf.float64)
  total = tf.constant(0.0, tf.float64)
  for row in range(3):
    for column in range(3):
      values = tf.gather_nd(image[row:, column:], places)
      total += tf.cast(values, tf.float64) * weights[int(row == column == 1)]
      total = tf.cast(tf.cast(total, tf.float32), tf.float64)
  is_below = tf.cast(total < tf.cast(tf.gather_nd(means, places), tf.float64), tf.int32)
  return tf.cast(tf.tensor_scatter_nd_sub(means, places, is_below), tf.uint8)


def solarize(image: tf.Tensor, level: float) -> tf.Tensor:
  """Inverts what is not below a threshold, 256 * level / 10."""
  return tf.where(image < tf.constant(int(level / 10 * 256), tf.uint8), image, 255 - image)


def equalize(image: tf.Tensor, level: float) -> tf.Tensor:
  """Makes the histogram of each channel even, as far as a table of 256 entries can."""
  del level
  values = tf.cast(image, tf.int32) + tf.constant([0, 256, 512])  # Three channels in one table.
  counts = tf.reshape(tf.math.bincount(values, minlength=768, maxlength=768), [3, 256])
  last = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0), axis=1)
  step = (tf.reduce_sum(counts, axis=1) - tf.gather(counts, last, batch_dims=1)) // 255
  step = step[:, tf.newaxis]
  table = (tf.cumsum(counts, axis=1) + step // 2) // tf.maximum(step, 1)
  table = tf.clip_by_value(tf.pad(table[:, :-1], [[0, 0], [1, 0]]), 0, 255)
  table = tf.cast(tf.where(step > 0, table, tf.range(256)), tf.uint8)
  return tf.gather(tf.reshape(table, [-1]), values)


def _factor(level):
  """Returns how much of the image itself a blend has; more than 1 goes away from the other."""
  return level / 10 * 1.8 + 0.1


def _blend(other, image, factor):
  """Returns `other + factor * (image - other)`, uint8, rounded towards zero."""
  other, image = tf.cast(other, tf.float32), tf.cast(image, tf.float32)
  blended = other + factor * (image - other)
  if not 0.0 < factor < 1.0:
    blended = tf.clip_by_value(blended, 0.0, 255.0)
  return tf.cast(blended, tf.uint8)


def _classification_policy(magnitude: float) -> Policy:
  def step(operation, probability, level):
    return Step(operation, probability, level * magnitude)

  return tuple(
    (step(*first), step(*second))
    for first, second in (
      ((sharpness, 0.4, 7), (brightness, 0.2, 10)),
      ((equalize, 0.0, 9), (contrast, 0.2, 10)),
      ((sharpness, 0.2, 9), (color, 0.2, 9)),
      ((solarize, 0.2, 7), (equalize, 0.6, 9)),
      ((sharpness, 0.2, 1), (equalize, 0.2, 7)),
    )
  )


# By DeepLab2's names. The second is no milder: it turns images dark, blurred and grey, and
# inverts nearly everything when it solarizes. It is what Cityscapes models were trained with.
POLICIES = {
  'simple_classification_policy': _classification_policy(1.0),
  'simple_classification_policy_magnitude_scale_0.2': _classification_policy(0.2),
}
