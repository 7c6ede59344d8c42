"""One directory, many processes: what is taken up or refused, and survives an interruption."""

import json
import logging
import os
import shutil
import signal

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import errors
from deeplab2 import files
from deeplab2 import locks
from deeplab2.config import load
from deeplab2.trainer import reports
from deeplab2.trainer import scores
from deeplab2.trainer import stopping
from deeplab2.trainer import train
from deeplab2.trainer import unfinished
from tests import disk
from tests.disk import limited_files
from tests.trainer import runs

__all__ = ['limited_files']
pytestmark = pytest.mark.usefixtures('parts')
STEPS = f'{runs.SOLVER}.training_number_of_steps'
RAW = ('evaluator_options.save_raw_predictions=true', 'evaluator_options.save_predictions=false')


def _metrics(directory, name='metrics-6.json'):
  return json.loads((directory / 'eval' / name).read_text())


def _names(directory):
  return sorted(path.name for path in directory.iterdir() if not path.name.startswith('events'))


@pytest.fixture(scope='module')
def trained_once():
  """Where the directory of a trained run is kept for other tests, once there is one."""
  return {}


@pytest.fixture
def trained(tmp_path, tmp_path_factory, trained_once, parts):
  """A run of 6 steps."""
  del parts
  if not trained_once:
    trained_once['run'] = tmp_path_factory.mktemp('trained') / 'run'
    runs.run('train', trained_once['run'])
  shutil.copytree(trained_once['run'], tmp_path / 'run')
  return tmp_path / 'run'


def test_results_without_checkpoints_are_not_written_over_and_the_advice_works(trained, tmp_path):
  for path in [*trained.glob('ckpt-*'), trained / 'checkpoint']:
    path.unlink()
  with pytest.raises(errors.UserError, match='give another experiment_name') as caught:
    runs.run('train', trained)
  assert 'train/events' in str(caught.value) and str(trained) in str(caught.value)
  runs.run('train', tmp_path / 'another')  # Another experiment_name.
  shutil.move(trained / 'train', tmp_path / 'away')
  runs.run('train', trained)
  assert (trained / 'ckpt-6.index').exists()


def test_a_second_training_is_refused_and_an_evaluation_is_not(trained):
  with locks.hold(str(trained / 'train.lock'), 'The run'):
    for mode in ('train', 'train_and_eval'):
      with pytest.raises(errors.UserError, match=f'The run {trained} is in use by process'):
        runs.run(mode, trained, f'{STEPS}=8')
    runs.run('eval', trained)
  assert not (trained / 'ckpt-8.index').exists()
  runs.run('train', trained, f'{STEPS}=8')
  assert (trained / 'ckpt-8.index').exists() and not (trained / 'train.lock').exists()


def test_a_second_evaluation_of_the_same_is_refused(trained, caplog, monkeypatch):
  add = scores.Scores.update

  def add_while_another_tries(self, image):
    if image.number == 1:
      monkeypatch.setattr(scores.Scores, 'update', add)
      with pytest.raises(errors.UserError, match=f'The evaluation in {trained}/eval is in use'):
        runs.run('eval', trained)
      # Other images, or another way, may be evaluated at the same time.
      runs.run('eval', trained, 'evaluator_options.pixel_confidence_threshold=0.25')
      # A training goes on, and leaves this to the other process.
      runs.run('continuous_eval', trained)
    add(self, image)

  monkeypatch.setattr(scores.Scores, 'update', add_while_another_tries)
  runs.run('eval', trained)
  assert 'This evaluation is left to another process' in caplog.text
  assert [name for name in _names(trained / 'eval') if not name.startswith('metrics-6')] == []


def test_metrics_say_what_was_evaluated(trained):
  runs.run('eval', trained)
  evaluated = _metrics(trained)['evaluated']
  assert evaluated['checkpoint'] == 'ckpt-6' and evaluated['num_images'] == 3
  assert (evaluated['dataset'], evaluated['num_files'], evaluated['num_bytes']) == (
    'shapes',
    1,
    len(b'stands for records'),
  )
  assert evaluated['file_pattern'][0].endswith('/val-*.tfrecord')
  assert evaluated['crop_size'] == [129, 129] and evaluated['eval_steps'] == -1
  assert evaluated['post_processing']['pixel_confidence_threshold'] == 0.3


def test_the_same_replaces_and_another_set_stays_beside(trained, tmp_path, monkeypatch, caplog):
  runs.run('eval', trained)
  before = _metrics(trained)
  runs.run('eval', trained)
  assert _names(trained / 'eval') == ['metrics-6.json'] and _metrics(trained) == before
  other = tmp_path / 'other records'
  other.mkdir()
  (other / 'val-0.tfrecord').write_bytes(b'another size')
  monkeypatch.setenv('SHAPES_TFRECORDS', str(other))
  for _ in range(2):
    runs.run('eval', trained)
  assert _metrics(trained) == before
  first, second = _names(trained / 'eval')
  assert first.startswith('metrics-6-') and second == 'metrics-6.json'
  evaluated = _metrics(trained, first)['evaluated']
  assert evaluated['num_bytes'] == 12 and evaluated['set'] != before['evaluated']['set']
  assert sorted(path.name for path in trained.glob('vis*')) == ['vis', f'vis-{evaluated["set"]}']
  assert 'is of another evaluation and stays' in caplog.text


