"""Every backbone by name: sizes, gradients, saving, training and inference; wrong names."""

import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model.backbones import mobilenet_v3
from deeplab2.model.backbones import registry
from tests import weights
from tests.goldens import fill
from tests.model import builders
from tests.model.backbones import pyramids

_QUICK = (
  'mobilenet_v3_small',
  'mobilenet_v3_large',
  'resnet50',
  'axial_resnet50',
  'convnext_tiny',
  'tiny_moat0_pretrain_256_1k',
)
# Taken out again by the batch norm or the softmax that follows (MOAT).
_WITHOUT_EFFECT = re.compile(
  r'_stem/layer_with_weights-0/bias|_pre_norm/beta|_attention/_k_proj/bias'
)
_one_of_each_family = pytest.mark.parametrize('name', _QUICK)


@pytest.fixture(scope='module', name='filled')
def _filled():
  """Returns a function: filled(name) -> (backbone, its variables by released key), filled."""
  found = {}

  def build(name):
    if name not in found:
      with weights.constant():
        backbone = registry.create(name, norm=builders.NORM)
        backbone(tf.zeros([1, 33, 33, 3]))
      found[name] = backbone, builders.fill_by_key(backbone, 'backbone')
    return found[name]

  return build


@_one_of_each_family
@pytest.mark.parametrize('size', [(33, 65), (50, 70)])
def test_sizes_of_any_number_of_images(filled, name, size):
  backbone, _ = filled(name)
  signature = [tf.TensorSpec([None, *size, 3])]
  network = tf.function(backbone, input_signature=signature, autograph=False)
  pyramids.check_sizes(name, network(tf.zeros([2, *size, 3])), 2, size)


@pytest.mark.parametrize('name', [*_QUICK, 'tiny_moat0_pretrain_256_no_pe_1k'])
def test_every_variable_trains_and_is_restored(filled, name, tmp_path):
  backbone, variables = filled(name)
  images = tf.constant(fill.image(33, 47) / 127.5 - 1.0, tf.float32)
  pyramids.check_sizes(name, backbone(images), 1, (33, 47))
  with tf.GradientTape() as tape:
    stages = backbone(images, training=True)[:5]
    loss = tf.add_n(
      [
        tf.reduce_sum(stage * fill.value(f'loss/{level}', stage.shape))
        for level, stage in enumerate(stages)
      ]
    )
  trainable = {variable.ref() for variable in backbone.trainable_variables}
  variables = {key: variable for key, variable in variables.items() if variable.ref() in trainable}
  assert len(variables) == len(trainable)
  groups = backbone.groups_by_depth()
  grouped = [v.ref() for layers in groups for layer in layers for v in layer.trainable_variables]
  assert len(grouped) == len(trainable) and set(grouped) == trainable
  gradients = tape.gradient(loss, variables)
  for key, gradient in gradients.items():
    assert gradient is not None, key
    gradient = np.asarray(tf.convert_to_tensor(gradient))
    assert np.all(np.isfinite(gradient)), key
    assert np.any(gradient) or _WITHOUT_EFFECT.search(key), key

  before = backbone(images)
  path = tf.train.Checkpoint(backbone=backbone).write(str(tmp_path / 'backbone'))
  for variable in backbone.variables:
    variable.assign(tf.zeros_like(variable))
  tf.train.Checkpoint(backbone=backbone).read(path).assert_consumed()
  for ours, theirs in zip(backbone(images), before, strict=True):
    np.testing.assert_array_equal(ours, theirs)


@_one_of_each_family
def test_inference_compiles(filled, name):
  backbone, _ = filled(name)
  images = tf.constant(fill.image(33, 47) / 127.5 - 1.0, tf.float32)
  plain = backbone(images)
  for ours, theirs in zip(
    tf.function(backbone, jit_compile=True, autograph=False)(images), plain, strict=True
  ):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize(
  'name, sizes',
  [
    # facebookresearch/ConvNeXt, optim_factory.py: a downsampling goes with the blocks after it.
    ('convnext_tiny', [1, 3, 4, 4, 3, 3, 4]),
    ('convnext_large', [1, 3, 4, 4, *[3] * 8, 4]),
    ('resnet50', [1, 3, 3, 1, 3, 3, 3]),
    ('mobilenet_v3_large', [1, 1, 2, 3, 3, 3, 3, 1]),
    ('tiny_moat0_pretrain_256_1k', [1, 2, 3, 3, 3, 1, 2]),
  ],
)
def test_groups_by_depth(name, sizes):
  groups = registry.create(name, norm=builders.NORM).groups_by_depth()
  assert [len(group) for group in groups] == sizes


def test_unknown_name():
  with pytest.raises(ValueError, match="'resnet51' is no backbone.*'mobilenet_v3_large'"):
    registry.create('resnet51', norm=builders.NORM)


@pytest.mark.parametrize(
  'name, setting, default',
  [
    ('mobilenet_v3_small', {'drop_path_keep_prob': 0.9}, '1.0'),
    ('mobilenet_v3_large_minimalistic', {'drop_path_keep_prob': 0.9}, '1.0'),
    ('mobilenet_v3_small_minimalistic', {'squeeze_excite_gate': 'HARD_SIGMOID'}, 'SIGMOID'),
    ('tiny_moat0_pretrain_256_1k', {'squeeze_excite_gate': 'HARD_SIGMOID'}, 'SIGMOID'),
    ('resnet50', {'width_multiplier': 0.5}, '1.0'),
    ('axial_resnet50', {'stem_max_pool': True}, 'False'),
  ],
)
def test_settings_that_a_backbone_has_not(name, setting, default):
  (value,) = setting.values()
  with pytest.raises(ValueError, match=f'is {value}; {name} has no .* must be {default}'):
    registry.create(name, norm=builders.NORM, **setting)
  assert registry.WITHOUT_DROP_PATH == registry.WITH_WIDTHS == set(mobilenet_v3.MOBILENETS)
  assert registry.WITH_MAX_POOL == {'resnet50'}
