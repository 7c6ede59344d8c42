"""Batch norm is taken out of weights so that training starts from the features of inference."""

import pickle

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.checkpoint import folded_weights
from deeplab2.checkpoint import released_keys
from deeplab2.model.backbones import registry
from tests.checkpoint import files
from tests.checkpoint import folded_files
from tests.checkpoint import keras_files
from tests.model import builders


def _backbone(**settings):
  settings = {'width_multiplier': 0.5, 'squeeze_excite_gate': 'HARD_SIGMOID', **settings}
  backbone = registry.create('mobilenet_v3_small', norm=builders.NORM, **settings)
  backbone(tf.zeros([1, 33, 33, 3]))
  return backbone


def _image(seed, *shape):
  return tf.random.stateless_uniform([1, *shape, 3], [seed, 4], -1.0, 1.0)


@pytest.fixture(scope='module')
def backbone():
  return _backbone()


def test_training_on_the_images_computes_what_inference_does(backbone, tmp_path):
  folded = folded_files.write(tmp_path / 'x.npz', backbone)
  image = _image(0, 65, 97)
  folded_weights.initialize(backbone, str(tmp_path / 'x.npz'), [image])
  inference = backbone.block_outputs(image)
  # By hand, the first layer: convolution and bias.
  kernel, bias = (folded[f'blocks/0/{name}'] for name in ('kernel', 'norm/beta'))
  linear = tf.nn.conv2d(image, kernel, 2, 'SAME')
  first = linear + bias
  first *= tf.nn.relu6(first + 3.0) / 6.0
  assert keras_files.deviation(inference[0][0], first) < 1e-5
  mean, variance = tf.nn.moments(linear, [0, 1, 2])
  np.testing.assert_allclose(backbone.blocks[0].norm.moving_mean, mean, atol=1e-6)
  np.testing.assert_allclose(backbone.blocks[0].norm.moving_variance, variance, rtol=1e-4)
  # All layers: statistics of the batch are those that are stored.
  training = backbone.block_outputs(image, training=True)
  for (ours, _), (theirs, _) in zip(training, inference, strict=True):
    assert keras_files.deviation(ours, theirs) < 1e-3
  assert all(module.observer is None for module in backbone.submodules if 'norm' == module.name)


def test_statistics_are_of_all_pixels_of_all_images(backbone, tmp_path):
  folded = folded_files.write(tmp_path / 'x.npz', backbone)
  images = [_image(1, 33, 33), _image(2, 65, 33)]
  folded_weights.initialize(backbone, str(tmp_path / 'x.npz'), images)
  rows = [
    tf.reshape(tf.nn.conv2d(image, folded['blocks/0/kernel'], 2, 'SAME'), [-1, 16])
    for image in images
  ]
  mean, variance = tf.nn.moments(tf.concat(rows, axis=0), [0])
  np.testing.assert_allclose(backbone.blocks[0].norm.moving_mean, mean, atol=1e-6)
  np.testing.assert_allclose(backbone.blocks[0].norm.moving_variance, variance, rtol=1e-4)


def _refused(path, backbone, *words, images=None):
  before = {key: value.numpy() for key, value in released_keys.walk(backbone, '')}
  given = [_image(0, 33, 33)] if images is None else images
  files.refused(lambda: folded_weights.initialize(backbone, str(path), given), str(path), *words)
  if images is None:
    for key, value in released_keys.walk(backbone, ''):
      np.testing.assert_array_equal(value, before[key])


def test_wrong_files(backbone, tmp_path):
  path = tmp_path / 'x.npz'
  _refused(path, backbone, 'no such file')
  missing = 'MobilenetV3/expanded_conv_2/project/biases'
  folded_files.write(path, backbone, without=[missing])
  _refused(path, backbone, 'it lacks blocks/3/project/norm/beta')
  folded_files.write(path, backbone, other=np.zeros(2))
  _refused(path, backbone, 'it has other in addition')
  folded_files.write(path, backbone)
  _refused(path, backbone, 'no image', images=[])
  _refused(path, _backbone(squeeze_excite_gate='SIGMOID'), 'squeeze_excite_gate=HARD_SIGMOID')
  _refused(path, _backbone(width_multiplier=0.75), 'where the configuration has', 'of width 0.75')
  path.write_bytes(path.read_bytes()[:-500])
  _refused(path, backbone, 'not a readable .npz file')
  path.write_bytes(pickle.dumps({'a': 1}))
  _refused(path, backbone, 'not a readable .npz file')
  with path.open('wb') as file:
    np.save(file, np.zeros(3))
  _refused(path, backbone, 'not a readable .npz file')
  np.savez(path, a=np.array([{}], dtype=object))
  _refused(path, backbone, 'not a readable .npz file', 'allow_pickle')
