"""Released keys against DeepLab2's manifests; checkpoints in the released format, read back."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.checkpoint import reading
from deeplab2.checkpoint import released
from deeplab2.checkpoint import released_keys
from deeplab2.model.backbones import registry
from tests import conftest
from tests.checkpoint import files
from tests.goldens import fill
from tests.model import builders


def _load(path, model, **settings):
  return released.load(reading.Reader(path), model, **settings)


def _load_backbone(path, backbone):
  return released.load_backbone(reading.Reader(path), backbone)


def _manifest(name):
  entries = json.loads((conftest.GOLDENS / f'{name}.json').read_text())
  return {entry['key']: tuple(entry['shape']) for entry in entries}


_RELEASED = [
  (builders.coco, 'resnet50', 'checkpoint_coco_r50'),
  (builders.coco, 'axial_resnet50', 'checkpoint_coco_axial_r50'),
  (builders.coco, 'convnext_tiny', 'checkpoint_coco_convnext_tiny'),
  (builders.cityscapes, 'resnet50', 'checkpoint_cityscapes_r50'),
]


def _paths(num_stages):
  """Returns the attribute paths of a ResNet-50 model, from those of a tiny one."""
  paths = [
    path
    for path, _ in released_keys.walk(builders.tiny(num_stages), '')
    if not path.startswith('backbone/')
  ]
  norm = [f'norm/{leaf}' for leaf in ('gamma', 'beta', 'moving_mean', 'moving_variance')]
  unit = ['kernel', *norm]
  paths += [f'backbone/stem/{leaf}' for leaf in unit]
  for stage, blocks in enumerate((3, 4, 6, 3)):
    for block in range(blocks):
      parts = ['reduce', 'conv', 'expand'] + (['shortcut'] if block == 0 else [])
      paths += [f'backbone/stages/{stage}/{block}/{part}/{leaf}' for part in parts for leaf in unit]
  return paths


def test_every_path_has_a_key_of_the_manifest():
  keys = [released_keys.of_path(path) for path in _paths(4)]
  assert len(set(keys)) == len(keys)
  manifest = set(_manifest('checkpoint_coco_r50'))
  # The tiny pixel decoder needs a shortcut at stride 32, which the released one does not.
  unknown = {key for key in keys if key not in manifest}
  assert all(key.startswith('pixel_decoder/_stages/0/_block1/_shortcut/') for key in unknown)


def test_a_path_without_a_rule():
  with pytest.raises(ValueError, match='No rule gives tail/kernel a key'):
    released_keys.of_path('tail/kernel')


@pytest.fixture(scope='module')
def source():
  """A filled model and its variables as a released checkpoint would hold them."""
  model = builders.tiny()
  variables = builders.fill_by_key(model)
  tensors = {key + files.SUFFIX: variable.numpy() for key, variable in variables.items()}
  tensors['_CHECKPOINTABLE_OBJECT_GRAPH'] = np.array(b'graph')
  for key in ('global_step', 'save_counter', 'optimizer/iter', 'backbone_optimizer/iter'):
    tensors[key + files.SUFFIX] = np.int64(7)
  tensors['encoder/_blocks/0/_conv/kernel/.OPTIMIZER_SLOT/optimizer/m' + files.SUFFIX] = np.zeros(3)
  return tensors


@pytest.fixture(scope='module')
def built():
  return builders.tiny()


@pytest.fixture
def model(built):
  """A model as `source` is of, with values of which no checkpoint has any."""
  for variable in built.variables:
    variable.assign(tf.fill(variable.shape, 0.25))
  return built


def _values(model):
  return {key: variable.numpy() for key, variable in released_keys.of_model(model).items()}


def _unchanged(model, before):
  return all(np.array_equal(value, before[key]) for key, value in _values(model).items())


def test_load_everything(source, tmp_path, model):
  path = files.write(tmp_path / 'ckpt-7', source)
  report = _load(path, model)
  values = _values(model)
  for key, value in values.items():
    np.testing.assert_array_equal(value, source[key + files.SUFFIX])
  assert set(report.matched) == set(values)
  assert report.skipped == report.missing == report.unused == ()
  assert report.summary() == f'{len(values)} tensors matched'
  assert released.is_released(reading.Reader(path))


_IS_HEAD = re.compile(r'semantic_last_layer|(.*_)?transformer_class_head')


def test_heads_of_another_number_of_classes_are_skipped_by_name(source, tmp_path):
  model = builders.tiny(num_classes=9)
  before = _values(model)
  path = files.write(tmp_path / 'ckpt', source)
  report = _load(path, model, fresh_class_heads=True)
  heads = {key for key in before if _IS_HEAD.match(key)}
  assert len(heads) == 2 + 2 + 3 * 2
  assert set(report.skipped) == heads and set(report.matched) == set(before) - heads
  assert all(key in report.summary() for key in heads)
  for key, value in _values(model).items():
    expected = before[key] if key in heads else source[key + files.SUFFIX]
    np.testing.assert_array_equal(value, expected)


def test_heads_of_the_same_number_of_classes_are_kept_but_the_last_semantic_layer(
  source, tmp_path, model
):
  report = _load(files.write(tmp_path / 'ckpt', source), model, fresh_class_heads=True)
  assert set(report.skipped) == {'semantic_last_layer/kernel', 'semantic_last_layer/bias'}


def _backbone_alone(source, prefix):
  """Returns the source's backbone below `prefix`, with the classifier that comes with it."""
  tensors = {
    key.replace('encoder/', prefix, 1): value
    for key, value in source.items()
    if key.startswith('encoder/')
  }
  # Model Garden keeps its classifier below model/.
  head = 'model/layer_with_weights-1/kernel' if prefix == 'backbone/_encoder/' else 'head/kernel'
  return tensors | {head + files.SUFFIX: np.zeros(5)}


