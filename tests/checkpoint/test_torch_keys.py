"""Names and layouts of PyTorch kMaX-DeepLab's tensors, against those of its nine models."""

import json

import numpy as np
import pytest

from deeplab2.checkpoint import torch_keys
from deeplab2.data import datasets
from tests import conftest
from tests.checkpoint import torch_files

_each_model = pytest.mark.parametrize('model', torch_files.MODELS)
# Models that DeepLab2's own checkpoints are known of.
_RELEASED = {
  'coco_r50': 'checkpoint_coco_r50',
  'coco_convnext_tiny': 'checkpoint_coco_convnext_tiny',
  'cityscapes_r50': 'checkpoint_cityscapes_r50',
}
_ENTRIES = {  # state_dict entries, of them counters.
  'coco_r50': (1417, 233),
  'coco_convnext_tiny': (1283, 181),
  'coco_convnext_small': (1445, 181),
  'coco_convnext_base': (1445, 181),
  'coco_convnext_large': (1445, 181),
  'ade20k_r50': (1417, 233),
  'ade20k_convnext_large': (1445, 181),
  'cityscapes_r50': (1377, 226),
  'cityscapes_convnext_large': (1411, 175),
}


def _label_space(model):
  return datasets.get(f'{model.partition("_")[0]}_panoptic').label_space


def test_every_key():
  rows = torch_files.NAMES['rows']
  assert len(rows) == 1573
  wrong = [key for key, released, _ in rows if torch_keys.of_key(key) != released]
  assert not wrong


@_each_model
def test_every_entry_of_a_model_has_a_partner_of_its_own(model):
  keys = [key for key, *_ in torch_files.rows(model)]
  counters = torch_files.counters(model)
  assert (len(keys) + len(counters), len(counters)) == _ENTRIES[model]
  assert torch_keys.is_kmax(keys)
  assert all(map(torch_keys.is_counter, counters)) and not any(map(torch_keys.is_counter, keys))
  assert len({torch_keys.of_key(key) for key in keys}) == len(keys)


@_each_model
def test_layouts(model):
  """Each tensor, of fewer channels, is brought to PyTorch's layout as measured, and comes back."""
  for key, released_key, _, full_shape in torch_files.rows(model):
    shape = tuple(16 if size > 256 else size for size in full_shape)
    theirs = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    ours = torch_keys.in_our_layout(released_key, theirs, _label_space(model))
    back = torch_files.state_dict(model, {released_key: ours})[key]
    assert back.shape == shape, key
    np.testing.assert_array_equal(back, theirs, key)


@pytest.mark.parametrize('model, name', _RELEASED.items())
def test_shapes_are_those_of_deeplab2_s_checkpoints(model, name):
  manifest = json.loads((conftest.GOLDENS / f'{name}.json').read_text())
  expected = {entry['key']: tuple(entry['shape']) for entry in manifest}
  found = {
    released_key: torch_keys.in_our_layout(
      released_key, np.empty(shape, np.int8), _label_space(model)
    ).shape
    for _, released_key, _, shape in torch_files.rows(model)
  }
  differing = {key for key in expected if found.get(key) != expected[key]}
  differing -= {'global_step', 'save_counter'}
  assert set(found) <= set(expected)
  if model != 'cityscapes_r50':
    assert not differing
    return
  # The last two stages read each other's features: 64 channels, which need no projection to the 64
  # of the fourth, and 256.
  projection = 'pixel_decoder/_skip_connections/2/_resized_conv_bn2/'
  assert {key for key in differing if not key.startswith(projection)} == {
    'pixel_decoder/_backbone_norms/3/gamma',
    'pixel_decoder/_backbone_norms/3/beta',
    'pixel_decoder/_backbone_norms/4/gamma',
    'pixel_decoder/_backbone_norms/4/beta',
    'pixel_decoder/_skip_connections/3/_resized_conv_bn2/_conv/kernel',
  }


@pytest.mark.parametrize('dataset', ['ade20k', 'cityscapes', 'coco'])
def test_classes(dataset):
  """The channel of each class and of void, by the measured order."""
  space = _label_space(dataset)
  for key, order in (
    ('transformer_class_head/_conv/bias', 'class_order'),
    ('semantic_last_layer/bias', 'semantic_order'),
  ):
    measured = torch_files.NAMES['orders'][dataset][order]
    channels = np.arange(len(measured))
    np.testing.assert_array_equal(torch_keys.in_our_layout(key, channels, space), measured)
  # Of another dataset: left as they are, for others to refuse.
  other = np.arange(7)
  np.testing.assert_array_equal(
    torch_keys.in_our_layout('transformer_class_head/_conv/bias', other, space), other
  )


@pytest.mark.parametrize(
  'key',
  [
    'conv1.weight',
    'backbone.layers.0.blocks.0.attn.qkv.weight',
    'sem_seg_head.predictor.level_embed.weight',
    'backbone.res2.0.conv1.extra',
  ],
)
def test_keys_of_others(key):
  assert torch_keys.of_key(key) is None
  assert not torch_keys.is_kmax([key])


def test_a_tensor_of_another_rank():
  with pytest.raises(ValueError):
    torch_keys.in_our_layout('encoder/_stem/_conv/kernel', np.zeros(3), _label_space('coco'))
