"""Tests of deeplab2.data.targets."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import structures
from deeplab2.data import geometry
from deeplab2.data import targets

_COCO = structures.LabelSpace(134, 0, 256, tuple(range(1, 81)))
_CITYSCAPES = structures.LabelSpace(19, 255, 1000, tuple(range(11, 19)))
# Of ADE20K's hundred things, those that the golden shows.
_ADE20K = structures.LabelSpace(151, 0, 1000, (8, 11, 150))
_SMALL = structures.LabelSpace(6, 0, 10, (1, 3))


def _make(label, space=_SMALL, **options):
  return targets.make_targets(
    tf.cast(label, tf.int32), tf.constant('frame_7'), space, targets.TargetOptions(**options)
  )


def _assert_equal(result, arrays, prefix):
  for field, key in (
    ('semantic', 'semantic_gt'),
    ('thing_id_mask', 'thing_id_mask_gt'),
    ('thing_id_class', 'thing_id_class_gt'),
    ('semantic_weight', 'semantic_loss_weight'),
  ):
    np.testing.assert_array_equal(
      getattr(result, field), arrays[f'{prefix}_{key}'], err_msg=f'{prefix} {field}'
    )


@pytest.mark.parametrize(
  'name, space', [('coco', _COCO), ('cityscapes', _CITYSCAPES), ('ade20k', _ADE20K)]
)
def test_targets_are_those_of_deeplab2(golden, name, space):
  arrays = golden('data_samples')
  label = arrays[f'{name}_label'][..., 0]
  training = _make(
    label, space, max_thing_id=16, small_instance_threshold=100, small_instance_weight=3.0
  )
  _assert_equal(training, arrays, name)

  _, placement = geometry.fit_image(
    tf.constant(arrays['image']), (97, 97), geometry.Resize((97, 97), (97, 97))
  )
  fitted = geometry.fit_label(tf.constant(label), placement, (97, 97), space.void_id)
  np.testing.assert_array_equal(fitted, arrays[f'{name}_eval_panoptic_gt'])
  _assert_equal(_make(fitted, space, max_thing_id=16), arrays, f'{name}_eval')


def test_shapes_and_types_are_known_before_running():
  @tf.function(input_signature=[tf.TensorSpec([5, 7], tf.int32)])
  def make(label):
    result = targets.make_targets(label, tf.constant(''), _SMALL, targets.TargetOptions(4))
    assert [tuple(field.shape) for field in result] == [(5, 7), (5, 7), (4,), (5, 7)]
    assert [field.dtype for field in result] == [tf.int32, tf.int32, tf.int32, tf.float32]
    return result

  make(tf.zeros([5, 7], tf.int32))


def test_by_hand():
  # Void, stuff 2, crowd of 1, instances 35, 11 and 14 in this order; 5 is void with an instance.
  result = _make(
    [[0, 20, 10], [35, 11, 35], [5, 14, 11]],
    max_thing_id=5,
    small_instance_threshold=2,
    small_instance_weight=3.0,
  )
  np.testing.assert_array_equal(result.semantic, [[0, 2, 1], [3, 1, 3], [0, 1, 1]])
  np.testing.assert_array_equal(result.thing_id_mask, [[-1, -1, -1], [0, 1, 0], [-1, 2, 1]])
  np.testing.assert_array_equal(result.thing_id_class, [3, 1, 1, -1, -1])
  np.testing.assert_array_equal(result.semantic_weight, [[1, 1, 1], [1, 1, 1], [1, 3, 1]])


def test_a_map_of_void_has_no_instances():
  result = _make(np.full([3, 3], 255000), _CITYSCAPES, max_thing_id=2)
  np.testing.assert_array_equal(result.semantic, np.full([3, 3], 255))
  np.testing.assert_array_equal(result.thing_id_mask, np.full([3, 3], -1))
  np.testing.assert_array_equal(result.thing_id_class, [-1, -1])


def test_as_many_instances_as_max_thing_id_are_allowed():
  np.testing.assert_array_equal(_make([[11, 12, 13]], max_thing_id=3).thing_id_class, [1, 1, 1])


@pytest.mark.parametrize(
  'label, message',
  [
    (
      [[0, 61, 70]],
      r'Image frame_7: its label map holds the ids \[61 70\] of classes \[6 7\]; '
      'classes must be below 6 or the ignore label 0',
    ),
    ([[-3, 0, 0]], r'the ids \[-3\] of classes \[-1\]'),
    ([[20, 22, 11]], r'Image frame_7: .* the ids \[22\], instances of the stuff classes \[2\]'),
    ([[11, 12, 13, 31]], 'Image frame_7: it shows 4 instances, more than max_thing_id = 3'),
  ],
)
def test_a_wrong_map_is_an_error_that_names_the_image(label, message):
  @tf.function
  def make(label):
    return _make(label, max_thing_id=3)

  with pytest.raises(tf.errors.InvalidArgumentError, match=message):
    make(tf.constant(label))
