"""Weights of Keras Applications: the same features; wrong and damaged files are refused."""

import logging
import pickle

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras.src.applications import convnext as keras_convnext
from tf_keras.src.applications import mobilenet_v3 as keras_mobilenet

from deeplab2 import errors
from deeplab2.checkpoint import foreign
from deeplab2.checkpoint import keras_weights
from deeplab2.checkpoint import released_keys
from deeplab2.model.backbones import registry
from deeplab2.model.layers import norm as norm_lib
from tests.checkpoint import files
from tests.checkpoint import keras_files
from tests.model import builders

_TOLERANCE = 2e-5


def _fill(backbone, path):
  with keras_weights.opened(str(path), backbone) as weights:
    foreign.fill(backbone, weights)


def _backbone(name='mobilenet_v3_small', norm=builders.NORM, **settings):
  if 'minimalistic' not in name:
    settings.setdefault('squeeze_excite_gate', 'HARD_SIGMOID')
  backbone = registry.create(name, norm=norm, **settings)
  backbone(tf.zeros([1, 33, 33, 3]))
  return backbone


@pytest.fixture(scope='module')
def backbone():
  """One to be refused something."""
  return _backbone()


@pytest.fixture(scope='module')
def others():
  """Backbones that weights of MobileNetV3-Small of width 1 are not for."""
  return {
    'narrow': _backbone(width_multiplier=0.75),
    'large': _backbone('mobilenet_v3_large'),
    'minimalistic': _backbone('mobilenet_v3_small_minimalistic'),
    'convnext': keras_files.our_convnext(),
    'sigmoid': _backbone(squeeze_excite_gate='SIGMOID'),
  }


def _image(*shape):
  return tf.random.stateless_uniform([1, *shape, 3], [3, 4], 0.0, 255.0)


def _values(backbone):
  return {path: value.numpy() for path, value in released_keys.walk(backbone, '')}


@pytest.fixture(scope='module')
def small():
  return keras_files.mobilenet()


@pytest.fixture(scope='module')
def small_file(small, tmp_path_factory):
  path = tmp_path_factory.mktemp('keras') / 'small.h5'
  small.save_weights(str(path))
  return path


_MOBILENETS = [
  ('mobilenet_v3_small', {'alpha': 0.75}),
  ('mobilenet_v3_small_minimalistic', {'minimalistic': True, 'alpha': 0.5}),
  ('mobilenet_v3_large', {'alpha': 1.25}),
  ('mobilenet_v3_large_minimalistic', {'minimalistic': True}),
]


@pytest.mark.parametrize('name, settings', _MOBILENETS)
def test_mobilenets_have_the_same_features(tmp_path, name, settings):
  """Of 32n + 1 pixels, where TensorFlow's own padding is even, too."""
  size = 'Large' if 'large' in name else 'Small'
  network = keras_files.mobilenet(size, include_top=False, **settings)
  network.save_weights(str(tmp_path / 'x.h5'))
  backbone = _backbone(name, width_multiplier=settings.get('alpha', 1.0))
  _fill(backbone, tmp_path / 'x.h5')
  image = _image(65, 97)
  blocks = keras_files.mobilenet_blocks(network)
  *theirs, last = keras_files.outputs(network, [*blocks, network.layers[-1].name], image)
  ours = [output for output, _ in backbone.block_outputs(image / 127.5 - 1.0)]
  assert len(ours) == len(theirs) + 2
  for index, (one, other) in enumerate(zip(ours[1:-1], theirs, strict=True)):
    assert keras_files.deviation(one, other) < _TOLERANCE, blocks[index]
  assert keras_files.deviation(ours[-1], last) < _TOLERANCE


