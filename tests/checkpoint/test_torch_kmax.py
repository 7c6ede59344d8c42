"""Whole models of PyTorch into ours: files, commands, and refusals that say what to do."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2.checkpoint import convert
from deeplab2.checkpoint import released_keys
from deeplab2.checkpoint import restore
from deeplab2.checkpoint import torch_file
from deeplab2.checkpoint import torch_kmax
from deeplab2.config import changes
from deeplab2.config import load
from deeplab2.data import datasets
from tests import test_remax_configs as remax
from tests.checkpoint import files
from tests.checkpoint import torch_files
from tests.model import builders

_CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
_CONFIG = _CONFIGS / 'cityscapes/pytorch/resnet50.textproto'
_KMAX = 'model_options.kmax'
# Takes back what a config of PyTorch's models sets.
_AS_DEEPLAB2 = [
  'model_options.backbone.stem_max_pool=',
  f'{_KMAX}.pixel_decoder_features=',
  f'{_KMAX}.pixel_decoder_dilation=',
  f'{_KMAX}.semantic_feature=',
]
_CENTERS = 'sem_seg_head.predictor._cluster_centers.weight'


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  """Path of a config of Cityscapes with ResNet-50, with few channels in the decoders."""
  path = tmp_path_factory.mktemp('config') / 'config.textproto'
  path.write_text(changes.as_text(remax._shrunk(_CONFIG)))
  # As many as the features have that these stages read, which hence have no projection.
  as_read = [f'{_KMAX}.pixel_decoder_stages[{i}].filters={n}' for i, n in ((0, 512), (3, 64))]
  path.write_text(changes.as_text(load.load(str(path), as_read)))
  return str(path)


@pytest.fixture(scope='module')
def config(text):
  return load.load(text)


@pytest.fixture(scope='module')
def model(config):
  return assemble.model(config)


@pytest.fixture(scope='module')
def filled(model):
  return {key: variable.numpy() for key, variable in builders.fill_by_key(model).items()}


@pytest.fixture
def values(model, filled):
  """The values of all variables by released key; those of the model are 0."""
  for variable in model.variables:
    variable.assign(tf.zeros_like(variable))
  return filled


@pytest.fixture
def state_dict(values):
  return torch_files.state_dict('cityscapes_r50', values)


@pytest.fixture
def stored(monkeypatch, tmp_path):
  """Returns a function: a state dict -> the path of a file that is read as it."""
  path = tmp_path / 'model_final.pth'

  def store(tensors):
    path.touch()
    monkeypatch.setattr(torch_file, 'read', lambda name: tensors)
    return str(path)

  return store


def _restored(model, path, config, call=restore.restore_model, **settings):
  return call(model, path, conventions=assemble.conventions(config), **settings)


def _is_empty(model):
  return not any(np.any(variable) for variable in model.variables)


def test_every_tensor_arrives(config, model, values, state_dict, stored, caplog):
  path = stored(state_dict)
  assert _restored(model, path, config) == path
  for key, variable in released_keys.of_model(model).items():
    np.testing.assert_array_equal(variable, values[key], key)
  counters = sum(key.endswith('num_batches_tracked') for key in state_dict)
  assert (
    f'{path}, a checkpoint of PyTorch kMaX-DeepLab: {len(values)} tensors matched; '
    f'left out: {counters} counters of batches (num_batches_tracked).' in caplog.text
  )
  assert len(values) + counters == len(state_dict)
  assert restore.stored_step(path) == 0


def test_convert(text, model, values, state_dict, tmp_path, capsys, caplog):
  safe = pytest.importorskip('safetensors.numpy')
  path, output = tmp_path / 'r50.safetensors', tmp_path / 'converted'
  safe.save_file(state_dict, path)
  arguments = [f'--config_file={text}', f'--checkpoint={path}', f'--output_dir={output}']
  assert convert.main(arguments) == 0
  assert f'Wrote {output}/ckpt-0, of step 0, from {path}' in capsys.readouterr().out
  assert f'{path}, a checkpoint of PyTorch kMaX-DeepLab: {len(values)} tensors' in caplog.text
  restore.restore_model(model, str(output))
  for key, variable in released_keys.of_model(model).items():
    np.testing.assert_array_equal(variable, values[key], key)


def test_deeplab2_s_conventions_are_refused_and_the_advice_works(text, model, state_dict, stored):
  path, plain = stored(state_dict), load.load(text, _AS_DEEPLAB2)
  advised = [
    'model_options.backbone.stem_max_pool=true',
    f'{_KMAX}.pixel_decoder_features=res5,res4,res3,res1,res2',
    f'{_KMAX}.pixel_decoder_dilation=1',
    f'{_KMAX}.semantic_feature=res5',
  ]
  for call in (restore.restore_model, restore.initialize_model):
    files.refused(
      lambda call=call: _restored(model, path, plain, call),
      f'{path}: its model, of PyTorch kMaX-DeepLab, computes otherwise than the configured one; '
      f'set {", ".join(advised)} (docs/pytorch.md).',
    )
  assert _is_empty(model)
  _restored(model, path, load.load(text, [*_AS_DEEPLAB2, *advised]))
  assert not _is_empty(model)


def test_a_checkpoint_of_deeplab2_is_refused_the_other_way_round(text, model, values, tmp_path):
  path = files.write(tmp_path / 'ckpt', {key + files.SUFFIX: x for key, x in values.items()})
  advised = [
    'model_options.backbone.stem_max_pool=false',
    f'{_KMAX}.pixel_decoder_features=stage5,stage4,stage3,stage2,stage1',
    f'{_KMAX}.pixel_decoder_dilation=2',
    f'{_KMAX}.semantic_feature=stage5',
  ]
  files.refused(
    lambda: _restored(model, path, load.load(text)),
    f'{path}: its model, of DeepLab2, computes otherwise than the configured one; set '
    f'{", ".join(advised)} (docs/pytorch.md).',
  )
  assert _is_empty(model)
  _restored(model, path, load.load(text, advised))
  assert not _is_empty(model)


def test_a_backbone_alone(text, config, model, values, state_dict, stored, caplog):
  path = stored(state_dict)
  plain = load.load(text, _AS_DEEPLAB2)
  files.refused(
    lambda: _restored(model.backbone, path, plain, restore.initialize_backbone),
    'set model_options.backbone.stem_max_pool=true (docs/pytorch.md).',
  )
  _restored(model.backbone, path, config, restore.initialize_backbone)
  filled = released_keys.of_model(model.backbone, 'backbone')
  for key, variable in released_keys.of_model(model).items():
    np.testing.assert_array_equal(variable, values[key] if key in filled else 0 * values[key])
  assert f'{len(values) - len(filled)} tensors are of no use here' in caplog.text
  assert f'{len(filled)} tensors matched' in caplog.text


def test_other_classes_start_afresh_where_that_is_asked_for(
  config, model, values, state_dict, stored
):
  heads = {
    key
    for key in state_dict
    if '_transformer_class_head.' in key or '_semantic_predictor.2.' in key
  }
  path = stored({key: x[:7] if key in heads else x for key, x in state_dict.items()})
  files.refused(
    lambda: _restored(model, path, config, restore.initialize_model),
    'it was trained with 7 classes, not ',
    'restore_semantic_last_layer_from_initial_checkpoint=false',
  )
  assert _is_empty(model)
  _restored(model, path, config, restore.initialize_model, fresh_class_heads=True)
  variables = released_keys.of_model(model)
  filled = {key for key, variable in variables.items() if np.any(variable)}
  assert len(filled) == len(values) - len(heads)


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda x: x | {'sem_seg_head.extra': np.zeros(3)}, ['it has sem_seg_head.extra in addition']),
    (
      lambda x: {key: value for key, value in x.items() if key != _CENTERS},
      ['it lacks transformer_decoder/cluster_centers'],
    ),
    (
      lambda x: x | {_CENTERS: np.zeros([16, 5])},
      ['it has 5 mask slots, the model 16', f'{_KMAX}.num_mask_slots=5'],
    ),
    (
      lambda x: x | {'backbone.stem.conv1.weight': np.zeros(3)},
      ['backbone.stem.conv1.weight has the shape [3]'],
    ),
    (
      lambda x: {f'backbone.{key}': value for key, value in x.items()},
      ['holds no kMaX-DeepLab of PyTorch; it has backbone.backbone.stem.conv1.weight'],
    ),
    (
      lambda x: {
        key: np.zeros(shape, np.int8)
        for key, *_, shape in torch_files.rows('cityscapes_convnext_large')
      },
      ['the backbone ConvNeXt with 36 blocks, where the configuration has ResNet with 16 blocks'],
    ),
  ],
)
def test_other_tensors_change_nothing(config, model, state_dict, stored, change, words):
  path = stored(change(state_dict))
  files.refused(lambda: _restored(model, path, config), path, *words)
  assert _is_empty(model)


def test_paths(tmp_path):
  for name in ('no.pth', 'no.safetensors'):
    files.refused(lambda name=name: restore.newest(str(tmp_path / name)), f'{name}: no such file')
  (tmp_path / 'R-50.pkl').touch()
  files.refused(lambda: restore.newest(str(tmp_path / 'R-50.pkl')), 'R-50.pkl: a pickle')
  (tmp_path / 'x.pth').touch()
  assert restore.newest(str(tmp_path / 'x.pth')) == str(tmp_path / 'x.pth')
  # A checkpoint of TensorFlow may be called so, too.
  prefix = files.write(tmp_path / 'y.pth', {'dense/kernel': np.zeros(3)})
  assert restore.newest(prefix) == prefix
  files.refused(lambda: restore.restore_model(tf.Module(), prefix), 'neither a checkpoint of this')


def test_the_conventions_of_the_model_are_needed(model, stored):
  path = stored({})
  with pytest.raises(ValueError, match='conventions of the model are needed'):
    restore.restore_model(model, path)


def test_classes_are_put_in_order_by_the_dataset(stored, state_dict):
  """If it has as many; else they are left, for others to refuse."""
  bias = 'sem_seg_head.predictor._predcitor._transformer_class_head.conv.bias'
  path = stored({**state_dict, bias: np.arange(20)})
  for name, expected in (
    ('cityscapes_panoptic', [*range(11, 19), *range(11), 19]),
    ('coco_panoptic', range(20)),
  ):
    space = datasets.get(name).label_space
    reader = torch_kmax.Reader(path, space)
    np.testing.assert_array_equal(reader.get('transformer_class_head/_conv/bias'), expected)
