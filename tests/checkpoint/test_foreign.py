"""What differs around weights of other programs is made up for, by hand."""

import numpy as np
import tensorflow as tf

from deeplab2.checkpoint import foreign
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib
from tests.checkpoint import files


class _Backbone(tf.Module):
  """One convolution with batch norm, of images."""

  def __init__(self, epsilon):
    super().__init__(name='backbone')
    self.layer = conv.ConvNorm(4, 3, norm=norm_lib.NormSettings(epsilon=epsilon))
    self.layer(tf.zeros([1, 5, 5, 3]))


def _values():
  generator = np.random.default_rng(0)
  values = {
    f'layer/norm/{name}': generator.normal(size=4) for name in ('gamma', 'beta', 'moving_mean')
  }
  values['layer/norm/moving_variance'] = np.array([1e-6, 1e-4, 0.1, 2.0])  # One hardly varies.
  values['layer/kernel'] = generator.normal(size=(3, 3, 3, 4))
  return {path: value.astype(np.float32) for path, value in values.items()}


def _weights(values, adjust=lambda values, _: values):
  tensors = {path: foreign.Tensor(value.shape, value.copy) for path, value in values.items()}
  names = {path: f'own/{path}' for path in values}
  return foreign.Weights('x.h5', 'a network', tensors, names, (), (), None, adjust)


def _by_hand(values, x, epsilon):
  y = tf.nn.conv2d(x, values['layer/kernel'], 1, 'SAME').numpy()
  gamma, beta, mean, variance = (
    values[f'layer/norm/{name}'] for name in ('gamma', 'beta', 'moving_mean', 'moving_variance')
  )
  return gamma * (y - mean) / np.sqrt(variance.astype(np.float64) + epsilon) + beta


def test_norms_that_added_something_else():
  values, backbone = _values(), _Backbone(1e-3)
  weights = _weights(values, lambda values, part: foreign.with_epsilon(values, part, 1e-5))
  foreign.fill(backbone, weights)
  x = tf.random.stateless_normal([1, 5, 5, 3], [1, 2])
  expected = _by_hand(values, x, 1e-5)
  np.testing.assert_allclose(backbone.layer(x), expected, rtol=1e-5, atol=1e-4)
  same = foreign.with_epsilon(values, backbone, 1e-3)
  assert all(np.array_equal(same[path], value) for path, value in values.items())


def test_a_first_convolution_normalises_the_image():
  """Exactly where its kernel lies within the image."""
  kernel = _values()['layer/kernel']
  mean, deviation = np.array([120.0, 110.0, 100.0]), np.array([60.0, 50.0, 40.0])
  pixels = tf.random.stateless_uniform([1, 7, 7, 3], [1, 2], 0.0, 255.0)
  changed, shift = foreign.of_normalized_images(kernel, mean, deviation)
  expected = tf.nn.conv2d(tf.cast((pixels - mean) / deviation, tf.float32), kernel, 1, 'VALID')
  found = tf.nn.conv2d(pixels / 127.5 - 1.0, changed, 1, 'VALID') + shift
  np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nothing_changes_unless_all_of_it_fits():
  backbone = _Backbone(1e-3)
  before = backbone.layer.kernel.numpy()
  values = _values()
  for change, word in (
    ({'layer/norm/gamma': None}, 'it lacks layer/norm/gamma'),
    ({'layer/other': np.zeros(2)}, 'it has own/layer/other in addition'),
    ({'layer/norm/beta': np.zeros(5)}, 'own/layer/norm/beta is [5] there and [4] here'),
    ({'layer/norm/beta': np.full(4, np.inf)}, 'own/layer/norm/beta has values that are not finite'),
    ({'layer/norm/beta': np.full(4, 'x')}, 'own/layer/norm/beta cannot be read'),
  ):
    wrong = {path: value for path, value in (values | change).items() if value is not None}
    files.refused(lambda wrong=wrong: foreign.fill(backbone, _weights(wrong)), 'x.h5', word)
  np.testing.assert_array_equal(backbone.layer.kernel, before)
