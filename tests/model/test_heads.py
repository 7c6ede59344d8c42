"""Heads: goldens of the predictor and the semantic branch, the void prior by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import structures
from deeplab2.model import heads
from deeplab2.model.layers import conv
from tests.model import builders


def _predictor_inputs():
  return (
    builders.layer_input('predictor_panoptic', 2, 33, 33, 256),
    builders.layer_input('predictor_class', 2, 128, 256),
    builders.layer_input('predictor_mask', 2, 128, 256),
  )


@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_predictor_golden(golden, mode):
  layers = golden('model_layers')
  predictor = heads.MaskPredictor(134, norm=builders.NORM)
  inputs = _predictor_inputs()
  predictor(*inputs)
  builders.fill_by_key(predictor, 'predictor')
  prediction = predictor(*inputs, training=mode == 'train')
  for tensor, name in (
    (prediction.mask_logits, 'pixel_space_mask_logits'),
    (prediction.class_logits, 'transformer_class_logits'),
    (prediction.pixel_feature, 'pixel_space_normalized_feature'),
  ):
    assert builders.layer_deviation(tensor, layers, f'predictor/{name}/{mode}') < 1e-4, name
  np.testing.assert_allclose(tf.norm(prediction.pixel_feature, axis=-1), 1.0, atol=1e-5)


@pytest.mark.usefixtures('each_form')
@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_semantic_branch_golden(golden, mode):
  layers, training = golden('model_layers'), mode == 'train'
  pyramid = structures.Pyramid(*[None] * 10)._replace(
    stage5=tf.constant(builders.layer_input('predictor_semantic', 2, 5, 5, 2048)),
    res3=tf.constant(builders.layer_input('predictor_res3', 2, 17, 17, 512)),
    res2=tf.constant(builders.layer_input('predictor_res2', 2, 33, 33, 256)),
  )
  branch = builders.semantic_branch(dropout=0.0)
  branch(pyramid)
  builders.fill_by_key(branch, 'semantic_branch')
  for tensor, name in (
    (branch.decoder.pyramid_pooling(pyramid.stage5, training=training), 'semantic_branch/aspp'),
    (branch.decoder(pyramid, training=training), 'semantic_branch/decoder'),
    (branch(pyramid, training=training), 'predictor/semantic_logits'),
  ):
    assert builders.layer_deviation(tensor, layers, f'{name}/{mode}') < 1e-4, name


@pytest.mark.parametrize('num_classes, prior', [(134, 7.0876), (20, 5.1417)])
def test_void_has_a_head_start(num_classes, prior):
  predictor = heads.MaskPredictor(num_classes, norm=builders.NORM)
  logits = predictor.classes(tf.zeros([1, 3, 4])).numpy()
  np.testing.assert_allclose(logits[..., -1], prior, atol=1e-4)
  assert not logits[..., :-1].any()
  # Nine times as much probability as all other classes together.
  assert math.exp(logits[0, 0, -1]) == pytest.approx(9 * (num_classes - 1), rel=1e-5)


def test_class_logits_do_not_need_masks_and_the_other_way_round():
  predictor = heads.MaskPredictor(4, norm=builders.NORM, channels=8, head_channels=8)
  predictor.masks(tf.zeros([1, 3, 3, 4]), tf.zeros([1, 5, 4]))
  assert not predictor.class_head.built


def test_standard_convolution_in_the_heads():
  predictor = heads.MaskPredictor(
    4, norm=builders.NORM, channels=8, head_channels=6, head_conv=heads.CONVS['standard_conv']
  )
  predictor(tf.zeros([1, 3, 3, 4]), tf.zeros([1, 5, 4]), tf.zeros([1, 5, 4]))
  assert isinstance(predictor.pixel_head.hidden, conv.ConvNorm)
  assert predictor.pixel_head.hidden.kernel.shape == (5, 5, 4, 6)


def test_semantic_branch_without_decoder_stays_at_stride_32():
  pyramid = structures.Pyramid(*[None] * 10)._replace(stage5=tf.zeros([1, 3, 5, 8]))
  assert heads.SemanticBranch(7, norm=builders.NORM)(pyramid).shape == (1, 3, 5, 7)


def test_pyramid_pooling_without_atrous_convolutions():
  pyramid = structures.Pyramid(*[None] * 10)._replace(
    stage5=tf.random.normal([1, 3, 3, 8]), res3=tf.random.normal([1, 9, 9, 4])
  )
  decoder = heads.SemanticDecoder(
    heads.PointwisePyramid(6, norm=builders.NORM),
    [heads.LowLevel('res3', 2)],
    5,
    norm=builders.NORM,
  )
  assert decoder(pyramid).shape == (1, 9, 9, 5)


def test_dropout_of_the_pyramid_in_training_only():
  aspp = heads.ASPP(64, (6, 12, 18), norm=builders.NORM, dropout=0.5)
  x = tf.random.normal([2, 5, 5, 8])
  aspp(x)
  zeros = np.mean(aspp(x, training=True) == 0.0)
  assert 0.4 < zeros < 0.6
  assert not np.any(aspp(x) == 0.0)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: heads.ASPP(8, (6, 12), norm=builders.NORM), 'three atrous rates'),
    (
      lambda: heads.SemanticDecoder(None, [heads.LowLevel('res6', 8)], 8, norm=builders.NORM),
      "'res6' is no feature",
    ),
  ],
)
def test_refusals(make, message):
  with pytest.raises(ValueError, match=message):
    make()
