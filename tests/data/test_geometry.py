"""Tests of deeplab2.data.geometry, against DeepLab2's sizes, resampling and undoing."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import structures
from deeplab2.data import geometry


def _numbers(key):
  return [int(number) for number in key.split('_')[-1].split('x')]


def _placement(raw_size, resized_size):
  return structures.Placement(tf.constant(raw_size, tf.int32), tf.constant(resized_size, tf.int32))


def test_resized_sizes_are_those_of_deeplab2(golden):
  sizes = golden('data_sizes')
  for given, expected in zip(sizes['resize_in'].tolist(), sizes['resize_out'], strict=True):
    resize = geometry.Resize.from_lists(given[2:4], given[4:6], given[6])
    result = geometry.resized_size(tf.constant(given[:2]), resize)
    np.testing.assert_array_equal(result, expected, err_msg=str(given))


def test_scaled_sizes_are_those_of_deeplab2(golden):
  sizes = golden('data_sizes')
  cases = zip(sizes['scale_in'], sizes['scale_factor'], sizes['scale_out'], strict=True)
  for size, scale, expected in cases:
    result = geometry.scaled_size(tf.constant(size), tf.constant(scale))
    np.testing.assert_array_equal(result, expected)


def test_sizes_never_vanish():
  resize = geometry.Resize(max_size=(65, 65))
  np.testing.assert_array_equal(geometry.resized_size(tf.constant([2, 3000]), resize), [1, 65])
  np.testing.assert_array_equal(
    geometry.scaled_size(tf.constant([1, 10]), tf.constant(0.3)), [1, 3]
  )


@pytest.mark.parametrize(
  'given, expected',
  [([], None), ([0], None), ([641], (641, 641)), ([641, 1281], (641, 1281)), ([0, 641], None)],
)
def test_one_number_stands_for_both_sides_and_zero_for_none(given, expected):
  assert geometry.Resize.from_lists(given).min_size == expected
  assert geometry.Resize.from_lists((), given).max_size == expected


def test_three_sizes_are_refused():
  with pytest.raises(ValueError, match='height and width'):
    geometry.Resize.from_lists([1, 2, 3])


def test_resizing_is_that_of_deeplab2(golden):
  arrays = golden('data_resize')
  sizes = [key for key in arrays.files if key.startswith('bilinear')]
  assert len(sizes) == 8
  for key in sizes:
    size = _numbers(key)
    image = geometry.resize_image(tf.constant(arrays['image']), size)
    label = geometry.resize_label(tf.constant(arrays['label']), size)
    np.testing.assert_allclose(image, arrays[key], atol=1e-5, err_msg=key)
    np.testing.assert_array_equal(label, arrays[key.replace('bilinear', 'nearest')], err_msg=key)


def test_nearest_rounds_halves_up(golden):
  arrays = golden('data_resize')
  keys = [key for key in arrays.files if key.startswith('nearest_index')]
  assert len(keys) == 12
  for key in keys:
    size, new_size = (tf.constant(int(number)) for number in key.split('_')[2:])
    np.testing.assert_array_equal(geometry.nearest_index(size, new_size), arrays[key], err_msg=key)


def test_nearest_agrees_with_tensorflows_kernel():
  rng = np.random.RandomState(1)
  for size, new_size in rng.randint(1, 1500, [100, 2]).tolist():
    expected = tf.raw_ops.ResizeNearestNeighbor(
      images=tf.range(size)[tf.newaxis, :, tf.newaxis, tf.newaxis],
      size=[new_size, 1],
      align_corners=True,
    )[0, :, 0, 0]
    result = geometry.nearest_index(tf.constant(size), tf.constant(new_size))
    np.testing.assert_array_equal(result, expected, err_msg=f'{size} to {new_size}')


def test_resizing_to_its_own_size_changes_nothing(golden):
  image = tf.constant(golden('data_resize')['image'], tf.float32) / 3
  np.testing.assert_array_equal(geometry.resize_image(image, tf.shape(image)[:2]), image)


def test_padding_is_that_of_deeplab2(golden):
  arrays = golden('data_pad_crop')
  cases = [key for key in arrays.files if key.startswith('pad_image')]
  assert len(cases) == 3
  for key in cases:
    top, left, height, width, value = (int(number) for number in key.split('_')[2:])
    image = geometry.pad(
      tf.constant(arrays['image'], tf.float32), (top, left), (height, width), geometry.PAD_VALUE
    )
    label = geometry.pad(tf.constant(arrays['label']), (top, left), (height, width), value)
    np.testing.assert_allclose(image, arrays[key], atol=1e-4)
    np.testing.assert_array_equal(label, arrays[key.replace('image', 'label')])


def test_cropping_and_flipping_are_those_of_deeplab2(golden):
  arrays = golden('data_pad_crop')
  for name in ('image', 'label'):
    np.testing.assert_array_equal(
      geometry.crop(arrays[name], (2, 3), (4, 5)), arrays[f'crop_{name}_2_3_4_5']
    )
    np.testing.assert_array_equal(geometry.flip(arrays[name]), arrays[f'flip_{name}'])


def test_fitting_is_that_of_deeplab2(golden):
  arrays = golden('data_samples')
  image, placement = geometry.fit_image(
    tf.constant(arrays['image']), (97, 97), geometry.Resize((97, 97), (97, 97))
  )
  label = geometry.fit_label(tf.constant(arrays['coco_label'][..., 0]), placement, (97, 97), 0)
  assert image.shape == (97, 97, 3)
  assert image.dtype == tf.float32
  np.testing.assert_allclose(image, arrays['coco_eval_image'], atol=1e-4)
  np.testing.assert_array_equal(label, arrays['coco_eval_panoptic_gt'])
  np.testing.assert_array_equal(placement.raw_size, [65, 81])
  np.testing.assert_array_equal(placement.resized_size, [78, 97])


def test_restoring_is_that_of_deeplab2(golden):
  arrays = golden('eval_outputs')
  cases = arrays['undo/cases']
  assert len(cases) == 5
  for i, (height, width, raw_height, raw_width) in enumerate(cases.tolist()):
    placement = _placement((raw_height, raw_width), (height, width))
    panoptic = geometry.restore(tf.constant(arrays['undo/panoptic'].astype(np.int32)), placement)
    score = geometry.restore(tf.constant(arrays['undo/score']), placement)
    np.testing.assert_array_equal(panoptic, arrays[f'undo/{i}/panoptic'])
    np.testing.assert_array_equal(score[::4, ::4], arrays[f'undo/{i}/score_every4'])


@pytest.mark.parametrize('size', [(33, 65), (65, 33), (20, 30), (65, 65), (1, 7)])
def test_restoring_undoes_the_fitting_of_enlarged_labels(size):
  label = tf.constant(np.random.RandomState(0).randint(0, 1000, size), tf.int32)
  _, placement = geometry.fit_image(
    tf.zeros([*size, 3], tf.uint8), (129, 129), geometry.Resize((129, 129), (129, 129))
  )
  fitted = geometry.fit_label(label, placement, (129, 129), -1)
  np.testing.assert_array_equal(geometry.restore(fitted, placement), label)


@pytest.mark.parametrize(
  'raw_size, resized_size',
  [((7, 9), (4, 5)), ((4, 5), (7, 9)), ((1, 1), (3, 3)), ((5, 1), (1, 6)), ((1001, 333), (33, 11))],
)
def test_indices_restore_as_restoring_does(raw_size, resized_size):
  values = np.arange(40 * 40).reshape(40, 40)
  placement = _placement(raw_size, resized_size)
  rows, columns = geometry.restore_indices(placement)
  assert rows.dtype == columns.dtype == tf.int32
  np.testing.assert_array_equal(
    values[rows.numpy()][:, columns.numpy()], geometry.restore(tf.constant(values), placement)
  )


def test_restoring_keeps_further_axes():
  restored = geometry.restore(tf.zeros([5, 5, 2, 3]), _placement((7, 9), (4, 5)))
  assert restored.shape == (7, 9, 2, 3)


def test_a_image_without_limits_is_shrunk_to_the_crop():
  image, placement = geometry.fit_image(
    tf.zeros([200, 100, 3], tf.uint8), (33, 65), geometry.Resize()
  )
  np.testing.assert_array_equal(placement.resized_size, [33, 16])
  np.testing.assert_array_equal(image[:, :16], np.zeros([33, 16, 3]))
  np.testing.assert_array_equal(image[:, 16:], np.full([33, 49, 3], 127.5))


def test_images_that_may_exceed_the_crop_are_refused():
  with pytest.raises(ValueError, match=r'\(97, 97\) do not fit into a crop of \(65, 97\)'):
    geometry.fit_image(tf.zeros([9, 9, 3]), (65, 97), geometry.Resize(max_size=(97, 97)))


def test_images_of_any_size_pass_through_a_saved_model(tmp_path):
  class Module(tf.Module):
    """Fits an image and restores its red channel."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def __call__(self, image):
      fitted, placement = geometry.fit_image(image, (65, 65), geometry.Resize((65, 65)))
      return geometry.restore(tf.cast(fitted[..., 0], tf.int32), placement)

  tf.saved_model.save(Module(), str(tmp_path))
  loaded = tf.saved_model.load(str(tmp_path))
  for size in ((50, 61), (200, 100), (3, 90), (65, 65)):
    image = np.broadcast_to(np.uint8(200), [*size, 3])
    np.testing.assert_array_equal(loaded(image), np.full(size, 200))
