"""Reading whole configurations: published fields, defaults by dataset, files that are wrong."""

from absl import logging as absl_logging
import pytest

from deeplab2 import errors
from deeplab2.config import config_pb2
from deeplab2.config import load

from . import configs

PUBLISHED = [
  (dataset, backbone) for dataset, backbones in configs.BACKBONES.items() for backbone in backbones
]
_KINDS = {'AXIAL': 0, 'BOTTLENECK': 1}
_STAGES = [
  (512, 1, 'AXIAL'),
  (256, 5, 'AXIAL'),
  (128, 1, 'BOTTLENECK'),
  (64, 1, 'BOTTLENECK'),
  (32, 1, 'BOTTLENECK'),
]


def _stages(kmax):
  return [(stage.filters, stage.num_blocks, stage.type) for stage in kmax.pixel_decoder_stages]


@pytest.mark.parametrize('dataset, backbone', PUBLISHED)
def test_published_configs_load(write, dataset, backbone):
  options = load.load(write(configs.kmax(dataset, backbone))).options
  assert options.model_options.backbone.name == f'kmax_{backbone}'
  assert options.train_dataset_options.dataset == dataset
  assert options.trainer_options.solver_options.warmup_steps == 5000


@pytest.mark.parametrize(
  'dataset, stride, slots, semantic, keep',
  [
    # DeepLab2's choice by the name of the dataset.
    ('cityscapes_panoptic', 2, 256, False, 0.8),
    ('coco_panoptic', 4, 128, True, 0.8),
    ('ade20k_panoptic', 4, 128, True, 1.0),
  ],
)
def test_kmax_defaults(write, dataset, stride, slots, semantic, keep):
  kmax = load.load(write(configs.kmax(dataset, 'resnet50'))).options.model_options.kmax
  assert kmax.high_resolution_stride == stride
  assert kmax.num_mask_slots == slots
  assert kmax.semantic_decoder is semantic
  assert kmax.decoder_drop_path_keep_prob == pytest.approx(keep)
  assert list(kmax.decoder_layers) == [2, 2, 2]
  assert (kmax.cluster_channels, kmax.feed_forward_channels) == (256, 2048)
  assert _stages(kmax) == [
    (filters, blocks, _KINDS[kind]) for filters, blocks, kind in _STAGES[: 4 if stride == 4 else 5]
  ]


def test_an_unknown_dataset_is_as_coco_and_the_log_says_so(write, monkeypatch):
  lines = []
  monkeypatch.setattr(absl_logging, 'info', lambda text, *args: lines.append(text % args))
  text = configs.SMALL.replace('coco_panoptic', 'my_own')
  options = load.load(write(text), ['model_options.kmax.decoder_layers=1,1,1']).options
  assert options.model_options.kmax.num_mask_slots == 128
  (line,) = lines
  assert "of COCO; 'my_own' has none of its own" in line
  assert 'num_mask_slots: 128' in line
  assert 'decoder_layers' not in line


def test_the_eval_dataset_counts_where_there_is_no_other(write):
  text = configs.SMALL.replace('coco_panoptic', 'cityscapes_panoptic')
  options = load.load(write(text), ['train_dataset_options=']).options
  assert options.model_options.kmax.num_mask_slots == 256


def test_what_is_given_stays(small):
  config = small(
    'model_options.kmax.high_resolution_stride=2',
    'model_options.kmax.num_mask_slots=9',
    'model_options.kmax.semantic_decoder=false',
  )
  kmax = config.options.model_options.kmax
  assert kmax.num_mask_slots == 9
  assert kmax.semantic_decoder is False
  assert len(kmax.pixel_decoder_stages) == 5
  assert config.origin('model_options.kmax.num_mask_slots') == '--set'
  assert 'default of coco_panoptic' in config.origin('model_options.kmax.cluster_channels')


def test_older_field_of_the_drop_path(write, small):
  text = configs.kmax(
    'ade20k_panoptic', 'convnext_large', max_deeplab='transformer_decoder_drop_path_keep_prob: 0.7'
  )
  old = 'model_options.max_deeplab.transformer_decoder_drop_path_keep_prob'
  new = 'model_options.kmax.decoder_drop_path_keep_prob'
  kmax = load.load(write(text)).options.model_options.kmax
  assert kmax.decoder_drop_path_keep_prob == pytest.approx(0.7)
  small(f'{old}=0.7', f'{new}=0.7')
  with pytest.raises(errors.UserError, match='they mean the same'):
    small(f'{old}=0.7', f'{new}=0.8')
  with pytest.raises(errors.UserError) as error:
    small(f'{old}=2')
  assert str(error.value).startswith(f'--set: {new} = 2: must be')


