"""The pixel decoder: golden of a skip connection, and what the stages are made of."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import structures
from deeplab2.model import pixel_decoder
from tests.model import builders


@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_skip_connection_golden(golden, mode):
  connection = pixel_decoder.SkipConnection(256, norm=builders.NORM)
  decoded = tf.constant(builders.layer_input('resized_fuse_0', 2, 5, 5, 2048))
  skipped = tf.constant(builders.layer_input('resized_fuse_1', 2, 9, 9, 1024))
  connection(decoded, skipped)
  builders.fill_by_key(connection, 'pixel_decoder/skip_connections/0')
  result = connection(decoded, skipped, training=mode == 'train')
  name = f'resized_fuse/{mode}'
  assert builders.layer_deviation(result, golden('model_layers'), name) < 1e-4


def test_inputs_of_the_right_width_are_only_resized():
  connection = pixel_decoder.SkipConnection(4, norm=builders.NORM)
  decoded, skipped = tf.random.normal([1, 3, 3, 4]), tf.random.normal([1, 5, 5, 4])
  result = connection(decoded, skipped)
  assert not connection.variables
  # Corners on corners: every other pixel of the result is a pixel of the coarse feature.
  np.testing.assert_allclose(result[:, ::2, ::2], decoded + skipped[:, ::2, ::2], atol=1e-6)
  np.testing.assert_allclose(
    result[:, 1, 0], (decoded[:, 0, 0] + decoded[:, 1, 0]) / 2 + skipped[:, 1, 0], atol=1e-6
  )


@pytest.mark.parametrize('num_stages', [4, 5])
def test_stages(num_stages):
  block = pixel_decoder.BLOCKS['BOTTLENECK']
  stages = [
    pixel_decoder.PixelDecoderStage(f, n, block)
    for f, n in ((8, 2), (6, 1), (4, 1), (3, 1), (2, 3))[:num_stages]
  ]
  decoder = pixel_decoder.PixelDecoder(stages, builders.NORM)
  pyramid = structures.Pyramid(
    *(tf.random.normal([1, size, size, 5]) for size in (33, 17, 9, 5, 3) * 2)
  )
  features = decoder(pyramid)
  assert [tuple(f.shape[1:]) for f in features] == [
    (3, 3, 32),
    (5, 5, 24),
    (9, 9, 16),
    (17, 17, 12),
    (33, 33, 8),
  ][:num_stages]
  assert [len(blocks) for blocks in decoder.stages] == [2, 1, 1, 1, 3][:num_stages]


def test_features():
  """Each stage reads what it is told to, whatever the others read."""
  stages = [pixel_decoder.PixelDecoderStage(4, 1, pixel_decoder.BLOCKS['BOTTLENECK'])] * 5
  pyramid = structures.Pyramid(
    *(tf.random.normal([1, size, size, 5]) for size in (17, 17, 9, 5, 3) * 2)
  )
  swapped = pyramid._replace(
    stage5=pyramid.res5,
    stage4=pyramid.res4,
    stage3=pyramid.res3,
    stage2=pyramid.res1,
    stage1=pyramid.res2,
  )
  decoder = pixel_decoder.PixelDecoder(
    stages, builders.NORM, features=('res5', 'res4', 'res3', 'res1', 'res2')
  )
  usual = pixel_decoder.PixelDecoder(stages, builders.NORM)
  decoder(pyramid)
  usual(pyramid)
  for ours, others in zip(decoder.variables, usual.variables, strict=True):
    others.assign(ours)
  for ours, expected in zip(decoder(pyramid), usual(swapped), strict=True):
    np.testing.assert_array_equal(ours, expected)
  with pytest.raises(ValueError, match="5 stages cannot read the features .'res5', 'res4'."):
    pixel_decoder.PixelDecoder(stages, builders.NORM, features=('res5', 'res4'))


def test_dilation():
  """Of the blocks that are asked for; 2 in DeepLab2's."""
  x = np.zeros([1, 9, 9, 1], np.float32)
  x[0, 4, 4] = 1.0
  for blocks, distance in ((pixel_decoder.BLOCKS, 2), (pixel_decoder.blocks(1), 1)):
    block = blocks['BOTTLENECK'](1, norm=builders.NORM, activation=tf.identity)
    block(x)
    changed = np.flatnonzero(np.any(block.conv(x).numpy() != 0, axis=(0, 2, 3)))
    np.testing.assert_array_equal(changed, [4 - distance, 4, 4 + distance])


def test_number_of_stages():
  stage = pixel_decoder.PixelDecoderStage(8, 1, pixel_decoder.BLOCKS['BOTTLENECK'])
  with pytest.raises(ValueError, match='4 or 5 stages, not 3'):
    pixel_decoder.PixelDecoder([stage] * 3, builders.NORM)
