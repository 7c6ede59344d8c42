"""Every check of loss_options, by values that it refuses and that pass."""

import pytest

from deeplab2 import errors

LOSSES = 'trainer_options.loss_options'
REMASK = f'{LOSSES}.remask'


@pytest.mark.parametrize(
  'overrides, field, message',
  [
    ([f'{LOSSES}.semantic_loss.weight=-1'], f'{LOSSES}.semantic_loss.weight', '0 or greater'),
    (
      [f'{LOSSES}.pq_style_loss.top_k_percent=0'],
      f'{LOSSES}.pq_style_loss.top_k_percent',
      'greater than 0 and at most 1',
    ),
    ([f'{LOSSES}.reclass.eta=1.5'], f'{LOSSES}.reclass.eta', 'between 0 and 1'),
    ([f'{LOSSES}.reclass.eta=-0.1'], f'{LOSSES}.reclass.eta', 'between 0 and 1'),
    ([f'{LOSSES}.reclass.eta=nan'], f'{LOSSES}.reclass.eta', 'between 0 and 1'),
    (
      [
        f'{LOSSES}.mask_loss_activation=SIGMOID',
        f'{LOSSES}.mask_id_cross_entropy_loss.top_k_percent=0.5',
      ],
      f'{LOSSES}.mask_id_cross_entropy_loss.top_k_percent',
      'must be 1 with mask_loss_activation',
    ),
    (
      [f'{LOSSES}.mask_loss_all_slots=true'],
      f'{LOSSES}.mask_loss_all_slots',
      'must be false unless mask_loss_activation is SIGMOID',
    ),
    (
      [f'{REMASK}.num_relaxed_layers=7'],
      f'{REMASK}.num_relaxed_layers',
      'between 0 and 6, the number of decoder layers',
    ),
    ([f'{REMASK}.num_relaxed_layers=-1'], f'{REMASK}.num_relaxed_layers', 'between 0 and 6'),
    (
      ['model_options.kmax.decoder_layers=1,1,1'],
      f'{REMASK}.num_relaxed_layers = 4 (default)',
      'decoder_layers = [1, 1, 1]',
    ),
    (
      [f'{REMASK}.semantic_loss.name=focal_loss'],
      f'{REMASK}.semantic_loss.name',
      'one of softmax_cross_entropy, sigmoid_cross_entropy',
    ),
    ([f'{REMASK}.semantic_loss.weight=-1'], f'{REMASK}.semantic_loss.weight', '0 or greater'),
    ([f'{REMASK}.semantic_sample_k=-1'], f'{REMASK}.semantic_sample_k', '0 or greater'),
    ([f'{REMASK}.head_channels=0'], f'{REMASK}.head_channels', 'greater than 0'),
    (
      [f'{REMASK}.gate_masks=false', f'{REMASK}.identity_mapping=false'],
      f'{REMASK}.identity_mapping',
      'must be true where gate_masks is false',
    ),
    (
      [f'{REMASK}.gate_masks=false', f'{REMASK}.stop_gradient=false'],
      f'{REMASK}.stop_gradient',
      'must be true where gate_masks is false',
    ),
    (
      [
        'model_options.decoder.atrous_rates=6,12',
        'model_options.decoder.aspp_use_only_1x1_proj_conv=true',
      ],
      'model_options.decoder.atrous_rates',
      'the semantic heads of remask use them',
    ),
  ],
)
def test_refused(small, overrides, field, message):
  with pytest.raises(errors.UserError) as error:
    small(f'{REMASK}.enable=true', *overrides)
  assert field in str(error.value) and message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'override',
  [
    f'{REMASK}.num_relaxed_layers=0',
    f'{REMASK}.num_relaxed_layers=6',
    f'{LOSSES}.reclass.eta=0',
    f'{LOSSES}.reclass.eta=1',
    f'{REMASK}.semantic_loss.name=sigmoid_cross_entropy',
    f'{LOSSES}.mask_loss_activation=SIGMOID',
  ],
)
def test_accepted(small, override):
  small(f'{REMASK}.enable=true', override)


def test_what_is_switched_off_needs_no_layers(small):
  small(f'{REMASK}.num_relaxed_layers=9')
