"""Checkpoints of a directory by literal path; what becomes of files that cannot be taken up."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.checkpoint import directory
from deeplab2.checkpoint import reading
from deeplab2.checkpoint import run_checkpoints
from tests import hostile_names
from tests.checkpoint import files

KEY = 'model/x' + files.SUFFIX


def _checkpoints(path, step=0, keep=2):
  model = tf.Module()
  model.x = tf.Variable(float(step))
  global_step = tf.Variable(step, dtype=tf.int64, trainable=False)
  return (
    run_checkpoints.Checkpoints(
      str(path), model=model, global_step=global_step, keep=keep, training={}
    ),
    model,
    global_step,
  )


def _saved(path, *steps, keep=5):
  """Saves checkpoints of some steps, the variable of each being its step."""
  checkpoints, model, global_step = _checkpoints(path, keep=keep)
  for step in steps:
    model.x.assign(float(step))
    global_step.assign(step)
    checkpoints.save()
  return path


def _resumed(path):
  """Returns the variable of a new process that resumes."""
  checkpoints, model, _ = _checkpoints(path)
  assert checkpoints.resume()
  return float(model.x.numpy())


@pytest.mark.parametrize('name', hostile_names.HOSTILE_NAMES)
def test_a_run_in_any_directory_is_found_again_and_its_old_checkpoints_deleted(tmp_path, name):
  run = _saved(tmp_path / name, 0, 3, 6, keep=2)
  assert _resumed(run) == 6.0
  assert sorted(os.listdir(run)) == [
    'checkpoint',
    'ckpt-3.data-00000-of-00001',
    'ckpt-3.index',
    'ckpt-6.data-00000-of-00001',
    'ckpt-6.index',
  ]
  assert directory.recorded(str(run)) == [str(run / 'ckpt-3'), str(run / 'ckpt-6')]
  assert list(directory.follow(str(run), timeout=0.01)) == [str(run / 'ckpt-6')]
  # A prefix of such a name.
  for file in list(run.glob('ckpt-6.*')):
    shutil.copy(file, run / (name + file.name.removeprefix('ckpt-6')))
  assert reading.Reader(str(run / name)).get(KEY) == 6.0


def test_a_name_that_matches_as_a_pattern_is_not_taken_for_another(tmp_path):
  _saved(tmp_path / 'a1', 5)
  assert _checkpoints(tmp_path / 'a[0-9]')[0].resume() is None
  _saved(tmp_path / 'a[0-9]', 7)
  assert _resumed(tmp_path / 'a[0-9]') == 7.0
  assert _resumed(tmp_path / 'a1') == 5.0


def test_tensorflow_finds_what_is_recorded_and_the_other_way_round(tmp_path):
  ours = _saved(tmp_path / 'ours', 3, 6)
  assert tf.train.latest_checkpoint(str(ours)) == str(ours / 'ckpt-6')
  manager = tf.train.CheckpointManager(tf.train.Checkpoint(), str(ours), max_to_keep=2)
  assert manager.checkpoints == [str(ours / 'ckpt-3'), str(ours / 'ckpt-6')]
  model = tf.Module()
  model.x = tf.Variable(0.0)
  tf.train.Checkpoint(model=model, global_step=tf.Variable(0, dtype=tf.int64)).restore(
    str(ours / 'ckpt-6')
  ).assert_consumed()
  assert model.x.numpy() == 6.0

  theirs = tmp_path / 'theirs'
  step = tf.Variable(4, dtype=tf.int64)
  manager = tf.train.CheckpointManager(
    tf.train.Checkpoint(model=model, global_step=step), str(theirs), max_to_keep=2
  )
  for value in (4, 5):
    step.assign(value)
    manager.save(checkpoint_number=value)
  assert _resumed(theirs) == 6.0
  checkpoints, _, global_step = _checkpoints(theirs)
  checkpoints.resume()
  global_step.assign(9)
  checkpoints.save()
  assert directory.stored(str(theirs)) == [str(theirs / 'ckpt-5'), str(theirs / 'ckpt-9')]
  counter = reading.Reader(str(theirs / 'ckpt-9')).get('save_counter' + files.SUFFIX)
  assert counter == 3


def test_a_relative_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _saved('runs[1]', 2, 4, 6, keep=2)
  assert directory.newest('runs[1]') == 'runs[1]/ckpt-6'
  assert _resumed('runs[1]') == 6.0
  assert directory.stored('runs[1]') == ['runs[1]/ckpt-4', 'runs[1]/ckpt-6']


def test_only_recorded_checkpoints_of_the_directory_itself_are_deleted(tmp_path):
  other = _saved(tmp_path / 'other', 1)
  run = _saved(tmp_path / 'run', 2)
  (run / 'ckpt-best.index').write_text('mine')
  shutil.copy(run / 'ckpt-2.index', run / 'ckpt-1.index')
  (run / 'checkpoint').write_text(
    'model_checkpoint_path: "ckpt-2"\n'
    f'all_model_checkpoint_paths: "{other}/ckpt-1"\nall_model_checkpoint_paths: "ckpt-best"\n'
    'all_model_checkpoint_paths: "../other/ckpt-1"\n'
  )
  checkpoints, _, global_step = _checkpoints(run, keep=1)
  checkpoints.resume()
  global_step.assign(4)
  checkpoints.save()
  names = {path.name for path in run.iterdir()}
  assert 'ckpt-2.index' not in names
  assert {'ckpt-best.index', 'ckpt-1.index', 'ckpt-4.index'} <= names
  assert (other / 'ckpt-1.index').exists()


def _follow(run, message):
  """Makes what a message advises the content of the file that it names."""
  line = message.partition('make the line ')[2].partition(' the whole content of the file ')
  path = line[2].partition('.')[0] if '.' not in str(run) else line[2][: len(f'{run}/checkpoint')]
  assert path == f'{run}/checkpoint'
  with open(path, 'w', encoding='utf-8') as file:
    file.write(line[0] + '\n')


@pytest.mark.parametrize(
  'state',
  [
    None,
    b'',
    b'garbage',
    bytes(range(128, 256)),
    b'model_checkpoint_path: ""',
    b'model_checkpoint_path: "ckpt-99"',
    b'model_checkpoint_path: 7',
  ],
)
@pytest.mark.parametrize('name', ['run', 'runs[lr=0.1]'])
def test_checkpoints_that_nothing_names_are_not_written_over(tmp_path, name, state):
  run = _saved(tmp_path / name, 3, 6)
  (run / 'checkpoint').unlink()
  if state is not None:
    (run / 'checkpoint').write_bytes(state)
  with pytest.raises(errors.UserError) as caught:
    _checkpoints(run)[0].resume()
  message = str(caught.value)
  assert '\n' not in message and str(run) in message
  assert f'The newest that is whole is {run}/ckpt-6.' in message
  _follow(run, message)
  assert _resumed(run) == 6.0


def test_without_a_whole_checkpoint_another_name_is_advised(tmp_path):
  run = _saved(tmp_path / 'run', 6)
  (run / 'ckpt-6.index').unlink()
  files.refused(
    lambda: directory.newest(str(run)),
    'names',
    'ckpt-6, which is missing',
    'No checkpoint there is whole',
    'give another experiment_name',
  )
  (run / 'checkpoint').unlink()
  files.refused(
    lambda: directory.newest(str(run)),
    'ckpt-6.data-00000-of-00001',
    'No checkpoint there is whole',
    'give another experiment_name',
  )


@pytest.mark.parametrize('file', ['ckpt-9.index', 'ckpt-9.data-00000-of-00001'])
@pytest.mark.parametrize('size', [0, 30])
def test_a_damaged_checkpoint_names_the_newest_whole_one_before_it(tmp_path, file, size):
  run = _saved(tmp_path / 'runs[1]', 3, 6, 9)
  os.truncate(run / file, size if 'data' not in file else min(size, 5))
  os.truncate(run / 'ckpt-6.data-00000-of-00001', 3)
  with pytest.raises(errors.UserError) as caught:
    _checkpoints(run)[0].resume()
  message = str(caught.value)
  assert message.startswith(f'{run}/ckpt-9: not a readable checkpoint')
  assert f'The newest other one that is whole is {run}/ckpt-3.' in message
  assert 'deeplab2-' not in message  # The names of symbolic links.
  _follow(run, message)
  assert _resumed(run) == 3.0


def test_a_damaged_only_checkpoint(tmp_path):
  run = _saved(tmp_path, 3)
  os.truncate(run / 'ckpt-3.index', 0)
  files.refused(
    _checkpoints(run)[0].resume,
    'ckpt-3',
    'No other checkpoint there is whole',
    'give another experiment_name',
  )


@pytest.mark.parametrize(
  'left',
  [['ckpt-0.data-00000-of-00001'], ['ckpt-0_temp/part-00000-of-00001.data-00000-of-00001'], []],
)
def test_a_first_save_that_was_interrupted_is_done_again(tmp_path, left):
  for name in left:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'part')
  assert _checkpoints(tmp_path)[0].resume() is None
  _saved(tmp_path, 0)
  assert _resumed(tmp_path) == 0.0


def test_what_killed_saves_left_is_removed(tmp_path):
  run = _saved(tmp_path / 'a[1]', 3)
  (run / 'ckpt-5_temp').mkdir()
  (run / 'ckpt-5_temp' / 'part-00000-of-00001.data-00000-of-00001').write_bytes(b'part')
  (run / '.writing-7-checkpoint').write_bytes(b'')
  (run / 'ckpt-5_template').write_bytes(b'mine')
  directory.remove_unfinished(str(run))
  assert sorted(os.listdir(run)) == [
    'checkpoint',
    'ckpt-3.data-00000-of-00001',
    'ckpt-3.index',
    'ckpt-5_template',
  ]
  directory.remove_unfinished(str(tmp_path / 'nothing'))


def test_what_a_killed_deletion_left_is_deleted_by_the_next_save(tmp_path):
  run = _saved(tmp_path, 3, 6)
  (run / 'ckpt-3.index').unlink()
  checkpoints, _, global_step = _checkpoints(run)
  checkpoints.resume()
  global_step.assign(9)
  checkpoints.save()
  assert not (run / 'ckpt-3.data-00000-of-00001').exists()


def test_a_resumed_run_deletes_what_the_interrupted_one_did_not(tmp_path):
  run = _saved(tmp_path, 3, 6, 9, keep=3)
  _checkpoints(run, keep=2)[0].resume()
  assert directory.recorded(str(run)) == [str(run / 'ckpt-6'), str(run / 'ckpt-9')]
  assert not (run / 'ckpt-3.index').exists()


def test_a_first_checkpoint_that_was_not_recorded_yet_is_taken_up(tmp_path):
  run = _saved(tmp_path, 0)
  (run / 'checkpoint').unlink()
  assert directory.newest(str(run)) == str(run / 'ckpt-0')
  checkpoints, _, global_step = _checkpoints(run)
  checkpoints.resume()
  assert directory.recorded(str(run)) == [str(run / 'ckpt-0')]
  for step in (3, 6):
    global_step.assign(step)
    checkpoints.save()
  assert not (run / 'ckpt-0.index').exists()  # Two are kept.


@pytest.mark.parametrize(
  'file',
  ['train/events.out.tfevents.1.host', 'eval/metrics-20.json', 'eval/metrics-20-0123abcd.json'],
)
def test_results_of_a_training_without_its_checkpoints_are_found(tmp_path, file):
  path = tmp_path / 'run' / file
  path.parent.mkdir(parents=True)
  path.write_text('x')
  files.refused(
    lambda: directory.check_unused(str(tmp_path / 'run')), file, 'give another experiment_name'
  )
  path.rename(tmp_path / 'away')
  directory.check_unused(str(tmp_path / 'run'))


def test_what_evaluations_of_step_0_leave_is_no_training(tmp_path):
  (tmp_path / 'eval').mkdir()
  for name in ('metrics-0.json', 'metrics-0-0123abcd.json', 'events.out.tfevents.1.host'):
    (tmp_path / 'eval' / name).write_text('x')
  directory.check_unused(str(tmp_path))


def test_a_checkpoint_that_cannot_be_recorded_is_kept(tmp_path, monkeypatch):
  run = _saved(tmp_path, 3)
  checkpoints, model, global_step = _checkpoints(run)
  checkpoints.resume()
  global_step.assign(6)
  model.x.assign(6.0)

  def refuse(path, content):
    raise errors.UserError(f'{path}: cannot be written (No space left on device).')

  with monkeypatch.context() as patched:
    patched.setattr(directory.files, 'write_whole', refuse)
    with pytest.raises(errors.UserError, match='ckpt-6: saved, but .*No space left') as caught:
      checkpoints.save()
  assert _resumed(run) == 3.0
  _follow(run, str(caught.value))
  assert _resumed(run) == 6.0


def test_following_sees_every_newer_checkpoint_and_gives_up(tmp_path):
  run = tmp_path / 'not yet'
  assert list(directory.follow(str(run), timeout=0.01)) == []
  _saved(run, 3)
  seen = []
  for prefix in directory.follow(str(run), timeout=0.01):
    seen.append(os.path.basename(prefix))
    if len(seen) == 1:
      _saved(run, 6)
  assert seen == ['ckpt-3', 'ckpt-6']


def test_an_unreadable_prefix_is_one_line(tmp_path):
  prefix = str(tmp_path / 'a[1]')
  with open(f'{prefix}.index', 'wb') as file:
    file.write(np.random.default_rng(0).bytes(500))
  files.refused(lambda: reading.Reader(prefix), f'{prefix}: not a readable checkpoint')
  assert not reading.is_whole(prefix)
  assert not reading.is_whole(str(tmp_path / 'nothing'))
