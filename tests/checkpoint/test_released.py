"""Released keys against DeepLab2's manifests; checkpoints in the released format, read back."""
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.checkpoint import released
from tests import conftest
from tests.model import builders

_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'


def _manifest(name):
  entries = json.loads((conftest.GOLDENS / f'{name}.json').read_text())
  return {entry['key']: tuple(entry['shape']) for entry in entries}


@pytest.mark.slow
@pytest.mark.parametrize('make, backbone, name', [
    (builders.coco, 'resnet50', 'checkpoint_coco_r50'),
    (builders.coco, 'axial_resnet50', 'checkpoint_coco_axial_r50'),
    (builders.coco, 'convnext_tiny', 'checkpoint_coco_convnext_tiny'),
    (builders.cityscapes, 'resnet50', 'checkpoint_cityscapes_r50')])
def test_keys_and_shapes_are_the_manifest(make, backbone, name):
  variables = released.keys(make(backbone))
  manifest = _manifest(name)
  assert {manifest.pop('global_step'), manifest.pop('save_counter')} == {()}
  assert {key: tuple(variable.shape) for key, variable in variables.items()} == manifest


def _paths(num_stages):
  """Returns the attribute paths of a ResNet-50 model, from those of a tiny one."""
  paths = [path for path, _ in released._walk(builders.tiny(num_stages), '')
           if not path.startswith('backbone/')]
  norm = [f'norm/{leaf}' for leaf in ('gamma', 'beta', 'moving_mean', 'moving_variance')]
  unit = ['kernel', *norm]
  paths += [f'backbone/stem/{leaf}' for leaf in unit]
  for stage, blocks in enumerate((3, 4, 6, 3)):
    for block in range(blocks):
      parts = ['reduce', 'conv', 'expand'] + (['shortcut'] if block == 0 else [])
      paths += [f'backbone/stages/{stage}/{block}/{part}/{leaf}' for part in parts
                for leaf in unit]
  return paths


def test_every_path_has_a_key_of_the_manifest():
  keys = [released.released_key(path) for path in _paths(4)]
  assert len(set(keys)) == len(keys)
  manifest = set(_manifest('checkpoint_coco_r50'))
  # The tiny pixel decoder needs a shortcut at stride 32, which the released one does not.
  unknown = {key for key in keys if key not in manifest}
  assert all(key.startswith('pixel_decoder/_stages/0/_block1/_shortcut/') for key in unknown)


def test_a_path_without_a_rule():
  with pytest.raises(ValueError, match='No rule gives tail/kernel a key'):
    released.released_key('tail/kernel')


@pytest.fixture(scope='module')
def source():
  """A filled model and its variables as a released checkpoint would hold them."""
  model = builders.tiny()
  variables = builders.fill_by_key(model)
  tensors = {key + _SUFFIX: variable.numpy() for key, variable in variables.items()}
  tensors['_CHECKPOINTABLE_OBJECT_GRAPH'] = np.array(b'graph')
  for key in ('global_step', 'save_counter', 'optimizer/iter', 'backbone_optimizer/iter'):
    tensors[key + _SUFFIX] = np.int64(7)
  tensors['encoder/_blocks/0/_conv/kernel/.OPTIMIZER_SLOT/optimizer/m' + _SUFFIX] = np.zeros(3)
  return tensors


def _write(path, tensors):
  names = sorted(tensors)
  tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=[''] * len(names),
                    tensors=[tf.constant(tensors[name]) for name in names])
  return str(path)


def _values(model):
  return {key: variable.numpy() for key, variable in released.keys(model).items()}


def test_load_everything(source, tmp_path):
  model = builders.tiny()
  path = _write(tmp_path / 'ckpt-7', source)
  report = released.load(path, model)
  values = _values(model)
  for key, value in values.items():
    np.testing.assert_array_equal(value, source[key + _SUFFIX])
  assert set(report.loaded) == set(values)
  assert report.missing == report.unexpected == ()
  # Every tensor is accounted for once.
  assert len(report.loaded) + len(report.skipped) == len(source)
  assert released.is_released(path)