def test_a_moved_set_is_the_same(trained, tmp_path, monkeypatch):
  runs.run('eval', trained)
  shutil.copytree(os.environ['SHAPES_TFRECORDS'], tmp_path / 'moved')
  monkeypatch.setenv('SHAPES_TFRECORDS', str(tmp_path / 'moved'))
  runs.run('eval', trained)
  assert _names(trained / 'eval') == ['metrics-6.json']


def test_another_initial_checkpoint_is_another_evaluation(trained, tmp_path):
  shutil.copytree(trained, tmp_path / 'second')
  for source in ('run', 'second'):
    runs.run('eval', tmp_path / 'new', f'model_options.initial_checkpoint={tmp_path / source}')
  first, second = _names(tmp_path / 'new' / 'eval')
  assert _metrics(tmp_path / 'new', second)['evaluated']['checkpoint'] == f'{trained}/ckpt-6'
  assert _metrics(tmp_path / 'new', first)['evaluated']['checkpoint'] == (
    f'{tmp_path}/second/ckpt-6'
  )


def test_the_set_of_the_most_steps_is_read_and_cut_files_are_left_out(tmp_path, caplog):
  def write(name, step, **content):
    files.write_json(str(tmp_path / 'eval' / name), {'step': step, **content})

  write('metrics-2.json', 2, PQ=1.0)  # Of an older version.
  for step in (4, 6):
    write(f'metrics-{step}.json', step, PQ=10.0 * step, evaluated={'set': 'aaaaaaaa'})
  write('metrics-6-0123abcd.json', 6, PQ=5.0, evaluated={'set': 'bbbbbbbb', 'dataset': 'x'})
  (tmp_path / 'eval' / 'metrics-8.json').write_text('{"step": 8, "PQ"')
  (tmp_path / 'eval' / 'metrics-9.json').write_text('[]')
  read = reports.read_all(str(tmp_path))
  assert {step: content['PQ'] for step, content in read.items()} == {2: 1.0, 4: 40.0, 6: 60.0}
  assert '2 different sets or ways were evaluated; shown is aaaaaaaa' in caplog.text
  assert 'metrics-8.json: not a JSON file' in caplog.text
  assert 'metrics-9.json: holds no numbers' in caplog.text


@pytest.fixture
def often(monkeypatch):
  """Keeps the state of evaluations after every batch."""
  monkeypatch.setattr(unfinished, 'SECONDS_BETWEEN', 0.0)
  monkeypatch.setattr(unfinished, 'TIMES_AS_LONG', 0.0)


def _interrupted_at(monkeypatch, index, run, error=KeyboardInterrupt):
  """Calls `run`, which image `index` of an evaluation interrupts."""
  add = scores.Scores.update

  def interrupt(self, image):
    if image.number == index:
      raise error
    add(self, image)

  with monkeypatch.context() as patched:
    patched.setattr(scores.Scores, 'update', interrupt)
    with pytest.raises(error):
      run()


@pytest.mark.parametrize('index', [1, 2])
def test_an_interrupted_evaluation_goes_on_and_ends_the_same(
  trained, tmp_path, monkeypatch, caplog, often, index
):
  whole = tmp_path / 'whole'
  shutil.copytree(trained, whole)
  runs.run('eval', whole, *RAW)
  _interrupted_at(monkeypatch, index, lambda: runs.run('eval', trained, *RAW))
  (state,) = (trained / 'eval').glob('unfinished-6-*.npz')
  with np.load(state, allow_pickle=False) as arrays:
    assert arrays['position'].tolist() == [index, index, 0]
  skipped, eval_dataset = [], assemble.eval_dataset
  monkeypatch.setattr(
    assemble,
    'eval_dataset',
    lambda config, skip: skipped.append(skip) or eval_dataset(config, skip),
  )
  runs.run('eval', trained, *RAW)
  assert skipped == [index]
  assert f'goes on after {index} images' in caplog.text
  assert (trained / 'eval' / 'metrics-6.json').read_bytes() == (
    whole / 'eval' / 'metrics-6.json'
  ).read_bytes()
  assert _names(trained / 'eval') == ['metrics-6.json']
  raw = sorted(path.relative_to(whole) for path in (whole / 'vis').rglob('*.png'))
  assert raw and all((trained / path).read_bytes() == (whole / path).read_bytes() for path in raw)


def test_a_stopped_evaluation_keeps_the_batch_at_hand(trained, monkeypatch):
  request, add = stopping.Request(), scores.Scores.update

  def update(self, image):
    add(self, image)
    request.make(signal.SIGTERM)

  config = load.load(runs.CONFIG, runs.OVERRIDES)
  with monkeypatch.context() as patched:
    patched.setattr(scores.Scores, 'update', update)
    with pytest.raises(errors.Stopped, match='goes on after 1 images'):
      train.MODES['eval'](config, str(trained), request)
  (state,) = (trained / 'eval').glob('unfinished-6-*.npz')
  with np.load(state, allow_pickle=False) as arrays:
    assert arrays['position'].tolist() == [1, 1, 0]
  runs.run('eval', trained)
  assert _metrics(trained)['num_images'] == 3


