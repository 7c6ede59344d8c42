"""Checks of loss_options: the terms, and how ReMaX relaxes them."""

from deeplab2.config import experiment
from deeplab2.config import values

SEMANTIC_LOSSES = ('softmax_cross_entropy', 'sigmoid_cross_entropy')  # The default first.
_LOSSES = 'trainer_options.loss_options'
_REMASK = f'{_LOSSES}.remask'
_DECODER = 'model_options.kmax.decoder_layers'
_RATES = 'model_options.decoder.atrous_rates'


def check(config: experiment.Config) -> None:
  """Checks loss_options, model_options.kmax filled in.

  Raises:
    UserError: at the first field that is wrong.
  """
  losses = config.value(_LOSSES)
  for field, value in losses.ListFields():
    if isinstance(value, losses.SingleLossOptions):
      _check_term(config, f'{_LOSSES}.{field.name}')
  values.probability(config, f'{_LOSSES}.reclass.eta')
  mask_id = f'{_LOSSES}.mask_id_cross_entropy_loss.top_k_percent'
  if losses.mask_loss_activation == losses.SIGMOID and config.value(mask_id) != 1.0:
    raise config.error(
      mask_id, 'must be 1 with mask_loss_activation SIGMOID, which scores all pixels.'
    )
  if losses.mask_loss_all_slots and losses.mask_loss_activation != losses.SIGMOID:
    raise config.error(
      f'{_LOSSES}.mask_loss_all_slots',
      'must be false unless mask_loss_activation is SIGMOID: a softmax scores all slots anyway.',
    )
  if losses.remask.enable:
    _check_remask(config, losses.remask)


def _check_term(config, path):
  values.not_negative(config, f'{path}.weight')
  values.positive_probability(config, f'{path}.top_k_percent')


def _check_remask(config, remask):
  layers = sum(config.value(_DECODER))
  values.require(
    config,
    f'{_REMASK}.num_relaxed_layers',
    lambda number: 0 <= number <= layers,
    f'between 0 and {layers}, the number of decoder layers ({_DECODER} = '
    f'{list(config.value(_DECODER))})',
  )
  _check_term(config, f'{_REMASK}.semantic_loss')
  if remask.semantic_loss.name:
    values.one_of(config, f'{_REMASK}.semantic_loss.name', SEMANTIC_LOSSES)
  values.not_negative(config, f'{_REMASK}.semantic_sample_k')
  values.positive(config, f'{_REMASK}.head_channels')
  for field in ('identity_mapping', 'stop_gradient'):
    if not remask.gate_masks and not getattr(remask, field):
      raise config.error(
        f'{_REMASK}.{field}', 'must be true where gate_masks is false: it is about the gate.'
      )
  if remask.num_relaxed_layers and len(config.value(_RATES)) != 3:
    raise config.error(_RATES, 'must be three numbers: the semantic heads of remask use them.')
  values.positive(config, _RATES)
