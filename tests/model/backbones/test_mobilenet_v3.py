"""MobileNetV3 against goldens of every block."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.model.backbones import mobilenet_v3
from tests.goldens import fill
from tests.model import builders

_VARIANTS = {
  'small': ((16, 16, 24, 48, 576), (939_120, 927_008)),
  'large': ((16, 24, 40, 112, 960), (2_996_352, 2_971_952)),
}


@pytest.mark.parametrize('name', list(_VARIANTS))
def test_golden(golden, name):
  channels, (parameters, trainable) = _VARIANTS[name]
  golden = golden('model_mobilenet')
  backbone = mobilenet_v3.MOBILENETS[f'mobilenet_v3_{name}'](norm=builders.NORM)
  image = tf.constant(fill.image(65, 65) / 127.5 - 1.0, tf.float32)
  backbone(image)
  variables = builders.fill_by_key(backbone, 'backbone')

  keys = sorted(f'{key} {"x".join(map(str, v.shape))}' for key, v in variables.items())
  assert keys == sorted(golden[f'{name}/keys'])
  assert backbone.count_params() == parameters
  assert sum(int(tf.size(v)) for v in backbone.trainable_variables) == trainable

  for number, (output, _) in enumerate(backbone.block_outputs(image), start=1):
    stored = golden[f'{name}/block_samples/{number:02}']
    error = np.abs(builders.samples(output, stored.size) - stored).max()
    assert error / golden[f'{name}/block_stats/{number:02}'][1] < 1e-4

  pyramid = backbone(image)
  assert [stage.shape[-1] for stage in pyramid[:5]] == list(channels)
  assert [stage.shape[1] for stage in pyramid] == [33, 17, 9, 5, 3] * 2
  for number, activated in enumerate(pyramid[5:], start=1):
    stored = golden[f'{name}/res{number}']
    activated = activated if activated.shape == stored.shape else activated[:, ::4, ::4]
    error = np.abs(activated - stored).max() / golden[f'{name}/res{number}_stats'][1]
    assert error < 1e-4


def test_stages_are_the_last_rows_of_their_strides():
  backbone = mobilenet_v3.MOBILENETS['mobilenet_v3_small'](norm=builders.NORM)
  image = tf.random.normal([1, 65, 65, 3])
  outputs, pyramid = backbone.block_outputs(image), backbone(image)
  for stage, block in zip(pyramid[:5], (1, 2, 4, 9, 13), strict=True):
    np.testing.assert_array_equal(stage, outputs[block - 1][0])


@pytest.mark.parametrize(
  'channels, rounded',
  [
    (8, 8),
    (3, 8),
    (4.0, 8),
    (17.28, 16),
    (72.0, 72),
    (88.0, 88),
    (18.0, 24),
    (200.0, 200),
    (184.0, 184),
  ],
)
def test_round_to_eight(channels, rounded):
  assert mobilenet_v3.round_to_eight(channels) == rounded


@pytest.mark.parametrize(
  'name, width, first, last',
  [
    # By hand after Keras: 16 stays; 96 * width to a multiple of 8, the last one six times that.
    ('small', 0.5, [16, 8, 16, 16, 24, 24, 24, 24, 24, 48], [48, 48, 288]),
    ('small', 0.75, [16, 16, 24, 24, 32, 32, 32, 40, 40, 72], [72, 72, 432]),
    ('small', 1.25, [16, 24, 32, 32, 48, 48, 48, 64, 64, 120], [120, 120, 720]),
    ('large', 0.75, [16, 16, 24, 24, 32, 32, 32, 64], [120, 120, 720]),
  ],
)
def test_widths(name, width, first, last):
  rows = {'small': mobilenet_v3.SMALL, 'large': mobilenet_v3.LARGE}[name]
  widths = [row.filters for row in mobilenet_v3.of_width(rows, width)]
  assert widths[: len(first)] == first
  assert widths[-len(last) :] == last


@pytest.mark.parametrize('rows', [mobilenet_v3.SMALL, mobilenet_v3.LARGE])
def test_width_1_is_the_table_and_minimalistic_has_nothing_special(rows):
  assert mobilenet_v3.of_width(rows, 1.0) == rows
  plain = mobilenet_v3.minimalistic(rows)
  assert [(row.stride, row.filters) for row in plain] == [(row.stride, row.filters) for row in rows]
  assert {row.kernel_size for row in plain} == {1, 3}
  assert {row.activation for row in plain} == {tf.nn.relu}
  blocks = [row for row in plain if isinstance(row, mobilenet_v3.Inverted)]
  assert {row.squeeze for row in blocks} == {None}


def test_the_gate_of_a_backbone():
  image = tf.random.stateless_normal([1, 33, 33, 3], [1, 2])
  features = {}
  for gate in ('SIGMOID', 'HARD_SIGMOID'):
    backbone = mobilenet_v3.MOBILENETS['mobilenet_v3_small'](
      norm=builders.NORM, squeeze_excite_gate=gate
    )
    backbone(image)
    builders.fill_by_key(backbone, 'backbone')
    features[gate] = backbone(image).stage5
    assert backbone.squeeze_excite_gate == gate
  assert np.abs(features['SIGMOID'] - features['HARD_SIGMOID']).max() > 1e-3
  backbone = mobilenet_v3.MOBILENETS['mobilenet_v3_small_minimalistic'](norm=builders.NORM)
  assert backbone.squeeze_excite_gate is None
