"""Advice works: messages that name an option or a flag are followed, and then it succeeds.

`test_messages.py` sees to it that there is a test for every such message.
"""

import importlib.util
import logging
import pathlib
import re
import shutil
import sys

import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2 import errors
from deeplab2.checkpoint import convert
from deeplab2.checkpoint import reading
from deeplab2.checkpoint import released
from deeplab2.checkpoint import restore
from deeplab2.checkpoint import run_checkpoints
from deeplab2.commands import plot_run
from deeplab2.config import checks
from deeplab2.config import load
from deeplab2.config import scope
from deeplab2.config import trainer_checks
from deeplab2.model.backbones import registry
from deeplab2.trainer import runtime
from tests.checkpoint import files as checkpoint_files
from tests.config import configs
from tests.model import builders
from tests.trainer import fakes
from tests.trainer import runs
from tests.trainer.runs import parts

__all__ = ['parts']
ROOT = pathlib.Path(__file__).parents[1]
SOLVER = 'trainer_options.solver_options'
MAX_DEEPLAB = 'model_options.max_deeplab'
KMAX = 'model_options.kmax'
TRAIN = 'train_dataset_options'
REMASK = 'trainer_options.loss_options.remask'
DROP_PATH = 'transformer_decoder_drop_path_keep_prob'

