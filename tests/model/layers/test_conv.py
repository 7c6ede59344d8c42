"""Convolutions with norm: padding by hand, goldens of the stem and the separable head."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab2.model.layers import activations
from deeplab2.model.layers import conv
from tests.model import builders


@pytest.mark.parametrize('name, size', [('stem_r50', 33), ('stem_r50_even', 32)])
@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_stem_golden(golden, name, size, mode):
  layer = conv.ConvNorm(64, 7, norm=builders.NORM, stride=2)
  x = builders.layer_input(name, 2, size, size, 3)
  layer(x)
  builders.fill_by_key(layer, 'backbone/stem')
  result = layer(x, training=mode == 'train')
  assert builders.layer_deviation(result, golden('model_layers'), f'{name}/{mode}') < 1e-4


@pytest.mark.usefixtures('each_form')
@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_separable_golden(golden, mode):
  layer = conv.SeparableConvNorm(256, 5, norm=builders.NORM, activation=activations.gelu)
  x = builders.layer_input('sepconv_head_hidden', 2, 9, 9, 256)
  layer(x)
  builders.fill_by_key(layer, 'predictor/pixel_head/hidden')
  result = layer(x, training=mode == 'train')
  name = f'sepconv_head_hidden/{mode}'
  assert builders.layer_deviation(result, golden('model_layers'), name) < 1e-4


@pytest.mark.parametrize('kernel_size, stride', [(3, 2), (5, 2), (7, 2), (1, 2), (3, 4), (5, 1)])
@pytest.mark.parametrize('size', [(9, 9), (8, 8), (9, 8)])
@pytest.mark.parametrize('dynamic', [False, True])
def test_strides_sample_the_symmetric_convolution(kernel_size, stride, size, dynamic):
  generator = np.random.RandomState(0)
  x = generator.normal(size=(2, *size, 3)).astype(np.float32)
  plain = conv.ConvNorm(4, kernel_size, norm=builders.NORM)
  strided = conv.ConvNorm(4, kernel_size, norm=builders.NORM, stride=stride)
  depthwise = conv.DepthwiseConvNorm(kernel_size, norm=builders.NORM)
  strided_depthwise = conv.DepthwiseConvNorm(kernel_size, norm=builders.NORM, stride=stride)
  for one, other in ((plain, strided), (depthwise, strided_depthwise)):
    expected = one(x)[:, ::stride, ::stride]
    other.build(x.shape)
    other.set_weights(one.get_weights())
    signature = [tf.TensorSpec([None] * 3 + [3] if dynamic else x.shape)]
    # In a graph: fused kernels differ from eager ones.
    result = tf.function(lambda x, layer=other: layer(x), input_signature=signature)(x)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(
  'layer',
  [
    lambda: conv.ConvNorm(4, 3, norm=builders.NORM, activation=tf.nn.relu),
    lambda: conv.DepthwiseConvNorm(3, norm=builders.NORM, activation=tf.nn.relu),
  ],
)
def test_folded_norm_is_the_norm(layer):
  layer = layer()
  x = np.random.RandomState(0).normal(size=(2, 5, 5, 4)).astype(np.float32)
  layer(x)
  builders.fill_by_key(layer, 'backbone/stem')
  kernel = layer.variables[0]
  if 'depthwise' in kernel.name:
    linear = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], 'SAME')
  else:
    linear = tf.nn.conv2d(x, kernel, 1, 'SAME')
  np.testing.assert_allclose(layer(x), tf.nn.relu(layer.norm(linear)), atol=1e-5)


def test_sequence_norm_is_a_matrix_product():
  x = np.random.RandomState(0).normal(size=(2, 5, 6)).astype(np.float32)
  layer = conv.SequenceNorm(3, norm=builders.NORM)
  result = layer(x)
  fresh_norm = 1 / np.sqrt(1 + 1e-3)
  np.testing.assert_allclose(result, x @ layer.kernel[0].numpy() * fresh_norm, atol=1e-5)


def test_names_of_variables_end_as_decay_expects():
  layer = conv.SeparableConvNorm(4, 3, norm=builders.NORM)
  layer(tf.zeros([1, 5, 5, 2]))
  names = sorted(variable.name.split('/')[-1] for variable in layer.trainable_variables)
  assert names == ['beta:0', 'beta:0', 'depthwise_kernel:0', 'gamma:0', 'gamma:0', 'kernel:0']


def test_compute_dtype_follows_the_policy():
  layer = conv.ConvNorm(
    4, 3, norm=builders.NORM, dtype=tf_keras.mixed_precision.Policy('mixed_bfloat16')
  )
  x = tf.random.normal([2, 5, 5, 3])
  for training in (False, True):
    assert layer(x, training=training).dtype == tf.bfloat16
  assert all(variable.dtype == tf.float32 for variable in layer.variables)


def test_stride_and_dilation_exclude_one_another():
  with pytest.raises(ValueError, match='not both'):
    conv.ConvNorm(4, 3, norm=builders.NORM, stride=2, dilation=2)


def test_padding_of_depthwise_convolutions_as_tensorflow():
  x = np.random.RandomState(0).normal(size=(2, 8, 9, 3)).astype(np.float32)
  layer = conv.DepthwiseConvNorm(3, norm=builders.NORM, stride=2, pad=conv.pad_as_tensorflow)
  result = layer(x)
  expected = tf.nn.depthwise_conv2d(x, layer.depthwise_kernel, [1, 2, 2, 1], 'SAME')
  np.testing.assert_allclose(result, expected / np.sqrt(1 + 1e-3), atol=1e-5)