def test_even_sizes_differ_and_odd_ones_that_become_even(tmp_path):
  """Keras pads even sizes at the far end alone; documented in docs/models.md."""
  for shape, equal in (((64, 64, 3), [False, False]), ((35, 35, 3), [True, False])):
    network = keras_files.mobilenet(shape=shape, include_top=False)
    network.save_weights(str(tmp_path / 'x.h5'))
    backbone = _backbone()
    _fill(backbone, tmp_path / 'x.h5')
    image = _image(*shape[:2])
    block = keras_files.mobilenet_blocks(network)[0]
    normed, theirs = keras_files.outputs(network, ['Conv/BatchNorm', block], image)
    (first, _), (second, _) = backbone.block_outputs(image / 127.5 - 1.0)[:2]
    swished = normed * tf.nn.relu6(normed + 3.0) / 6.0
    found = [keras_files.deviation(first, swished), keras_files.deviation(second, theirs)]
    assert [value < _TOLERANCE for value in found] == equal, found


def test_another_epsilon_of_the_norms_changes_nothing_at_inference(small, small_file):
  backbone = _backbone(norm=norm_lib.NormSettings(epsilon=1e-5))
  _fill(backbone, small_file)
  image = _image(65, 97)
  theirs = keras_files.outputs(small, ['expanded_conv_10/Add'], image)
  ours = backbone.block_outputs(image / 127.5 - 1.0)[-2][0]
  assert keras_files.deviation(ours, theirs) < _TOLERANCE


def test_every_tensor_is_in_the_log(small, small_file, caplog):
  with caplog.at_level(logging.INFO):
    _fill(_backbone(), small_file)
  (line,) = [message for message in caplog.messages if 'matched' in message]
  assert 'all 206 tensors of the backbone matched' in line
  for name in ('Conv_2/kernel', 'Conv_2/bias', 'Logits/kernel', 'Logits/bias'):
    assert name in line
  assert len(small.variables) == 206 + 4


@pytest.mark.parametrize('with_classifier', [True, False])
def test_convnext_has_the_same_features(tmp_path, with_classifier):
  """Of 32n pixels, on an image that Keras gets with the grey that this program pads with."""
  network = keras_files.convnext_of((35, 67, 3), include_top=with_classifier)
  network.save_weights(str(tmp_path / 'x.h5'))
  backbone = keras_files.our_convnext()
  _fill(backbone, tmp_path / 'x.h5')
  image = _image(32, 64)
  padded = tf.pad(image - 127.5, [[0, 0], [1, 2], [1, 2], [0, 0]]) + 127.5
  blocks = keras_files.convnext_blocks(network)
  stages = ['convnext_test_stem', *(blocks[index] for index in (0, 1, 3, 4))]
  theirs = keras_files.outputs(network, stages, padded)
  ours = backbone(image / 127.5 - 1.0)[:5]
  for one, other in zip(ours, theirs, strict=True):
    assert keras_files.deviation(one, other) < _TOLERANCE


_NUMBERED = [('mobilenet_v3_small', True), ('mobilenet_v3_small_minimalistic', False)]


@pytest.mark.parametrize('name, with_classifier', _NUMBERED)
def test_files_that_number_their_layers(tmp_path, name, with_classifier):
  """What `save_weights` writes as .weights.h5 fills the same variables."""
  network = keras_files.mobilenet(include_top=with_classifier, minimalistic='minimalistic' in name)
  _check_numbered(tmp_path, network, _backbone(name))


@pytest.mark.parametrize('with_classifier', [True, False])
def test_convnext_with_numbered_layers(tmp_path, with_classifier):
  network = keras_files.convnext_of((35, 67, 3), include_top=with_classifier)
  _check_numbered(tmp_path, network, keras_files.our_convnext())


