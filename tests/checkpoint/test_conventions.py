"""What models compute otherwise, by the keys of their checkpoints and against configurations."""

import json
import pathlib

import pytest

from deeplab2 import assemble
from deeplab2.checkpoint import conventions
from deeplab2.config import load
from tests import conftest
from tests.checkpoint import files
from tests.checkpoint import torch_files

_CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
_KMAX = 'model_options.kmax'
_LEVEL = 'model_options.max_deeplab.auxiliary_low_level'
_COMPUTED = {  # Max-pooling, features of the pixel decoder and of the semantic branch.
  'coco_r50': (True, 'res5 res4 res3 res2', 'res5 res3 res2'),
  'coco_convnext_tiny': (False, 'stage5 stage4 stage3 stage2', 'stage5 stage3 stage2'),
  'ade20k_r50': (True, 'res5 res4 res3 res2', 'res5 res3 res2'),
  'cityscapes_r50': (True, 'res5 res4 res3 res1 res2', 'res5'),
  'cityscapes_convnext_large': (False, 'stage5 stage4 stage3 stage2 stage1', 'stage5'),
}


def _config(dataset, name, *overrides):
  return load.load(str(_CONFIGS / dataset / f'{name}.textproto'), overrides)


def _check(computed, config, whole=True):
  conventions.check(
    computed, assemble.conventions(config), whole=whole, prefix='x.pth', origin='another program'
  )


def _of_torch(model, config):
  keys = [key for key, *_ in torch_files.rows(model)]
  return conventions.of_torch(keys, assemble.conventions(config).label_space)


@pytest.mark.parametrize('model', _COMPUTED)
def test_of_torch(model):
  space = assemble.conventions(_config('coco', 'kmax_resnet50')).label_space
  computed = conventions.of_torch([key for key, *_ in torch_files.rows(model)], space)
  max_pool, pixel, semantic = _COMPUTED[model]
  assert computed.label_space == space and computed.pixel_decoder_dilation == 1
  assert computed.stem_max_pool == max_pool
  assert computed.pixel_decoder_features == tuple(pixel.split())
  assert computed.semantic_features == tuple(semantic.split())


@pytest.mark.parametrize(
  'model, config, advised',
  [
    (
      'coco_convnext_tiny',
      ('coco', 'kmax_convnext_tiny'),
      [
        f'{_KMAX}.pixel_decoder_dilation=1',
        f'{_LEVEL}[0].feature_key=stage3',
        f'{_LEVEL}[1].feature_key=stage2',
      ],
    ),
    (
      'coco_r50',
      ('coco', 'kmax_resnet50'),
      [
        'model_options.backbone.stem_max_pool=true',
        f'{_KMAX}.pixel_decoder_features=res5,res4,res3,res2',
        f'{_KMAX}.pixel_decoder_dilation=1',
        f'{_KMAX}.semantic_feature=res5',
      ],
    ),
    (
      'cityscapes_convnext_large',
      ('cityscapes', 'kmax_convnext_large'),
      [f'{_KMAX}.pixel_decoder_dilation=1'],
    ),
  ],
)
def test_what_a_config_of_deeplab2_lacks(model, config, advised):
  computed = _of_torch(model, _config(*config))

  def refused(settings, *missing):
    start = 'x.pth: its model, of another program, computes otherwise than the configured one; set '
    line = f'{start}{", ".join(missing)} (docs/pytorch.md).'
    files.refused(lambda: _check(computed, _config(*config, *settings)), line)

  refused([], *advised)
  _check(computed, _config(*config, *advised))
  # One that is missing is named alone.
  for missing in advised:
    refused([setting for setting in advised if setting != missing], missing)
  # A backbone has its stem alone.
  stem = [setting for setting in advised if 'stem_max_pool' in setting]
  _check(computed, _config(*config, *stem), whole=False)


def test_another_number_of_stages_is_left_to_the_variables():
  computed = _of_torch('cityscapes_r50', _config('cityscapes', 'kmax_resnet50'))
  config = _config('coco', 'pytorch/resnet50')
  _check(computed, config)


@pytest.mark.parametrize(
  'dataset, manifest', [('coco', 'coco_r50'), ('cityscapes', 'cityscapes_r50')]
)
def test_of_deeplab2(dataset, manifest):
  entries = json.loads((conftest.GOLDENS / f'checkpoint_{manifest}.json').read_text())
  keys = [entry['key'] for entry in entries]
  usual = assemble.conventions(_config(dataset, 'kmax_resnet50'))
  otherwise = assemble.conventions(_config(dataset, 'pytorch/resnet50'))
  assert conventions.of_deeplab2(keys, usual) == usual
  assert conventions.of_deeplab2(keys, otherwise) == usual
  # A backbone says nothing of the decoders.
  backbone = [key for key in keys if key.startswith('encoder/')]
  for prefix in ('encoder/', 'backbone/_encoder/', ''):
    named = [key.replace('encoder/', prefix, 1) for key in backbone]
    assert conventions.of_deeplab2(named, otherwise) == otherwise._replace(stem_max_pool=False)
  assert (
    conventions.of_deeplab2(['encoder/stages/0/layer_with_weights-0/norm/beta'], usual) == usual
  )