# What is refused or warned of, a part of the message, and what it advises to give instead.
CONFIGS = [
  (
    ['trainer_options.steps_per_loop=300'],
    'must be a multiple of steps_per_loop 300, like 1200.',
    ['trainer_options.steps_per_loop=300', 'trainer_options.save_summaries_steps=1200'],
  ),
  (
    [f'{TRAIN}.augmentations.max_scale_factor=0.5'],
    'must not be less than min_scale_factor 1.',
    [f'{TRAIN}.augmentations={{max_scale_factor: 0.5 min_scale_factor: 0.5}}'],
  ),
  (
    [f'{TRAIN}.max_resize_value=98'],
    'must not exceed the crop_size [65, 97] on either side.',
    [f'{TRAIN}.max_resize_value=65'],
  ),
  (
    [f'{TRAIN}.crop_size=640,640'],
    'the next such size is [641, 641].',
    [f'{TRAIN}.crop_size=641,641'],
  ),
  (
    [f'{TRAIN}.data_service=grpc://a:5000', f'{TRAIN}.seed=1'],
    'cannot be kept with data_service, whose workers draw independently; remove one of them.',
    [f'{TRAIN}.data_service=grpc://a:5000', f'{TRAIN}.seed=1', f'{TRAIN}.seed='],
  ),
  (
    [f'{REMASK}={{enable: true num_relaxed_layers: 9}}'],
    'between 0 and 6, the number of decoder layers (model_options.kmax.decoder_layers = ',
    [f'{REMASK}={{enable: true num_relaxed_layers: 6}}'],
  ),
  (
    [f'{REMASK}={{enable: true gate_masks: false stop_gradient: false}}'],
    'must be true where gate_masks is false: it is about the gate.',
    [f'{REMASK}={{enable: true gate_masks: false stop_gradient: true}}'],
  ),
  (
    ['trainer_options.loss_options.mask_loss_all_slots=true'],
    'must be false unless mask_loss_activation is SIGMOID: a softmax scores all slots anyway.',
    [
      'trainer_options.loss_options.mask_loss_all_slots=true',
      'trainer_options.loss_options.mask_loss_activation=SIGMOID',
    ],
  ),
  (
    [
      'trainer_options.loss_options={mask_loss_activation: SIGMOID '
      'mask_id_cross_entropy_loss {top_k_percent: 0.2}}'
    ],
    'must be 1 with mask_loss_activation SIGMOID, which scores all pixels.',
    [
      'trainer_options.loss_options={mask_loss_activation: SIGMOID '
      'mask_id_cross_entropy_loss {top_k_percent: 1}}'
    ],
  ),
  (
    [
      f'{KMAX}.high_resolution_stride=2',
      f'{KMAX}.pixel_decoder_stages=[{{filters: 8 num_blocks: 1 type: AXIAL}}]',
    ],
    'there are 1; high_resolution_stride 2 takes 5, from stride 32 on.',
    [
      f'{KMAX}.high_resolution_stride=2',
      f'{KMAX}.pixel_decoder_stages=['
      + ', '.join(['{filters: 8 num_blocks: 1 type: AXIAL}'] * 5)
      + ']',
    ],
  ),
  (
    [f'{KMAX}.pixel_decoder_features=res5,res4'],
    'must be 4 names, one for each of pixel_decoder_stages.',
    [f'{KMAX}.pixel_decoder_features=res5,res4,res3,res2'],
  ),
  (
    [f'{MAX_DEEPLAB}.semantic_sample_k=10', f'{KMAX}.semantic_decoder=false'],
    'needs model_options.kmax.semantic_decoder: pixels are sampled on the grid of the masks; take '
    '0 for all pixels.',
    [f'{MAX_DEEPLAB}.semantic_sample_k=0', f'{KMAX}.semantic_decoder=false'],
  ),
  (
    ['model_options.decoder.feature_key=res5'],
    'must be "feature_semantic": model_options.kmax.semantic_decoder reads no other.',
    ['model_options.decoder.feature_key=feature_semantic'],
  ),
  (
    ['model_options.decoder.atrous_rates=1'],
    'must be three numbers, unless aspp_use_only_1x1_proj_conv is true.',
    [
      'model_options.decoder.atrous_rates=1',
      'model_options.decoder.aspp_use_only_1x1_proj_conv=true',
    ],
  ),
  (
    [f'{MAX_DEEPLAB}.{DROP_PATH}=0.5', f'{KMAX}.decoder_drop_path_keep_prob=0.8'],
    'they mean the same, so give one of them.',
    [f'{MAX_DEEPLAB}.{DROP_PATH}=0.5'],
  ),
  (['model_options={panoptic_deeplab {}}'], 'max_deeplab with a backbone named kmax_...', []),
  (
    ['model_options.backbone.name=resnet50'],
    'max_deeplab with a backbone named kmax_...',
    ['model_options.backbone.name=kmax_resnet50'],
  ),
  ([f'{MAX_DEEPLAB}='], 'max_deeplab with a backbone named kmax_...', []),
  # Overrides.
  (
    ['experiment_name'],
    '--set experiment_name: write field.of.a.message=value.',
    ['experiment_name=x'],
  ),
  (
    ['trainer_options.stepsperloop=1'],
    'did you mean steps_per_loop?',
    ['trainer_options.steps_per_loop=1'],
  ),
  ([f'{TRAIN}={{bathc_size: 3}}'], 'did you mean batch_size?', [f'{TRAIN}.batch_size=3']),
  ([f'{TRAIN}.batch_size=x'], 'batch_size takes an integer.', [f'{TRAIN}.batch_size=3']),
  (
    [f'{TRAIN}.crop_size[0]=65'],
    'give the whole list, crop_size=[...].',
    [f'{TRAIN}.crop_size=[65, 65]'],
  ),
  ([f'{TRAIN}.batch_size.x=1'], 'batch_size holds no fields.', [f'{TRAIN}.batch_size=1']),
  (
    [f'{MAX_DEEPLAB}.auxiliary_low_level.channels_project=8'],
    'auxiliary_low_level has 2 entries; name one by its number from 0, auxiliary_low_level[0]',
    [f'{MAX_DEEPLAB}.auxiliary_low_level[0].channels_project=8'],
  ),
]
WARNINGS = [
  (
    [f'{TRAIN}.max_corrupt_fraction=0.1'],
    'has no effect without on_corrupt: SKIP.',
    [f'{TRAIN}.max_corrupt_fraction=0.1', f'{TRAIN}.on_corrupt=SKIP'],
  ),
  (
    [f'{SOLVER}.adamw_weight_decay=0.1', f'{SOLVER}.optimizer=sgd'],
    'has no effect on optimizer "sgd".',
    [f'{SOLVER}.adamw_weight_decay=0.1', f'{SOLVER}.optimizer=adamw'],
  ),
]


@pytest.fixture
def small(tmp_path):
  """Returns a function that loads configs.SMALL with overrides."""
  path = tmp_path / 'small.textproto'
  path.write_text(configs.SMALL)
  return lambda *overrides: load.load(str(path), overrides)


def _message(call):
  with pytest.raises(errors.UserError) as caught:
    call()
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('wrong, message, advised', CONFIGS, ids=range(len(CONFIGS)))
def test_options(small, wrong, message, advised):
  assert message in _message(lambda: small(*wrong))
  small(*advised)


@pytest.mark.parametrize('wrong, message, advised', WARNINGS, ids=range(len(WARNINGS)))
def test_options_that_are_warned_of(small, caplog, wrong, message, advised):
  small(*wrong)
  assert message in caplog.text
  caplog.clear()
  small(*advised)
  assert message not in caplog.text


