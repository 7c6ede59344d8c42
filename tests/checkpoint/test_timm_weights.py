"""timm's networks: the same features as goldens of them; what is wrong is refused."""

import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.checkpoint import foreign
from deeplab2.checkpoint import released_keys
from deeplab2.checkpoint import timm_weights
from deeplab2.model.backbones import registry
from tests.checkpoint import files
from tests.checkpoint import keras_files
from tests.checkpoint import timm_files
from tests.goldens import fill
from tests.model import builders

_TOLERANCE = 2e-5
_GREY = {'mean': [0.5] * 3, 'std': [0.5] * 3}


def _stored(golden, name):
  """Returns the tensors of a network by timm's names."""
  return {
    key: timm_files.value(key, shape)
    for key, shape in json.loads(str(golden('timm')[f'{name}/names']))
  }


def _mobilenet(name):
  size = 'small' if 'small' in name else 'large'
  settings = {'width_multiplier': int(name[-3:]) / 100}
  if 'minimal' in name:
    size += '_minimalistic'
  else:
    settings['squeeze_excite_gate'] = 'HARD_SIGMOID'
  backbone = registry.create(f'mobilenet_v3_{size}', norm=builders.NORM, **settings)
  backbone(tf.zeros([1, 33, 33, 3]))
  return backbone


def _filled(golden, name, directory, config=None):
  backbone = _mobilenet(name) if 'mobilenet' in name else keras_files.our_convnext()
  if config is not None:
    (directory / 'config.json').write_text(json.dumps(config))
  weights = timm_weights.recognized(f'{directory}/{name}.safetensors', _stored(golden, name))
  foreign.fill(backbone, weights)
  return backbone


def _deviations(golden, name, size, outputs):
  """Returns the deviation of every output, and that of the first one without its border."""
  golden = golden('timm')
  found = []
  for number, output in enumerate(outputs):
    expected = golden[f'{name}/{size}/{number}']
    error = np.abs(timm_files.samples(output) - expected).max()
    found.append(error / golden[f'{name}/{size}/{number}/std'])
  inner = np.abs(timm_files.samples(outputs[0][:, 1:-1, 1:-1]) - golden[f'{name}/{size}/inner'])
  return found, inner.max() / golden[f'{name}/{size}/0/std']


def _blocks(backbone, height, width):
  image = tf.constant(fill.image(height, width) / 127.5 - 1.0, tf.float32)
  return [output for output, _ in backbone.block_outputs(image)]


@pytest.mark.parametrize('name', ['tf_mobilenetv3_small_100', 'tf_mobilenetv3_large_minimal_100'])
def test_those_from_tensorflow_are_exact(golden, tmp_path, name):
  backbone = _filled(golden, name, tmp_path)
  found, _ = _deviations(golden, name, '65x97', _blocks(backbone, 65, 97))
  assert max(found) < _TOLERANCE


@pytest.mark.parametrize('size', [(65, 97), (64, 70)])
def test_mobilenets_of_pytorch_are_exact_on_all_sizes_but_for_the_colour_of_zeros(
  golden, tmp_path, size
):
  """With a mean of mid-grey, which the file beside the weights says."""
  name = 'mobilenetv3_small_050'
  config = {'architecture': name, 'pretrained_cfg': _GREY}
  backbone = _filled(golden, name, tmp_path, config)
  found, _ = _deviations(golden, name, f'{size[0]}x{size[1]}', _blocks(backbone, *size))
  assert max(found) < _TOLERANCE


def test_mobilenets_of_pytorch_differ_at_the_border(golden, tmp_path):
  """Which moves the features behind it by less and less; see docs/models.md."""
  name = 'mobilenetv3_large_100'
  backbone = _filled(golden, name, tmp_path)
  found, inner = _deviations(golden, name, '65x97', _blocks(backbone, 65, 97))
  assert inner < _TOLERANCE
  assert 0.1 < found[0] and found[-1] < 0.2


def test_convnext_is_exact(golden, tmp_path):
  """On an image that timm gets with the grey that this program pads with."""
  backbone = _filled(golden, 'convnext', tmp_path)
  pyramid = backbone(tf.constant(fill.image(32, 64) / 127.5 - 1.0, tf.float32))
  found, _ = _deviations(golden, 'convnext', '32x64', pyramid[:5])
  assert max(found) < _TOLERANCE


def test_convnext_by_the_names_of_its_authors(golden, tmp_path):
  ours = {}
  for key, value in _stored(golden, 'convnext').items():
    for timm, other in (
      ('stem.', 'downsample_layers.0.'),
      ('.blocks', ''),
      ('conv_dw', 'dwconv'),
      ('mlp.fc', 'pwconv'),
      ('head.norm', 'norm'),
      ('head.fc', 'head'),
    ):
      key = key.replace(timm, other)
    stage, _, rest = key.removeprefix('stages.').partition('.downsample')
    ours[f'downsample_layers.{stage}{rest}' if rest else key] = value
  assert {'downsample_layers.3.1.bias', 'stages.2.1.pwconv2.weight', 'norm.weight'} <= set(ours)
  expected = dict(released_keys.walk(_filled(golden, 'convnext', tmp_path), ''))
  backbone = keras_files.our_convnext()
  foreign.fill(backbone, timm_weights.recognized('x.safetensors', ours))
  for path, variable in released_keys.walk(backbone, ''):
    np.testing.assert_array_equal(variable, expected[path])


def test_every_tensor_is_accounted_for(golden, tmp_path):
  name = 'mobilenetv3_large_100'
  stored = _stored(golden, name)
  weights = timm_weights.recognized(f'{tmp_path}/{name}.pth', stored)
  classifier = ['conv_head.weight', 'conv_head.bias', 'classifier.weight', 'classifier.bias']
  assert weights.left_out == (*classifier, '46 counters num_batches_tracked')
  assert len(weights.tensors) + 4 + 46 == len(stored) and weights.unknown == ()
  assert (
    weights.gate == 'HARD_SIGMOID' and weights.described == 'MobileNetV3 of timm with 15 blocks'
  )
  assert timm_weights.is_known(stored) and not timm_weights.is_known(['encoder/x'])


def test_what_is_refused(golden, tmp_path):
  stored = _stored(golden, 'mobilenetv3_small_050')
  files.refused(
    lambda: timm_weights.recognized(f'{tmp_path}/model.safetensors', stored),
    'name the file like the model, such as tf_mobilenetv3_small_100.safetensors',
  )
  path = f'{tmp_path}/mobilenetv3_small_050.safetensors'
  backbone = _mobilenet('mobilenetv3_large_100')
  weights = timm_weights.recognized(path, stored)
  files.refused(
    lambda: foreign.fill(backbone, weights),
    'MobileNetV3 of timm with 11 blocks, where the configuration has mobilenet_v3_large',
  )
  files.refused(
    lambda: timm_weights.recognized(path, {'layer1.0.conv1.weight': np.zeros([1])}),
    'no network that is known here',
    'layer1.0.conv1.weight',
  )
  (tmp_path / 'config.json').write_text(
    '{"architecture": "mobilenetv3_small_050", "pretrained_cfg": {"std": [0]}}'
  )
  files.refused(lambda: timm_weights.recognized(path, stored), 'must hold mean and std')
