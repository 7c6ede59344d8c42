"""The whole way on tiny sizes: build data, train, evaluate, export, predict - with one map."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2.checkpoint import restore
from deeplab2.commands import build_tfrecords
from deeplab2.commands import report
from deeplab2.config import load
from deeplab2.data import coco_panoptic
from deeplab2.inference import export
from deeplab2.inference import predict
from deeplab2.inference import saved_model
from deeplab2.inference import segmenter
from deeplab2.metrics import panoptic_quality
from deeplab2.model.layers import norm
from deeplab2.report import segments_file
from deeplab2.report import thumbnails
from deeplab2.trainer import runtime
from deeplab2.trainer import train

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = 'configs/shapes/kmax_mobilenet_v3_small.textproto'
NAME = 'shapes_kmax_mobilenet_v3_small'
STEPS = 12
OVERRIDES = [
  'train_dataset_options.crop_size=65,65',
  'eval_dataset_options.crop_size=65,65',
  'train_dataset_options.min_resize_value=65',
  'train_dataset_options.max_resize_value=65',
  'eval_dataset_options.min_resize_value=65',
  'eval_dataset_options.max_resize_value=65',
  'train_dataset_options.batch_size=4',
  'train_dataset_options.seed=1',
  'trainer_options.steps_per_loop=4',
  'trainer_options.save_summaries_steps=4',
  f'trainer_options.solver_options.training_number_of_steps={STEPS}',
  'trainer_options.solver_options.warmup_steps=2',
  'evaluator_options.num_vis_samples=2',
]
# All decoder layers are in the test of the quality below.
RUN_OVERRIDES = [*OVERRIDES, 'model_options.kmax.decoder_layers=1,0,0']
FLAGS = [flag for override in RUN_OVERRIDES for flag in ('--set', override)]


class Run:
  """One tiny run, made by the command lines that users type."""

  def __init__(self, root: pathlib.Path):
    self.root = root
    self.environment = {
      **os.environ,
      'SHAPES_TFRECORDS': str(root / 'tfrecords'),
      'PYTHONPATH': str(ROOT),
    }

  def call(self, *arguments, code=0):
    """Runs python with `arguments`; returns what it printed."""
    result = subprocess.run(
      [sys.executable, *map(str, arguments)],
      env=self.environment,
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr

  def call_here(self, main, *arguments, code=0):
    """Runs a command's `main` in this process, which has imported everything already."""
    with pytest.MonkeyPatch.context() as patched:
      patched.setenv('SHAPES_TFRECORDS', self.environment['SHAPES_TFRECORDS'])
      patched.setattr(runtime, 'start_logging', lambda: None)
      patched.chdir(ROOT)
      assert main([*map(str, arguments)]) == code

  @property
  def directory(self):
    """Where checkpoints and results are."""
    return self.root / 'model' / NAME


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Data, training with evaluation, export, prediction."""
  one = Run(tmp_path_factory.mktemp('run'))
  for split, count in (('train', 12), ('val', 3)):
    one.call_here(
      build_tfrecords.main,
      '--dataset=shapes',
      f'--split={split}',
      f'--num_images={count}',
      '--num_shards=2',
      f'--output_dir={one.root / "tfrecords"}',
      f'--images_dir={one.root / split}',
    )
  one.log = one.call(
    '-m',
    'deeplab2.trainer.train',
    f'--config_file={CONFIG}',
    '--mode=train_and_eval',
    f'--model_dir={one.root / "model"}',
    '--gin_param=set_up.seed = 1',
    '--report',
    *FLAGS,
  )
  one.call_here(
    export.main,
    f'--config_file={CONFIG}',
    f'--checkpoint_path={one.directory}',
    f'--export_path={one.root / "exported"}',
    *FLAGS,
  )
  one.call(
    '-m',
    'deeplab2.inference.predict',
    f'--model={one.root / "exported"}',
    f'--input={one.root / "val"}',
    f'--output_dir={one.root / "predictions"}',
  )
  return one


@pytest.fixture(scope='module')
def restored(run):
  """The config and its model with the weights that the run ended with."""
  config = load.load(
    str(ROOT / CONFIG),
    [*RUN_OVERRIDES, f'eval_dataset_options.file_pattern={run.root}/tfrecords/val-*.tfrecord'],
  )
  model = assemble.model(config)
  restore.restore_model(model, str(run.directory))
  return config, model


@pytest.mark.slow
def test_metrics_file_holds_what_the_segmenter_scores(run, restored):
  config, model = restored
  with open(run.directory / 'eval' / f'metrics-{STEPS}.json') as file:
    metrics = json.load(file)
  space = assemble.dataset_info(config).label_space
  metric = panoptic_quality.PanopticQuality(space)
  segment = segmenter.create(config, model)
  for sample in assemble.eval_dataset(config):
    maps = segment.maps(model(sample.image, training=False).final)
    panoptic = segment.restore(maps, sample.placement, 0).panoptic[0]
    metric.update(sample.panoptic_raw[0].numpy(), panoptic.numpy())
  official = metric.result().official
  assert metrics['step'] == STEPS
  assert metrics['PQ'] == pytest.approx(100 * official.all.pq, abs=1e-6)
  assert metrics['PQ_things'] == pytest.approx(100 * official.things.pq, abs=1e-6)
  assert metrics['PQ_stuff'] == pytest.approx(100 * official.stuff.pq, abs=1e-6)
  assert {'SQ', 'RQ', 'per_class', 'protocol', 'crop'} <= set(metrics)


@pytest.mark.slow
def test_the_report_is_of_the_evaluation(run):
  """Written by --report, and again by its script, from what the run has kept."""
  written = (run.directory / 'report.html').read_text()
  metrics = json.loads((run.directory / 'eval' / f'metrics-{STEPS}.json').read_text())
  assert f'<dd>{metrics["PQ"]:.1f}</dd>' in written
  kept = segments_file.read(str(run.directory / 'eval' / f'segments-{STEPS}.jsonl'))
  assert [image.name for image in kept.images] == [f'val_{i:06d}' for i in range(3)]
  assert all(set(image.panels) == set(thumbnails.NAMES) for image in kept.images)
  output = run.root / 'again.html'
  run.call_here(report.main, run.directory, f'--output={output}')
  assert output.read_text() == written


@pytest.mark.slow
def test_evaluation_export_and_prediction_give_the_same_map(run, restored):
  config, model = restored
  segment = segmenter.create(config, model)
  exported = saved_model.load(str(run.root / 'exported'))
  evaluated = tf.function(lambda image: segment.maps(model(image, training=False).final))
  with open(run.root / 'predictions' / 'panoptic.json') as file:
    content = json.load(file)
  assert len(content['images']) == 3
  for sample in assemble.eval_dataset(config):
    name = sample.name[0].numpy().decode()
    original = tf.io.decode_image((run.root / 'val' / f'{name}.jpg').read_bytes(), channels=3)
    from_evaluator = segment.restore(evaluated(sample.image), sample.placement, 0)
    from_export = exported.segment(original)
    for key, wanted in zip(
      ('panoptic_pred', 'instance_pred', 'semantic_pred', 'instance_scores', 'semantic_scores'),
      from_evaluator,
      strict=True,
    ):
      np.testing.assert_array_equal(from_export[key], wanted, err_msg=f'{name} {key}')
      assert from_export[key].shape == (1, *original.shape[:2])
    rgb, segments = coco_panoptic.encode(from_evaluator.panoptic[0].numpy(), exported.info)
    written = np.asarray(PIL.Image.open(run.root / 'predictions' / 'panoptic' / f'{name}.png'))
    np.testing.assert_array_equal(written, rgb)
    [annotation] = [a for a in content['annotations'] if a['image_id'] == name]
    assert annotation['segments_info'] == segments
    assert (run.root / 'predictions' / 'overlay' / f'{name}.png').exists()


@pytest.mark.slow
def test_exported_model_has_no_training_only_variables(run, restored):
  _, model = restored
  reader = tf.train.load_checkpoint(str(run.root / 'exported' / 'variables' / 'variables'))
  shapes = reader.get_variable_to_shape_map()
  saved = sum(int(np.prod(shape)) for key, shape in shapes.items() if 'read_variables' in key)
  wanted = sum(int(np.prod(v.shape)) for v in model.variables)
  unneeded = sum(int(np.prod(v.shape)) for v in model.semantic_branch.variables)
  unneeded += sum(
    int(np.prod(v.shape))
    for layer in model.kmax_decoder.layers
    for v in layer.predictor.class_head.variables
  )
  # Of four variables of a norm, two are left.
  read = [model.backbone, model.pixel_decoder, model.kmax_decoder, model.predictor]
  unread = {
    id(v) for layer in model.kmax_decoder.layers for v in layer.predictor.class_head.variables
  }
  unneeded += sum(
    2 * int(np.prod(module.gamma.shape))
    for part in read
    for module in part.submodules
    if isinstance(module, norm.BatchNorm) and id(module.gamma) not in unread
  )
  assert saved == wanted - unneeded


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(run):
  log = run.call(
    '-m',
    'deeplab2.trainer.train',
    f'--config_file={CONFIG}',
    '--mode=train',
    f'--model_dir={run.root / "model"}',
    *FLAGS,
  )
  assert 'finished' in log


@pytest.mark.slow
def test_a_short_training_reaches_a_panoptic_quality(tmp_path):
  """With seeds 0 and 1, it had PQ 27.9 and 27.5, mIoU 31.9 and 31.8."""
  one = Run(tmp_path)
  for split, count in (('train', 600), ('val', 60)):
    one.call_here(
      build_tfrecords.main,
      '--dataset=shapes',
      f'--split={split}',
      f'--num_images={count}',
      '--num_shards=2',
      f'--output_dir={tmp_path / "tfrecords"}',
    )
  settings = (
    *(
      f'{split}_dataset_options.{name}'
      for split in ('train', 'eval')
      for name in ('crop_size=97,97', 'min_resize_value=97', 'max_resize_value=97')
    ),
    'train_dataset_options.batch_size=4',
    'trainer_options.solver_options.training_number_of_steps=300',
    'trainer_options.solver_options.warmup_steps=20',
    'trainer_options.steps_per_loop=50',
    'trainer_options.save_summaries_steps=50',
    'train_dataset_options.seed=1',
    'evaluator_options.eval_interval=300',
    'evaluator_options.save_predictions=false',
  )
  one.call(
    '-m',
    'deeplab2.trainer.train',
    f'--config_file={CONFIG}',
    '--mode=train_and_eval',
    f'--model_dir={tmp_path / "model"}',
    '--gin_param=set_up.seed = 1',
    *(flag for setting in settings for flag in ('--set', setting)),
  )
  metrics = json.loads((one.directory / 'eval' / 'metrics-300.json').read_text())
  assert metrics['PQ'] > 22
  assert metrics['mIoU'] > 25


@pytest.mark.slow
def test_predict_keeps_the_good_images_and_names_the_bad_one(run, capfd):
  mixed = run.root / 'mixed'
  mixed.mkdir()
  good = sorted((run.root / 'val').iterdir())[0]
  (mixed / good.name).write_bytes(good.read_bytes())
  (mixed / 'broken.png').write_bytes(good.read_bytes()[:200])
  run.call_here(
    predict.main,
    f'--model={run.root / "exported"}',
    f'--input={mixed}',
    f'--output_dir={run.root / "mixed_out"}',
    code=1,
  )
  log = ''.join(capfd.readouterr())
  assert 'broken.png' in log and 'Traceback' not in log
  assert (run.root / 'mixed_out' / 'panoptic' / f'{good.stem}.png').exists()
  assert (run.root / 'mixed_out' / 'panoptic.json').exists()


def test_a_mistake_is_one_line_and_code_2(tmp_path):
  """As processes, export here and the others in the fixture; see the next test."""
  log = Run(tmp_path).call(
    '-m',
    'deeplab2.inference.export',
    f'--config_file={CONFIG}',
    '--checkpoint_path=/nowhere',
    '--export_path=x',
    code=2,
  )
  _check_one_line(log, ['/nowhere'])


@pytest.mark.parametrize(
  'main, arguments, words',
  [
    (
      predict.main,
      ['--model=/nowhere', '--input=docs', '--output_dir=y'],
      ['/nowhere', 'exported'],
    ),
    (train.main, [f'--config_file={CONFIG}', '--mode=eval'], ['--model_dir']),
  ],
  ids=['predict', 'train'],
)
def test_a_mistake_in_other_commands_is_one_line_and_code_2(
  main, arguments, words, tmp_path, capfd
):
  Run(tmp_path).call_here(main, *arguments, code=2)
  _check_one_line(''.join(capfd.readouterr()), words)


def _check_one_line(log, words):
  errors = [line for line in log.splitlines() if line.startswith('error:')]
  assert len(errors) == 1 and 'Traceback' not in log
  for word in words:
    assert word in errors[0]
