"""The modes, on a tiny real model and six real records."""

import contextlib
import json
import logging
import shlex
import shutil
import types

import numpy as np
import orbit
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import errors
from deeplab2.checkpoint import gates
from deeplab2.checkpoint import native
from deeplab2.checkpoint import restore
from deeplab2.config import load
from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.data import shapes
from deeplab2.data import tfrecord
from deeplab2.evaluation import evaluate_predictions
from deeplab2.evaluation import thresholds
from deeplab2.evaluation import tune_thresholds
from deeplab2.inference import segmenter
from deeplab2.metrics import panoptic_quality
from deeplab2.report import runs as report_runs
from deeplab2.report import segments_file
from deeplab2.trainer import evaluated
from deeplab2.trainer import evaluator
from deeplab2.trainer import experiment
from deeplab2.trainer import runtime
from deeplab2.trainer import train
from tests import eager
from tests.checkpoint import keras_files
from tests.data import panoptic_files
from tests.trainer import runs
from tests.trainer import test_summaries

_CONFIG, _SOLVER = runs.CONFIG, runs.SOLVER
_STEPS = f'{_SOLVER}.training_number_of_steps'
_OVERRIDES = [
  *(
    f'{split}_dataset_options.{name}'
    for split in ('train', 'eval')
    for name in ('crop_size=33,33', 'min_resize_value=33', 'max_resize_value=33')
  ),
  'train_dataset_options.batch_size=2',
  'model_options.kmax.decoder_layers=1,0,0',
  'model_options.kmax.semantic_decoder=false',
  f'{_STEPS}=3',
  f'{_SOLVER}.warmup_steps=0',
  f'{_SOLVER}.backbone_learning_rate_multiplier=0.1',
  'trainer_options.steps_per_loop=1',
  'trainer_options.save_summaries_steps=1',
  'evaluator_options.eval_interval=2',
  'evaluator_options.continuous_eval_timeout=1',
]


@pytest.fixture(scope='module', autouse=True)
def _records(tmp_path_factory):
  """Three images for each split."""
  directory = tmp_path_factory.mktemp('records')
  space = datasets.get('shapes').label_space
  for split in ('train', 'val'):
    with tf.io.TFRecordWriter(str(directory / f'{split}-0.tfrecord')) as writer:
      for index in range(3):
        image, label = shapes.generate(0, split, index, space)
        encoded = images.Encoded(tf.io.encode_png(image).numpy(), 'png', *label.shape)
        writer.write(tfrecord.encode_example(encoded, f'image_{index}', label))
  with pytest.MonkeyPatch.context() as patched:
    patched.setenv('SHAPES_TFRECORDS', str(directory))
    yield


@pytest.fixture(scope='module')
def trained(tmp_path_factory, _records):
  """A run of three steps, evaluated at the second and the last."""
  directory = tmp_path_factory.mktemp('trained') / 'run'
  _run('train_and_eval', directory, graphs=True)
  return directory


def _config(*overrides):
  return load.load(_CONFIG, [*_OVERRIDES, *overrides])


def _run(mode, directory, *overrides, graphs=False):
  with contextlib.nullcontext() if graphs else eager.functions():
    train.MODES[mode](_config(*overrides), str(directory))


def _started(directory, *overrides):
  """Returns the checkpoint of a training before its first step."""
  config = _config(*overrides)
  model, step = assemble.model(config), orbit.utils.create_global_step()
  run = str(directory)
  experiment._train_loop(config, run, run, model, step, stop=None)[0].save()
  return tf.train.load_checkpoint(str(directory / 'ckpt-0'))


def _metrics(directory):
  return sorted(
    int(path.stem.removeprefix('metrics-')) for path in (directory / 'eval').glob('metrics-*.json')
  )


