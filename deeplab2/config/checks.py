"""Checks of options, alone and against one another. Each raises a UserError that names the field.

`check` needs nothing but the configuration, `check_mode` asks for what a use of it needs. Numbers
of classes are compared with the dataset in assemble.py, which knows both.
"""

from collections.abc import Sequence
import dataclasses
import re

from absl import logging

from deeplab2 import errors
from deeplab2 import files
from deeplab2.config import config_pb2
from deeplab2.config import experiment
from deeplab2.config import loss_checks
from deeplab2.config import model_checks
from deeplab2.config import trainer_checks
from deeplab2.config import values

# What a configuration is used for: the modes of the trainer, and export.
MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval', 'export')
MASK_LOSSES = ('pq_style_loss', 'mask_id_cross_entropy_loss', 'instance_discrimination_loss')
OUTPUT_STRIDE = 32

_DATASETS = ('train_dataset_options', 'eval_dataset_options')
_SOLVER = 'trainer_options.solver_options'
_LOSSES = 'trainer_options.loss_options'
_COPY_PASTE = 'augmentations.panoptic_copy_paste'
_DISPATCHER = re.compile(r'grpc://([^:/\s\[\]]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})')


def check(config: experiment.Config) -> None:
  """Checks everything that must hold whatever the configuration is used for.

  Raises:
    UserError: at the first field that is wrong.
  """
  model_checks.check(config)
  loss_checks.check(config)
  trainer_checks.check(config)
  _check_evaluator(config)
  for field in _DATASETS:
    if config.options.HasField(field):
      _check_crop(config, field)
      _check_resize(config, field)
      values.positive(config, field, 'batch_size', 'max_thing_id', 'shuffle_buffer_size')
      values.not_negative(config, field, 'small_instance_threshold', 'small_instance_weight')
      _check_augmentations(config, field)
      _check_reading(config, field)


def check_mode(config: experiment.Config, mode: str) -> None:
  """Checks that everything is given that `mode`, one of MODES, needs, and that files match.

  Raises:
    UserError: naming the field that is missing, or the file pattern that matches nothing.
  """
  if mode not in MODES:
    raise ValueError(f'{mode!r} is no mode; choose from {MODES}.')
  if mode == 'export':
    _check_model_input(config, 'eval_dataset_options')
    return
  _check_name(config)
  if 'train' in mode:
    _check_model_input(config, 'train_dataset_options')
    check_files(config, 'train_dataset_options')
    _check_training(config)
  if 'eval' in mode:
    _check_model_input(config, 'eval_dataset_options')
    check_files(config, 'eval_dataset_options')


