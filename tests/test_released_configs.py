"""DeepLab2's 62 public textprotos: all parse, kMaX's assemble with their sizes, others are refused.

The files are not here; the texts below have their fields. Numbers of trainable variables and
parameters were counted on DeepLab2 itself.
"""

import math

import pytest

from deeplab2 import assemble
from deeplab2 import errors
from deeplab2.config import load
from deeplab2.model.backbones import registry
from deeplab2.trainer import training
from tests.config import configs

# (dataset, backbone) -> trainable variables, parameters, variables of the backbone's group.
_KMAX = {
  ('coco_panoptic', 'resnet50'): (718, 72_436_862, 159),
  ('coco_panoptic', 'axial_resnet50'): (860, 90_272_254, 301),
  ('coco_panoptic', 'convnext_tiny'): (740, 67_265_502, 178),
  ('coco_panoptic', 'convnext_small'): (902, 88_900_062, 340),
  ('coco_panoptic', 'convnext_base'): (902, 129_747_390, 340),
  ('coco_panoptic', 'convnext_large'): (902, 243_882_366, 340),
  ('cityscapes_panoptic', 'resnet50'): (702, 56_986_125, 159),
  ('cityscapes_panoptic', 'axial_resnet50'): (844, 74_823_693, 301),
  ('cityscapes_panoptic', 'convnext_tiny'): (724, 60_981_933, 178),
  ('cityscapes_panoptic', 'convnext_small'): (886, 82_616_493, 340),
  ('cityscapes_panoptic', 'convnext_base'): (886, 121_631_693, 340),
  ('cityscapes_panoptic', 'convnext_large'): (886, 232_102_413, 340),
  ('ade20k_panoptic', 'resnet50'): (718, 72_471_814, 159),
  ('ade20k_panoptic', 'convnext_large'): (902, 243_917_318, 340),
}
# ADE20K's two backbones are published at two crops.
_CROPS = {
  ('ade20k_panoptic', backbone): ((641, 641), (1281, 1281))
  for backbone in ('resnet50', 'convnext_large')
}
# Not a field of DeepLab2's own: its file with it does not parse there.
_OF_ONE = {
  ('ade20k_panoptic', 'convnext_large', (641, 641)): 'transformer_decoder_drop_path_keep_prob: 1.0'
}
_PUBLISHED = [
  (dataset, backbone, crop)
  for dataset, backbone in _KMAX
  for crop in _CROPS.get((dataset, backbone), (None,))
]
_each_config = pytest.mark.parametrize(
  'dataset, backbone, crop', _PUBLISHED, ids=['-'.join(map(str, config)) for config in _PUBLISHED]
)

# Fields that only other models have; every one of these is in several files.
_OTHER_LOSSES = (
  'center_loss { name: "mse" weight: 200 } regression_loss { name: "l1" weight: 0.01 }'
)
_LOW_LEVEL = 'low_level { feature_key: "res3" channels_project: 64 }'
_INSTANCE = (
  'instance { center_head { output_channels: 1 head_channels: 32 } '
  'regression_head { output_channels: 2 head_channels: 32 } }'
)
_SEMANTIC = 'semantic_head { output_channels: 19 head_channels: 256 }'
_METAS = {
  'deeplab_v3': 'deeplab_v3 { num_classes: 19 }',
  'deeplab_v3_plus': f'deeplab_v3_plus {{ {_LOW_LEVEL} num_classes: 19 }}',
  'panoptic_deeplab': f'panoptic_deeplab {{ {_LOW_LEVEL} {_INSTANCE} {_SEMANTIC} }}',
  'motion_deeplab': (
    f'motion_deeplab {{ {_LOW_LEVEL} {_INSTANCE} {_SEMANTIC} '
    'motion_head { output_channels: 2 head_channels: 32 } }'
  ),
  'vip_deeplab': (
    f'vip_deeplab {{ {_LOW_LEVEL} {_INSTANCE} {_SEMANTIC} '
    'depth_head { output_channels: 1 head_channels: 64 '
    'max_value_after_activation: 88.0 min_value_after_activation: 0.0 } }'
  ),
  'max_deeplab': (
    'max_deeplab { pixel_space_head { output_channels: 128 head_channels: 256 } '
    'auxiliary_semantic_head { output_channels: 134 head_channels: 256 } }'
  ),
}
# (meta architecture, backbone) of every file that is not kMaX's, files that differ in numbers
# alone once.
_OTHERS = [
  *(('deeplab_v3', name) for name in ('resnet50', 'mobilenet_v3_large')),
  ('deeplab_v3_plus', 'resnet50'),
  *(
    ('panoptic_deeplab', name)
    for name in (
      'resnet50',
      'resnet50_beta',
      'mobilenet_v3_large',
      'mobilenet_v3_small',
      'swidernet',
      'wide_resnet41',
      'axial_swidernet',
      'max_deeplab_s_backbone',
      'max_deeplab_l_backbone',
    )
  ),
  ('motion_deeplab', 'resnet50'),
  *(('vip_deeplab', name) for name in ('resnet50_beta', 'wide_resnet41')),
  *(('max_deeplab', name) for name in ('max_deeplab_s', 'max_deeplab_l')),
]


