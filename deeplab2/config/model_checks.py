"""Checks of model_options: the heads, the k-means decoder and the semantic branch."""

from deeplab2 import structures
from deeplab2.config import experiment
from deeplab2.config import values

_CONV_TYPES = ('depthwise_separable_conv', 'standard_conv')
_MAX_DEEPLAB = 'model_options.max_deeplab'
_KMAX = 'model_options.kmax'
_LOSSES = 'trainer_options.loss_options'
_DECODED = 'feature_semantic'  # DeepLab2's name of a backbone's last feature.


def check(config: experiment.Config) -> None:
  """Checks model_options, kmax filled in.

  Raises:
    UserError: at the first field that is wrong.
  """
  _check_heads(config)
  _check_kmax(config)
  _check_semantic_branch(config)


def _check_heads(config):
  head = f'{_MAX_DEEPLAB}.pixel_space_head'
  if not config.value(_MAX_DEEPLAB).HasField('pixel_space_head'):
    raise config.error(head, 'is missing; it makes the pixel features of the masks.')
  _check_head(config, head)
  values.positive_probability(config, 'model_options.backbone.drop_path_keep_prob')
  values.positive(config, 'model_options.backbone.backbone_width_multiplier')
  values.not_negative(config, _MAX_DEEPLAB, 'instance_discrimination_sample_k', 'semantic_sample_k')


def _check_head(config, path):
  values.positive(config, path, 'output_channels', 'head_channels')
  values.one_of(config, f'{path}.head_conv_type', _CONV_TYPES)


def _check_kmax(config):
  kmax = config.options.model_options.kmax
  values.positive(config, _KMAX, 'num_mask_slots', 'feed_forward_channels')
  values.require(
    config,
    f'{_KMAX}.cluster_channels',
    lambda number: number > 0 and number % 16 == 0,
    'a multiple of 16: keys of half the width go to 8 attention heads',
  )
  values.positive_probability(config, f'{_KMAX}.decoder_drop_path_keep_prob')
  if kmax.high_resolution_stride not in (2, 4):
    raise config.error(f'{_KMAX}.high_resolution_stride', 'must be 4 or 2.')
  if len(kmax.decoder_layers) != 3 or sum(kmax.decoder_layers) < 1:
    raise config.error(
      f'{_KMAX}.decoder_layers',
      'must be three numbers, the layers at strides 32, 16 and 8, not all 0.',
    )
  values.not_negative(config, f'{_KMAX}.decoder_layers')
  wanted = {4: 4, 2: 5}[kmax.high_resolution_stride]
  if len(kmax.pixel_decoder_stages) != wanted:
    raise config.error(
      f'{_KMAX}.pixel_decoder_stages',
      f'there are {len(kmax.pixel_decoder_stages)}; '
      f'high_resolution_stride {kmax.high_resolution_stride} takes {wanted}, from stride 32 on.',
    )
  _check_pixel_decoder_features(config, wanted)
  values.positive(config, f'{_KMAX}.pixel_decoder_dilation')
  values.one_of(config, f'{_KMAX}.semantic_feature', ('stage5', 'res5'))
  for index, stage in enumerate(kmax.pixel_decoder_stages):
    path = f'{_KMAX}.pixel_decoder_stages[{index}]'
    values.positive(config, path, 'filters', 'num_blocks')
    if not stage.HasField('type'):
      raise config.error(f'{path}.type', 'is missing; give AXIAL or BOTTLENECK.')
    if stage.type == stage.AXIAL and stage.filters % 8:
      raise config.error(f'{path}.filters', 'must be a multiple of the 8 attention heads.')


def _check_pixel_decoder_features(config, num_stages):
  path = f'{_KMAX}.pixel_decoder_features'
  features = config.value(path)
  if not features:
    return
  if len(features) != num_stages:
    raise config.error(path, f'must be {num_stages} names, one for each of pixel_decoder_stages.')
  finest = 2 if config.value('model_options.backbone.stem_max_pool') else 1
  before = 5
  for feature in features:
    if feature not in structures.Pyramid._fields:
      raise config.error(path, f'{feature!r} is none of {", ".join(structures.Pyramid._fields)}.')
    level = max(int(feature[-1]), finest)
    if level > before:
      raise config.error(
        path,
        f'{feature} is coarser than the feature before, at stride {2**before}; must go from '
        'coarse to fine.',
      )
    before = level


def _check_semantic_branch(config):
  """Checks the auxiliary semantic head and decoder. Without a head there is no semantic branch."""
  max_deeplab = config.value(_MAX_DEEPLAB)
  decoder, decoder_path = config.options.model_options.decoder, 'model_options.decoder'
  head = f'{_MAX_DEEPLAB}.auxiliary_semantic_head'
  has_decoder = config.value(f'{_KMAX}.semantic_decoder')
  if max_deeplab.semantic_sample_k and not has_decoder:
    raise config.error(
      f'{_MAX_DEEPLAB}.semantic_sample_k',
      f'needs {_KMAX}.semantic_decoder: pixels are sampled on the grid of the '
      'masks; take 0 for all pixels.',
    )
  if not max_deeplab.HasField('auxiliary_semantic_head'):
    loss = f'{_LOSSES}.semantic_loss'
    if config.value(_LOSSES).HasField('semantic_loss') and config.value(loss).weight:
      raise config.error(head, f'is missing, but {loss} needs it.')
    return
  _check_head(config, head)
  if not has_decoder:
    return
  if decoder.feature_key != _DECODED:
    raise config.error(
      f'{decoder_path}.feature_key',
      f'must be "{_DECODED}": {_KMAX}.semantic_decoder reads no other.',
    )
  values.positive(config, decoder_path, 'decoder_channels', 'aspp_channels')
  values.one_of(config, f'{decoder_path}.decoder_conv_type', _CONV_TYPES)
  if not decoder.aspp_use_only_1x1_proj_conv and len(decoder.atrous_rates) != 3:
    raise config.error(
      f'{decoder_path}.atrous_rates',
      'must be three numbers, unless aspp_use_only_1x1_proj_conv is true.',
    )
  values.positive(config, f'{decoder_path}.atrous_rates')
  stride = 5
  for index, level in enumerate(max_deeplab.auxiliary_low_level):
    low_level = f'{_MAX_DEEPLAB}.auxiliary_low_level[{index}]'
    values.positive(config, f'{low_level}.channels_project')
    values.one_of(config, f'{low_level}.feature_key', structures.Pyramid._fields)
    before, stride = stride, int(level.feature_key[-1])
    if stride > before:
      raise config.error(
        f'{low_level}.feature_key',
        f'is coarser than the feature before, at stride {2**before}; must go from coarse to fine.',
      )