@pytest.mark.parametrize(
  'path, value',
  [
    ('model_options.backbone.output_stride', '16'),
    (f'{TRAIN}.use_two_frames', 'true'),
    ('trainer_options.loss_options.depth_loss', '{weight: 1}'),
  ],
)
def test_refused_options_are_removed(small, path, value):
  message = _message(lambda: small(f'{path}={value}'))
  assert 'remove it.' in message and path.rpartition('.')[2] in {
    name for options in scope.REFUSED.values() for name in options
  }
  small(f'{path}={value}', f'{path}=')


def test_batches(small):
  assert 'take 6 or 9.' in _message(lambda: trainer_checks.check_devices(small(), 3, 'CPU'))
  for size in (6, 9):
    trainer_checks.check_devices(small(f'{TRAIN}.batch_size={size}'), 3, 'CPU')


def test_parts_of_batches(small):
  parts, size = 'trainer_options.gradient_accumulation_steps', f'{TRAIN}.batch_size'
  config = small(f'{parts}=2', f'{size}=6')
  message = _message(lambda: trainer_checks.check_devices(config, 4, 'GPU'))
  assert 'take a batch of 8, or other parts.' in message
  for advised in ([f'{parts}=2', f'{size}=8'], [f'{parts}=1', f'{size}=8']):
    trainer_checks.check_devices(small(*advised), 4, 'GPU')


def test_environment_variables(small, monkeypatch):
  message = _message(lambda: small().require(f'{TRAIN}.file_pattern'))
  assert 'TRAIN_SET is not set; export it, or give the value by --set train_dataset' in message
  assert small(f'{TRAIN}.file_pattern=x').require(f'{TRAIN}.file_pattern') == ['x']
  monkeypatch.setenv('TRAIN_SET', 'y')
  assert small().require(f'{TRAIN}.file_pattern') == ['y']


def _ready(small, tmp_path, *overrides):
  for name in ('train', 'val'):
    (tmp_path / name).write_bytes(b'x')
  return small(
    f'{TRAIN}.file_pattern={tmp_path}/train',
    f'eval_dataset_options.file_pattern={tmp_path}/val',
    *overrides,
  )


@pytest.mark.parametrize('name', ['../x', '/x', 'a/../../x', 'a\0b', 'gs://x'])
def test_names_of_runs(small, tmp_path, name):
  config = small()
  config.options.experiment_name = name
  assert 'must be the name of a directory within --model_dir.' in _message(
    lambda: checks.check_mode(config, 'train')
  )
  for good in ('', 'x', 'group/runs[lr=0.1]', '..x'):
    config = _ready(small, tmp_path, f'experiment_name={good}')
    checks.check_mode(config, 'train')


def test_warm_up(small, tmp_path, caplog):
  steps = f'{SOLVER}.training_number_of_steps=100'
  for warm_up in (100, 5000):
    caplog.clear()
    checks.check_mode(_ready(small, tmp_path, steps, f'{SOLVER}.warmup_steps={warm_up}'), 'train')
    assert (
      f'warmup_steps = {warm_up}: ends no earlier than training, training_number_of_steps '
      '= 100' in caplog.text
    )
  caplog.clear()
  checks.check_mode(_ready(small, tmp_path, steps, f'{SOLVER}.warmup_steps=99'), 'train')
  assert 'warmup_steps' not in caplog.text


def test_one_dataset(small):
  message = _message(lambda: assemble.dataset_info(small(f'{TRAIN}.dataset=ade20k_panoptic')))
  assert 'differs from train_dataset_options.dataset = "ade20k_panoptic"' in message
  assert (
    assemble.dataset_info(
      small(f'{TRAIN}.dataset=ade20k_panoptic', 'eval_dataset_options.dataset=ade20k_panoptic')
    ).name
    == 'ade20k_panoptic'
  )


# Checkpoints.


def _advised(message, *names):
  """Returns the overrides that a message advises: [option=value], of these options in order."""
  found = [re.search(rf'{re.escape(name)}=(\S+?)(?=[;,.]?( |$))', message) for name in names]
  assert all(found), message
  return [f'{name}={match[1]}' for name, match in zip(names, found, strict=True)]


_FRESH = 'model_options.restore_semantic_last_layer_from_initial_checkpoint'
_INITIAL = 'model_options.initial_checkpoint'