def test_bare_model_options(write):
  text = 'decoder { feature_key: "res5" }\nbackbone {\n  name: "resnet50" }\nmotion_deeplab {}'
  config = load.parse(write(text))
  assert config.options.model_options.WhichOneof('meta_architecture') == 'motion_deeplab'
  assert config.origin('model_options.backbone.name').endswith('experiment.textproto:3')
  with pytest.raises(errors.UserError, match=r'textproto:4: model_options.motion_deeplab: meta '):
    load.load(write(text))


def test_the_least_example_loads(write):
  # As in DeepLab2's example: no dataset, no evaluation, no losses.
  start = configs.SMALL.index('trainer_options')
  text = configs.SMALL[:start] + 'train_dataset_options { crop_size: 65 crop_size: 65 }'
  assert load.load(write(text)).options.model_options.kmax.num_mask_slots == 128


def test_lines_of_mistakes(small):
  error = small().error('trainer_options.loss_options.pq_style_loss.weight', 'is bad.')
  assert str(error).endswith(
    'experiment.textproto:13: trainer_options.loss_options.pq_style_loss.weight = 3: is bad.'
  )


def test_environment(write, monkeypatch):
  monkeypatch.setenv('TRAIN_SET', '/data/train*')
  config = load.load(write(configs.SMALL))
  assert config.require('train_dataset_options.file_pattern') == ['/data/train*']
  monkeypatch.delenv('TRAIN_SET')
  config = load.load(write(configs.SMALL))
  with pytest.raises(errors.UserError, match='textproto:17: .*variable TRAIN_SET is not set'):
    config.require('train_dataset_options.file_pattern')
  config = load.load(write(configs.SMALL), ['train_dataset_options.file_pattern=x'])
  assert config.require('train_dataset_options.file_pattern') == ['x']


def test_no_file(tmp_path):
  with pytest.raises(errors.UserError, match='none.textproto: no such file'):
    load.load(str(tmp_path / 'none.textproto'))
  with pytest.raises(errors.UserError, match='is a directory'):
    load.load(str(tmp_path))
  (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00\x80')
  with pytest.raises(errors.UserError, match='is not UTF-8 text'):
    load.load(str(tmp_path / 'binary'))


def test_errors_are_one_line(small, tmp_path):
  with pytest.raises(errors.UserError) as error:
    load.load(str(tmp_path))
  assert '\n' not in str(error.value)


def test_text_and_path_are_kept(write):
  path = write(configs.SMALL)
  config = load.load(path)
  assert (config.path, config.text) == (path, configs.SMALL)


def test_a_byte_order_mark(tmp_path):
  path = tmp_path / 'marked.textproto'
  path.write_bytes(b'\xef\xbb\xbf' + configs.SMALL.encode())
  assert load.load(str(path)).options.model_options.backbone.name == 'kmax_resnet50'


@pytest.mark.parametrize('field', load.PATHS)
def test_home_directories_in_every_path(small, monkeypatch, field):
  monkeypatch.setenv('HOME', '/home/me')
  last = field.rpartition('.')[2]
  value = small(f'{field}=~/x.json').value(field)
  assert value == (['/home/me/x.json'] if last == 'file_pattern' else '/home/me/x.json')
  # In the environment too.
  monkeypatch.setenv('PLACE', '~/y.json')
  value = small(f'{field}=${{PLACE}}').value(field)
  assert value == (['/home/me/y.json'] if last == 'file_pattern' else '/home/me/y.json')
  with pytest.raises(errors.UserError, match='there is no user') as error:
    small(f'{field}=~nobody-of-this-name/x.json')
  assert field in str(error.value)


def test_every_text_that_is_a_path_is_known():
  """Texts that are no paths are listed; a new option must be put into one of the lists."""
  found = set()

  def walk(descriptor, prefix):
    for field in descriptor.fields:
      path = f'{prefix}{field.name}'
      if field.message_type is not None:
        if prefix.count('.') < 4:
          walk(field.message_type, f'{path}.')
      elif field.cpp_type == field.CPPTYPE_STRING:
        found.add(path)

  walk(config_pb2.ExperimentOptions.DESCRIPTOR, '')
  no_paths = {
    path
    for path in found
    if path.rpartition('.')[2]
    in (
      'name',
      'experiment_name',
      'feature_key',
      'pixel_decoder_features',
      'semantic_feature',
      'head_conv_type',
      'decoder_conv_type',
      'learning_policy',
      'optimizer',
      'drop_path_schedule',
      'autoaugment_policy_name',
      'data_service',
      'cameras_to_use',
      'raw_panoptic_format',
      'transformer_post_processing',
    )
    or 'panoptic_copy_paste' in path
    or path.startswith(
      (
        'model_options.panoptic_deeplab',
        'model_options.motion_deeplab',
        'model_options.vip_deeplab',
      )
    )
  }
  assert found - no_paths == set(load.PATHS)
