"""The curves that are drawn are the numbers that a run left behind."""
import importlib.util
import json
import pathlib

import PIL.Image
import tensorflow as tf

_PATH = pathlib.Path(__file__).parents[1] / 'scripts' / 'plot_run.py'


def _script():
  spec = importlib.util.spec_from_file_location('plot_run', _PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _made_run(folder):
  """Writes two evaluations and three loops of training as the trainer does."""
  (folder / 'eval').mkdir()
  for step, pq in ((20, 30.0), (10, 12.5)):
    content = {'step': step, 'PQ': pq, 'PQ_things': pq - 5, 'PQ_stuff': pq + 5}
    (folder / 'eval' / f'metrics-{step}.json').write_text(json.dumps(content))
  with tf.summary.create_file_writer(str(folder / 'train')).as_default():
    for step in (5, 10, 15):
      tf.summary.scalar('losses/train_total_loss', 100.0 / step, step=step)
      tf.summary.scalar('losses/train_aux_0semantic_loss', 1.0, step=step)


def test_curves_of_a_run(tmp_path):
  _made_run(tmp_path)
  script = _script()
  assert script.read_qualities(str(tmp_path)) == {
      'all': [(10, 12.5), (20, 30.0)], 'things': [(10, 7.5), (20, 25.0)],
      'stuff': [(10, 17.5), (20, 35.0)]}
  losses = script.read_losses(str(tmp_path))
  assert list(losses) == ['total_loss']
  assert losses['total_loss'][1] == (10, 10.0)
  assert script.main([f'--run={tmp_path}', f'--output={tmp_path}/curves.png']) == 0
  assert PIL.Image.open(tmp_path / 'curves.png').size[0] > 1000


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
  assert _script().main([f'--run={tmp_path}', f'--output={tmp_path}/curves.png']) == 2
  assert str(tmp_path) in capsys.readouterr().err