def _check_numbered(directory, network, backbone):
  network.save_weights(str(directory / 'x.h5'))
  network.save_weights(str(directory / 'x.weights.h5'))
  _fill(backbone, directory / 'x.h5')
  expected = _values(backbone)
  for variable in backbone.variables:
    variable.assign(tf.zeros_like(variable))
  _fill(backbone, directory / 'x.weights.h5')
  for key, value in _values(backbone).items():
    np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_numbered_layers_of_another_network(small, others, tmp_path):
  path = tmp_path / 'x.weights.h5'
  small.save_weights(str(path))
  numbers = 'a network of Keras with numbered layers (34 batch_normalization, 43 conv2d, '
  for name, word in (
    ('narrow', 'is [1, 1, 96, 40] there'),
    ('large', 'it lacks '),
    ('minimalistic', 'in addition'),
    ('convnext', 'it lacks '),
  ):
    _refused(path, others[name], numbers, 'where the configuration has ', word)
  _refused(path, others['sigmoid'], 'squeeze_excite_gate=HARD_SIGMOID')


def _refused(path, backbone, *words):
  before = _values(backbone)
  files.refused(lambda: _fill(backbone, path), str(path), *words)
  assert all(np.array_equal(value, before[key]) for key, value in _values(backbone).items())


def test_weights_of_another_gate_and_the_advice(backbone, others, small_file):
  option = 'model_options.backbone.squeeze_excite_gate'
  _refused(small_file, others['sigmoid'], 'ends in a HARD_SIGMOID', f'set {option}=HARD_SIGMOID')
  _fill(backbone, small_file)


def test_weights_of_another_network(backbone, others, small_file, tmp_path):
  found = 'MobileNetV3 of Keras with 11 blocks, the last one of 96 channels'
  _refused(
    small_file,
    others['narrow'],
    found,
    'the configuration has mobilenet_v3_small of width 0.75',
    'expanded_conv_3/project/kernel is [1, 1, 96, 40] there and [1, 1, 96, 32] here and 142 more',
    'set model_options.backbone.name and model_options.backbone.backbone_width_multiplier',
  )
  _refused(small_file, others['large'], found, 'has mobilenet_v3_large', 'lacks')
  _refused(small_file, others['minimalistic'], found, 'in addition')
  _refused(small_file, others['convnext'], found, 'the configuration has convnext_test')
  resnet = tmp_path / 'resnet.h5'
  write(
    resnet,
    {
      'conv1_conv': {'kernel': np.zeros([7, 7, 3, 64])},
      'conv2_block1_1_conv': {'kernel': np.zeros([1, 1, 64, 64])},
    },
  )
  _refused(resnet, backbone, 'ResNet-50 of Keras Applications', 'resnet50_imagenet1k')


def write(path, layers, place='/'):
  """Writes {layer: {weight: array}} as Keras writes weights, into a group."""
  with h5py.File(path, 'w') as whole:
    file = whole.require_group(place)
    file.attrs['layer_names'] = [layer.encode() for layer in layers]
    for layer, weights in layers.items():
      group = file.require_group(layer)
      names = [f'{layer}/{weight}:0' for weight in weights]
      group.attrs['weight_names'] = [name.encode() for name in names]
      for name, value in zip(names, weights.values(), strict=True):
        group[name] = np.asarray(value, np.float32)


# Of layers, by hand after applications/mobilenet_v3.py of Keras 3.15.
_LAYERS_OF_KERAS_3 = (
  ('Conv/BatchNorm', 'conv_bn'),
  ('Conv_1/BatchNorm', 'conv_1_bn'),
  ('Conv', 'conv'),
  ('Conv_1', 'conv_1'),
  ('Conv_2', 'conv_2'),
  ('Logits', 'logits'),
)


def _layer_of_keras_3(layer):
  for old, new in _LAYERS_OF_KERAS_3:
    if layer == old:
      return new
  return layer.replace('/BatchNorm', '_bn').replace('/Conv', '_conv').replace('/', '_')