def test_train_and_eval(trained):
  assert _metrics(trained) == [2, 3]
  assert (trained / 'ckpt-3.index').exists() and (trained / 'ckpt-0.index').exists()
  assert len(list((trained / 'vis').glob('*_panel.png'))) == 3
  content = json.loads((trained / 'eval' / 'metrics-3.json').read_text())
  assert content['num_images'] == 3
  assert {'total_loss', 'pq_style_loss_mask_dice_term', 'semantic_loss'} <= set(content['losses'])
  assert not any('aux' in name for name in content['losses'])
  assert 'mask_fp' in content['diagnostics']
  assert {
    'diagnostics/mask_fp',
    'gradient_norm',
    'losses/train_aux_0mask_id_cross_entropy_loss',
  } <= (set(content['training']))


def test_evaluation_compiles_to_the_same_maps(trained):
  """Under XLA, as on a TPU: model, post-processing, matching and losses at once."""
  config = _config('eval_dataset_options.batch_size=2')
  model = assemble.model(config)
  restore.restore_model(model, str(trained))

  def parts(compiled):
    made = evaluator.Evaluator(
      lambda batches: runtime.distribute(
        assemble.eval_dataset(config, skip=2 * batches), fetch_to_device=False
      ),
      model=model,
      segmenter=segmenter.create(config, model),
      loss=assemble.evaluation_loss(config).score,
      batch_size=2,
    )
    if compiled:
      made._run = tf.function(made._run_replicas, autograph=False, jit_compile=True)
    return [part for batch in made.batches() for part in batch]

  for plain, compiled in zip(parts(False), parts(True), strict=True):
    for name in ('panoptic', 'instance', 'semantic'):
      np.testing.assert_array_equal(getattr(plain.maps, name), getattr(compiled.maps, name))
    assert set(plain.losses) == set(compiled.losses)
    for name, value in plain.losses.items():
      np.testing.assert_allclose(compiled.losses[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_report_and_a_writer_of_the_users_own(trained, tmp_path):
  """An evaluation of the newest checkpoint, and a training of one more step."""
  run = tmp_path / 'shapes_kmax_mobilenet_v3_small'
  shutil.copytree(trained, run, ignore=shutil.ignore_patterns('events*', 'vis'))
  # The command that a report without segments advises, and what is said of a damaged file.
  (note,) = report_runs.read([str(run)])[0].notes
  arguments = dict(
    flag.split('=') for flag in shlex.split(note) if flag.startswith('--') and '=' in flag
  )
  assert '--mode=eval' in note and note.endswith('--report')
  assert arguments['--model_dir'] == str(tmp_path)
  config = load.load(arguments['--config_file'], ['evaluator_options.report=true'])
  assert train.run_directory(arguments['--model_dir'], config) == str(run)
  (run / 'eval' / 'segments-3.jsonl').write_text('{}\n')
  with pytest.raises(errors.UserError, match='evaluate again with --mode=eval --report'):
    report_runs.read([str(run)])
  writer = test_summaries.LinesWriter(tmp_path / 'lines.jsonl')
  steps = 'trainer_options.solver_options.training_number_of_steps=4'
  for mode, used in (('eval', config), ('train', _config(steps))):
    with eager.functions():
      train.MODES[mode](used, str(run), None, [writer])
  writer.close()
  lines = [json.loads(line) for line in (tmp_path / 'lines.jsonl').open()]
  assert [line['step'] for line in lines] == [3, 3, 3, 3, 4]  # Three images, and numbers.
  content = json.loads((run / 'eval' / 'metrics-3.json').read_text())
  assert lines[0]['eval/images/000000'][2] == 3
  assert lines[3]['eval/evaluation/pq/PQ'] == pytest.approx(content['PQ'] / 100)
  assert {'train/learning_rate', 'train/losses/train_total_loss'} <= set(lines[4])
  kept = segments_file.read(str(run / 'eval' / 'segments-3.jsonl'))
  assert [image.name for image in kept.images] == ['image_0', 'image_1', 'image_2']
  counts = {name: sum(row[name] for row in content['per_class']) for name in ('TP', 'FN', 'FP')}
  for name, field in (('TP', 'matched_class'), ('FN', 'missed_class'), ('FP', 'extra_class')):
    assert counts[name] == sum(len(getattr(image.segments, field)) for image in kept.images)
  assert f'<dd>{content["PQ"]:.1f}</dd>' in (run / 'report.html').read_text()


def test_a_report_needs_labels_and_an_evaluation(trained, tmp_path, capsys, monkeypatch):
  with pytest.raises(errors.UserError, match='evaluator_options.report = true: needs labels'):
    _run(
      'eval',
      tmp_path,
      f'model_options.initial_checkpoint={trained}',
      'eval_dataset_options.decode_groundtruth_label=false',
      'evaluator_options.report=true',
    )
  monkeypatch.setattr(train.runtime, 'start_logging', lambda: None)
  assert train.main(['--config_file=x', '--model_dir=y', '--mode=train', '--report']) == 2
  assert '--report: --mode=train evaluates nothing' in capsys.readouterr().err


def test_a_finished_run_is_left_alone(trained, caplog):
  before = (trained / 'checkpoint').read_text()
  with caplog.at_level(logging.INFO):
    _run('train_and_eval', trained)
  assert 'This run is finished' in caplog.text
  assert (trained / 'checkpoint').read_text() == before


def test_evaluation_of_the_newest_checkpoint(trained, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(trained, run, ignore=shutil.ignore_patterns('eval', 'vis'))
  _run(
    'continuous_eval',
    run,
    'evaluator_options.save_raw_predictions=true',
    'evaluator_options.save_predictions=false',
  )
  assert _metrics(run) == [3]
  names = sorted(path.name for path in (run / 'vis' / 'raw_panoptic').iterdir())
  assert names == ['image_0.png', 'image_1.png', 'image_2.png']
  assert not list((run / 'vis').glob('*.png'))
  again, before = (
    json.loads((directory / 'eval' / 'metrics-3.json').read_text()) for directory in (run, trained)
  )
  assert again['losses'] == pytest.approx(before['losses'], rel=1e-5)
  assert again['per_class'] == before['per_class']


@pytest.mark.parametrize('mode', ['eval', 'continuous_eval'])
def test_without_a_checkpoint_there_is_nothing_to_evaluate(tmp_path, mode):
  with pytest.raises(errors.UserError, match='nothing to evaluate') as caught:
    _run(mode, tmp_path)
  assert str(tmp_path) in str(caught.value)


def test_initial_checkpoint_is_trained_from_and_evaluated(trained, tmp_path, caplog):
  initial = f'model_options.initial_checkpoint={trained}'
  _run('eval', tmp_path, initial)
  assert _metrics(tmp_path) == [0]  # The step is not that of the other run.
  with caplog.at_level(logging.INFO):
    second = _started(tmp_path, initial)
  assert f'Started from {trained}/ckpt-3' in caplog.text
  first = tf.train.load_checkpoint(str(trained / 'ckpt-3'))
  keys = _model_keys(first)
  assert len(keys) > 100
  for key in keys:
    np.testing.assert_array_equal(first.get_tensor(key), second.get_tensor(key), err_msg=key)
  assert second.get_tensor('optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE') == 0


def test_pretrained_weights_are_those_of_the_backbone_alone(trained, tmp_path, caplog):
  with caplog.at_level(logging.INFO):
    second = _started(tmp_path, f'model_options.backbone.pretrained_weights={trained}')
  assert f'Backbone from {trained}/ckpt-3' in caplog.text
  first = tf.train.load_checkpoint(str(trained / 'ckpt-3'))
  # What training changes and what it starts from at random, so equal by no chance.
  keys = [key for key in _model_keys(first) if key.endswith('/kernel' + _VALUE)]
  assert any('backbone' in key for key in keys) and not all('backbone' in key for key in keys)
  for key in keys:
    same = np.array_equal(first.get_tensor(key), second.get_tensor(key))
    assert same == ('backbone' in key), key


def test_weights_of_keras_and_their_gate(tmp_path, caplog):
  network = keras_files.mobilenet(include_top=False)
  network.save_weights(str(tmp_path / 'small.h5'))
  weights = f'model_options.backbone.pretrained_weights=keras:{tmp_path}/small.h5'
  with caplog.at_level(logging.INFO):
    gate = 'model_options.backbone.squeeze_excite_gate=HARD_SIGMOID'
    started = _started(tmp_path / 'run', weights, gate)
  assert f'Backbone from {tmp_path}/small.h5; all other parts start from scratch' in caplog.text
  kernel = started.get_tensor('model/backbone/blocks/0/kernel' + _VALUE)
  np.testing.assert_array_equal(kernel, network.get_layer('Conv').kernel)
  assert started.get_tensor(gates.KEY) == b'HARD_SIGMOID'
  # Without what the run keeps of its configuration, its checkpoint still says it.
  with pytest.raises(errors.UserError, match='set .*squeeze_excite_gate=HARD_SIGMOID'):
    _started(tmp_path / 'run')


@pytest.mark.parametrize('is_chief', [True, False])
def test_weights_are_downloaded_by_the_chief_before_the_others_look(monkeypatch, is_chief):
  done = []
  monkeypatch.setattr(experiment.hosts, 'is_chief', lambda: is_chief)
  monkeypatch.setattr(experiment.hosts, 'gathered', lambda value: done.append('waited'))
  monkeypatch.setattr(experiment.pretrained_lib, 'fetch', lambda *_: done.append('fetched'))
  monkeypatch.setattr(restore, 'initialize_backbone', lambda *_, **__: done.append('read'))
  config = _config('model_options.backbone.pretrained_weights=imagenet')
  experiment._initialize(config, types.SimpleNamespace(backbone=None), 'run')
  assert done == [*(['fetched'] if is_chief else []), 'waited', 'read']


_VALUE = '/.ATTRIBUTES/VARIABLE_VALUE'


def _model_keys(reader):
  return [
    key
    for key in reader.get_variable_to_shape_map()
    if key.startswith('model/') and 'SLOT' not in key
  ]


@pytest.mark.parametrize('option', ['backbone.pretrained_weights', 'initial_checkpoint'])
def test_a_wrong_start_is_refused_before_training(tmp_path, option):
  with pytest.raises(errors.UserError, match='nowhere: no such checkpoint'):
    _run('train', tmp_path, f'model_options.{option}=/nowhere')
  assert not list(tmp_path.glob('ckpt*'))


def test_results_in_cocos_formats(trained, tmp_path, capsys):
  """Evaluated as files, they have the numbers of the evaluation."""
  run = tmp_path / 'run'
  shutil.copytree(trained, run, ignore=shutil.ignore_patterns('eval', 'vis'))
  maskwise = 'evaluator_options.maskwise_postprocessing.'
  lenient = [  # Whatever it has learned, it finds things.
    'evaluator_options.pixel_confidence_threshold=0.0',
    f'{maskwise}transformer_class_confidence_threshold_thing=0.0',
    f'{maskwise}transformer_class_confidence_threshold_stuff=1.0',
    f'{maskwise}overlapping_threshold=0.0',
  ]
  _run('eval', run, 'evaluator_options.save_coco_results=true', *lenient)
  (directory,) = (run / 'eval').glob('predictions-3-*')
  assert sorted(path.name for path in directory.iterdir()) == [
    'instances.json',
    'panoptic',
    'panoptic.index.jsonl',
    'panoptic.json',
  ]
  info = datasets.get('shapes')
  truth = panoptic_files.Writer(tmp_path / 'true', info)
  for index in range(3):
    truth.add(f'image_{index}', shapes.generate(0, 'val', index, info.label_space)[1])
  truth.save(tmp_path / 'true.json')
  metrics = json.loads((run / 'eval' / 'metrics-3.json').read_text())
  for predictions in ('panoptic', 'instances'):
    output = tmp_path / f'{predictions}.json'
    arguments = [
      f'--ground_truth={tmp_path / "true.json"}',
      f'--predictions={directory / predictions}.json',
      f'--output={output}',
      '--num_workers=1',
    ]
    assert evaluate_predictions.main(arguments) == 0, capsys.readouterr().err
    numbers = json.loads(output.read_text())
    assert numbers['AP'] == pytest.approx(metrics['AP'], abs=1e-9)
    if predictions == 'panoptic':
      assert numbers['PQ'] == pytest.approx(metrics['PQ'], abs=1e-9)
      assert sum(entry['TP'] + entry['FP'] for entry in numbers['per_class'][:5]) > 0
  before = (directory / 'panoptic.json').read_text()
  _run('eval', run, 'evaluator_options.save_coco_results=true', *lenient)
  assert (directory / 'panoptic.json').read_text() == before


def test_copies_of_other_sizes_and_mirrored(trained, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(trained, run, ignore=shutil.ignore_patterns('eval', 'vis'))
  scales = 'evaluator_options.eval_scales=[1.0,2.0]'
  _run('eval', run, scales, 'evaluator_options.add_flipped_images=true')
  _run('eval', run)
  contents = [
    json.loads(path.read_text()) for path in sorted((run / 'eval').glob('metrics-3*.json'))
  ]
  assert len(contents) == 2, 'each of the two ways has its numbers'
  views = [content['evaluated'].get('views') for content in contents]
  assert None in views and {'scales': [1.0, 2.0], 'flipped': True} in views
  losses = [content['losses']['total_loss'] for content in contents]
  assert losses[0] == pytest.approx(losses[1], rel=1e-5), 'the loss is of the image itself'


def test_without_losses_the_metrics_are_the_same(trained, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(trained, run, ignore=shutil.ignore_patterns('eval', 'vis'))
  _run('eval', run, 'evaluator_options.measure_losses=false')
  content, before = (
    json.loads((directory / 'eval' / 'metrics-3.json').read_text()) for directory in (run, trained)
  )
  assert content['losses'] == content['diagnostics'] == {}
  assert content['per_class'] == before['per_class']
  assert content['evaluated'] == before['evaluated']


def test_thresholds_are_tuned(trained, tmp_path, capsys):
  """What the tables of the images count is what an evaluation counts."""
  overrides = [
    'evaluator_options.pixel_confidence_threshold=0.02',
    'evaluator_options.maskwise_postprocessing.transformer_class_confidence_threshold_thing=0.0',
    'evaluator_options.maskwise_postprocessing.transformer_class_confidence_threshold_stuff=0.0',
  ]
  config = _config(*overrides)
  model = assemble.model(config)
  restore.restore_model(model, str(trained))
  segment, space = segmenter.create(config, model), datasets.get('shapes').label_space
  with eager.functions():
    tables = list(tune_thresholds.read_tables(config, segment))
    samples = list(assemble.eval_dataset(config))
  extra = 0
  for table, sample in zip(tables, samples, strict=True):
    maps = segment.maps(segment.infer(sample.image))
    panoptic = segment.restore(maps, sample.placement, 0).panoptic[0].numpy()
    expected, _ = panoptic_quality.PanopticQuality(space).update(
      sample.panoptic_raw[0].numpy(), panoptic
    )
    found = thresholds.Rule(space).counts(table, thresholds.Thresholds(0.0, 0.0, 0.5))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    extra += found[3].sum()
  assert extra >= 3, 'it finds something in every image, if nothing that is there'

  output = tmp_path / 'thresholds.json'
  flags = [f'--config_file={_CONFIG}', f'--checkpoint_path={trained}', f'--output={output}']
  flags += [f'--set={override}' for override in (*_OVERRIDES, *overrides)]
  assert tune_thresholds.main([*flags, '--num_workers=1']) == 0
  content, shown = json.loads(output.read_text()), capsys.readouterr().out
  assert content['num_images'] == 3 and content['PQ_after'] >= content['PQ_before']
  for field, value in content['after'].items():
    assert f'--set {field}={value:g}' in shown
    assert _config(f'{field}={value:g}').value(field) == pytest.approx(value)
  for option, words in (
    ('evaluator_options.transformer_post_processing=pixelwise', 'must be "maskwise"'),
    ('eval_dataset_options.decode_groundtruth_label=false', 'must be true: PQ needs labels.'),
  ):
    assert tune_thresholds.main([*flags, f'--set={option}']) == 2
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1


def test_images_without_labels_need_a_purpose(trained, tmp_path):
  unlabelled = [
    f'model_options.initial_checkpoint={trained}',
    'eval_dataset_options.decode_groundtruth_label=false',
    'evaluator_options.save_predictions=false',
  ]
  with pytest.raises(errors.UserError, match='save_raw_predictions'):
    _run('eval', tmp_path, *unlabelled)
  _run('eval', tmp_path, *unlabelled, 'evaluator_options.save_raw_predictions=true')
  assert len(list((tmp_path / 'vis' / 'raw_semantic').iterdir())) == 3
  assert not _metrics(tmp_path)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--mode=train'], ['--config_file', '--model_dir']),
    (['--config_file=x', '--model_dir=y', '--mode=test'], ['--mode', 'train_and_eval']),
    (['--config_file=missing.textproto', '--model_dir=y', '--mode=eval'], ['missing.textproto']),
    (['--config_file=x', '--model_dir=y', '--mode=eval', '--gpus=1'], ['--gpus']),
  ],
)
def test_mistakes_in_flags_are_one_line_and_exit_code_2(arguments, words, capsys, monkeypatch):
  monkeypatch.setattr(train.runtime, 'start_logging', lambda: None)
  assert train.main(arguments) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  for word in words:
    assert word in line


@contextlib.contextmanager
def _evaluated_variables():
  """Yields {key: value} of the variables of the model that is evaluated inside the context."""
  found, digest = {}, evaluated.weights_digest

  def recorded(model):
    variables = native.variable_keys({'model': model})
    found.update({key: variable.numpy() for key, variable in variables.items()})
    return digest(model)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(evaluated, 'weights_digest', recorded)
    yield found


def test_averages_are_evaluated_instead_of_the_variables(tmp_path):
  ema, raw = 'trainer_options.ema_decay=0.9', 'evaluator_options.use_raw_weights=true'
  with _evaluated_variables() as in_training:
    _run('train_and_eval', tmp_path, ema)
  reader = tf.train.load_checkpoint(str(tmp_path / 'ckpt-3'))
  ending = '/.ATTRIBUTES/VARIABLE_VALUE'
  variables = {key: reader.get_tensor(key + ending) for key in in_training}
  averages = {
    key: reader.get_tensor(f'averages/by_key/{key.replace("/", ".S")}{ending}')
    for key in in_training
  }
  assert any(np.any(variables[key] != averages[key]) for key in variables)
  # The last one in training, and those of the mode eval.
  np.testing.assert_equal(in_training, averages)
  for options, expected in (([ema], averages), ([ema, raw], variables), ([], variables)):
    with _evaluated_variables() as found:
      _run('eval', tmp_path, *options)
    np.testing.assert_equal(found, expected)


def test_a_checkpoint_without_averages(trained, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  for mode in ('eval', 'train'):
    with pytest.raises(errors.UserError, match='averages.*trainer_options.ema_decay'):
      _run(mode, run, 'trainer_options.ema_decay=0.9', f'{_STEPS}=9')
  # As the message of `eval` advises.
  raw = 'evaluator_options.use_raw_weights=true'
  _run('eval', run, 'trainer_options.ema_decay=0.9', raw)


def test_a_run_keeps_its_loss_scale(trained, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(trained, run)
  with pytest.raises(errors.UserError, match='loss_scale.*trainer_options.precision'):
    _run('train', run, 'trainer_options.precision=FLOAT16', f'{_STEPS}=9')
