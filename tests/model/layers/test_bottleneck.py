"""Residual blocks: goldens, the identity at the start, drop path."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model import pixel_decoder
from deeplab2.model.layers import activations
from deeplab2.model.layers import bottleneck
from tests.model import builders

_GELU = {'norm': builders.NORM, 'activation': activations.gelu}
_BLOCKS = {
  'axial_block': (
    lambda: bottleneck.AxialBottleneck(256, **_GELU),
    (9, 256),
    'pixel_decoder/stages/1/0',
  ),
  'axial_block_identity': (
    lambda: bottleneck.AxialBottleneck(256, **_GELU),
    (9, 1024),
    'pixel_decoder/stages/1/1',
  ),
  'axial_block_strided': (
    lambda: bottleneck.AxialBottleneck(512, stride=2, **_GELU),
    (9, 1024),
    'backbone/stages/3/0',
  ),
  'bottleneck_block_dilated': (
    lambda: pixel_decoder.BLOCKS['BOTTLENECK'](128, **_GELU),
    (17, 128),
    'pixel_decoder/stages/2/0',
  ),
  'bottleneck_block_strided': (
    lambda: bottleneck.Bottleneck(128, stride=2, norm=builders.NORM, activation=tf.nn.relu),
    (33, 256),
    'backbone/stages/1/0',
  ),
}


@pytest.mark.parametrize('name', list(_BLOCKS))
def test_golden(golden, name):
  make, (size, channels), place = _BLOCKS[name]
  block = make()
  x = builders.layer_input(name, 2, size, size, channels)
  block(x[:1, :3, :3])
  builders.fill_by_key(block, place)
  for mode in ('infer', 'train'):
    result = block(x, training=mode == 'train')
    assert builders.layer_deviation(result, golden('model_layers'), f'{name}/{mode}') < 1e-4


@pytest.mark.parametrize('make', [bottleneck.Bottleneck, bottleneck.AxialBottleneck])
def test_a_fresh_block_only_activates(make):
  block = make(8, norm=builders.NORM, activation=tf.nn.relu)
  x = tf.random.normal([2, 5, 5, 32])
  np.testing.assert_array_equal(block(x), tf.nn.relu(x))


def test_drop_path_drops_the_residual_alone():
  block = bottleneck.Bottleneck(
    8, norm=builders.NORM, activation=tf.nn.relu, drop_path_keep_prob=0.5
  )
  x = tf.random.normal([64, 3, 3, 32])
  block(x)
  block.expand.norm.gamma.assign(tf.ones([32]))
  dropped = np.all(block(x, training=True) == tf.nn.relu(x), axis=(1, 2, 3))
  assert 10 < dropped.sum() < 54
