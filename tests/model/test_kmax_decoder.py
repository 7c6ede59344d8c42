"""The k-means decoder: goldens of one layer and its insides, the update by brute force."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model import kmax_decoder
from deeplab2.model import mask_predictor
from deeplab2.model.layers import activations
from tests.model import builders


def _layer():
  predictor = mask_predictor.MaskPredictor(134, norm=builders.NORM)
  layer = kmax_decoder.KMaXLayer(256, 2048, predictor=predictor, norm=builders.NORM)
  pixel = tf.constant(builders.layer_input('kmax_block_pixel', 2, 9, 9, 1024))
  centers = tf.constant(builders.layer_input('kmax_block_centers', 2, 128, 256))
  _, masks = layer(pixel, centers)
  predictor.classes(masks.class_feature)
  builders.fill_by_key(layer, 'kmax_decoder/layers/2')
  return layer, pixel, centers


@pytest.mark.usefixtures('each_form')
@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_golden(golden, mode):
  layers, training = golden('model_layers'), mode == 'train'
  layer, pixel, centers = _layer()
  result, masks = layer(pixel, centers, training=training)

  def check(tensor, name):
    assert builders.layer_deviation(tensor, layers, f'kmax_block/{name}/{mode}') < 1e-4, name

  check(result, 'centers')
  check(masks.class_feature, 'memory')
  check(masks.mask_logits, 'pixel_space_mask_logits')
  check(masks.pixel_feature, 'pixel_space_normalized_feature')
  check(layer.predictor.classes(masks.class_feature), 'transformer_class_logits')
  assignment = np.argmax(masks.mask_logits, axis=-1)
  np.testing.assert_array_equal(assignment, layers[f'kmax_block/assignment/{mode}'])

  flat = activations.gelu(tf.reshape(pixel, [2, 81, 1024]))
  pixel_in = layer.pixel_in(flat, training=training)
  check(pixel_in, 'pixel')
  values = layer.pixel_value(pixel_in, training=training)
  check(values, 'pixel_value')
  update = layer.update_norm(
    kmax_decoder.kmeans_update(masks.mask_logits, values), training=training
  )
  check(update, 'kmeans_bn')
  check(layer.update_out(update, training=training), 'kmeans_update')
  qkv = layer.slot_qkv(masks.class_feature, training=training)
  check(qkv, 'memory_qkv')
  attended = layer.attention(qkv, training=training)
  check(attended, 'self_attention')
  check(layer.attention_out(attended, training=training), 'self_attention_out')


def test_kmeans_update_sums_by_largest_logit_and_ties_go_to_the_lowest_slot():
  generator = np.random.RandomState(0)
  logits = generator.randint(0, 3, (2, 3, 4, 5)).astype(np.float32)
  logits[:, :, :, 4] = -1.0
  values = generator.normal(size=(2, 12, 6)).astype(np.float32)
  expected = np.zeros((2, 5, 6))
  for image in range(2):
    for pixel in range(12):
      row = logits[image].reshape(12, 5)[pixel]
      expected[image, np.flatnonzero(row == row.max())[0]] += values[image, pixel]
  with tf.GradientTape() as tape:
    logits, values = tf.Variable(logits), tf.Variable(values)
    update = kmax_decoder.kmeans_update(logits, values)
  np.testing.assert_allclose(update, expected, atol=1e-5)
  assert not update[:, 4].numpy().any()
  of_logits, of_values = tape.gradient(update, [logits, values])
  assert of_logits is None  # The assignment is not differentiated,
  np.testing.assert_array_equal(of_values, tf.ones_like(values))  # the sum is.


def _decoder(**settings):
  predictor = functools.partial(
    mask_predictor.MaskPredictor, 5, norm=builders.NORM, channels=8, head_channels=8
  )
  return kmax_decoder.KMaXDecoder(
    6, predictor=predictor, norm=builders.NORM, channels=16, feed_forward_channels=16, **settings
  )


def test_layers_read_their_strides():
  decoder = _decoder(layers_per_stride=(1, 2, 0))
  features = [
    tf.random.normal([2, size, size, channels])
    for size, channels in ((2, 4), (3, 5), (5, 6), (9, 7))
  ]
  class_feature, mask_feature, masks = decoder(features)
  assert class_feature.shape == mask_feature.shape == (2, 6, 16)
  assert [m.mask_logits.shape[1] for m in masks] == [2, 3, 3]
  predictions = decoder.predictions(masks)
  assert [p.class_logits.shape for p in predictions] == [(2, 6, 5)] * 3


def test_fresh_layers_pass_the_centers_through_two_gelus():
  decoder = _decoder()
  features = [tf.random.normal([1, size, size, 4]) for size in (2, 3, 5)]
  decoder(features)
  layer = decoder.layers[0]
  centers, _ = layer(features[0], decoder.cluster_centers)
  expected = activations.gelu(activations.gelu(tf.constant(decoder.cluster_centers)))
  np.testing.assert_allclose(centers, expected, atol=1e-6)


def test_drop_path_drops_each_residual_of_whole_samples():
  layer = kmax_decoder.KMaXLayer(
    16,
    16,
    predictor=mask_predictor.MaskPredictor(5, norm=builders.NORM, channels=8, head_channels=8),
    norm=builders.NORM,
    drop_path_keep_prob=0.5,
  )
  layer(tf.zeros([1, 3, 3, 4]), tf.zeros([1, 6, 16]))
  for part in (layer.update_out, layer.attention_out, layer.feed_forward_out):
    part.norm.gamma.assign(tf.ones([16]))
  centers = tf.tile(tf.random.normal([1, 6, 16]), [256, 1, 1])
  pixel = tf.tile(tf.random.normal([1, 3, 3, 4]), [256, 1, 1, 1])
  result, _ = layer(pixel, centers, training=True)
  kinds, counts = np.unique(np.round(result.numpy(), 3), axis=0, return_counts=True)
  # Equal samples: two to the three residuals. 32 each, 5 standard deviations are 27.
  assert len(kinds) == 8
  assert counts.min() > 5


def test_channels_must_divide_among_heads():
  with pytest.raises(ValueError, match='24 channels'):
    kmax_decoder.KMaXDecoder(
      6, predictor=mask_predictor.MaskPredictor, norm=builders.NORM, channels=24
    )
