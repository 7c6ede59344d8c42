"""Random scale, colours, place in the crop and mirror image: what training does to an image.

The order of steps is DeepLab2's: resize to range, random scale, AutoAugment (on the whole image,
before any padding), pad, crop, flip. Copy-paste comes after all that was done to both images.

Everything random is drawn first, from a seed of the image alone, and then applied: the same seed
gives the same image whatever the number of threads, and tests can choose the draw.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2.data import autoaugment
from deeplab2.data import geometry


class RandomScale(NamedTuple):
  """Factors to scale an image by, each equally likely."""

  minimum: float = 1.0
  maximum: float = 1.0
  step: float = 0.25  # 0 for any number in [minimum, maximum).

  def times(self, factor: float) -> 'RandomScale':
    """Returns the range with both ends multiplied."""
    return self._replace(minimum=factor * self.minimum, maximum=factor * self.maximum)


class Draw(NamedTuple):
  """The random draws for one image. Scalars, except for the last."""

  scale: tf.Tensor  # float32
  top: tf.Tensor  # float32 in [0, 1), from the first possible offset to the last
  left: tf.Tensor  # the same for columns
  flip: tf.Tensor  # bool
  photometric: tf.Tensor | None = None  # [3] float32 in [0, 1), as autoaugment.apply takes it


def scale_candidates(scale: RandomScale) -> np.ndarray:
  """Returns the factors [n] float32 that a range with a step stands for.

  The step only decides how many there are; they are then spread evenly from minimum to maximum.
  Their number is that of DeepLab2, where the range is stored in float32 and counted in double, and
  rounded down: 0.3..1.7 by 0.1 are 15, and so are 0.5..2.0 by 0.1.
  """
  low, high, step = (np.float32(value) for value in scale)
  if low == high:
    return np.array([low])
  count = int((float(high) - float(low)) / float(step) + 1)
  if count < 2:
    return np.array([low])
  spacing = (high - low) / np.float32(count - 1)
  candidates = low + spacing * np.arange(count, dtype=np.float32)
  candidates[-1] = high
  return candidates


def draw(seed: tf.Tensor, scale: RandomScale) -> Draw:
  """Draws for one image; `seed` [2] int64 is the run's seed and the image's running number."""
  uniform = tf.random.stateless_uniform([7], seed)
  if scale.step == 0 and scale.maximum > scale.minimum:
    factor = scale.minimum + uniform[0] * (scale.maximum - scale.minimum)
  else:
    candidates = tf.constant(scale_candidates(scale))
    factor = candidates[_below(uniform[0], tf.size(candidates))]
  return Draw(
    factor, top=uniform[1], left=uniform[2], flip=uniform[3] <= 0.5, photometric=uniform[4:]
  )


def _below(uniform, count):
  """Turns a number in [0, 1) into one of 0..count - 1."""
  return tf.cast(uniform * tf.cast(count, tf.float32), tf.int32)


def augment(
  image: tf.Tensor,
  label: tf.Tensor,
  chosen: Draw,
  *,
  crop_size: tuple[int, int],
  resize: geometry.Resize,
  void_id: int,
  policy: autoaugment.Policy | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Brings an image and its label map to the crop.

  Args:
    image: [H0, W0, 3] uint8.
    label: [H0, W0] int32 panoptic ids.
    chosen: what was drawn for this image.
    crop_size: (H, W).
    resize: range of sizes before scaling.
    void_id: panoptic id of padding.
    policy: of AutoAugment. With one, pixels are integers even where nothing is done.

  Returns:
    [H, W, 3] float32 and [H, W] int32.
  """
  size = geometry.resized_size(tf.shape(image)[:2], resize)
  image, label = _resize(image, label, size)
  image, label = _resize(image, label, geometry.scaled_size(size, chosen.scale))
  if policy is not None:
    image = autoaugment.apply(tf.cast(image, tf.uint8), policy, chosen.photometric)
  top_left = (chosen.top, chosen.left)
  image = _place(image, top_left, crop_size, geometry.PAD_VALUE, tf.float32)
  label = _place(label, top_left, crop_size, void_id)
  return tf.cond(
    chosen.flip, lambda: (geometry.flip(image), geometry.flip(label)), lambda: (image, label)
  )


def _resize(image, label, size):
  return geometry.resize_image(image, size), geometry.resize_label(label, size)


def _place(image, uniform, crop_size, value, dtype=tf.int32):
  """Crops the sides that are longer than the crop, casts, and pads those that are shorter."""
  # Along one axis an image is either cropped or padded, so one draw serves both. Cropping first
  # gives the same as padding first, and moves fewer pixels.
  shape = tf.shape(image)
  kept, pad_offset, crop_offset = [], [], []
  for i in range(2):
    excess = shape[i] - crop_size[i]
    kept.append(tf.minimum(shape[i], crop_size[i]))
    crop_offset.append(_below(uniform[i], tf.maximum(excess, 0) + 1))
    # As in DeepLab2, a shorter image never touches the bottom or right of the crop.
    pad_offset.append(_below(uniform[i], tf.maximum(-excess, 1)))
  cropped = tf.cast(geometry.crop(image, crop_offset, kept), dtype)
  return geometry.pad(cropped, pad_offset, crop_size, value)