@pytest.fixture(name='each_backbone_once', scope='module')
def _each_backbone_once():
  """Models that are assembled alike share their backbone, which is most of them to be built."""
  create, built = registry.create, {}

  def create_once(name, **settings):
    key = name, tuple(sorted(settings.items()))
    if key not in built:
      built[key] = create(name, **settings)
    return built[key]

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(registry, 'create', create_once)
    yield


@pytest.fixture
def write(tmp_path):
  def write_text(text):
    path = tmp_path / 'experiment.textproto'
    path.write_text(text)
    return str(path)

  return write_text


def _text(dataset, backbone, crop):
  text = configs.kmax(dataset, backbone, max_deeplab=_OF_ONE.get((dataset, backbone, crop), ''))
  if crop == (1281, 1281):
    text = text.replace('641', '1281')
  return text


# What DeepLab2's example of kMaX has: no dataset, no crop of evaluation, no losses.
_EXAMPLE = """
model_options {
  decoder { feature_key: "feature_semantic" atrous_rates: [6, 12, 18] }
  backbone { name: "kmax_convnext_base" drop_path_keep_prob: 0.5 }
  max_deeplab {
    pixel_space_head { output_channels: 128 head_channels: 256 }
    auxiliary_low_level { feature_key: "res3" channels_project: 64 }
    auxiliary_low_level { feature_key: "res2" channels_project: 32 }
    auxiliary_semantic_head { output_channels: 134 head_channels: 256 }
  }
}
train_dataset_options { crop_size: [65, 65] }
"""


@pytest.mark.slow
@pytest.mark.usefixtures('weights_without_memory', 'each_backbone_once')
def test_the_example_is_a_model_of_coco(write):
  model = assemble.model(load.load(write(_EXAMPLE)))
  variables, parameters, _ = _KMAX['coco_panoptic', 'convnext_base']
  assert len(model.trainable_variables) == variables
  assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == parameters


def test_there_are_sixteen():
  assert len(_PUBLISHED) == 16


@_each_config
def test_loads_unmodified(write, dataset, backbone, crop):
  config = load.load(write(_text(dataset, backbone, crop)))
  assert config.value('model_options.backbone.name') == f'kmax_{backbone}'
  expected = {'coco_panoptic': (1281, 1281), 'cityscapes_panoptic': (1025, 2049)}.get(dataset, crop)
  for field in ('train_dataset_options', 'eval_dataset_options'):
    assert tuple(config.value(f'{field}.crop_size')) == expected
  weights = 'model_options.' + (
    'initial_checkpoint' if 'resnet' in backbone else 'backbone.pretrained_weights'
  )
  assert set(config.unresolved()) == {
    'experiment_name',
    weights,
    'train_dataset_options.file_pattern',
    'eval_dataset_options.file_pattern',
  }
  keep_prob = config.value('model_options.kmax.decoder_drop_path_keep_prob')
  assert keep_prob == pytest.approx(1.0 if dataset == 'ade20k_panoptic' else 0.8)


@pytest.mark.slow
@pytest.mark.usefixtures('weights_without_memory', 'each_backbone_once')
@_each_config
def test_assembles_with_its_dataset_s_values(write, dataset, backbone, crop):
  config = load.load(write(_text(dataset, backbone, crop)))
  model = assemble.model(config)
  variables, parameters, of_backbone = _KMAX[dataset, backbone]
  assert len(model.trainable_variables) == variables
  assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == parameters
  assert len(model.backbone.trainable_variables) == of_backbone
  assemble.loss(config)
  assert assemble.post_processing(config) is not None
  if dataset == 'coco_panoptic' or backbone == 'resnet50':  # Every backbone and every dataset.
    assert set(training.create_state(config, model).groups) == {'optimizer', 'backbone_optimizer'}


@pytest.mark.parametrize('meta, backbone', _OTHERS)
def test_other_models_are_refused_in_one_line_that_names_them(write, meta, backbone):
  text = configs.kmax('cityscapes_panoptic', 'resnet50')
  start, end = text.index('max_deeplab {'), text.index('trainer_options {')
  text = text[:start] + _METAS[meta] + '\n}\n' + text[end:]
  text = text.replace('name: "kmax_resnet50"', f'name: "{backbone}" output_stride: 16')
  text = text.replace('pq_style_loss { weight: 3.0 }', _OTHER_LOSSES)
  path = write(text)
  model = load.parse(path).options.model_options
  assert (model.WhichOneof('meta_architecture'), model.backbone.name) == (meta, backbone)
  with pytest.raises(errors.UserError) as caught:
    load.load(path)
  message = str(caught.value)
  assert '\n' not in message and message.startswith(f'{path}:')
  assert f'meta architecture {meta}' in message and 'only kMaX-DeepLab is built here' in message
