"""Every backbone by name: sizes, gradients, saving, training and inference; wrong names."""
import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import resampling
from deeplab2.model.backbones import registry
from tests.goldens import fill
from tests.model import builders

_QUICK = ('mobilenet_v3_small', 'mobilenet_v3_large', 'resnet50', 'axial_resnet50',
          'convnext_tiny', 'tiny_moat0_pretrain_256_1k')
# Taken out again by the batch norm or the softmax that follows (MOAT).
_WITHOUT_EFFECT = re.compile(
    r'_stem/layer_with_weights-0/bias|_pre_norm/beta|_attention/_k_proj/bias')
_each_backbone = pytest.mark.parametrize('name', [
    name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(registry.BACKBONES)])


def _stride(name, level):
  return 4 if level == 1 and name.startswith('convnext') else 2**level


@_each_backbone
@pytest.mark.parametrize('size', [(33, 65), (50, 70)])
def test_sizes(name, size):
  backbone = registry.create(name, norm=builders.NORM)
  network = tf.function(backbone, input_signature=[tf.TensorSpec([None, *size, 3])])
  pyramid = network(tf.zeros([2, *size, 3]))
  for level in range(1, 6):
    expected = (2, *resampling.feature_size(size, _stride(name, level)))
    stage, activated = (getattr(pyramid, f'{kind}{level}') for kind in ('stage', 'res'))
    assert tuple(stage.shape[:3]) == tuple(activated.shape[:3]) == expected


@_each_backbone
def test_every_variable_trains_and_is_restored(name, tmp_path):
  backbone = registry.create(name, norm=builders.NORM)
  images = tf.constant(fill.image(33, 47) / 127.5 - 1.0, tf.float32)
  backbone(images)
  variables = builders.fill_by_key(backbone, 'backbone')
  with tf.GradientTape() as tape:
    stages = backbone(images, training=True)[:5]
    loss = tf.add_n([tf.reduce_sum(stage * fill.value(f'loss/{level}', stage.shape))
                     for level, stage in enumerate(stages)])
  trainable = {variable.ref() for variable in backbone.trainable_variables}
  variables = {key: variable for key, variable in variables.items() if variable.ref() in trainable}
  assert len(variables) == len(trainable)
  for key, gradient in tape.gradient(loss, variables).items():
    assert gradient is not None, key
    gradient = np.asarray(tf.convert_to_tensor(gradient))
    assert np.all(np.isfinite(gradient)), key
    assert np.any(gradient) or _WITHOUT_EFFECT.search(key), key

  path = tf.train.Checkpoint(backbone=backbone).write(str(tmp_path / 'backbone'))
  other = registry.create(name, norm=builders.NORM)
  other(images[:, :, ::-1])
  status = tf.train.Checkpoint(backbone=other).read(path)
  status.assert_consumed()
  for ours, theirs in zip(backbone(images), other(images), strict=True):
    np.testing.assert_array_equal(ours, theirs)


@_each_backbone
def test_inference_compiles(name):
  backbone = registry.create(name, norm=builders.NORM)
  images = tf.constant(fill.image(33, 47) / 127.5 - 1.0, tf.float32)
  plain = backbone(images)
  for ours, theirs in zip(tf.function(backbone, jit_compile=True)(images), plain, strict=True):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * scale)


def test_unknown_name():
  with pytest.raises(ValueError, match="'resnet51' is no backbone.*'mobilenet_v3_large'"):
    registry.create('resnet51', norm=builders.NORM)


def test_drop_path_where_there_is_none():
  with pytest.raises(errors.UserError, match='0.9'):
    registry.create('mobilenet_v3_small', norm=builders.NORM, drop_path_keep_prob=0.9)