def test_state_after_the_last_batch_is_enough(trained, monkeypatch, often):
  def stop(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(reports.Report, 'write', stop)
    with pytest.raises(KeyboardInterrupt):
      runs.run('eval', trained)
  runs.run('eval', trained)
  assert _metrics(trained)['num_images'] == 3


def test_state_of_something_else_is_not_used(trained, monkeypatch, caplog, often):
  _interrupted_at(monkeypatch, 2, lambda: runs.run('eval', trained))
  (state,) = (trained / 'eval').glob('unfinished-*.npz')
  content = state.read_bytes()
  for bad in (content[:100], b'', b'garbage', content[:-300]):
    state.write_bytes(bad)
    caplog.clear()
    runs.run('eval', trained)
    assert 'not used, it cannot be read' in caplog.text
    assert _metrics(trained)['num_images'] == 3
  state.write_bytes(content)
  # The same step, trained again.
  shutil.rmtree(trained / 'train')
  for path in [*trained.glob('ckpt-*'), trained / 'checkpoint', *(trained / 'eval').glob('m*')]:
    path.unlink()
  tf.random.set_seed(7)
  runs.run('train', trained)
  caplog.clear()
  runs.run('eval', trained)
  assert 'not used, it is of other weights' in caplog.text


def test_a_training_evaluates_what_it_was_interrupted_in(tmp_path, monkeypatch, caplog, often):
  for index, step in ((1, 4), (2, 6)):
    _interrupted_at(monkeypatch, index, lambda: runs.run('train_and_eval', tmp_path))
    assert f'metrics-{step}.json' not in _names(tmp_path / 'eval')
  with caplog.at_level(logging.INFO):
    runs.run('train_and_eval', tmp_path)
    assert 'goes on after 2 images' in caplog.text
    runs.run('train_and_eval', tmp_path)
  assert _names(tmp_path / 'eval') == ['metrics-4.json', 'metrics-6.json']
  assert 'This run is finished' in caplog.messages[-1]


def test_logs_that_cannot_be_written_cost_no_checkpoint(tmp_path, monkeypatch):
  (tmp_path / 'train').write_text('in the way')
  settings = ('trainer_options.save_checkpoints_steps=100', f'{STEPS}=100')
  with pytest.raises(errors.UserError, match='train: the logs for TensorBoard cannot be written'):
    runs.run('train', tmp_path, *settings)
  assert (tmp_path / 'ckpt-2.index').exists()
  (tmp_path / 'train').unlink()
  runs.run('train', tmp_path, *settings[:1])
  assert (tmp_path / 'ckpt-6.index').exists()


def test_an_evaluation_writes_its_numbers_when_images_and_logs_cannot_be(trained, monkeypatch):
  (trained / 'elsewhere').mkdir()
  vis = f'evaluator_options.override_save_dir={trained}/elsewhere'
  with disk.read_only(trained / 'elsewhere'):
    with pytest.raises(errors.UserError, match='elsewhere/evaluated.json: cannot be written'):
      runs.run('eval', trained, vis)
  runs.run('eval', trained, vis)
  (trained / 'eval' / 'metrics-6.json').unlink()
  with disk.read_only(trained / 'elsewhere'):
    monkeypatch.setattr(reports, 'directory_of_set', lambda directory, evaluated: directory)
    with pytest.raises(errors.UserError, match='elsewhere/000000_panel.png: cannot be written'):
      runs.run('eval', trained, vis)
  assert _metrics(trained)['num_images'] == 3
  # Started again, it writes what is missing.
  runs.run('eval', trained, vis)
  assert PIL.Image.open(trained / 'elsewhere' / '000002_panel.png')


def test_a_full_disk_in_an_evaluation_saves_the_training_first(
  tmp_path, limited_files, monkeypatch
):
  add = scores.Scores.update

  def add_and_fill_the_disk(self, image):
    limited_files(10)
    add(self, image)

  monkeypatch.setattr(scores.Scores, 'update', add_and_fill_the_disk)
  settings = ('trainer_options.save_checkpoints_steps=100', 'evaluator_options.eval_interval=2')
  save = files.write_json

  def free_the_disk_later(path, content):
    try:
      save(path, content)
    finally:
      limited_files()

  monkeypatch.setattr(files, 'write_json', free_the_disk_later)
  monkeypatch.setattr(reports, 'directory_of_set', lambda directory, evaluated: directory)
  with pytest.raises(errors.UserError, match='metrics-2.json: cannot be written'):
    runs.run('train_and_eval', tmp_path, *settings)
  assert (tmp_path / 'ckpt-2.index').exists()


def test_fewer_batches_than_asked_for_are_said(trained, caplog):
  runs.run('eval', trained, 'evaluator_options.eval_steps=7')
  assert 'The set has 3 batches, fewer than eval_steps = 7: all were' in caplog.text