_each_layout = pytest.mark.parametrize('prefix', ['encoder/', 'backbone/_encoder/', ''])


@_each_layout
def test_training_starts_from_a_backbone_alone(source, tmp_path, model, prefix):
  before = _values(model)
  path = files.write(tmp_path / 'ckpt', _backbone_alone(source, prefix))
  files.refused(
    lambda: _load(path, model),
    'holds a backbone, MobileNetV3 with 13 blocks',
    'a whole kMaX-DeepLab is expected',
  )
  report = _load(path, model, backbone_alone=True)
  assert len(report.unused) == 1 and report.unused[0].endswith('/kernel')
  assert set(report.matched) == {key for key in before if key.startswith('encoder/')}
  assert set(report.missing) == set(before) - set(report.matched)
  assert f'{len(report.missing)} variables start from scratch' in report.summary()
  for key, value in _values(model).items():
    expected = source[key + files.SUFFIX] if key.startswith('encoder/') else before[key]
    np.testing.assert_array_equal(value, expected)


@_each_layout
def test_a_backbone_takes_its_own(source, tmp_path, model, prefix):
  tensors = _backbone_alone(source, prefix) if prefix != 'encoder/' else source
  report = _load_backbone(files.write(tmp_path / 'ckpt', tensors), model.backbone)
  for key, variable in released_keys.of_model(model.backbone, 'backbone').items():
    np.testing.assert_array_equal(variable, source[key + files.SUFFIX])
  assert report.missing == () and report.unused


def _moat_names(num_blocks):
  """Names of the variables of a MOAT classifier, after DeepLab2's layers (moat.py, moat_blocks.py,
  moat_attention.py), of a model whose stem is as wide as its first stage."""
  norm, biased = ('gamma', 'beta'), ('kernel', 'bias')
  layers = [(f'moat/stem/{name}', biased) for name in ('conv_0', 'conv_1')]
  layers.append(('moat/stem/norm_0', norm))
  for stage, count in enumerate(num_blocks):
    for index in range(count):
      block = f'moat/block_{stage:02d}_{index:02d}'
      layers += [(f'{block}/{name}_norm', norm) for name in ('pre', 'expand', 'depthwise')]
      layers += [
        (f'{block}/expand_conv', ['kernel']),
        (f'{block}/shrink_conv', biased),
        (f'{block}/depthwise_conv', ['depthwise_kernel']),
      ]
      if stage > 0 and index == 0:
        layers.append((f'{block}/shortcut_conv', biased))
      if stage < 2:
        layers += [(f'{block}/se/{name}_conv2d', biased) for name in ('reduce', 'expand')]
      else:
        layers.append((f'{block}/attention_norm', norm))
        layers += [(f'{block}/attention/{name}', ('weight', 'bias')) for name in 'qkvo']
        layers.append((f'{block}/attention', ['relative_position_embedding']))
  return [f'{layer}/{variable}' for layer, variables in layers for variable in variables]


