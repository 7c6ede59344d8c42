"""The curves that are drawn are the numbers that a run left behind."""

import json

import PIL.Image
import pytest
import tensorflow as tf

from deeplab2.commands import plot_run
from tests import hostile_names
from tests.disk import limited_files

__all__ = ['limited_files']


def _write_run(directory):
  """Writes two evaluations and three loops of training as the trainer does."""
  (directory / 'eval').mkdir()
  for step, pq in ((20, 30.0), (10, 12.5)):
    content = {'step': step, 'PQ': pq, 'PQ_things': pq - 5, 'PQ_stuff': pq + 5}
    (directory / 'eval' / f'metrics-{step}.json').write_text(json.dumps(content))
  with tf.summary.create_file_writer(str(directory / 'train')).as_default():
    for step in (5, 10, 15):
      tf.summary.scalar('losses/train_total_loss', 100.0 / step, step=step)
      tf.summary.scalar('losses/train_aux_0semantic_loss', 1.0, step=step)


def test_curves_of_a_run(tmp_path):
  _write_run(tmp_path)
  assert plot_run.read_qualities(str(tmp_path)) == {
    'all': [(10, 12.5), (20, 30.0)],
    'things': [(10, 7.5), (20, 25.0)],
    'stuff': [(10, 17.5), (20, 35.0)],
  }
  losses = plot_run.read_losses(str(tmp_path))
  assert list(losses) == ['total_loss']
  assert losses['total_loss'][1] == (10, 10.0)
  assert plot_run.main([f'--run={tmp_path}', f'--output={tmp_path}/curves.png']) == 0
  assert PIL.Image.open(tmp_path / 'curves.png').size[0] > 1000


def test_a_directory_without_a_run_is_named(tmp_path, capsys):
  assert plot_run.main([f'--run={tmp_path}', f'--output={tmp_path}/curves.png']) == 2
  assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize('name', hostile_names.HOSTILE_NAMES)
def test_runs_and_images_of_any_name(tmp_path, name):
  run = tmp_path / name
  run.mkdir()
  _write_run(run)
  output = tmp_path / 'images' / name / f'{name}.png'
  assert plot_run.main([f'--run={run}', f'--output={output}']) == 0
  assert PIL.Image.open(output).size[0] > 1000
  assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_what_is_left_of_damaged_files_is_drawn(tmp_path, caplog):
  _write_run(tmp_path)
  (file,) = (tmp_path / 'train').iterdir()
  content = file.read_bytes()
  file.write_bytes(content[:-150])  # Within the records of the last step.
  (tmp_path / 'train' / 'events.garbage').write_bytes(bytes(range(256)) * 4)
  (tmp_path / 'train' / 'events.empty').write_bytes(b'')
  (tmp_path / 'eval' / 'metrics-30.json').write_text('{"step": 30, "PQ": 4')
  (tmp_path / 'eval' / 'metrics-40.json').write_text('{"step": 40, "PQ": null}')
  assert plot_run.read_losses(str(tmp_path)) == {'total_loss': [(5, 20.0), (10, 10.0)]}
  assert [step for step, _ in plot_run.read_qualities(str(tmp_path))['all']] == [10, 20]
  assert f'{file}: is read up to where it is damaged' in caplog.text
  assert 'events.garbage: is read up to' in caplog.text and 'metrics-30.json' in caplog.text
  assert 'events.empty' not in caplog.text
  assert plot_run.main([f'--run={tmp_path}', f'--output={tmp_path}/a.pdf']) == 0
  assert (tmp_path / 'a.pdf').read_bytes().startswith(b'%PDF')


def test_endings_are_refused_before_work(tmp_path, capsys):
  for output in ('curves', 'curves.txt', 'curves.'):
    assert plot_run.main([f'--run={tmp_path}', f'--output={tmp_path}/{output}']) == 2
    shown = capsys.readouterr().err
    assert 'must end in one of' in shown and '.png' in shown


def test_images_that_cannot_be_written(tmp_path, capsys, limited_files):
  _write_run(tmp_path)
  limited_files(1000)
  assert plot_run.main([f'--run={tmp_path}', f'--output={tmp_path}/a.png']) == 2
  limited_files()
  assert 'a.png: cannot be written' in capsys.readouterr().err
  assert not list(tmp_path.glob('*.png'))
