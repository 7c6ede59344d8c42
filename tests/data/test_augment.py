"""Tests of deeplab2.data.augment."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.data import augment
from deeplab2.data import geometry


def _draw(scale=1.0, top=0.0, left=0.0, flip=False):
  return augment.Draw(tf.constant(scale), tf.constant(top), tf.constant(left), tf.constant(flip))


def _draws(scale, count, seed=3):
  numbers = tf.data.Dataset.range(count)
  draws = numbers.map(lambda i: augment.draw(tf.stack([tf.constant(seed, tf.int64), i]), scale))
  return next(iter(draws.batch(count)))


@pytest.mark.parametrize(
  'name, scale',
  [
    ('coco', (0.3, 1.7, 0.1)),
    ('cityscapes', (0.5, 2.0, 0.1)),
    ('step_025', (0.5, 2.0, 0.25)),
    ('coco_paste', (np.float32(0.3) / 2, np.float32(1.7) / 2, 0.1)),
    ('cityscapes_paste', (0.25, 1.0, 0.1)),
  ],
)
def test_candidates_are_those_of_deeplab2(golden, name, scale):
  candidates = augment.scale_candidates(augment.RandomScale(*scale))
  expected = golden('data_sizes')[f'scales_{name}']
  np.testing.assert_allclose(candidates, expected, atol=3e-7, rtol=0)
  assert (1.0 in candidates) == (1.0 in expected)


@pytest.mark.parametrize('scale', [(1.0, 1.0, 0.25), (0.7, 0.7, 0.0), (1.0, 1.05, 0.1)])
def test_a_range_may_hold_a_single_scale(scale):
  scales = _draws(augment.RandomScale(*scale), 20).scale
  np.testing.assert_array_equal(scales, np.full([20], scale[0], np.float32))


def test_scales_are_equally_likely():
  scale = augment.RandomScale(0.5, 2.0, 0.25)
  counts = collections.Counter(_draws(scale, 2100).scale.numpy().tolist())
  assert set(counts) == set(augment.scale_candidates(scale).tolist())
  # Seven candidates, 300 each; the standard deviation is 16.
  assert min(counts.values()) > 300 - 5 * 16
  assert max(counts.values()) < 300 + 5 * 16


def test_without_a_step_every_scale_of_the_range_may_come():
  scales = _draws(augment.RandomScale(0.5, 2.0, 0.0), 500).scale.numpy()
  assert 0.5 <= scales.min() < 0.55
  assert 1.95 < scales.max() < 2.0
  assert len(set(scales.tolist())) > 490


def test_half_of_the_images_are_flipped_and_the_draws_are_independent():
  draws = _draws(augment.RandomScale(0.5, 2.0, 0.0), 2000)
  columns = np.stack([draws.scale, draws.top, draws.left, tf.cast(draws.flip, tf.float32)])
  assert abs(columns[3].mean() - 0.5) < 0.06
  assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.1


def test_a_draw_depends_on_seed_and_number_only():
  scale = augment.RandomScale(0.5, 2.0, 0.0)
  first, again, other = _draws(scale, 10), _draws(scale, 10), _draws(scale, 10, seed=4)
  for one, same, different in zip(first, again, other, strict=True):
    np.testing.assert_array_equal(one, same)
    assert np.any(one.numpy() != different.numpy())
  assert len(set(first.top.numpy().tolist())) == 10


def test_a_margin_of_three_gives_the_three_first_offsets_of_padding():
  offsets = collections.Counter()
  for top in np.linspace(0, 1, 60, endpoint=False):
    image, _ = augment.augment(
      tf.zeros([5, 5, 3], tf.uint8),
      tf.ones([5, 5], tf.int32),
      _draw(top=float(top)),
      crop_size=(8, 8),
      resize=geometry.Resize(),
      void_id=0,
    )
    offsets[int(np.argmax(image.numpy()[:, 0, 0] == 0))] += 1
  assert offsets == {0: 20, 1: 20, 2: 20}


def test_a_margin_of_three_gives_four_offsets_of_cropping():
  offsets = collections.Counter()
  rows = tf.tile(tf.range(8)[:, tf.newaxis], [1, 8])
  for top in np.linspace(0, 1, 80, endpoint=False):
    _, label = augment.augment(
      tf.zeros([8, 8, 3], tf.uint8),
      rows,
      _draw(top=float(top)),
      crop_size=(5, 5),
      resize=geometry.Resize(),
      void_id=0,
    )
    offsets[int(label[0, 0])] += 1
  assert offsets == {0: 20, 1: 20, 2: 20, 3: 20}


def test_scale_crop_and_flip_follow_each_other(golden):
  arrays = golden('data_resize')
  image, label = tf.constant(arrays['image']), tf.constant(arrays['label'][..., 0])
  result = augment.augment(
    image,
    label,
    _draw(scale=2.0, top=0.5, left=0.5, flip=True),
    crop_size=(10, 12),
    resize=geometry.Resize(),
    void_id=0,
  )
  # 14x20 leaves offsets 0..4 and 0..8.
  np.testing.assert_array_equal(result[0], arrays['bilinear_14x20'][2:12, 4:16][:, ::-1])
  np.testing.assert_array_equal(result[1], arrays['nearest_14x20'][2:12, 4:16, 0][:, ::-1])


def test_a_image_shorter_and_wider_than_the_crop_is_padded_and_cropped(golden):
  arrays = golden('data_resize')
  image, label = augment.augment(
    tf.constant(arrays['image']),
    tf.constant(arrays['label'][..., 0]),
    _draw(top=0.9, left=0.9),
    crop_size=(12, 8),
    resize=geometry.Resize(),
    void_id=77,
  )
  expected_image = np.full([12, 8, 3], 127.5)
  expected_image[4:11] = arrays['image'][:, 2:10]
  expected_label = np.full([12, 8], 77)
  expected_label[4:11] = arrays['label'][:, 2:10, 0]
  np.testing.assert_array_equal(image, expected_image)
  np.testing.assert_array_equal(label, expected_label)


def test_resizing_comes_before_scaling(golden):
  arrays = golden('data_resize')
  image, label = augment.augment(
    tf.constant(arrays['image']),
    tf.constant(arrays['label'][..., 0]),
    _draw(scale=0.5),
    crop_size=(7, 10),
    resize=geometry.Resize(min_size=(14, 20)),
    void_id=0,
  )
  large = tf.constant(arrays['bilinear_14x20'])
  np.testing.assert_array_equal(image, geometry.resize_image(large, (7, 10)))
  index = [0, 2, 4, 7, 9, 11, 13]  # 13/6 apart, halves up.
  np.testing.assert_array_equal(label[:, 0], arrays['nearest_14x20'][index, 0, 0])
