"""The mask predictor: goldens, and the void prior by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model import mask_predictor
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
  predictor = mask_predictor.MaskPredictor(134, norm=builders.NORM)
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


@pytest.mark.parametrize('num_classes, prior', [(134, 7.0876), (20, 5.1417)])
def test_void_has_a_head_start(num_classes, prior):
  predictor = mask_predictor.MaskPredictor(num_classes, norm=builders.NORM)
  logits = predictor.classes(tf.zeros([1, 3, 4])).numpy()
  np.testing.assert_allclose(logits[..., -1], prior, atol=1e-4)
  assert not logits[..., :-1].any()
  # Nine times as much probability as all other classes together.
  assert math.exp(logits[0, 0, -1]) == pytest.approx(9 * (num_classes - 1), rel=1e-5)


def test_class_logits_do_not_need_masks_and_the_other_way_round():
  predictor = mask_predictor.MaskPredictor(4, norm=builders.NORM, channels=8, head_channels=8)
  predictor.masks(tf.zeros([1, 3, 3, 4]), tf.zeros([1, 5, 4]))
  assert not predictor.class_head.built


def test_standard_convolution_in_the_heads():
  predictor = mask_predictor.MaskPredictor(
    4, norm=builders.NORM, channels=8, head_channels=6, head_conv=conv.CONVS_5X5['standard_conv']
  )
  predictor(tf.zeros([1, 3, 3, 4]), tf.zeros([1, 5, 4]), tf.zeros([1, 5, 4]))
  assert isinstance(predictor.pixel_head.hidden, conv.ConvNorm)
  assert predictor.pixel_head.hidden.kernel.shape == (5, 5, 4, 6)