def _checkpoints(directory, model):
  return run_checkpoints.Checkpoints(
    str(directory),
    model=model,
    training={},
    global_step=tf.Variable(0, dtype=tf.int64, trainable=False),
  )


def _start(config, model):
  """Starts from another run as a training with this config does."""
  options = config.options.model_options
  restore.initialize_model(
    model,
    options.initial_checkpoint,
    fresh_class_heads=not options.restore_semantic_last_layer_from_initial_checkpoint,
  )


def test_another_number_of_classes(small, tmp_path):
  saved = _checkpoints(tmp_path / 'run', builders.tiny(num_classes=6)).save()
  model = builders.tiny(num_classes=9)
  # The run itself.
  message = _message(_checkpoints(tmp_path / 'run', model).resume)
  assert 'trained with 6 classes, not 9' in message and 'give another experiment_name' in message
  advised = _advised(message, _INITIAL, _FRESH)
  assert advised == [f'{_INITIAL}={saved}', f'{_FRESH}=false']
  assert _checkpoints(tmp_path / 'another', model).resume() is None
  _start(small(*advised), model)
  # From another run.
  message = _message(lambda: _start(small(f'{_INITIAL}={saved}'), model))
  assert 'experiment_name' not in message
  _start(small(f'{_INITIAL}={saved}', *_advised(message, _FRESH)), model)
  # For use without training, no option helps.
  message = _message(lambda: restore.restore_model(model, saved))
  assert 'it needs a configuration of the dataset that it was trained on' in message
  assert _FRESH not in message
  restore.restore_model(builders.tiny(num_classes=6), saved)


