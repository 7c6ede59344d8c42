"""ConvNeXt: goldens of single layers, parameters of every size, drop path, initial values."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model.backbones import convnext
from tests.model import builders


@pytest.fixture(scope='module')
def tiny():
  backbone = convnext.CONVNEXTS['convnext_tiny']()
  backbone(tf.zeros([1, 33, 33, 3]))
  return backbone


@pytest.fixture(scope='module')
def filled():
  backbone = convnext.CONVNEXTS['convnext_tiny']()
  backbone(tf.zeros([1, 33, 33, 3]))
  builders.fill_by_key(backbone, 'backbone')
  return backbone


@pytest.mark.parametrize(
  'name, shape, part',
  [
    ('convnext_stem', (1, 17, 17, 3), lambda backbone: backbone.downsampling[0]),
    ('convnext_downsample', (1, 9, 9, 96), lambda backbone: backbone.downsampling[1]),
    ('convnext_block', (1, 9, 9, 192), lambda backbone: backbone.levels[1][0]),
  ],
)
def test_layer_golden(golden, filled, name, shape, part):
  output = part(filled)(tf.constant(builders.layer_input(name, *shape)))
  assert builders.layer_deviation(output, golden('model_layers'), f'{name}/infer') < 1e-4


def test_a_padded_pixel_of_downsampling_is_the_offset_of_the_norm():
  layer = convnext.Downsampling(1)
  x = tf.ones([1, 1, 1, 2])
  layer(x)
  layer.norm.beta.assign([3.0, 5.0])
  kernel = np.zeros((2, 2, 2, 1))
  kernel[1, 1] = 1.0  # Sees only what is below and right of the one pixel.
  layer.conv.kernel.assign(kernel)
  assert layer(x).numpy().item() == pytest.approx(3.0 + 5.0)


def test_drop_path_falls_linearly_to_the_last_block():
  backbone = convnext.ConvNeXt((1, 1, 2, 1), (8, 16, 32, 64), drop_path_keep_prob=0.6)
  kept = [block._keep_prob for blocks in backbone.levels for block in blocks]
  np.testing.assert_allclose(kept, [1.0, 0.9, 0.8, 0.7, 0.6])


def test_layers_of_one_shape_start_differently(tiny):
  first, second = (tiny.levels[2][block].expand.kernel.numpy() for block in (0, 1))
  assert np.abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