def test_load_from_a_folder_and_from_a_reader(source, tmp_path):
  path = _write(tmp_path / 'ckpt-7', source)
  (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "ckpt-7"')
  for checkpoint in (str(tmp_path), tf.train.load_checkpoint(path)):
    model = builders.tiny()
    assert not released.load(checkpoint, model).missing


def test_load_without_class_heads(source, tmp_path):
  model = builders.tiny(num_classes=9)
  before = _values(model)
  path = _write(tmp_path / 'ckpt', source)
  report = released.load(path, model, skip_class_heads=True)
  heads = {key for key in before if re.match(
      r'semantic_last_layer|transformer_class_head|.*_transformer_class_head', key)}
  assert len(heads) == 2 + 2 + 3 * 2
  assert set(report.skipped) >= heads and not heads & set(report.loaded)
  assert report.missing == report.unexpected == ()
  for key, value in _values(model).items():
    np.testing.assert_array_equal(value, before[key] if key in heads else source[key + _SUFFIX])


@pytest.mark.parametrize('prefix', ['encoder/', 'backbone/_encoder/'])
def test_load_a_backbone_alone(source, tmp_path, prefix):
  model = builders.tiny()
  before = _values(model)
  tensors = {key.replace('encoder/', prefix, 1): value for key, value in source.items()
             if key.startswith('encoder/')}
  tensors['head/kernel' + _SUFFIX] = np.zeros(5)
  report = released.load(_write(tmp_path / 'ckpt', tensors), model)
  assert report.unexpected == ('head/kernel',)
  assert report.loaded and all(key.startswith('encoder/') for key in report.loaded)
  for key, value in _values(model).items():
    expected = source[key + _SUFFIX] if key.startswith('encoder/') else before[key]
    np.testing.assert_array_equal(value, expected)


def test_missing_and_unexpected_are_reported(source, tmp_path):
  tensors = dict(source)
  tensors['pixel_decoder/_stages/4/_block1/_conv3_bn/_conv/kernel' + _SUFFIX] = tensors.pop(
      'transformer_decoder/cluster_centers' + _SUFFIX)
  report = released.load(_write(tmp_path / 'ckpt', tensors), builders.tiny())
  assert report.missing == ('transformer_decoder/cluster_centers',)
  assert report.unexpected == ('pixel_decoder/_stages/4/_block1/_conv3_bn/_conv/kernel',)


@pytest.mark.parametrize('settings, words', [
    ({'num_classes': 9}, ['trained with 6 classes, not 9',
                          'restore_semantic_last_layer_from_initial_checkpoint: false']),
    ({'num_slots': 5}, ['transformer_decoder/cluster_centers is [1, 8, 32] there and [1, 5, 32]',
                        'num_mask_slots: 8']),
])
def test_other_shapes_change_nothing(source, tmp_path, settings, words):
  model = builders.tiny(**settings)
  before = _values(model)
  with pytest.raises(errors.UserError) as caught:
    released.load(_write(tmp_path / 'ckpt', source), model)
  assert all(word in str(caught.value) for word in [*words, 'ckpt'])
  assert '\n' not in str(caught.value)
  for key, value in _values(model).items():
    np.testing.assert_array_equal(value, before[key])


def test_another_backbone(source, tmp_path):
  tensors = {key: value for key, value in source.items() if '_blocks/5/' not in key}
  with pytest.raises(errors.UserError, match='not of this backbone.*_blocks/5/'):
    released.load(_write(tmp_path / 'ckpt', tensors), builders.tiny())


def test_no_checkpoint(tmp_path):
  with pytest.raises(errors.UserError, match='no readable checkpoint'):
    released.load(str(tmp_path / 'nothing'), builders.tiny())
