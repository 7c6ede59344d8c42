"""Checks of trainer_options, alone, against the rest, and against the devices of a training."""

from absl import logging

from deeplab2.config import experiment
from deeplab2.config import values

_TRAINER = 'trainer_options'
_SOLVER = f'{_TRAINER}.solver_options'
_BATCH = 'train_dataset_options.batch_size'
_PARTS = f'{_TRAINER}.gradient_accumulation_steps'


def check(config: experiment.Config) -> None:
  """Checks what needs nothing but the configuration.

  Raises:
    UserError: at the first field that is wrong.
  """
  _check_solver(config)
  _check_intervals(config)
  values.positive(config, _PARTS)
  _check_parts(config, 1)
  ema = f'{_TRAINER}.ema_decay'
  values.require(config, ema, lambda decay: 0 <= decay < 1, 'at least 0 and less than 1')
  raw = 'evaluator_options.use_raw_weights'
  if config.value(raw) and not config.value(ema):
    logging.warning('%s', config.error(raw, f'has no effect without {ema}.'))
  _check_profile(config)


def check_devices(config: experiment.Config, num_replicas: int, device: str) -> None:
  """Checks that a training fits its devices.

  Args:
    config: the configuration.
    num_replicas: number of devices that share a batch.
    device: 'CPU', 'GPU' or 'TPU'.

  Raises:
    UserError: with what would fit.
  """
  _check_parts(config, num_replicas)
  options = config.value(_TRAINER)
  if options.precision == options.FLOAT16 and device == 'TPU':
    raise config.error(f'{_TRAINER}.precision', 'is not for TPUs, which compute in BFLOAT16.')
  if options.jit_compile and device == 'CPU' and num_replicas > 1:
    raise config.error(
      f'{_TRAINER}.jit_compile',
      f'must be false on {num_replicas} CPU devices, whose sums XLA cannot compile.',
    )


def averages_are_used(config: experiment.Config) -> bool:
  """Returns whether evaluation, prediction and export take the averages of the variables."""
  return bool(
    config.value(f'{_TRAINER}.ema_decay') and not config.value('evaluator_options.use_raw_weights')
  )


def _check_parts(config, num_replicas):
  """Checks that the training batch splits evenly over replicas and parts."""
  size, parts = config.value(_BATCH), config.value(_PARTS)
  if not size % (num_replicas * parts):
    return
  unit = num_replicas * parts
  lower = size - size % unit
  near = ' or '.join(str(fit) for fit in (lower, lower + unit) if fit)
  if parts == 1:
    raise config.error(_BATCH, f'cannot be split over {num_replicas} replicas; take {near}.')
  raise config.error(
    _PARTS,
    f'cannot split {_BATCH} = {size} evenly over {num_replicas} replicas; take a batch of {near}, '
    'or other parts.',
  )


def _check_profile(config):
  steps = list(config.value(f'{_TRAINER}.profile_steps'))
  if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
    raise config.error(
      f'{_TRAINER}.profile_steps', 'must be two steps, the first and the last, from 1 on.'
    )


def _check_solver(config):
  values.one_of(config, f'{_SOLVER}.learning_policy', ('poly', 'cosine'))
  values.one_of(config, f'{_SOLVER}.optimizer', ('adamw', 'adam', 'sgd'))
  values.positive(config, _SOLVER, 'base_learning_rate', 'poly_learning_power')
  values.positive(config, _SOLVER, 'batchnorm_epsilon', 'training_number_of_steps')
  values.not_negative(config, _SOLVER, 'poly_end_learning_rate', 'warmup_steps')
  values.not_negative(config, _SOLVER, 'warmup_start_learning_rate')
  values.not_negative(config, _SOLVER, 'adamw_weight_decay', 'backbone_learning_rate_multiplier')
  values.probability(config, f'{_SOLVER}.batchnorm_momentum')
  values.positive_probability(config, f'{_SOLVER}.backbone_layer_decay')
  solver = config.value(_SOLVER)
  if solver.use_gradient_clipping:
    values.positive(config, f'{_SOLVER}.clip_gradient_norm')
  if solver.adamw_weight_decay and solver.optimizer != 'adamw':
    message = f'has no effect on optimizer "{solver.optimizer}".'
    logging.warning('%s', config.error(f'{_SOLVER}.adamw_weight_decay', message))


def _check_intervals(config):
  trainer = config.options.trainer_options
  values.positive(config, 'trainer_options', 'num_checkpoints_to_keep', 'save_checkpoints_steps')
  values.positive(config, 'trainer_options', 'save_summaries_steps', 'steps_per_loop')
  loop = trainer.steps_per_loop
  if trainer.save_summaries_steps % loop:
    near = -(-trainer.save_summaries_steps // loop) * loop
    raise config.error(
      'trainer_options.save_summaries_steps',
      f'must be a multiple of steps_per_loop {loop}, like {near}.',
    )
