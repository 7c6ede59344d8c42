"""Every config of plain kMaX-DeepLab loads, assembles, fits its hardware, and takes a step."""

import pathlib
import re

import numpy as np
import pytest

from deeplab2 import assemble
from deeplab2.config import changes
from deeplab2.config import load
from deeplab2.config import trainer_checks
from tests import test_remax_configs as remax

_ROOT = pathlib.Path(__file__).parents[1]
_DATASETS = ('ade20k', 'cityscapes', 'coco')
_PATHS = sorted(path for name in _DATASETS for path in (_ROOT / 'configs' / name).glob('kmax_*'))
_BACKBONES = {
  'axial_resnet50',
  'convnext_large',
  'convnext_tiny',
  'moat2',
  'resnet50',
  'tiny_moat1',
}


def _name(path):
  return f'{path.parent.name}/{path.stem}'


_each_config = pytest.mark.parametrize('path', _PATHS, ids=_name)


def _header(path):
  return ' '.join(line[2:] for line in path.read_text().splitlines() if line.startswith('# '))


def test_there_is_a_family_for_every_dataset():
  names = {(path.parent.name, path.stem.removeprefix('kmax_')) for path in _PATHS}
  assert names == {(dataset, backbone) for dataset in _DATASETS for backbone in _BACKBONES}


@_each_config
def test_header_names_file_variables_and_quality(path):
  header, body = path.read_text().split('experiment_name', maxsplit=1)
  assert f'--config_file={path.relative_to(_ROOT)}' in header
  for variable in set(re.findall(r'\$\{(\w+)\}', body)):
    assert f'{variable}=' in header
  assert 'Expected PQ: ' in _header(path) and 'Hardware: ' in _header(path)


def _memory(backbone):
  """Returns (GB of an image of 1281x1281, GB of the variables and their state) of a backbone."""
  text = (_ROOT / 'docs/training.md').read_text().split('## Memory')[1]
  if backbone == 'resnet50':
    image = re.search(r'\| `BFLOAT16`, `recompute: BLOCKS` \| (\S+) ', text).group(1)
    return float(image), float(re.search(r"AdamW's two moments are (\S+) GB", text).group(1))
  return tuple(map(float, re.search(rf'\| `{backbone}` \| (\S+) \| (\S+) ', text).groups()))


@_each_config
def test_the_batch_fits_the_hardware(path):
  gpus, gigabytes, images = map(
    int, re.search(r'Hardware: (\d+) GPUs of (\d+) GB, (\d+) images each', _header(path)).groups()
  )
  config = load.load(str(path))
  options = config.options.train_dataset_options
  assert gpus * images == options.batch_size
  trainer_checks.check_devices(config, gpus, 'GPU')
  backbone = config.value('model_options.backbone.name').removeprefix('kmax_')
  image, fixed = _memory(backbone)
  height, width = options.crop_size
  assert fixed + images * image * height * width / 1281**2 <= 0.95 * gigabytes


def test_only_the_backbone_differs_from_resnet50_s_config():
  allowed = ('experiment_name', 'model_options.backbone', 'model_options.initial_checkpoint')
  for path in _PATHS:
    config, other = load.load(str(path)), load.load(str(path.parent / 'kmax_resnet50.textproto'))
    for field in changes.differences(other.options, config.options):
      assert field.startswith(allowed), f'{path}: {field}'
    assemble.check_model(config)


# Made small, each config has the values of two of these: of one with its dataset and of one with
# its backbone.
_STEPPED = [
  _ROOT / f'configs/{dataset}/kmax_{backbone}.textproto'
  for dataset, backbone in (
    ('ade20k', 'resnet50'),
    ('cityscapes', 'resnet50'),
    ('coco', 'axial_resnet50'),
    ('coco', 'convnext_tiny'),
    ('coco', 'moat2'),
  )
]
_SMALLEST = {
  'kmax_convnext_large': 'kmax_convnext_tiny',
  'kmax_moat2_finetune_384_22k': 'kmax_tiny_moat1_pretrain_256_1k',
}


def _shrunk(path):
  """Loads a config made small, with a backbone that is the smallest of its kind."""
  config = remax._shrunk(path)
  backbone = config.options.model_options.backbone
  backbone.name = _SMALLEST.get(backbone.name, backbone.name)
  return config


@pytest.mark.slow
@pytest.mark.parametrize('path', _STEPPED, ids=_name)
def test_takes_a_training_step(path):
  logs = remax._step(_shrunk(path))
  values = [value for name, value in logs.items() if name.startswith('losses/')]
  assert len(values) > 20 and np.all(np.isfinite(values))
  assert 0 < logs['gradient_norm'] < np.inf


def test_every_part_of_every_config_is_in_one_that_takes_a_step():
  drop_path = 'model_options.backbone.drop_path_keep_prob'
  stepped = [_shrunk(path) for path in _STEPPED]
  for path in _PATHS:
    config = _shrunk(path)
    assert remax._is_of_two(config, stepped, {'experiment_name', drop_path}), path
    assemble.loss(config)
    assert assemble.post_processing(config) is not None
  # The stepped one of every kind with drop path has one.
  assert [config.value(drop_path) < 1 for config in stepped] == [False, False, True, True, True]
