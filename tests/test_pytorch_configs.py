"""Every config of PyTorch kMaX-DeepLab loads and assembles; filled as PyTorch was, it computes the
same (slow)."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2.checkpoint import conventions
from deeplab2.checkpoint import released_keys
from deeplab2.checkpoint import restore
from deeplab2.checkpoint import torch_file
from deeplab2.config import changes
from deeplab2.config import load
from deeplab2.model.backbones import resnet
from tests import test_remax_configs as remax
from tests.checkpoint import torch_files
from tests.goldens import fill
from tests.model import builders

_ROOT = pathlib.Path(__file__).parents[1]
_PATHS = sorted((_ROOT / 'configs').glob('*/pytorch/*.textproto'))
_PQ = {  # README of bytedance/kmax-deeplab.
  'coco_r50': 53.3,
  'coco_convnext_tiny': 55.5,
  'coco_convnext_small': 56.7,
  'coco_convnext_base': 57.2,
  'coco_convnext_large': 57.9,
  'cityscapes_r50': 63.5,
  'cityscapes_convnext_large': 68.4,
  'ade20k_r50': 42.2,
  'ade20k_convnext_large': 50.0,
}
# Pixel, thing, stuff and overlap thresholds, weights of class and mask.
_THRESHOLDS = {
  'coco': (0.4, 0.7, 0.5, 0.8, 1, 1),
  'ade20k': (0.4, 0.4, 0.4, 0.8, 1, 1),
  'cityscapes': (0.4, 0.5, 0.3, 0.9, 1, 0),
}


def _name(path):
  """Returns the name of the model that a config is of."""
  return f'{path.parents[1].name}_{path.stem.replace("resnet50", "r50")}'


def _path(name):
  return next(path for path in _PATHS if _name(path) == name)


_each_config = pytest.mark.parametrize('path', _PATHS, ids=_name)


def test_there_is_one_for_every_model():
  assert {_name(path) for path in _PATHS} == set(torch_files.MODELS) == set(_PQ)


@_each_config
def test_header_names_file_variables_and_quality(path):
  header, body = path.read_text().split('experiment_name', maxsplit=1)
  assert f'--config_file={path.relative_to(_ROOT)}' in header
  for variable in set(re.findall(r'\$\{(\w+)\}', body)):
    assert f'{variable}=' in header
  text = header.replace('\n# ', ' ')
  assert 'Hardware: ' in text and f'Expected PQ: {_PQ[_name(path)]} on val' in text


@_each_config
def test_it_computes_what_pytorch_s_model_does(path):
  config = load.load(str(path))
  assemble.check_model(config)
  configured = assemble.conventions(config)
  keys = [key for key, *_ in torch_files.rows(_name(path))]
  assert configured == conventions.of_torch(keys, configured.label_space)


@_each_config
def test_post_processing(path):
  options = load.load(str(path)).options.evaluator_options
  maskwise = options.maskwise_postprocessing
  assert options.transformer_post_processing == 'maskwise'
  assert options.thing_area_limit == options.stuff_area_limit == 0
  assert _THRESHOLDS[path.parents[1].name] == pytest.approx(
    (
      options.pixel_confidence_threshold,
      maskwise.transformer_class_confidence_threshold_thing,
      maskwise.transformer_class_confidence_threshold_stuff,
      maskwise.overlapping_threshold,
      maskwise.reorder_class_weight,
      maskwise.reorder_mask_weight,
    )
  )


def test_all_else_is_as_for_deeplab2_s_models():
  allowed = re.compile(
    r'experiment_name|model_options\.(backbone|initial_checkpoint|kmax)|'
    r'model_options\.max_deeplab\.auxiliary_low_level\[\d\]\.feature_key|'
    r'evaluator_options\.(thing|stuff)_area_limit|'
    # At 1281 instead of 641 on ADE20K.
    r'(train|eval)_dataset_options\.(crop_size|(min|max)_resize_value)|'
    r'model_options\.max_deeplab\.(instance_discrimination|semantic)_sample_k'
  )
  for path in _PATHS:
    other = load.load(str(path.parents[1] / 'kmax_resnet50.textproto'))
    for field in changes.differences(other.options, load.load(str(path)).options):
      assert allowed.match(field), f'{path}: {field}'
      if 'crop_size' in field or 'resize' in field or 'sample_k' in field:
        assert path.parents[1].name == 'ade20k', f'{path}: {field}'


@pytest.mark.parametrize('name', ['cityscapes_r50', 'coco_convnext_tiny'])
def test_the_smallest_predict(name):
  model = assemble.model(remax._shrunk(_path(name)))
  prediction = model(fill.image(65, 97))
  assert prediction.final.mask_logits.shape[1:3] == (17, 25)
  stride_32 = name.startswith('cityscapes')
  assert prediction.semantic_logits.shape[1:3] == ((3, 4) if stride_32 else (17, 25))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['cityscapes_r50', 'coco_r50', 'ade20k_r50'])
def test_takes_a_training_step(name):
  logs = remax._step(remax._shrunk(_path(name)))
  values = [value for key, value in logs.items() if key.startswith('losses/')]
  assert len(values) > 20 and np.all(np.isfinite(values))
  assert 0 < logs['gradient_norm'] < np.inf


def _tensors(model, image):
  """Returns the tensors of a model by their names in the goldens, and the masks of its layers."""
  images, decoder = image / 127.5 - 1.0, model.kmax_decoder
  pyramid = model.backbone(images)
  features = model.pixel_decoder(pyramid)
  tensors = {'enc/stem': pyramid.stage1}
  if isinstance(model.backbone, resnet.ResNet):
    stem = model.backbone.stem
    tensors['enc/stem_conv'] = stem.norm(stem._convolve(images, stem.kernel))
    tensors |= {f'enc/res{i}': getattr(pyramid, f'res{i}') for i in range(2, 6)}
  else:
    tensors |= {f'enc/res{i}': getattr(pyramid, f'stage{i}') for i in range(2, 6)}
  tensors |= {f'pix/decoder_stage{i}': feature for i, feature in enumerate(features[:-1], start=1)}
  tensors['pix/decoder_output'] = features[-1]
  centers, masks = decoder.cluster_centers, []
  for i, layer in enumerate(decoder.layers):
    centers, layer_masks = layer(features[decoder.feature_of_layer[i]], centers)
    tensors[f'centers/{i}'] = centers
    masks.append(layer_masks)
  tensors['td/class_feature'] = decoder.class_projection(centers)
  tensors['td/mask_feature'] = decoder.mask_projection(centers)
  prediction = model(image)
  predictions = {f'aux/{i}': layer for i, layer in enumerate(decoder.predictions(masks))}
  for key, layer in {**predictions, 'pred': prediction.final}.items():
    tensors[f'{key}/pixel_space_mask_logits'] = layer.mask_logits
    tensors[f'{key}/transformer_class_logits'] = layer.class_logits
    tensors[f'{key}/pixel_space_normalized_feature'] = layer.pixel_feature
  tensors['pred/semantic_logits'] = prediction.semantic_logits
  return tensors, masks, prediction


@pytest.mark.slow
@pytest.mark.usefixtures('constant_weights')
@pytest.mark.parametrize('name', ['coco_r50', 'coco_convnext_tiny', 'ade20k_r50', 'cityscapes_r50'])
def test_golden(golden, name, monkeypatch, caplog):
  """From a state dict to predictions, all of it within a thousandth of a standard deviation."""
  golden = golden(f'torch_{name}')
  config = load.load(str(_path(name)))
  model = assemble.model(config)
  values = {
    key: variable.numpy() for key, variable in builders.fill_by_key(model, golden=golden).items()
  }
  state_dict = torch_files.state_dict(name, values)
  assert len(state_dict) == len(torch_files.rows(name)) + len(torch_files.counters(name))
  for variable in model.variables:
    variable.assign(tf.zeros_like(variable))
  monkeypatch.setattr(torch_file, 'read', lambda path: state_dict)
  monkeypatch.setattr(restore, 'newest', lambda path: path)
  restore.restore_model(model, 'x.pth', conventions=assemble.conventions(config))
  assert (
    f'x.pth, a checkpoint of PyTorch kMaX-DeepLab: {len(values)} tensors matched' in caplog.text
  )
  for key, variable in released_keys.of_model(model).items():
    np.testing.assert_array_equal(variable, values[key], key)

  image = tf.constant(fill.image(*golden['image']), tf.float32)
  tensors, masks, prediction = _tensors(model, image)
  stored = {key.removeprefix('samples/') for key in golden if key.startswith('samples/')}
  assert set(tensors) == stored
  deviations = {key: builders.deviation(tensor, golden, key) for key, tensor in tensors.items()}
  step = 2 if name == 'ade20k_r50' else 1
  final, semantic = prediction.final, prediction.semantic_logits
  for key, tensor in (
    ('centers_final', tensors['centers/5'][:, ::8]),
    ('transformer_class_logits', final.class_logits[:, ::step]),
    ('pixel_space_mask_logits', final.mask_logits[:, ::4, ::4]),
    ('pixel_space_normalized_feature', final.pixel_feature[:, ::4, ::4]),
    ('semantic_logits', semantic if name == 'cityscapes_r50' else semantic[:, ::4, ::4]),
  ):
    assert tensor.shape == golden[key].shape
    deviations[key] = np.abs(tensor - golden[key]).max() / golden[key].std()
  worst = max(deviations, key=deviations.get)
  print(f'{name}: worst deviation {deviations[worst]:.1e} of std, {worst}')
  assert deviations[worst] < 1e-3, worst
  for i, layer_masks in enumerate(masks):
    np.testing.assert_array_equal(np.argmax(layer_masks.mask_logits, -1), golden[f'assignment/{i}'])
  assert np.sum(np.argmax(final.mask_logits, -1) != golden['mask_argmax']) <= 2