def test_names_of_keras_3(small, small_file, tmp_path):
  """A model that Keras 3 saved as HDF5: its weights are in a group, layers have other names."""
  layers = {}
  for variable in small.variables:
    layer, _, weight = variable.name.removesuffix(':0').rpartition('/')
    weight = weight.replace('depthwise_kernel', 'kernel')
    layers.setdefault(_layer_of_keras_3(layer), {})[weight] = variable.numpy()
  assert {'conv', 'expanded_conv_squeeze_excite_conv_1', 'expanded_conv_8_expand_bn'} <= set(layers)
  write(tmp_path / 'x.h5', layers, 'model_weights')
  backbone = _backbone()
  _fill(backbone, small_file)
  expected = _values(backbone)
  for variable in backbone.variables:
    variable.assign(tf.zeros_like(variable))
  with keras_weights.opened(str(tmp_path / 'x.h5'), backbone) as weights:
    assert set(weights.left_out) == {f'{x}/{y}' for x in ('conv_2', 'logits') for y in layers[x]}
    foreign.fill(backbone, weights)
  for key, value in _values(backbone).items():
    np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_names_with_more_or_less_in_front(tmp_path):
  """As older versions of Keras wrote them."""
  path, layer = tmp_path / 'x.h5', 'convnext_x_stage_0_block_1_layer_scale'
  with h5py.File(path, 'w') as file:
    file.attrs['layer_names'] = [layer, 'convnext_x_stem']
    for name, weight in ((layer, 'Variable:0'), ('convnext_x_stem', 'convnext_x_stem_conv/bias:0')):
      file.create_group(name).attrs['weight_names'] = [weight]
      file[name][weight] = np.arange(3, dtype=np.float32)
  with keras_weights.opened(str(path), keras_files.our_convnext()) as weights:
    assert weights.names == {
      'levels/0/1/layer_scale': f'{layer}/Variable',
      'downsampling/0/conv/bias': 'convnext_x_stem_conv/bias',
    }
    assert weights.tensors['levels/0/1/layer_scale'].read().shape == (1, 1, 1, 3)


def test_files_that_hold_something_else(backbone, tmp_path):
  path = tmp_path / 'x.h5'
  write(path, {'Logits': {'kernel': np.zeros([1, 1, 5, 2])}})
  _refused(path, backbone, 'a classifier (Logits/kernel) without its backbone')
  write(path, {'dense': {'kernel': np.zeros([5, 2])}})
  _refused(path, backbone, 'no network that is known here', 'dense/kernel')
  path.write_bytes(pickle.dumps({'a': 1}))
  _refused(path, backbone, 'not a readable file of Keras weights')
  path.unlink()
  _refused(path, backbone, 'no such file')
  with h5py.File(path, 'w') as file:
    file['kernel'] = np.zeros(3)
  _refused(path, backbone, 'not a readable file of Keras weights', 'no layer_names')


@pytest.mark.parametrize('part', [0.0, 0.3, 0.9])
def test_truncated_files(backbone, small_file, tmp_path, part):
  content = small_file.read_bytes()
  path = tmp_path / 'x.h5'
  path.write_bytes(content[: int(part * len(content))])
  _refused(path, backbone, 'not a readable file of Keras weights')


def test_values_that_are_not_finite_and_tensors_of_other_files(backbone, small_file, tmp_path):
  path = tmp_path / 'x.h5'
  path.write_bytes(small_file.read_bytes())
  with h5py.File(path, 'r+') as file:
    file['Conv/Conv/kernel:0'][0, 0, 0, 0] = np.nan
  _refused(path, backbone, 'Conv/kernel has values that are not finite')
  with h5py.File(path, 'r+') as file:
    del file['Conv/Conv/kernel:0']
    file['Conv/Conv/kernel:0'] = h5py.ExternalLink(str(small_file), '/Conv/Conv/kernel:0')
  _refused(path, backbone, 'no tensor of this file')
  with h5py.File(path, 'r+') as file:
    del file['Conv/Conv/kernel:0']
    file.create_dataset(
      'Conv/Conv/kernel:0', (3, 3, 3, 16), 'f4', external=[(str(small_file), 0, 4 * 27 * 16)]
    )
  _refused(path, backbone, 'no tensor of this file')
  with h5py.File(path, 'r+') as file:
    del file['Conv/Conv/kernel:0']
    layout = h5py.VirtualLayout((3, 3, 3, 16), 'f4')
    layout[...] = h5py.VirtualSource(str(small_file), 'Conv/Conv/kernel:0', (3, 3, 3, 16))
    file.create_virtual_dataset('Conv/Conv/kernel:0', layout)
  _refused(path, backbone, 'no tensor of this file')


