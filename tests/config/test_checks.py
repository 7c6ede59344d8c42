"""Every check of data, training and evaluation, by values that it refuses and that pass."""

import pytest

from deeplab2 import errors
from deeplab2.config import checks
from deeplab2.config import trainer_checks

SOLVER = 'trainer_options.solver_options'
COPY_PASTE = 'train_dataset_options.augmentations.panoptic_copy_paste'
MASKWISE = 'evaluator_options.maskwise_postprocessing'


@pytest.mark.parametrize(
  'override, message',
  [
    # Crops: the next valid size is the smallest 32n + 1 that is not smaller.
    ('train_dataset_options.crop_size=640,640', 'the next such size is [641, 641].'),
    ('train_dataset_options.crop_size=65,66', 'the next such size is [65, 97].'),
    ('eval_dataset_options.crop_size=1024,2048', 'the next such size is [1025, 2049].'),
    ('eval_dataset_options.crop_size=1,0', 'the next such size is [33, 33].'),
    ('eval_dataset_options.crop_size=65', 'must be two numbers, height and width.'),
    # Resizing.
    ('eval_dataset_options.max_resize_value=97', 'must not exceed the crop_size [65, 97]'),
    ('train_dataset_options.max_resize_value=65,98', 'must not exceed the crop_size [65, 97]'),
    ('train_dataset_options.min_resize_value=1,2,3', 'must be one number for both sides, or'),
    ('train_dataset_options.min_resize_value=-1', 'must be 0 or greater.'),
    ('train_dataset_options.resize_factor=-1', 'must be 0 or greater.'),
    # Numbers of the dataset.
    ('train_dataset_options.batch_size=0', 'must be greater than 0.'),
    ('train_dataset_options.max_thing_id=0', 'must be greater than 0.'),
    ('train_dataset_options.shuffle_buffer_size=0', 'must be greater than 0.'),
    ('train_dataset_options.small_instance_weight=-1', 'must be 0 or greater.'),
    # Copies that an evaluation averages over.
    ('evaluator_options.eval_scales=[1.0,0.0]', 'must be between 0.1 and 10.'),
    ('evaluator_options.eval_scales=[0.5,2.0]', 'must have 1.0: masks of other sizes are'),
    # Reading.
    ('train_dataset_options.max_corrupt_fraction=-0.1', 'must be at least 0 and less than 1.'),
    ('train_dataset_options.max_corrupt_fraction=1', 'must be at least 0 and less than 1.'),
    ('train_dataset_options.data_service=localhost:5000', 'must be of the form grpc://host:port.'),
    (
      'train_dataset_options.data_service=grpc://localhost',
      'must be of the form grpc://host:port.',
    ),
    ('train_dataset_options.data_service=grpc://a:99999', 'must be of the form grpc://host:port.'),
    (
      'eval_dataset_options.data_service=grpc://a:5000',
      'is for training; evaluation reads every image once, itself. Remove it.',
    ),
    # Augmentation.
    ('train_dataset_options.augmentations.min_scale_factor=0', 'must be greater than 0.'),
    (
      'train_dataset_options.augmentations.max_scale_factor=0.5',
      'must not be less than min_scale_factor 1.',
    ),
    ('train_dataset_options.augmentations.max_scale_factor=inf', 'must be greater than 0.'),
    (f'{COPY_PASTE}.panoptic_copy_paste_thing_option=some', 'must be one of none, all, random.'),
    (f'{COPY_PASTE}.panoptic_copy_paste_void_option=All', 'must be one of none, all, random.'),
    (f'{COPY_PASTE}.panoptic_copy_paste_scale=-1', 'must be 0 or greater.'),
    # Losses and solver.
    ('trainer_options.loss_options.pq_style_loss.weight=-1', 'must be 0 or greater.'),
    ('trainer_options.loss_options.pq_style_loss.weight=nan', 'must be 0 or greater.'),
    ('trainer_options.loss_options.pq_style_loss.weight=inf', 'must be 0 or greater.'),
    ('trainer_options.loss_options.semantic_loss.top_k_percent=1.5', 'at most 1.'),
    ('trainer_options.loss_options.semantic_loss.top_k_percent=0', 'greater than 0'),
    (f'{SOLVER}.learning_policy=step', 'must be one of poly, cosine.'),
    (f'{SOLVER}.optimizer=lamb', 'must be one of adamw, adam, sgd.'),
    (f'{SOLVER}.base_learning_rate=0', 'must be greater than 0.'),
    (f'{SOLVER}.training_number_of_steps=0', 'must be greater than 0.'),
    (f'{SOLVER}.warmup_steps=-1', 'must be 0 or greater.'),
    (f'{SOLVER}.batchnorm_momentum=1.1', 'must be between 0 and 1.'),
    (f'{SOLVER}={{use_gradient_clipping: true clip_gradient_norm: 0}}', 'must be greater than 0.'),
    # Intervals.
    ('trainer_options.steps_per_loop=300', 'must be a multiple of steps_per_loop 300, like 1200.'),
    ('trainer_options.steps_per_loop=0', 'must be greater than 0.'),
    ('trainer_options.save_checkpoints_steps=0', 'must be greater than 0.'),
    # Evaluation.
    ('evaluator_options.transformer_post_processing=both', 'must be one of pixelwise, maskwise.'),
    ('evaluator_options.raw_panoptic_format=png', 'must be one of two_channel_png, '),
    ('evaluator_options.pixel_confidence_threshold=1.1', 'must be between 0 and 1.'),
    (f'{MASKWISE}.overlapping_threshold=-0.1', 'must be between 0 and 1.'),
    (f'{MASKWISE}.reorder_mask_weight=-1', 'must be 0 or greater.'),
    ('evaluator_options.eval_steps=0', 'must be a number of batches, or -1 for all.'),
    ('evaluator_options.continuous_eval_timeout=-2', 'must be a number of seconds, or -1'),
    ('evaluator_options.thing_area_limit=-1', 'must be 0 or greater.'),
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
  'overrides',
  [
    ['train_dataset_options.max_resize_value=65', 'train_dataset_options.min_resize_value=0'],
    ['train_dataset_options.max_resize_value=2000,0'],  # One 0 switches both sides off.
    ['train_dataset_options.max_resize_value=65,97'],
    [f'{SOLVER}.warmup_steps=70000'],
    ['evaluator_options.transformer_post_processing=maskwise'],
    ['trainer_options.loss_options.pq_style_loss.weight=0'],
  ],
)
def test_accepted(small, overrides):
  small(*overrides)


def test_data_service_has_no_seed(small):
  service = 'train_dataset_options.data_service=grpc://[::1]:5000'
  small(service)
  with pytest.raises(
    errors.UserError,
    match=r'train_dataset_options.seed = 3: cannot be kept with '
    'data_service',
  ):
    small(service, 'train_dataset_options.seed=3')


def test_share_of_corrupt_records_without_skipping_has_no_effect(small, caplog):
  small('train_dataset_options={on_corrupt: SKIP max_corrupt_fraction: 0.1}')
  assert 'no effect' not in caplog.text
  small('train_dataset_options.max_corrupt_fraction=0.1')
  assert 'max_corrupt_fraction = 0.1: has no effect without on_corrupt: SKIP.' in caplog.text


def test_maskwise_without_its_message_has_the_defaults(small):
  config = small('evaluator_options.transformer_post_processing=maskwise')
  maskwise = config.value(MASKWISE)
  assert [
    getattr(maskwise, name)
    for name in (
      'transformer_class_confidence_threshold_thing',
      'transformer_class_confidence_threshold_stuff',
      'overlapping_threshold',
      'reorder_class_weight',
      'reorder_mask_weight',
    )
  ] == pytest.approx([0.7, 0.7, 0.5, 1.0, 0.0])


@pytest.mark.parametrize(
  'size, replicas, message',
  [
    (8, 3, 'cannot be split over 3 replicas; take 6 or 9.'),
    (2, 4, 'cannot be split over 4 replicas; take 4.'),
  ],
)
def test_batch(small, size, replicas, message):
  config = small(f'train_dataset_options.batch_size={size}')
  with pytest.raises(errors.UserError, match=message):
    trainer_checks.check_devices(config, replicas, 'GPU')
  trainer_checks.check_devices(config, 2, 'GPU')
  trainer_checks.check_devices(config, 1, 'GPU')


@pytest.mark.parametrize(
  'overrides, replicas, device, message',
  [
    ('precision=FLOAT16', 1, 'TPU', r'precision = FLOAT16: is not for TPUs.* BFLOAT16'),
    ('jit_compile=true', 2, 'CPU', r'jit_compile = true: must be false on 2 CPU devices'),
    ('gradient_accumulation_steps=2', 4, 'GPU', r'steps = 2: cannot split .* = 4 evenly .* of 8,'),
  ],
)
def test_options_that_do_not_fit_the_devices(small, overrides, replicas, device, message):
  config = small(f'trainer_options.{overrides}', 'train_dataset_options.batch_size=4')
  with pytest.raises(errors.UserError, match=message):
    trainer_checks.check_devices(config, replicas, device)
  trainer_checks.check_devices(config, 1, 'GPU')


@pytest.mark.parametrize(
  'overrides, message',
  [
    (['gradient_accumulation_steps=3'], 'cannot split .* = 4 evenly .* batch of 3 or 6'),
    (['gradient_accumulation_steps=0'], 'gradient_accumulation_steps = 0: must be greater than 0'),
    (['ema_decay=1'], 'ema_decay = 1: must be at least 0 and less than 1'),
    (['profile_steps=[3]'], 'must be two steps'),
    (['profile_steps=[5, 3]'], 'must be two steps'),
    (['solver_options.warmup_start_learning_rate=-1'], 'must be 0 or greater'),
    (['solver_options.backbone_layer_decay=0'], 'must be greater than 0 and at most 1'),
    (['solver_options.backbone_layer_decay=1.1'], 'must be greater than 0 and at most 1'),
  ],
)
def test_trainer_options(small, overrides, message):
  options = [f'trainer_options.{override}' for override in overrides]
  with pytest.raises(errors.UserError, match=message):
    checks.check(small('train_dataset_options.batch_size=4', *options))


@pytest.mark.parametrize(
  'size, steps, replicas, rounded, rounded_steps',
  [(1, -1, 8, 8, -1), (1, 20, 8, 8, 3), (4, 5, 2, 4, 5), (3, 4, 2, 4, 3), (5, -1, 3, 6, -1)],
)
def test_evaluation_batches_are_rounded_up(
  small, caplog, size, steps, replicas, rounded, rounded_steps
):
  config = small(f'eval_dataset_options.batch_size={size}', f'evaluator_options.eval_steps={steps}')
  with caplog.at_level('INFO'):
    shared = checks.evaluated_by(config, replicas)
  assert shared.options.eval_dataset_options.batch_size == rounded
  assert shared.options.evaluator_options.eval_steps == rounded_steps
  # What is evaluated holds all images that were asked for.
  assert steps == -1 or rounded * rounded_steps >= size * steps
  assert ('is rounded up to' in caplog.text) == (size != rounded)
  assert config.options.eval_dataset_options.batch_size == size


@pytest.fixture
def complete(small, tmp_path):
  """Returns a function that loads a configuration with files to read, and more overrides."""
  for name in ('train-0.tfrecord', 'val-0.tfrecord'):
    (tmp_path / name).write_bytes(b'')
  return lambda *overrides: small(
    f'train_dataset_options.file_pattern={tmp_path}/train-*.tfrecord',
    f'eval_dataset_options.file_pattern={tmp_path}/val-*.tfrecord',
    *overrides,
  )


@pytest.mark.parametrize('mode', checks.MODES)
def test_modes(complete, mode):
  checks.check_mode(complete(), mode)


@pytest.mark.parametrize(
  'mode, override, message',
  [
    ('train', 'train_dataset_options.crop_size=', 'train_dataset_options.crop_size: is missing'),
    ('train', 'train_dataset_options.dataset=', 'train_dataset_options.dataset: is missing'),
    ('train', 'train_dataset_options.file_pattern=', 'file_pattern: is missing'),
    ('train', 'train_dataset_options.file_pattern=/nowhere/*', 'no file matches /nowhere/*'),
    ('train', 'train_dataset_options.file_pattern=${NOT_SET_ANYWHERE}', 'NOT_SET_ANYWHERE is not'),
    ('train', 'model_options.initial_checkpoint=${NOT_SET_ANYWHERE}', 'NOT_SET_ANYWHERE is not'),
    ('train', 'train_dataset_options.thing_id_mask_annotations=false', 'must be true'),
    ('train', 'train_dataset_options.decode_groundtruth_label=false', 'must be true'),
    ('train', 'trainer_options.loss_options={}', 'needs at least one of pq_style_loss'),
    ('eval', 'eval_dataset_options=', 'eval_dataset_options.crop_size: is missing'),
    ('continuous_eval', 'eval_dataset_options.file_pattern=/nowhere/*', 'no file matches'),
    ('train_and_eval', 'eval_dataset_options.crop_size=', 'is missing'),
    ('train_and_eval', 'train_dataset_options.crop_size=', 'is missing'),
    ('train', 'experiment_name=${NOT_SET_ANYWHERE}', 'NOT_SET_ANYWHERE is not set'),
    ('export', 'eval_dataset_options.crop_size=', 'eval_dataset_options.crop_size: is missing'),
  ],
)
def test_what_a_mode_needs(complete, mode, override, message):
  with pytest.raises(errors.UserError) as error:
    checks.check_mode(complete(override), mode)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'mode, override',
  [
    ('eval', 'train_dataset_options='),
    ('eval', 'model_options.initial_checkpoint=${NOT_SET_ANYWHERE}'),
    ('train', 'eval_dataset_options='),
    ('export', 'train_dataset_options='),
    ('export', 'eval_dataset_options.file_pattern=${NOT_SET_ANYWHERE}'),
    ('export', 'experiment_name=${NOT_SET_ANYWHERE}'),
  ],
)
def test_what_a_mode_does_not_need(complete, mode, override):
  checks.check_mode(complete(override), mode)


def test_an_unknown_mode(small):
  with pytest.raises(ValueError, match="'test' is no mode"):
    checks.check_mode(small(), 'test')
