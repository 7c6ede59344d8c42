"""Every config of ReMaX loads, assembles, and trains; its header says its size."""

import importlib.util
import json
import pathlib
import re

import numpy as np
import pytest

from deeplab2 import assemble
from deeplab2.config import changes
from deeplab2.config import load
from tests import eager

_ROOT = pathlib.Path(__file__).parents[1]
_PATHS = sorted((_ROOT / 'configs').glob('*/remax/*.textproto'))
_DATASETS = ('ade20k', 'cityscapes', 'coco')
_PAPER = 'mobilenet_v3_small'
_LOSSES = 'trainer_options.loss_options'
_MAX_DEEPLAB = 'model_options.max_deeplab'
# Small enough for seconds; the backbone keeps its width.
_SHRUNK = [
  f'{field}.{option}'
  for field in ('train_dataset_options', 'eval_dataset_options')
  for option in ('crop_size=65,65', 'min_resize_value=', 'max_resize_value=', 'max_thing_id=16')
] + [
  'train_dataset_options.batch_size=1',
  'model_options.decoder.decoder_channels=16',
  'model_options.decoder.aspp_channels=16',
  f'{_MAX_DEEPLAB}.pixel_space_head.head_channels=16',
  f'{_MAX_DEEPLAB}.pixel_space_head.output_channels=16',
  f'{_MAX_DEEPLAB}.auxiliary_semantic_head.head_channels=16',
  f'{_MAX_DEEPLAB}.instance_discrimination_sample_k=64',
  'model_options.kmax.num_mask_slots=16',
  'model_options.kmax.cluster_channels=16',
  'model_options.kmax.feed_forward_channels=16',
  f'{_LOSSES}.remask.head_channels=16',
]