@pytest.mark.parametrize('with_statistics', [False, True])
def test_moat_classifiers_go_by_names_of_variables(tmp_path, with_statistics):
  backbone = registry.create('tiny_moat0_pretrain_256_1k', norm=builders.NORM)
  backbone(tf.zeros([1, 33, 33, 3]))
  names = _moat_names([2, 3, 7, 2])
  by_name = {released_keys.of_moat_name(name): name for name in names}
  generator = np.random.default_rng(0)
  variables = released_keys.of_model(backbone, 'backbone')
  expected = {
    key: generator.normal(size=variable.shape).astype(np.float32)
    for key, variable in variables.items()
  }
  tensors = {by_name[key]: value for key, value in expected.items() if key in by_name}
  assert len(tensors) == len(names) == len(by_name)
  tensors |= {f'{name}/ExponentialMovingAverage': np.zeros(2) for name in names}
  if with_statistics:
    tensors |= {
      by_name[f'{place}/gamma'].replace('gamma', leaf): expected[key]
      for key in expected
      for place, _, leaf in [key.rpartition('/')]
      if leaf.startswith('moving_')
    }
  path = files.write(
    tmp_path / 'ckpt', tensors | {'global_step': np.int64(3), 'moat/logits_head/bias': np.zeros(10)}
  )
  before = {key: variable.numpy() for key, variable in variables.items()}
  report = _load_backbone(path, backbone)
  is_missing = {key: '/moving_' in key and not with_statistics for key in variables}
  for key, variable in variables.items():
    np.testing.assert_array_equal(variable, (before if is_missing[key] else expected)[key])
  assert set(report.missing) == {key for key, missing in is_missing.items() if missing}
  assert set(report.unused) == {'moat/logits_head/bias'} | {
    f'{name}/ExponentialMovingAverage' for name in names
  }
  tensors.pop('moat/block_02_00/attention/q/weight')
  files.refused(
    lambda: _load_backbone(files.write(tmp_path / 'less', tensors), backbone),
    'MOAT with 14 blocks, but it lacks encoder/_blocks/2/0/_attention/_q_proj/weight',
  )


def test_a_head_is_fresh_as_a_whole_or_not_at_all(source, tmp_path, model):
  """A kernel of another input width alone is no matter of classes."""
  key = 'transformer_class_head/_conv/kernel' + files.SUFFIX
  tensors = source | {key: np.zeros([1, 5, source[key].shape[-1]], np.float32)}
  path = files.write(tmp_path / 'ckpt', tensors)
  files.refused(
    lambda: _load(path, model, fresh_class_heads=True),
    'transformer_class_head/_conv/kernel',
    'other widths',
  )


def test_one_tensor_too_few_and_one_too_many(source, tmp_path, model):
  tensors = dict(source)
  tensors['pixel_decoder/_stages/4/_block1/_conv3_bn/_conv/kernel' + files.SUFFIX] = tensors.pop(
    'transformer_decoder/cluster_centers' + files.SUFFIX
  )
  before = _values(model)
  files.refused(
    lambda: _load(files.write(tmp_path / 'ckpt', tensors), model),
    'ckpt',
    'it lacks transformer_decoder/cluster_centers',
    'it has pixel_decoder/_stages/4/_block1/_conv3_bn/_conv/kernel in addition',
  )
  assert _unchanged(model, before)


@pytest.mark.parametrize(
  'settings, words',
  [
    ({'num_classes': 9}, ['trained with 6 classes, not 9: what to do']),
    (
      {'num_slots': 5},
      [
        'transformer_decoder/cluster_centers is [1, 8, 32] there and [1, 5, 32]',
        'num_mask_slots=8',
      ],
    ),
  ],
)
def test_other_shapes_change_nothing(source, tmp_path, settings, words):
  model = builders.tiny(**settings)
  before = _values(model)
  path = files.write(tmp_path / 'ckpt', source)
  files.refused(lambda: _load(path, model, for_classes='what to do'), 'ckpt', *words)
  assert _unchanged(model, before)


def _manifest_file(path, name):
  """Writes a checkpoint with the keys and shapes of a released one."""
  shapes = _manifest(name)
  return files.write(
    path, {key + files.SUFFIX: np.zeros(shape, np.float32) for key, shape in shapes.items()}
  )