def evaluated_by(config: experiment.Config, num_replicas: int) -> experiment.Config:
  """Returns the configuration with an evaluation batch that splits evenly over the replicas.

  It is rounded up, and the log says so. Batches are filled up with padding examples, so every image
  still counts once; `eval_steps`, if it is set, becomes the least number of batches that hold as
  many images as before.

  Args:
    config: the configuration.
    num_replicas: number of devices that share a batch.
  """
  size = config.options.eval_dataset_options.batch_size
  rounded = -(-size // num_replicas) * num_replicas
  if rounded == size:
    return config
  logging.info(
    'eval_dataset_options.batch_size = %d is rounded up to %d for %d replicas.',
    size,
    rounded,
    num_replicas,
  )
  options = config_pb2.ExperimentOptions.FromString(config.options.SerializeToString())
  options.eval_dataset_options.batch_size = rounded
  steps = options.evaluator_options.eval_steps
  if steps != -1:
    options.evaluator_options.eval_steps = -(-steps * size // rounded)
  return dataclasses.replace(config, options=options)


def check_files(config: experiment.Config, dataset_field: str) -> None:
  """Checks that every file pattern of a dataset matches something.

  Args:
    config: the configuration.
    dataset_field: 'train_dataset_options' or 'eval_dataset_options'.

  Raises:
    UserError: with the first pattern that does not, or naming what is missing.
  """
  path = f'{dataset_field}.file_pattern'
  for pattern in config.require(path):
    try:
      matches = files.expand_pattern(pattern)
    except errors.UserError as error:
      raise config.error(path, str(error)) from error
    if not matches:
      raise config.error(path, f'no file matches {pattern}')


def _check_evaluator(config):
  path = 'evaluator_options'
  maskwise = f'{path}.maskwise_postprocessing'
  values.one_of(config, f'{path}.transformer_post_processing', ('pixelwise', 'maskwise'))
  values.one_of(
    config,
    f'{path}.raw_panoptic_format',
    ('two_channel_png', 'three_channel_png', 'two_channel_numpy_array'),
  )
  confidence = 'transformer_class_confidence_threshold'
  values.probability(config, path, confidence, 'pixel_confidence_threshold')
  values.probability(config, maskwise, f'{confidence}_thing', f'{confidence}_stuff')
  values.probability(config, maskwise, 'overlapping_threshold')
  values.not_negative(config, maskwise, 'reorder_class_weight', 'reorder_mask_weight')
  values.not_negative(config, path, 'stuff_area_limit', 'thing_area_limit', 'num_vis_samples')
  values.positive(config, f'{path}.eval_interval')
  _check_scales(config, f'{path}.eval_scales')
  batches, seconds = 'a number of batches, or -1 for all', 'a number of seconds, or -1 for no limit'
  values.require(config, f'{path}.eval_steps', lambda n: n == -1 or n > 0, batches)
  values.require(config, f'{path}.continuous_eval_timeout', lambda n: n >= -1, seconds)


def _check_scales(config, path):
  values.require(config, path, lambda scale: 0.1 <= scale <= 10, 'between 0.1 and 10')
  scales = list(config.value(path))
  if scales and 1.0 not in scales:
    raise config.error(path, 'must have 1.0: masks of other sizes are matched to those of size 1.')


def _check_crop(config, dataset_field):
  path = f'{dataset_field}.crop_size'
  crop = list(config.value(path))
  if not crop:
    return
  if len(crop) != 2:
    raise config.error(path, 'must be two numbers, height and width.')
  valid = next_size(crop)
  if crop != valid:
    raise config.error(
      path,
      f'sides must be of the form {OUTPUT_STRIDE}n + 1; the next such size '
      f'is [{valid[0]}, {valid[1]}].',
    )


def next_size(size: Sequence[int]) -> list[int]:
  """Returns the smallest size (height, width) of at least `size` that a model can have."""
  return [max(1, -(-(side - 1) // OUTPUT_STRIDE)) * OUTPUT_STRIDE + 1 for side in size]


def _check_resize(config, dataset_field):
  """Checks resize limits. One number stands for both sides; 0 switches a limit off."""
  dataset = config.value(dataset_field)
  for name in ('min_resize_value', 'max_resize_value'):
    path = f'{dataset_field}.{name}'
    values.not_negative(config, path)
    if len(config.value(path)) > 2:
      raise config.error(path, 'must be one number for both sides, or height and width.')
  values.not_negative(config, f'{dataset_field}.resize_factor')
  limit = list(dataset.max_resize_value)
  if limit and all(limit) and dataset.crop_size:
    for side, crop in zip(limit * (3 - len(limit)), dataset.crop_size, strict=True):
      if side > crop:
        raise config.error(
          f'{dataset_field}.max_resize_value',
          f'must not exceed the crop_size {list(dataset.crop_size)} on either side.',
        )


def _check_augmentations(config, dataset_field):
  path = f'{dataset_field}.augmentations'
  augmentations = config.value(path)
  values.positive(config, f'{path}.min_scale_factor')
  values.not_negative(config, f'{path}.scale_factor_step_size')
  if not augmentations.max_scale_factor >= augmentations.min_scale_factor:
    raise config.error(
      f'{path}.max_scale_factor',
      f'must not be less than min_scale_factor {augmentations.min_scale_factor:.7g}.',
    )
  values.positive(config, f'{path}.max_scale_factor')
  copy_paste = f'{dataset_field}.{_COPY_PASTE}'
  values.not_negative(config, f'{copy_paste}.panoptic_copy_paste_scale')
  for category in ('thing', 'stuff', 'void'):
    values.one_of(
      config, f'{copy_paste}.panoptic_copy_paste_{category}_option', ('none', 'all', 'random')
    )


def _check_reading(config, dataset_field):
  """Checks what is done about corrupt records, and who reads."""
  fraction = f'{dataset_field}.max_corrupt_fraction'
  # Not 1, or training on nothing but corrupt records would read them for ever.
  values.require(config, fraction, lambda number: 0 <= number < 1, 'at least 0 and less than 1')
  dataset = config.value(dataset_field)
  if dataset.HasField('max_corrupt_fraction') and dataset.on_corrupt != dataset.SKIP:
    logging.warning('%s', config.error(fraction, 'has no effect without on_corrupt: SKIP.'))
  service = f'{dataset_field}.data_service'
  if not dataset.data_service or service in config.unresolved():
    return
  if dataset_field != 'train_dataset_options':
    raise config.error(
      service, 'is for training; evaluation reads every image once, itself. Remove it.'
    )
  found = _DISPATCHER.fullmatch(dataset.data_service)
  if not found or not 0 < int(found['port']) < 2**16:
    raise config.error(service, 'must be of the form grpc://host:port.')
  if dataset.HasField('seed'):
    raise config.error(
      f'{dataset_field}.seed',
      'cannot be kept with data_service, whose workers draw independently; remove one of them.',
    )


def _check_model_input(config, dataset_field):
  if not config.value(f'{dataset_field}.crop_size'):
    raise config.error(f'{dataset_field}.crop_size', 'is missing; the model is built on it.')
  if not config.value(f'{dataset_field}.dataset'):
    raise config.error(f'{dataset_field}.dataset', 'is missing.')


def _check_name(config):
  """Checks that the run's directory lies in --model_dir; without a name it is that itself."""
  name = config.resolved('experiment_name')
  if name.startswith('/') or '..' in name.split('/') or '\0' in name or '://' in name:
    raise config.error('experiment_name', 'must be the name of a directory within --model_dir.')


def _check_training(config):
  """Checks that there is something to learn, time to, and that its targets are made."""
  steps = config.value(_SOLVER).training_number_of_steps
  if config.value(_SOLVER).warmup_steps >= steps:
    message = (
      f'ends no earlier than training, training_number_of_steps = {steps}: the base learning rate '
      'is never reached; take fewer.'
    )
    logging.warning('%s', config.error(f'{_SOLVER}.warmup_steps', message))
  losses = config.value(_LOSSES)
  masks = [name for name in MASK_LOSSES if losses.HasField(name)]
  if not masks:
    raise config.error(_LOSSES, f'needs at least one of {", ".join(MASK_LOSSES)} for training.')
  for name in ('thing_id_mask_annotations', 'decode_groundtruth_label'):
    if not config.value(f'train_dataset_options.{name}'):
      raise config.error(f'train_dataset_options.{name}', f'must be true: {masks[0]} needs labels.')
  config.resolved('model_options.initial_checkpoint')
  config.resolved('model_options.backbone.pretrained_weights')
