"""Places of fields in a text, and errors of a text that cannot be read."""

import pytest

from deeplab2 import errors
from deeplab2.config import config_pb2
from deeplab2.config import textproto

EXPERIMENT = config_pb2.ExperimentOptions.DESCRIPTOR


def _parse(text):
  return textproto.parse(text, config_pb2.ExperimentOptions(), 'a.textproto')


def test_places():
  text = '\n'.join(
    [
      '# first: { "',
      'experiment_name: "a # { b" "c"  # end',
      'model_options: {',
      '  kmax < pixel_decoder_stages { filters: 1; type: AXIAL }, pixel_decoder_stages: [',
      '    {filters: 2}, {num_blocks: -3}] decoder_layers: [1,',
      '  2] >',
      '}',
    ]
  )
  stages = 'model_options.kmax.pixel_decoder_stages'
  found, same = textproto.fields(text, EXPERIMENT)
  assert same == text
  assert found == [
    ('experiment_name', '"a # { b" "c"', 2, 1),
    ('model_options', '', 3, 1),
    ('model_options.kmax', '', 4, 3),
    (f'{stages}[0]', '', 4, 10),
    (f'{stages}[0].filters', '1', 4, 33),
    (f'{stages}[0].type', 'AXIAL', 4, 45),
    (f'{stages}[1]', '', 5, 5),
    (f'{stages}[1].filters', '2', 5, 6),
    (f'{stages}[2]', '', 5, 19),
    (f'{stages}[2].num_blocks', '-3', 5, 20),
    ('model_options.kmax.decoder_layers', '1', 5, 54),
    ('model_options.kmax.decoder_layers', '2', 6, 3),
  ]
  _parse(text)


def test_names_of_version_0_1_are_read_with_a_warning(caplog):
  text = (
    'model_options { kmax { pixel_decoder_stages { kind: AXIAL } } }\n'
    'train_dataset_options { file_pattern: "kind: max_corrupt_share" max_corrupt_share: 0.5 }'
  )
  options = config_pb2.ExperimentOptions()
  found = textproto.parse(text, options, 'a.textproto')
  assert options.model_options.kmax.pixel_decoder_stages[0].type == 0
  assert options.train_dataset_options.max_corrupt_fraction == 0.5
  assert list(options.train_dataset_options.file_pattern) == ['kind: max_corrupt_share']
  assert found[-1].path == 'train_dataset_options.max_corrupt_fraction'
  assert 'kind of PixelDecoderStage is called type now' in caplog.text
  assert 'max_corrupt_share of DatasetOptions is called max_corrupt_fraction now' in caplog.text


@pytest.mark.parametrize(
  'text, message',
  [
    (
      'experiment_name: "a"\n\nmodel_options { backbone { nmae: "x" } }',
      'a.textproto:3: model_options.backbone.nmae = "x": no such field; did you mean name?',
    ),
    (
      'evaluator_options {\n  maskwise_postprocesing { overlapping_threshold: 1 } }',
      'a.textproto:2: evaluator_options.maskwise_postprocesing: no such field; '
      'did you mean maskwise_postprocessing?',
    ),
    (
      'trainer_options {\n solver_options { warmup_steps: 1.5 } }',
      'a.textproto:2: trainer_options.solver_options.warmup_steps = 1.5: ',
    ),
    (
      'train_dataset_options { batch_size: many }',
      'a.textproto:1: train_dataset_options.batch_size = many: ',
    ),
    (
      'train_dataset_options {\n batch_size: 1\n batch_size: 2 }',
      'a.textproto:3: train_dataset_options.batch_size = 2: ',
    ),
    (
      'model_options {\n kmax { pixel_decoder_stages { type: CONV } } }',
      'a.textproto:2: model_options.kmax.pixel_decoder_stages[0].type = CONV: ',
    ),
    ('model_options {\n', 'a.textproto:'),
    ('experiment_name: "a\n', 'a.textproto:1: '),
    ('experiment_name "a"', 'a.textproto:1: '),
    ('model_options }', 'a.textproto:1: '),
    ('{', 'a.textproto:1: '),
  ],
)
def test_mistakes(text, message):
  with pytest.raises(errors.UserError) as error:
    _parse(text)
  assert str(error.value).startswith(message)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'text, wanted',
  [
    ('trainer_options { steps_per_loop: x }', 'it takes an integer.'),
    ('trainer_options { solver_options { base_learning_rate: x } }', 'it takes a number.'),
    ('trainer_options { solver_options { use_sync_batchnorm: 7 } }', 'it takes true or false.'),
    ('experiment_name: word', 'it takes text in quotes.'),
    ('model_options: 3', 'it takes a block in braces.'),
    (
      'model_options { kmax { pixel_decoder_stages { type: CONV } } }',
      'it takes one of AXIAL, BOTTLENECK.',
    ),
  ],
)
def test_mistakes_say_what_is_right(text, wanted):
  with pytest.raises(errors.UserError) as error:
    _parse(text)
  assert str(error.value).endswith(wanted)


def test_a_name_like_no_other_lists_the_fields():
  with pytest.raises(errors.UserError, match='LowLevelOptions has feature_key, channels_project.'):
    _parse('model_options { max_deeplab { auxiliary_low_level { zzz: 1 } } }')


def test_lookup_names_what_is_missing():
  with pytest.raises(ValueError, match='no nothing in deeplab2.ModelOptions'):
    textproto.lookup(config_pb2.ExperimentOptions(), 'model_options.nothing')
  with pytest.raises(ValueError, match='no nothing in deeplab2.ExperimentOptions'):
    textproto.lookup(config_pb2.ExperimentOptions(), 'nothing.name')


def test_lists_in_lists_are_refused_however_deep():
  with pytest.raises(errors.UserError, match='a.textproto:1'):
    _parse(f'experiment_name: {"[" * 100000}')
