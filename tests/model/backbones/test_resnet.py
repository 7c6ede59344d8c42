"""ResNet-50: sizes, drop path by stage, goldens of the whole encoder (slow)."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model.backbones import resnet
from deeplab2.model.layers import conv
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


def _keep_probs(last, **settings):
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
    **settings,
  )
  return kept


def test_blocks_and_their_drop_path():
  kept = _keep_probs(0.8)
  assert [k[3] for k in kept] == [1.0] * 8 + [0.85] * 6 + [0.8] * 2
  assert [k[1] for k in kept] == [2, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1]
  assert [k[2] for k in kept] == [2, 4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32]
  assert {k[3] for k in _keep_probs(1.0)} == {1.0}


def test_behind_a_stem_of_stride_4_stage_2_has_stride_1():
  kept, usual = _keep_probs(0.8, stem_stride=4), _keep_probs(0.8)
  assert [k[1] for k in kept] == [1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1]
  assert [k[2] for k in kept] == [4, 4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32]
  assert [k[3] for k in kept] == [k[3] for k in usual]


@pytest.mark.parametrize('size', [(33, 49), (34, 48)])
def test_stem_with_max_pooling(size):
  """Against a largest value of 3x3 positions, one by one."""
  plain = conv.ConvNorm(5, 7, norm=builders.NORM, stride=2)
  stem = resnet.MaxPoolStem(5, norm=builders.NORM)
  images = tf.random.normal([2, *size, 3])
  plain(images)
  stem(images)
  for ours, other in zip(stem.variables, plain.variables, strict=True):
    ours.assign(tf.random.uniform(ours.shape, 0.5, 1.5) - (0.5 if 'beta' in ours.name else 0.0))
    other.assign(ours)
  convolved = np.maximum(plain(images), 0.0)
  height, width = convolved.shape[1:3]
  pooled = np.stack(
    [
      np.stack(
        [
          convolved[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max(axis=(1, 2))
          for x in range(0, width, 2)
        ],
        axis=1,
      )
      for y in range(0, height, 2)
    ],
    axis=1,
  )
  np.testing.assert_allclose(stem(images), pooled, rtol=1e-5, atol=1e-5)


def test_sizes_with_max_pooling():
  backbone = resnet.resnet50(norm=builders.NORM, stem_max_pool=True)
  pyramid = backbone(tf.zeros([1, 50, 70, 3]))
  for level in range(1, 6):
    stride = 2 ** max(level, 2)
    assert pyramid[level - 1].shape[1:3] == (-(-50 // stride), -(-70 // stride))
  assert backbone.count_params() == 23_561_152  # As without.
