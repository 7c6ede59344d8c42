"""Every check of model_options, by values that it refuses and that pass."""

import pytest

from deeplab2 import errors

KMAX = 'model_options.kmax'
HEAD = 'model_options.max_deeplab.auxiliary_semantic_head'


@pytest.mark.parametrize(
  'override, message',
  [
    ('model_options.backbone.drop_path_keep_prob=0', 'greater than 0 and at most 1.'),
    ('model_options.max_deeplab.pixel_space_head=', 'is missing; it makes the pixel features'),
    ('model_options.max_deeplab.pixel_space_head.output_channels=0', 'must be greater than 0.'),
    ('model_options.max_deeplab.pixel_space_head.head_conv_type=conv', 'must be one of depthwise_'),
    ('model_options.max_deeplab.instance_discrimination_sample_k=-1', 'must be 0 or greater.'),
    (f'{HEAD}={{head_channels: 8}}', 'must be greater than 0.'),
    (f'{HEAD}={{output_channels: 8}}', 'must be greater than 0.'),
    ('model_options.decoder.atrous_rates=6,12', 'must be three numbers, unless aspp_use_only_1x1'),
    ('model_options.decoder.feature_key=', 'must be "feature_semantic"'),
    ('model_options.decoder.feature_key=res5', 'must be "feature_semantic"'),
    ('model_options.max_deeplab.auxiliary_low_level[1].feature_key=res9', 'must be one of stage1,'),
    (
      'model_options.max_deeplab.auxiliary_low_level[1].feature_key=res4',
      'is coarser than the feature before, at stride 8; must go from coarse to fine.',
    ),
    ('model_options.max_deeplab.auxiliary_low_level[1].channels_project=0', 'greater than 0.'),
    (f'{KMAX}.num_mask_slots=0', 'must be greater than 0.'),
    (f'{KMAX}.high_resolution_stride=8', 'must be 4 or 2.'),
    (f'{KMAX}.decoder_layers=2,2', 'must be three numbers, the layers at strides 32, 16 and 8'),
    (f'{KMAX}.decoder_layers=0,0,0', 'not all 0.'),
    (f'{KMAX}.decoder_layers=3,-1,1', 'must be 0 or greater.'),
    (f'{KMAX}.cluster_channels=200', 'must be a multiple of 16'),
    (f'{KMAX}.decoder_drop_path_keep_prob=0', 'greater than 0 and at most 1.'),
    (
      f'{KMAX}.pixel_decoder_stages={{filters: 8 num_blocks: 1 type: AXIAL}}',
      'there are 1; high_resolution_stride 4 takes 4, from stride 32 on.',
    ),
    (f'{KMAX}.pixel_decoder_features=stage5', 'must be 4 names, one for each of pixel_decoder_'),
    (
      f'{KMAX}.pixel_decoder_features=res5,res4,res3,stem',
      "'stem' is none of stage1, stage2,",
    ),
    (
      f'{KMAX}.pixel_decoder_features=res5,res3,res4,res2',
      'res4 is coarser than the feature before, at stride 8; must go from coarse to fine.',
    ),
    (f'{KMAX}.pixel_decoder_dilation=0', 'must be greater than 0.'),
    (f'{KMAX}.semantic_feature=res4', 'must be one of stage5, res5.'),
  ],
)
def test_refused(small, override, message):
  path = override.partition('=')[0]
  with pytest.raises(errors.UserError) as error:
    small(override)
  assert message in str(error.value)
  assert '\n' not in str(error.value)
  # Named is the field that was set, one inside it, or one that it does not fit with.
  assert path.split('.')[0] in str(error.value)


@pytest.mark.parametrize(
  'stage, message',
  [
    ('{filters: 12 num_blocks: 1 type: AXIAL}', 'must be a multiple of the 8 attention heads.'),
    ('{filters: 8 num_blocks: 0 type: AXIAL}', 'must be greater than 0.'),
    ('{filters: 0 num_blocks: 1 type: AXIAL}', 'must be greater than 0.'),
    ('{filters: 8 num_blocks: 1}', 'is missing; give AXIAL or BOTTLENECK.'),
  ],
)
def test_stages(small, stage, message):
  good = '{filters: 8 num_blocks: 1 type: AXIAL}'
  small(f'{KMAX}.pixel_decoder_stages=[{good}, {good}, {good}, {good}]')
  with pytest.raises(errors.UserError) as error:
    small(f'{KMAX}.pixel_decoder_stages=[{good}, {good}, {stage}, {good}]')
  assert f'{KMAX}.pixel_decoder_stages[2].' in str(error.value)
  assert message in str(error.value)


@pytest.mark.parametrize(
  'overrides',
  [
    [
      'model_options.decoder.atrous_rates=[]',
      'model_options.decoder.aspp_use_only_1x1_proj_conv=true',
    ],
    [f'{HEAD}='],
    [f'{KMAX}.semantic_decoder=false', 'model_options.decoder='],
    [f'{KMAX}.pixel_decoder_features=res5,stage4,res3,res1'],
    [f'{KMAX}.semantic_feature=res5', f'{KMAX}.pixel_decoder_dilation=1'],
  ],
)
def test_accepted(small, overrides):
  small(*overrides)


def test_a_semantic_loss_needs_its_head(small):
  with pytest.raises(errors.UserError, match='is missing, but .*semantic_loss needs it'):
    small(f'{HEAD}=', 'trainer_options.loss_options.semantic_loss={}')
  small(f'{HEAD}=', 'trainer_options.loss_options.semantic_loss={weight: 0}')


def test_sampling_of_the_semantic_loss_needs_the_decoder(small):
  sample = 'model_options.max_deeplab.semantic_sample_k=64'
  small(sample)
  with pytest.raises(errors.UserError, match='semantic_sample_k = 64: needs'):
    small(sample, f'{KMAX}.semantic_decoder=false')


def test_the_stem_comes_before_stage_2_where_both_are_at_stride_4(small):
  five = [
    f'{KMAX}.high_resolution_stride=2',
    f'{KMAX}.pixel_decoder_features=res5,res4,res3,res1,res2',
  ]
  small(*five, 'model_options.backbone.stem_max_pool=true')
  with pytest.raises(
    errors.UserError, match='res2 is coarser than the feature before, at stride 2'
  ):
    small(*five)
