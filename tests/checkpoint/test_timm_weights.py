"""timm's networks: the same features as goldens of them; what is wrong is refused."""

import json

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from deeplab2.checkpoint import foreign
from deeplab2.checkpoint import released_keys
from deeplab2.checkpoint import restore
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
  path = f'{directory}/{name}.safetensors'
  safetensors.numpy.save_file(_stored(golden, name), path)
  assert restore.initialize_backbone(backbone, path) == path
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


def _resnet50(stored, image):
  """Computes the outputs of ResNet-50's four layers as He et al. 2016 and torchvision define them.

  Strides are in the 3x3 convolutions (version 1.5), paddings are symmetric, batch norms add 1e-5.
  """

  def norm(x, name):
    mean, variance = stored[f'{name}.running_mean'], stored[f'{name}.running_var']
    scale = stored[f'{name}.weight'] / np.sqrt(variance + 1e-5)
    return (x - mean) * scale + stored[f'{name}.bias']

  def conv(x, name, stride=1):
    kernel = stored[f'{name}.weight'].transpose(2, 3, 1, 0)
    side = len(kernel) // 2
    x = tf.pad(x, [[0, 0], [side, side], [side, side], [0, 0]])
    return tf.nn.conv2d(x, kernel, stride, 'VALID')

  x = tf.nn.relu(norm(conv(image, 'conv1', 2), 'bn1'))
  x = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, 'VALID')
  outputs = []
  for layer, count in enumerate((3, 4, 6, 3), start=1):
    for block in range(count):
      name, stride = f'layer{layer}.{block}', 2 if layer > 1 and block == 0 else 1
      y = tf.nn.relu(norm(conv(x, f'{name}.conv1'), f'{name}.bn1'))
      y = tf.nn.relu(norm(conv(y, f'{name}.conv2', stride), f'{name}.bn2'))
      y = norm(conv(y, f'{name}.conv3'), f'{name}.bn3')
      if block == 0:
        x = norm(conv(x, f'{name}.downsample.0', stride), f'{name}.downsample.1')
      x = tf.nn.relu(x + y)
    outputs.append(x)
  return outputs


def _resnet50_tensors():
  """Returns the tensors of a ResNet-50 by the names of timm and torchvision."""
  found = {}

  def add(conv, norm, out_channels, in_channels, size):
    shapes = {f'{conv}.weight': (out_channels, in_channels, size, size)}
    for leaf in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{norm}.{leaf}'] = (out_channels,)
    shapes[f'{norm}.num_batches_tracked'] = ()
    found.update({name: timm_files.value(name, shape) for name, shape in shapes.items()})

  add('conv1', 'bn1', 64, 3, 7)
  channels = 64
  for layer, count in enumerate((3, 4, 6, 3), start=1):
    width = 32 * 2**layer
    for block in range(count):
      name = f'layer{layer}.{block}'
      add(f'{name}.conv1', f'{name}.bn1', width, channels, 1)
      add(f'{name}.conv2', f'{name}.bn2', width, width, 3)
      add(f'{name}.conv3', f'{name}.bn3', 4 * width, width, 1)
      if block == 0:
        add(f'{name}.downsample.0', f'{name}.downsample.1', 4 * width, channels, 1)
      channels = 4 * width
  found.update({name: timm_files.value(name, (1000,)) for name in ('fc.weight', 'fc.bias')})
  return found


def test_resnet50_is_exact_but_for_the_colour_of_zeros(tmp_path):
  stored, path = _resnet50_tensors(), str(tmp_path / 'resnet50.safetensors')
  safetensors.numpy.save_file(stored, path)
  plain = registry.create('resnet50', norm=builders.NORM)
  plain(tf.zeros([1, 33, 33, 3]))
  files.refused(
    lambda: restore.initialize_backbone(plain, path),
    'max-pooling behind its stem; set model_options.backbone.stem_max_pool=true',
  )
  backbone = registry.create('resnet50', norm=builders.NORM, stem_max_pool=True)
  backbone(tf.zeros([1, 33, 33, 3]))
  (tmp_path / 'config.json').write_text(json.dumps({'pretrained_cfg': _GREY}))
  assert restore.initialize_backbone(backbone, path) == path
  for size in ((65, 97), (64, 70)):
    image = tf.constant(fill.image(*size) / 127.5 - 1.0, tf.float32)
    *_, res2, res3, res4, res5 = backbone(image)
    expected = _resnet50(stored, image)
    for ours, theirs in zip((res2, res3, res4, res5), expected, strict=True):
      assert np.abs(ours - theirs).max() < _TOLERANCE * np.std(theirs)


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
    lambda: timm_weights.recognized(path, {'features.0.weight': np.zeros([1])}),
    'no network that is known here',
    'features.0.weight',
  )
  (tmp_path / 'config.json').write_text(
    '{"architecture": "mobilenetv3_small_050", "pretrained_cfg": {"std": [0]}}'
  )
  files.refused(lambda: timm_weights.recognized(path, stored), 'must hold mean and std')