def _script(name):
  spec = importlib.util.spec_from_file_location(name, _ROOT / 'scripts' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _name(path):
  return f'{path.parent.parent.name}/{path.stem}'


_each_config = pytest.mark.parametrize('path', _PATHS, ids=_name)
# Made small, every other config has the values of two of these: of one with its dataset and of
# one with its backbone.
_STEPPED = [
  _ROOT / f'configs/{dataset}/remax/{name}.textproto'
  for dataset, name in (
    ('ade20k', 'mobilenet_v3_large'),
    ('cityscapes', 'mobilenet_v3_small'),
    ('cityscapes', 'resnet50'),
    ('coco', 'mobilenet_v3_small_641'),
  )
]


def _shrunk(path):
  """Loads a config with every number that costs time made small, the switches untouched."""
  config = load.load(str(path))
  stages = ', '.join(
    f'{{ filters: 8 num_blocks: 1 type: {stage.Type.Name(stage.type)} }}'
    for stage in config.value('model_options.kmax.pixel_decoder_stages')
  )
  overrides = [*_SHRUNK, f'model_options.kmax.pixel_decoder_stages=[{stages}]']
  for message in (_MAX_DEEPLAB, f'{_LOSSES}.remask'):
    if config.value(f'{message}.semantic_sample_k'):
      overrides.append(f'{message}.semantic_sample_k=64')
  return load.load(str(path), overrides)


def _step(config):
  """Does one training step; returns the logs."""
  with eager.functions():
    return _script('benchmark').synthetic_trainer(config).train(1)


def _check_step(logs):
  values = {name: value for name, value in logs.items() if name.startswith('losses/')}
  for layer in range(4):
    assert values[f'losses/train_aux_{layer}semantic_loss'] > 0
  assert 'losses/train_aux_4semantic_loss' not in values
  assert any(name.startswith('losses/train_aux_5') for name in values)
  assert np.all(np.isfinite(list(values.values())))
  assert 0 < logs['gradient_norm'] < np.inf


def test_there_is_a_family_for_every_dataset():
  assert {path.parent.parent.name for path in _PATHS} == set(_DATASETS)
  assert len(_PATHS) == 10


@pytest.mark.parametrize('path', _STEPPED, ids=_name)
def test_takes_a_training_step(path):
  _check_step(_step(_shrunk(path)))


def test_every_part_of_every_config_is_in_one_that_takes_a_step():
  stepped = [_shrunk(path) for path in _STEPPED]
  for path in _PATHS:
    config = _shrunk(path)
    assert _is_of_two(config, stepped), path
    assemble.check_model(config)
    assemble.loss(config)
    assert assemble.post_processing(config) is not None


def _is_of_two(config, others, besides=frozenset({'experiment_name'})):
  """Whether every field has the value of another config with its dataset or with its backbone."""
  dataset, backbone = 'train_dataset_options.dataset', 'model_options.backbone.name'
  of_dataset, of_backbone = (
    [
      set(changes.differences(other.options, config.options))
      for other in others
      if other.value(field) == config.value(field)
    ]
    for field in (dataset, backbone)
  )
  return any(one & other <= besides for one in of_dataset for other in of_backbone)


@pytest.mark.slow
def test_the_largest_takes_a_training_step_at_full_width():
  path = _ROOT / 'configs/coco/remax/resnet50_1281.textproto'
  few_pixels = [
    f'{_MAX_DEEPLAB}.instance_discrimination_sample_k=64',
    f'{_LOSSES}.remask.semantic_sample_k=64',
  ]
  _check_step(_step(load.load(str(path), [*_SHRUNK[:9], *few_pixels])))  # Images, not widths.


@pytest.mark.parametrize('dataset', _DATASETS)
def test_one_config_of_a_dataset_is_the_paper_s_and_the_others_agree(dataset):
  others = set()
  for path in (path for path in _PATHS if path.parent.parent.name == dataset):
    config = load.load(str(path))
    losses = config.value(_LOSSES)
    assert losses.remask.enable and losses.reclass.enable
    assert ('paper-faithful' in path.read_text().split('experiment_name')[0]) == (
      path.stem.startswith(_PAPER)
    )
    if not path.stem.startswith(_PAPER):
      others.add(_switches(path))
      # Masks are read as what they are trained as.
      assert losses.reclass.mask_activation == losses.mask_loss_activation
      continue
    remask, reclass = losses.remask, losses.reclass
    assert losses.mask_loss_activation == losses.SIGMOID
    assert remask.semantic_activation == remask.class_activation == losses.SIGMOID
    assert remask.semantic_loss.name == 'sigmoid_cross_entropy'
    assert (
      remask.num_relaxed_layers == 4 and sum(config.value('model_options.kmax.decoder_layers')) == 6
    )
    assert remask.identity_mapping and remask.stop_gradient
    assert reclass.eta == pytest.approx(0.1)
    assert reclass.normalization == reclass.CLASS_AREA
    assert not config.value('trainer_options.solver_options.use_gradient_clipping')
  assert len(others) == 1


def test_the_switches_are_the_same_text_in_all_but_the_paper_s_configs():
  assert len({_switches(path) for path in _PATHS if not path.stem.startswith(_PAPER)}) == 1


def _switches(path):
  """Returns the lines of a config that say how ReMaX is used."""
  return re.search(r'    # ReMaX .*?# End of these lines.\n', path.read_text(), re.S).group()


@_each_config
def test_header_names_its_own_file_and_every_variable(path):
  header, body = path.read_text().split('experiment_name', maxsplit=1)
  assert f'--config_file={path.relative_to(_ROOT)}' in header
  for variable in set(re.findall(r'\$\{(\w+)\}', body)):
    assert f'{variable}=' in header
  text = header.replace('\n# ', ' ')
  assert 'Hardware: ' in text and 'Expected PQ: ' in text


@pytest.mark.slow
@pytest.mark.usefixtures('weights_without_memory')
@_each_config
def test_header_says_the_size(path, capsys):
  assert _script('model_size').main([f'--config_file={path}']) == 0
  size = json.loads(capsys.readouterr().out.splitlines()[-1])
  header = ' '.join(line[2:] for line in path.read_text().splitlines() if line.startswith('# '))
  assert f'{size["parameters"] / 1e6:.1f} M parameters' in header
  assert f'{size["multiply_adds"] / 1e9:.1f} G multiply-adds' in header
  assert f'training has {size["training_only_parameters"] / 1e6:.1f} M parameters more' in header