@pytest.mark.parametrize('ending', ['.h5', '.weights.h5'])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, ending):
  """Files of one's own have no hash; HDF5 itself finds some of the damage."""
  path = tmp_path / f'x{ending}'
  keras_files.convnext_of((35, 35, 3), include_top=False).save_weights(str(path))
  ours, content = keras_files.our_convnext(), path.read_bytes()
  generator = np.random.default_rng(0)
  refused = 0
  for _ in range(30):
    damaged = bytearray(content)
    for place in generator.integers(0, 8192, 3):  # Where names and sizes are.
      damaged[place] = generator.integers(0, 256)
    path.write_bytes(damaged)
    try:
      _fill(ours, path)
    except errors.UserError as error:
      refused += 1
      assert '\n' not in str(error) and str(path) in str(error)
  assert refused > 5


def test_a_file_under_a_published_name_must_be_that_file(backbone, small_file, tmp_path):
  name = next(iter(keras_weights.HASHES))
  path = tmp_path / name
  path.write_bytes(small_file.read_bytes())
  _refused(path, backbone, 'is not the file that Keras published under this name', 'md5')


def test_published_files_are_those_of_keras():
  known = {}
  for name, digests in keras_mobilenet.WEIGHTS_HASHES.items():
    known[f'weights_mobilenet_v3_{name}.h5'] = digests[0]
    known[f'weights_mobilenet_v3_{name}_no_top_v2.h5'] = digests[1]
  for name, digests in keras_convnext.WEIGHTS_HASHES.items():
    known[f'{name}.h5'], known[f'{name}_notop.h5'] = digests
  assert keras_weights.HASHES == known
  urls = [url for url, _ in keras_weights.PUBLISHED.values()]
  places = (keras_mobilenet.BASE_WEIGHT_PATH, keras_convnext.BASE_WEIGHTS_PATH)
  assert all(url.rpartition('/')[0] + '/' in places for url in urls)
  assert {name for name, _ in keras_weights.PUBLISHED} <= set(registry.BACKBONES)


def test_what_is_fetched(monkeypatch):
  asked = []

  def get_file(name, url, cache_subdir, file_hash):
    asked.append((name, url, cache_subdir, file_hash))
    return '/cache/file.h5'

  monkeypatch.setattr(tf_keras.utils, 'get_file', get_file)
  assert keras_weights.fetch(_backbone(width_multiplier=0.75)) == '/cache/file.h5'
  name = 'weights_mobilenet_v3_small_224_0.75_float_no_top_v2.h5'
  assert asked == [
    (name, keras_mobilenet.BASE_WEIGHT_PATH + name, 'models', keras_weights.HASHES[name])
  ]


def test_what_cannot_be_fetched(backbone, monkeypatch):
  def fails(*arguments, **settings):
    raise Exception('URL fetch failure on https://x: None -- [Errno -2] Name or service')

  monkeypatch.setattr(tf_keras.utils, 'get_file', fails)
  files.refused(
    lambda: keras_weights.fetch(backbone),
    'imagenet: https://storage.googleapis.com',
    'Without network, put this file into ',
    'model_options.backbone.pretrained_weights=keras:FILE',
  )
  files.refused(
    lambda: keras_weights.fetch(_backbone(width_multiplier=0.5)),
    'no weights of mobilenet_v3_small of width 0.5',
    'mobilenet_v3_small (0.75)',
  )
  with tf.Graph().as_default():
    resnet = registry.create('resnet50', norm=builders.NORM)
  files.refused(lambda: keras_weights.fetch(resnet), 'another network', 'resnet50_imagenet1k')
