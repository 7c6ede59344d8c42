"""Panoptic copy-paste: segments of another image pasted over an image (DeepLab2's kMaX recipe).

Both images have been brought to the crop before. The other's padding must have the id
`padding_id(space)`, which tells it from its void.
"""

from typing import NamedTuple

import tensorflow as tf

from deeplab2 import structures
from deeplab2.data import targets


class CopyPaste(NamedTuple):
  """Settings of panoptic copy-paste."""

  scale: float  # The other image's random scale is as much smaller.
  things: str = 'random'  # What is pasted of a category of segments: none, all or random.
  stuff: str = 'random'
  void: str = 'none'


def padding_id(space: structures.LabelSpace) -> int:
  """Returns the panoptic id that padding of the other image must have."""
  return space.void_id + 1


def paste(
  image: tf.Tensor,
  label: tf.Tensor,
  other_image: tf.Tensor,
  other_label: tf.Tensor,
  *,
  name: tf.Tensor,
  space: structures.LabelSpace,
  settings: CopyPaste,
  seed: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
  """Pastes segments of the other image.

  Of all N ids of the other, padding and void included, a number n that is uniform in 0..N is drawn,
  and then n of them; `random` categories keep those. Instances get new numbers, counted down from
  label_divisor - 1, so that they stay apart from the image's own if neither has label_divisor / 2
  or more of a class.

  Args:
    image: [H, W, 3] float32.
    label: [H, W] int32 panoptic ids.
    other_image: as `image`.
    other_label: as `label`, its padding with `padding_id`.
    name: [] string, of the image, for error messages.
    space: how ids are numbered.
    settings: what is pasted.
    seed: [2] int64 of this image.

  Returns:
    The new image and label, of the same shapes and types.

  Raises:
    tf.errors.InvalidArgumentError: (when run) naming the image, if it or the other has too many
      instances of a class for their numbers to stay apart.
  """
  ids, index = tf.unique(tf.reshape(other_label, [-1]))
  is_kept = kept(ids, drawn(tf.size(ids), seed), space, settings)
  classes, instances = ids // space.label_divisor, ids % space.label_divisor
  renumbered = tf.where(
    instances == 0, ids, classes * space.label_divisor + space.label_divisor - 1 - instances
  )
  limit = space.label_divisor // 2
  most = tf.maximum(tf.reduce_max(instances), tf.reduce_max(label % space.label_divisor))
  enough = targets.check(
    most < limit,
    'it, or the image that is pasted over it, has an instance of number {}; with '
    f'copy-paste, numbers must be below {limit}, half of the label divisor.',
    name,
    most,
  )
  with tf.control_dependencies([enough]):
    index = tf.reshape(index, tf.shape(other_label))
  is_pasted = tf.gather(is_kept, index)
  return (
    tf.where(is_pasted[..., tf.newaxis], other_image, image),
    tf.where(is_pasted, tf.gather(renumbered, index), label),
  )


def drawn(count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Draws a number n from 0 to `count`, and n of `count` things: [count] bool."""
  uniform = tf.random.stateless_uniform([count + 1], seed)
  number = tf.cast(uniform[0] * tf.cast(count + 1, tf.float32), tf.int32)
  return tf.argsort(uniform[1:]) < number  # A random order's first n.


def kept(
  ids: tf.Tensor, is_drawn: tf.Tensor, space: structures.LabelSpace, settings: CopyPaste
) -> tf.Tensor:
  """Returns which of `ids` [N] are pasted, [N] bool, if `is_drawn` [N] have been drawn."""
  classes = ids // space.label_divisor
  choices = {'none': tf.zeros_like(is_drawn), 'all': tf.ones_like(is_drawn), 'random': is_drawn}
  is_kept = tf.zeros_like(is_drawn)
  for class_ids, option in ((space.thing_ids, settings.things), (space.stuff_ids, settings.stuff)):
    if class_ids:
      is_of_category = tf.reduce_any(
        classes[:, tf.newaxis] == tf.constant(class_ids, tf.int32), axis=1
      )
      is_kept = tf.where(is_of_category, choices[option], is_kept)
  return tf.where(ids == space.void_id, choices[settings.void], is_kept)
