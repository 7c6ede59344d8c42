"""What is read of runs, and what is said of directories that are none."""

import json
import shutil

import pytest

from deeplab2 import errors
from deeplab2.report import runs
from tests import hostile_names
from tests.report import made


def test_numbers_of_a_run(run):
  (found,) = runs.read([str(run)])
  assert (found.name, found.step, found.dataset) == ('plain', 30, 'shapes')
  metrics = json.loads((run / 'eval' / 'metrics-30.json').read_text())
  assert found.metrics == metrics
  assert [step for step, _ in found.qualities['all']] == [10, 20, 30]
  assert found.qualities['things'][-1] == (30, metrics['PQ_things'])
  assert found.losses['total_loss'][:2] == [(2, 50.0), (4, 25.0)]
  assert list(found.losses) == ['total_loss', 'semantic_loss']  # None of auxiliary outputs.
  assert found.rates['learning_rate'][-1] == (30, pytest.approx(0))
  assert found.eval_losses == [(s, pytest.approx(0.4 * (60 - s) / 30)) for s in made.STEPS]
  assert len(found.segments.images) == 30 and not found.notes


def test_segments_add_up_to_the_metrics(run):
  (found,) = runs.read([str(run)])
  for row in found.metrics['per_class']:
    for name, field in (('TP', 'matched_class'), ('FN', 'missed_class'), ('FP', 'extra_class')):
      counted = sum((getattr(i.segments, field) == row['id']).sum() for i in found.segments.images)
      assert counted == row[name]


def test_names_tell_runs_apart(run, tmp_path):
  copy = tmp_path / 'again' / 'plain'
  shutil.copytree(run, copy)
  found = runs.read([str(run), str(copy)])
  assert [one.label for one in found] == ['A', 'B']
  assert [one.name for one in found] == [f'{run.parent.name}/plain', 'again/plain']
  with pytest.raises(errors.UserError, match='is given twice'):
    runs.read([str(run), f'{run}/'])
  with pytest.raises(errors.UserError, match='5 runs are given; a report compares at most 4'):
    runs.read([str(run)] * 5)


def _fails(*paths):
  with pytest.raises(errors.UserError) as error:
    runs.read([str(path) for path in paths])
  assert '\n' not in str(error.value)
  return str(error.value)


def test_directories_that_are_no_run(run, tmp_path):
  assert f'{tmp_path}/none: there is no such directory' in _fails(tmp_path / 'none')
  assert f'{tmp_path}: is no run: neither evaluations' in _fails(tmp_path)
  said = _fails(run.parent)
  assert said.startswith(f'{run.parent}: is no run, but holds runs') and f'{run}.' in said


@pytest.mark.parametrize('name', ['plain', "it's a [run]"])
def test_a_run_without_evaluations_is_told_how_to_make_one(tmp_path, name):
  run = tmp_path / name
  run.mkdir()
  (run / 'config.textproto').write_text(f'experiment_name: "{name}"\n')
  said = _fails(run)
  assert 'the run has no evaluation' in said
  assert '--mode=eval --model_dir=' in said and str(tmp_path) in said and '--report' in said
  # Where the configuration is not known, the user fills it in.
  (run / 'config.textproto').unlink()
  (run / 'run.json').write_text('{}')
  assert '--config_file=CONFIG --mode=eval --model_dir=MODEL_DIR --report' in _fails(run)


def test_a_run_without_segments_says_which_command_keeps_them(tmp_path):
  run = made.make_run(tmp_path / 'old', images=2, keep=False)
  (found,) = runs.read([str(run)])
  assert found.segments is None and found.step == 30
  (note,) = found.notes
  assert 'segments of step 30 were not kept' in note and note.endswith('--report')


def test_the_evaluation_with_segments_is_shown(tmp_path, run):
  """Later ones without are in the curves."""
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)
  content = json.loads((copy / 'eval' / 'metrics-30.json').read_text())
  (copy / 'eval' / 'metrics-40.json').write_text(json.dumps({**content, 'step': 40}))
  (found,) = runs.read([str(copy)])
  assert found.step == 30 and [step for step, _ in found.qualities['all']][-1] == 40
  metrics = str(copy / 'eval' / 'metrics-40.json')
  assert runs.read_evaluation(str(copy), metrics).step == 40


def test_runs_of_other_images_are_refused(run, tmp_path):
  cases = {
    'dataset': ({'dataset': 'coco_panoptic'}, 'was evaluated on dataset coco_panoptic'),
    'files': ({'files': 'other', 'file_pattern': ['test-*']}, r'on other images (test-*)'),
  }
  for name, (evaluated, expected) in cases.items():
    other = made.make_run(tmp_path / name, images=2, keep=False, evaluated=evaluated)
    said = _fails(run, other)
    assert said.startswith(f'{other}: ') and expected in said and str(run) in said
  other = made.make_run(tmp_path / 'classes', images=2, keep=False)
  path = other / 'eval' / 'metrics-30.json'
  content = json.loads(path.read_text())
  path.write_text(json.dumps({**content, 'per_class': content['per_class'][1:]}))
  assert 'was evaluated on 8 classes' in _fails(run, other)


def test_the_other_run_is_shown_on_the_images_of_the_first(run, tmp_path):
  """Though it was evaluated on others more often."""
  both = tmp_path / 'both'
  made.make_run(both, images=2, keep=False, evaluated={'set': 'ff', 'files': 'other'})
  shutil.copy(run / 'eval' / 'metrics-30.json', both / 'eval' / 'metrics-30-a0b1.json')
  first, second = runs.read([str(run), str(both)])
  assert second.metrics == first.metrics
  assert any('Other images' in note for note in second.notes)


@pytest.mark.parametrize('name', hostile_names.HOSTILE_NAMES)
def test_runs_of_any_name(run, tmp_path, name):
  copy = tmp_path / name
  shutil.copytree(run, copy)
  assert runs.read([str(copy)])[0].step == 30
