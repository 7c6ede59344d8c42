"""ResNet-50: sizes, drop path by stage, goldens of the whole encoder (slow)."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model.backbones import resnet
from tests.goldens import fill
from tests.model import builders


@pytest.mark.slow
def test_golden(golden):
  golden = golden('model_coco_r50')
  backbone = resnet.resnet50(norm=builders.NORM)
  height, width, seed = golden['image']
  image = tf.constant(fill.image(height, width, seed) / 127.5 - 1.0, tf.float32)
  backbone(image[:, :33, :33])
  builders.fill_by_key(backbone, 'backbone')
  assert backbone.count_params() == 23_561_152
  assert sum(int(tf.size(v)) for v in backbone.trainable_variables) == 23_508_032
  pyramid = backbone(image)
  for stage in range(1, 6):
    tensor = getattr(pyramid, f'stage{stage}')
    assert builders.deviation(tensor, golden, f'enc/stage{stage}') < 1e-3
    np.testing.assert_array_equal(getattr(pyramid, f'res{stage}'), tf.nn.relu(tensor))


def _keep_probs(last):
  kept = []

  def block(filters, stride, input_stride, keep):
    kept.append((filters, stride, input_stride, round(keep, 6)))
    return tf.identity

  resnet.ResNet(
    stem=None,
    blocks_per_stage=(3, 4, 6, 3),
    block=block,
    activation=tf.nn.relu,
    drop_path_keep_prob=last,
  )
  return kept


def test_blocks_and_their_drop_path():
  kept = _keep_probs(0.8)
  assert [k[3] for k in kept] == [1.0] * 8 + [0.85] * 6 + [0.8] * 2
  assert [k[1] for k in kept] == [2, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1]
  assert [k[2] for k in kept] == [2, 4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32]
  assert {k[3] for k in _keep_probs(1.0)} == {1.0}