@pytest.mark.parametrize(
  'name, family',
  [
    ('checkpoint_coco_axial_r50', 'Axial-ResNet with 16 blocks'),
    ('checkpoint_coco_convnext_tiny', 'ConvNeXt with 18 blocks'),
    ('checkpoint_coco_r50', 'ResNet with 16 blocks'),
  ],
)
def test_checkpoints_of_other_backbones(tmp_path, model, name, family):
  before = _values(model)
  path = _manifest_file(tmp_path / 'ckpt', name)
  words = ('ckpt', f'the backbone {family}, where the configuration has MobileNetV3 with 13 blocks')
  files.refused(lambda: _load(path, model), *words)
  files.refused(lambda: _load_backbone(path, model.backbone), *words)
  assert _unchanged(model, before)


def test_a_deeper_backbone(source, tmp_path, model):
  deeper = source | {'encoder/_blocks/13/_conv/kernel' + files.SUFFIX: np.zeros(3)}
  for tensors in (deeper, _backbone_alone(deeper, '')):
    path = files.write(tmp_path / 'ckpt', tensors)
    files.refused(
      lambda path=path: _load(path, model, backbone_alone=True),
      'MobileNetV3 with 14 blocks',
      'where the configuration has MobileNetV3 with 13',
      'it has encoder/_blocks/13/_conv/kernel in addition',
    )


def test_no_backbone_at_all(tmp_path, model):
  path = files.write(tmp_path / 'ckpt', {'dense/kernel' + files.SUFFIX: np.zeros(3)})
  files.refused(lambda: _load(path, model), 'ckpt', 'no backbone', 'dense/kernel')
  assert not released.is_released(reading.Reader(path))


@pytest.mark.parametrize('size, blocks', [('small', 13), ('large', 17)])
@pytest.mark.parametrize('prefix', ['encoder/', 'backbone/_encoder/'])
def test_imagenet_checkpoints_of_mobilenet(tmp_path, size, blocks, prefix):
  """Those that DeepLab2 has released, by the keys of its source, with the head of a classifier."""
  manifest = _manifest(f'checkpoint_mobilenet_v3_{size}_imagenet1k')
  values = {key: fill.value(key, shape) for key, shape in manifest.items()}
  tensors = {
    key.replace('encoder/', prefix, 1) + files.SUFFIX: value for key, value in values.items()
  }
  tensors |= {f'head/{name}{files.SUFFIX}': np.zeros([1000]) for name in ('kernel', 'bias')}
  path = files.write(tmp_path / 'ckpt', tensors | {'global_step' + files.SUFFIX: np.int64(5)})
  backbone = registry.create(f'mobilenet_v3_{size}', norm=builders.NORM)
  backbone(tf.zeros([1, 33, 33, 3]))
  report = _load_backbone(path, backbone)
  assert set(report.matched) == set(values) and report.missing == ()
  assert set(report.unused) == {'head/kernel', 'head/bias'}
  for key, variable in released_keys.of_model(backbone, 'backbone').items():
    np.testing.assert_array_equal(variable, values[key])
  narrow = registry.create(f'mobilenet_v3_{size}', norm=builders.NORM, width_multiplier=0.5)
  narrow(tf.zeros([1, 33, 33, 3]))
  files.refused(lambda: _load_backbone(path, narrow), 'of a model with other widths')
  plain = registry.create(f'mobilenet_v3_{size}_minimalistic', norm=builders.NORM)
  plain(tf.zeros([1, 33, 33, 3]))
  words = (f'MobileNetV3 with {blocks} blocks', '_squeeze_excitation')
  files.refused(lambda: _load_backbone(path, plain), *words)


@pytest.mark.slow
@pytest.mark.usefixtures('constant_weights')
@pytest.mark.parametrize('make, backbone, name', _RELEASED)
def test_a_released_checkpoint_fills_its_model(tmp_path, make, backbone, name):
  path = _manifest_file(tmp_path / 'ckpt', name)
  model = make(backbone)
  report = _load(path, model)
  assert len(report.matched) == len(_manifest(name)) - 2  # global_step and save_counter.
  assert report.skipped == report.missing == report.unused == ()
  assert not any(np.any(value) for value in _values(model).values())
