"""The semantic decoder; its goldens are those of the semantic branch."""

import pytest
import tensorflow as tf

from deeplab2 import structures
from deeplab2.model import semantic_decoder
from deeplab2.model.layers import aspp
from tests.model import builders


def test_pyramid_pooling_without_atrous_convolutions():
  pyramid = structures.Pyramid(*[None] * 10)._replace(
    stage5=tf.random.normal([1, 3, 3, 8]), res3=tf.random.normal([1, 9, 9, 4])
  )
  decoder = semantic_decoder.SemanticDecoder(
    aspp.PointwisePyramid(6, norm=builders.NORM),
    [semantic_decoder.LowLevel('res3', 2)],
    5,
    norm=builders.NORM,
  )
  assert decoder(pyramid).shape == (1, 9, 9, 5)


def test_it_pools_the_feature_that_it_is_told_to():
  pyramid = structures.Pyramid(*[None] * 10)._replace(
    res5=tf.random.normal([1, 3, 3, 8]), stage3=tf.random.normal([1, 9, 9, 4])
  )
  decoder = semantic_decoder.SemanticDecoder(
    aspp.PointwisePyramid(6, norm=builders.NORM),
    [semantic_decoder.LowLevel('stage3', 2)],
    5,
    norm=builders.NORM,
    feature='res5',
  )
  assert decoder(pyramid).shape == (1, 9, 9, 5)


def test_a_feature_that_no_backbone_has():
  with pytest.raises(ValueError, match="'res6' is no feature"):
    semantic_decoder.SemanticDecoder(
      None, [semantic_decoder.LowLevel('res6', 8)], 8, norm=builders.NORM
    )
