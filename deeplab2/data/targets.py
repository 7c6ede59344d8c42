"""Label map of a crop -> training targets.

One pass finds the ids that occur; everything that is known of an id is computed once an id, in
tables of as many rows, and then looked up for all pixels.
"""

from typing import NamedTuple

import tensorflow as tf

from deeplab2 import structures


class TargetOptions(NamedTuple):
  """Settings of the training targets."""

  max_thing_id: int = 128  # T, the most instances that a crop may hold.
  small_instance_threshold: int = 4096  # Instances of fewer pixels in the crop are small...
  small_instance_weight: float = 1.0  # ...and weigh this much in the semantic loss.


def make_targets(
  label: tf.Tensor, name: tf.Tensor, space: structures.LabelSpace, options: TargetOptions
) -> structures.Targets:
  """Turns panoptic ids into Targets without batch axis.

  Instances are numbered from 0 in the order in which they appear, row by row. Crowd (a thing class
  with instance 0) keeps its class in `semantic`, and is no instance.

  Args:
    label: [H, W] int32 panoptic ids, of static shape.
    name: [] string, for error messages.
    space: how ids are numbered.
    options: what targets hold.

  Raises:
    tf.errors.InvalidArgumentError: (when run) naming the image: an unknown class, an instance of
      a stuff class, or more instances than `max_thing_id`.
  """
  ids, index, areas = tf.unique_with_counts(tf.reshape(label, [-1]))
  class_ids = ids // space.label_divisor
  is_instance = (class_ids != space.ignore_label) & (ids % space.label_divisor > 0)
  with tf.control_dependencies(_checks(ids, class_ids, is_instance, name, space, options)):
    index = tf.reshape(index, label.shape)
    instance_classes = tf.boolean_mask(class_ids, is_instance)

  unused = options.max_thing_id - tf.shape(instance_classes)[0]
  thing_id_class = tf.pad(instance_classes, [[0, unused]], constant_values=-1)
  thing_id_class.set_shape([options.max_thing_id])
  thing_ids = tf.where(is_instance, tf.cumsum(tf.cast(is_instance, tf.int32)) - 1, -1)
  return structures.Targets(
    semantic=tf.gather(class_ids, index),
    thing_id_mask=tf.gather(thing_ids, index),
    thing_id_class=thing_id_class,
    semantic_weight=_semantic_weight(index, is_instance, areas, options),
  )


def _semantic_weight(index, is_instance, areas, options):
  """Returns the weight [H, W] of each pixel in the semantic loss."""
  if options.small_instance_weight == 1.0:
    return tf.ones(index.shape)
  is_small = is_instance & (areas < options.small_instance_threshold)
  return tf.gather(tf.where(is_small, options.small_instance_weight, 1.0), index)


def _checks(ids, class_ids, is_instance, name, space, options):
  """Returns assertions that every id belongs to `space` and that instances are not too many."""
  is_known = (class_ids == space.ignore_label) | (
    (class_ids >= 0) & (class_ids < space.num_classes)
  )
  is_thing = tf.reduce_any(
    class_ids[:, tf.newaxis] == tf.constant(space.thing_ids, tf.int32), axis=1
  )
  is_numbered_stuff = is_instance & is_known & ~is_thing
  count = tf.reduce_sum(tf.cast(is_instance, tf.int32))
  unknown = tf.boolean_mask(ids, ~is_known)
  numbered_stuff = tf.boolean_mask(ids, is_numbered_stuff)
  divisor = space.label_divisor
  return [
    check(
      tf.size(unknown) == 0,
      'its label map holds the ids {} of classes {}; classes must be '
      f'below {space.num_classes} or the ignore label {space.ignore_label}, ids '
      f'class * {divisor} + instance.',
      name,
      unknown,
      unknown // divisor,
    ),
    check(
      tf.size(numbered_stuff) == 0,
      'its label map holds the ids {}, instances of the stuff '
      'classes {}; only things have instances.',
      name,
      numbered_stuff,
      numbered_stuff // divisor,
    ),
    check(
      count <= options.max_thing_id,
      f'it shows {{}} instances, more than max_thing_id = {options.max_thing_id}.',
      name,
      count,
    ),
  ]


def check(condition, problem, name, *values):
  """Returns an assertion whose message reads `Image NAME: PROBLEM`, as pipeline.explain expects.

  Args:
    condition: [] bool.
    problem: a sentence, with {} for each of `values`.
    name: [] string, of the image.
    *values: tensors.
  """
  message = tf.strings.join(['Image ', name, ': ', tf.strings.format(problem, values)])
  return tf.debugging.Assert(condition, [message])
