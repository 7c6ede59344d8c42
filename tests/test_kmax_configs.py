"""Every config of plain kMaX-DeepLab loads, assembles, fits its hardware, and takes a step."""

import pathlib
import re

import numpy as np
import pytest

from deeplab2 import assemble
from deeplab2.config import load
from deeplab2.config import trainer_checks
from tests import eager
from tests import test_remax_configs as remax

_ROOT = pathlib.Path(__file__).parents[1]
_PATHS = [
  path
  for path in sorted((_ROOT / 'configs').glob('*/kmax_*.textproto'))
  if 'shapes' not in str(path)
]
_BACKBONES = {
  'axial_resnet50',
  'convnext_large',
  'convnext_tiny',
  'moat2',
  'resnet50',
  'tiny_moat1',
}
_each_config = pytest.mark.parametrize(
  'path', _PATHS, ids=lambda path: f'{path.parent.name}/{path.stem}'
)


def _header(path):
  return ' '.join(line[2:] for line in path.read_text().splitlines() if line.startswith('# '))


def test_there_is_a_family_for_every_dataset():
  names = {(path.parent.name, path.stem.removeprefix('kmax_')) for path in _PATHS}
  assert names == {
    (dataset, backbone) for dataset in ('ade20k', 'cityscapes', 'coco') for backbone in _BACKBONES
  }


@_each_config
def test_header_names_file_variables_and_quality(path):
  header, body = path.read_text().split('experiment_name', maxsplit=1)
  assert f'--config_file={path.relative_to(_ROOT)}' in header
  for variable in set(re.findall(r'\$\{(\w+)\}', body)):
    assert f'{variable}=' in header
  assert 'Expected PQ: ' in _header(path)


def _memory_table():
  """Returns {backbone: GB of one image} and GB of the rest, of docs/training.md."""
  text = (_ROOT / 'docs/training.md').read_text()
  rows = re.findall(r'^\| `(\w+)` \| (\S+) \| (\S+) \| (\S+) \|', text, re.M)
  return {name: [float(value) for value in values] for name, *values in rows}


@_each_config
def test_the_batch_fits_the_hardware(path):
  config = load.load(str(path))
  gpus, gigabytes, images = map(
    int, re.search(r'Hardware: (\d+) GPUs of (\d+) GB, (\d+) images each', _header(path)).groups()
  )
  batch = config.options.train_dataset_options.batch_size
  parts = batch // (gpus * images)
  assert gpus * images * parts == batch
  assert parts == 1 or f'gradient_accumulation_steps={parts}' in _header(path)
  trainer_checks.check_devices(config, gpus * parts, 'GPU')
  fixed, per_megapixel, _ = _memory_table()[path.stem.removeprefix('kmax_')]
  height, width = config.options.train_dataset_options.crop_size
  assert fixed + images * per_megapixel * height * width / 1e6 <= 0.95 * gigabytes


@_each_config
@pytest.mark.slow
def test_takes_a_training_step(path):
  config = remax._shrunk(path)
  logs = remax._step(config)
  values = [value for name, value in logs.items() if name.startswith('losses/')]
  assert len(values) > 20 and np.all(np.isfinite(values))
  assert 0 < logs['gradient_norm'] < np.inf
  with eager.functions():
    assert assemble.post_processing(config) is not None