def test_a_released_checkpoint_of_another_number_of_slots_or_in_a_run(small, tmp_path):
  model = builders.tiny(num_slots=8)
  tensors = {
    key + checkpoint_files.SUFFIX: variable for key, variable in builders.fill_by_key(model).items()
  }
  prefix = checkpoint_files.write(tmp_path / 'ckpt-1', tensors)
  message = _message(lambda: released.load(reading.Reader(prefix), builders.tiny(num_slots=5)))
  (slots,) = _advised(message, f'{KMAX}.num_mask_slots')
  config = small(slots)
  released.load(
    reading.Reader(prefix),
    builders.tiny(num_slots=config.options.model_options.kmax.num_mask_slots),
  )
  # As if a run had saved it.
  (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "ckpt-1"\n')
  message = _message(_checkpoints(tmp_path, model).resume)
  assert 'give another experiment_name' in message
  assert _checkpoints(tmp_path / 'another', model).resume() is None
  _start(small(*_advised(message, _INITIAL)), model)


@pytest.mark.parametrize('damage', ['index', 'list'])
def test_another_experiment_name(tmp_path, parts, damage):
  runs.run('train', tmp_path / 'run', 'trainer_options.num_checkpoints_to_keep=1')
  if damage == 'index':
    (tmp_path / 'run' / 'ckpt-6.index').write_bytes(b'')
  else:
    (tmp_path / 'run' / 'ckpt-6.index').unlink()
  message = _message(lambda: runs.run('train', tmp_path / 'run'))
  assert 'To start from scratch, give another experiment_name.' in message
  runs.run('train', tmp_path / 'another')


def test_a_new_directory_for_what_is_converted(tmp_path):
  config = str(ROOT / runs.CONFIG)
  (tmp_path / 'ckpt-1.index').write_text('')
  message = _message(lambda: convert.convert(config, 'x', str(tmp_path)))
  assert f'--output_dir={tmp_path}: there are checkpoints; give a new directory.' in message
  # Goes on to the next mistake.
  assert 'no such checkpoint' in _message(
    lambda: convert.convert(config, str(tmp_path / 'x'), str(tmp_path / 'new'))
  )


# The modes and scripts.


def test_a_finished_run_is_evaluated(tmp_path, parts, caplog):
  runs.run('train', tmp_path)
  with caplog.at_level(logging.INFO):
    runs.run('train', tmp_path)
  mode = re.search(r'--mode=(\w+) evaluates it', caplog.text)[1]
  runs.run(mode, tmp_path)
  assert (tmp_path / 'eval' / 'metrics-6.json').exists()


def test_what_can_be_evaluated(tmp_path, parts):
  message = _message(lambda: runs.run('continuous_eval', tmp_path / 'run'))
  assert 'within 1 seconds (evaluator_options.continuous_eval_timeout)' in message
  message = _message(lambda: runs.run('eval', tmp_path / 'run'))
  assert f'there is no checkpoint, and {_INITIAL} is not set' in message
  runs.run('train', tmp_path / 'other')
  shutil.rmtree(tmp_path / 'run', ignore_errors=True)
  runs.run('eval', tmp_path / 'run', f'{_INITIAL}={tmp_path / "other"}')
  assert (tmp_path / 'run' / 'eval' / 'metrics-0.json').exists()


@pytest.mark.parametrize('number', [0, 1, 2])
def test_images_without_labels(tmp_path, parts, monkeypatch, number):
  runs.run('train', tmp_path)
  monkeypatch.setattr(
    assemble, 'eval_dataset', lambda config, skip: fakes.eval_dataset(labels=False).skip(skip)
  )
  without = [
    'eval_dataset_options.decode_groundtruth_label=false',
    'evaluator_options.save_predictions=false',
  ]
  message = _message(lambda: runs.run('eval', tmp_path, *without))
  advised = _advised(
    message,
    'evaluator_options.save_coco_results',
    'evaluator_options.save_raw_predictions',
    'evaluator_options.save_predictions',
  )
  runs.run('eval', tmp_path, *without, advised[number])
  assert list(tmp_path.rglob('*.png'))


def test_number_of_gpus():
  there = len(tf.config.list_physical_devices('GPU'))
  message = _message(lambda: runtime.create_strategy(there + 5, None))
  assert f'give 0 (the CPU) to {there}, or leave it out to use all.' in message
  for number in (0, there, None):
    assert runtime.create_strategy(number, None).num_replicas_in_sync >= 1


def _script(name):
  if str(ROOT / 'scripts') not in sys.path:
    sys.path.insert(0, str(ROOT / 'scripts'))  # As for a script that is run.
  spec = importlib.util.spec_from_file_location(name, ROOT / 'scripts' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_help(capsys):
  parser = command_line.Parser('what it does')
  assert 'see --help.' in _message(lambda: parser.parse_args(['--unknown']))
  with pytest.raises(SystemExit) as ended:
    parser.parse_args(['--help'])
  assert ended.value.code == 0 and 'what it does' in capsys.readouterr().out


def test_flags_of_plot_run(tmp_path, capsys):

  def call(run, output):
    code = plot_run.main([f'--run={run}', f'--output={output}'])
    return code, capsys.readouterr().err

  run = tmp_path / 'runs' / 'one'
  with tf.summary.create_file_writer(str(run / 'train')).as_default():
    tf.summary.scalar('losses/train_total_loss', 1.0, step=1)
  code, shown = call(tmp_path / 'runs', tmp_path / 'a.png')
  assert code == 2 and 'give the directory of one run.' in shown
  code, shown = call(run, tmp_path / 'a')
  ending = re.search(r'must end in one of (.*)\.$', shown.strip())[1].split(', ')
  assert code == 2 and '.png' in ending
  for one in ('.png', '.pdf', '.jpg', '.svg'):
    assert one in ending
    assert call(run, tmp_path / f'a{one}') == (0, '')


def test_flags_of_ablation(tmp_path, capfd):
  ablation = _script('ablation')

  def call(directory, *arguments):
    code = ablation.main(
      [
        f'--config_file={ROOT / runs.CONFIG}',
        f'--output_dir={directory}',
        '--report_only',
        '--methods=plain',
        *arguments,
      ]
    )
    assert code == 2  # There is nothing to report in the end.
    return capfd.readouterr().err.strip().splitlines()[-1]

  first, second, third = (tmp_path / name for name in ('first', 'second', 'third'))
  nothing = 'no run of this grid has reached step'
  assert '--jobs=0: must be 1 or more.' in call(first, '--jobs=0')
  assert nothing in call(first, '--jobs=1')
  assert 'give another --output_dir for' in call(first, '--set=experiment_name=x')
  assert nothing in call(second, '--set=experiment_name=x')
  (second / 'settings.json').write_text('')
  assert 'give another --output_dir.' in call(second)
  assert nothing in call(third)


def test_flags_of_models_table(tmp_path, capfd):
  models_table = _script('models_table')
  assert models_table.main([f'--output={tmp_path}/a.md', '--backbones=resnet']) == 2
  known = re.search("--backbones: 'resnet' is none of (.*)\\.$", capfd.readouterr().err)[1]
  assert known.split(', ') == list(registry.BACKBONES)
