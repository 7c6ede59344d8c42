"""The semantic branch: goldens of it, its decoder and its pyramid pooling."""

import pytest
import tensorflow as tf

from deeplab2 import structures
from deeplab2.model import semantic_branch
from tests.model import builders


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


def test_without_decoder_it_stays_at_stride_32():
  pyramid = structures.Pyramid(*[None] * 10)._replace(stage5=tf.zeros([1, 3, 5, 8]))
  assert semantic_branch.SemanticBranch(7, norm=builders.NORM)(pyramid).shape == (1, 3, 5, 7)


def test_it_reads_the_feature_that_it_is_told_to():
  branch = semantic_branch.SemanticBranch(7, norm=builders.NORM, feature='res5')
  pyramid = structures.Pyramid(*[None] * 10)._replace(res5=tf.zeros([1, 3, 5, 8]))
  assert branch(pyramid).shape == (1, 3, 5, 7)
