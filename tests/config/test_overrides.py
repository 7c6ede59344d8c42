"""Overrides on the command line."""

import pytest

from deeplab2 import errors
from deeplab2.config import config_pb2
from deeplab2.config import overrides


def _apply(*texts):
  options = config_pb2.ExperimentOptions()
  origins = {}
  for text in texts:
    overrides.apply(text, options, origins)
  return options, origins


@pytest.mark.parametrize(
  'text, read, value',
  [
    ('experiment_name=a b', lambda o: o.experiment_name, 'a b'),
    ('experiment_name="a"', lambda o: o.experiment_name, 'a'),
    ('experiment_name=a"b\\c', lambda o: o.experiment_name, 'a"b\\c'),
    ('experiment_name=x=y', lambda o: o.experiment_name, 'x=y'),
    ('trainer_options.steps_per_loop=7', lambda o: o.trainer_options.steps_per_loop, 7),
    (
      'trainer_options.solver_options.base_learning_rate=1e-3',
      lambda o: o.trainer_options.solver_options.base_learning_rate,
      pytest.approx(1e-3),
    ),
    ('evaluator_options.instance_ap=false', lambda o: o.evaluator_options.instance_ap, False),
    ('evaluator_options.use_tf_function=0', lambda o: o.evaluator_options.use_tf_function, False),
    (
      'train_dataset_options.crop_size=[65, 97]',
      lambda o: list(o.train_dataset_options.crop_size),
      [65, 97],
    ),
    (
      'train_dataset_options.crop_size=65,97',
      lambda o: list(o.train_dataset_options.crop_size),
      [65, 97],
    ),
    (
      'train_dataset_options.file_pattern=a*.tfrecord,b',
      lambda o: list(o.train_dataset_options.file_pattern),
      ['a*.tfrecord', 'b'],
    ),
    (
      'train_dataset_options.file_pattern=["a,b"]',
      lambda o: list(o.train_dataset_options.file_pattern),
      ['a,b'],
    ),
    (
      'train_dataset_options.file_pattern=[]',
      lambda o: list(o.train_dataset_options.file_pattern),
      [],
    ),
    (
      'model_options.kmax.pixel_decoder_stages=[{filters: 8 type: AXIAL}, {filters: 4}]',
      lambda o: [s.filters for s in o.model_options.kmax.pixel_decoder_stages],
      [8, 4],
    ),
    (
      'model_options.max_deeplab.auxiliary_low_level={feature_key: "res2"}',
      lambda o: [s.feature_key for s in o.model_options.max_deeplab.auxiliary_low_level],
      ['res2'],
    ),
    (
      'evaluator_options.maskwise_postprocessing={}',
      lambda o: o.evaluator_options.HasField('maskwise_postprocessing'),
      True,
    ),
    ('model_options.backbone={name: "kmax_x"}', lambda o: o.model_options.backbone.name, 'kmax_x'),
  ],
)
def test_values(text, read, value):
  options, origins = _apply(text)
  assert read(options) == value
  assert origins[text.partition('=')[0]] == '--set'


def test_lists_and_messages_are_replaced():
  options, _ = _apply(
    'train_dataset_options.crop_size=1,2',
    'train_dataset_options.crop_size=3',
    'model_options.backbone={name: "a" output_stride: 16}',
    'model_options.backbone={name: "b"}',
  )
  assert list(options.train_dataset_options.crop_size) == [3]
  assert not options.model_options.backbone.HasField('output_stride')


def test_entries_of_repeated_messages():
  options, _ = _apply(
    'model_options.kmax.pixel_decoder_stages=[{filters: 8}, {filters: 4}]',
    'model_options.kmax.pixel_decoder_stages[1].type=BOTTLENECK',
  )
  assert options.model_options.kmax.pixel_decoder_stages[1].type == 1


def test_names_of_version_0_1(caplog):
  options = config_pb2.ExperimentOptions()
  origins = {}
  overrides.apply('train_dataset_options.max_corrupt_share=0.25', options, origins)
  assert options.train_dataset_options.max_corrupt_fraction == 0.25
  assert origins == {'train_dataset_options.max_corrupt_fraction': '--set'}
  assert 'max_corrupt_share of DatasetOptions is called max_corrupt_fraction now' in caplog.text


def test_nothing_unsets():
  options, origins = _apply('trainer_options.steps_per_loop=7', 'trainer_options.steps_per_loop=')
  assert not options.trainer_options.HasField('steps_per_loop')
  assert 'trainer_options.steps_per_loop' not in origins


def test_overridden_messages_lose_the_places_inside_them():
  options = config_pb2.ExperimentOptions()
  origins = {
    'model_options.backbone': 'f:1',
    'model_options.backbone.name': 'f:2',
    'model_options.backbone_x': 'f:3',
  }
  overrides.apply('model_options.backbone={output_stride: 32}', options, origins)
  assert origins == {
    'model_options.backbone': '--set',
    'model_options.backbone.output_stride': '--set',
    'model_options.backbone_x': 'f:3',
  }


@pytest.mark.parametrize(
  'text, message',
  [
    (
      'trainer_options.step_per_loop=7',
      "there is no 'step_per_loop'; did you mean steps_per_loop?",
    ),
    ('trainer_option.steps_per_loop=7', "there is no 'trainer_option'; did you mean"),
    (
      'model_options.backbone={nam: "x"}',
      'model_options.backbone.nam = "x": no such field; did you mean name?',
    ),
    ('trainer_options.steps_per_loop=x', 'steps_per_loop takes an integer.'),
    ('evaluator_options.instance_ap=maybe', 'instance_ap takes true or false.'),
    ('train_dataset_options.crop_size=a', 'crop_size takes a list [...], each an integer.'),
    ('model_options.backbone=3', 'backbone takes a block in braces.'),
    ('experiment_name.x=3', 'experiment_name holds no fields.'),
    ('model_options', 'write field.of.a.message=value.'),
    ('=3', 'write field.of.a.message=value.'),
    ('train_dataset_options.crop_size[0]=3', 'give the whole list, crop_size=[...].'),
    ('model_options.kmax.pixel_decoder_stages[0].filters=3', 'has 0 entries'),
    ('model_options.kmax.pixel_decoder_stages.filters=3', 'name one by its number'),
    ('a..b=3', "there is no 'a'"),
  ],
)
def test_mistakes(text, message):
  with pytest.raises(errors.UserError) as error:
    _apply(text)
  assert str(error.value).startswith(f'--set {text}: ')
  assert message in str(error.value)
  assert '\n' not in str(error.value)
