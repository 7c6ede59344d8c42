"""The grid of the ablation, what is run of it, and the numbers of its table by hand."""

import importlib.util
import json
import pathlib
import time
import types

import PIL.Image
import pytest

from deeplab2 import errors
from deeplab2 import locks
from deeplab2.config import load
from tests.disk import limited_files

__all__ = ['limited_files']
_ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(_ROOT / 'configs/shapes/kmax_mobilenet_v3_small.textproto')
# The decoder of this config has three layers.
SET = [
  'trainer_options.loss_options.remask.num_relaxed_layers=2',
  'model_options.decoder.atrous_rates=1,2,3',
]
STEPS = 2200


def _script():
  spec = importlib.util.spec_from_file_location('ablation', _ROOT / 'scripts' / 'ablation.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


ablation = _script()


def _write_run(directory, name, quality, step=STEPS, **diagnostics):
  """Writes the evaluations of a run as the trainer does."""
  (directory / 'runs' / name / 'eval').mkdir(parents=True, exist_ok=True)
  for at, value in ((step // 2, quality / 2), (step, quality)):
    content = {
      'step': at,
      'PQ': value,
      'PQ_things': value - 5,
      'PQ_stuff': value + 5,
      'diagnostics': {'mask_fp': 0.2, 'mask_fn': 0.1, **diagnostics},
      'training': {'gradient_norm': 3.0},
    }
    (directory / 'runs' / name / 'eval' / f'metrics-{at}.json').write_text(json.dumps(content))


def test_what_a_method_has_not_does_not_multiply_its_rows():
  everything = ablation.rows(
    ('plain', 'remask', 'reclass', 'remax'),
    ('softmax', 'sigmoid'),
    ('none', '1.0'),
    ('sigmoid', 'softmax'),
    ('class', 'mask'),
  )
  # 2 mask losses x 2 clips x (1 plain + 2 gates + 2 normalizations + 2 gates x 2 normalizations).
  assert len(everything) == len(set(everything)) == 4 * (1 + 2 + 2 + 4)
  main = ablation.rows(
    ('plain', 'remask', 'reclass', 'remax'), ('softmax',), ('none',), ('softmax',), ('class',)
  )
  assert [row.name for row in main] == [
    'plain-softmax',
    'remask-softmax-gate_softmax',
    'reclass-softmax-class_area',
    'remax-softmax-gate_softmax-class_area',
  ]


@pytest.mark.parametrize(
  'row, remask, reclass',
  [
    (('plain', 'softmax', 'none', None, None), False, False),
    (('remask', 'sigmoid', '0.5', 'sigmoid', None), True, False),
    (('reclass', 'softmax', 'none', None, 'mask'), False, True),
    (('remax', 'sigmoid', '2', 'softmax', 'class'), True, True),
  ],
)
def test_overrides_are_what_the_row_says(row, remask, reclass):
  row = ablation.Row(*row)
  config = load.load(CONFIG, [*SET, *row.overrides()])
  losses = config.value('trainer_options.loss_options')
  solver = config.value('trainer_options.solver_options')
  assert (losses.remask.enable, losses.reclass.enable) == (remask, reclass)
  assert losses.mask_loss_activation == losses.Activation.Value(row.mask_loss.upper())
  assert solver.use_gradient_clipping == (row.clip != 'none')
  if row.clip != 'none':
    assert solver.clip_gradient_norm == float(row.clip)
  if remask:
    wanted = losses.Activation.Value(row.gate.upper())
    assert losses.remask.semantic_activation == losses.remask.class_activation == wanted
    assert losses.remask.semantic_loss.name == f'{row.gate}_cross_entropy'
  if reclass:
    area = losses.reclass.Normalization.Name(losses.reclass.normalization)
    assert area == f'{row.normalization.upper()}_AREA'


def test_table_and_image(tmp_path, capsys):
  for seed, quality in enumerate((40.0, 42.0, 47.0)):
    _write_run(tmp_path, f'plain-softmax-seed{seed}', quality, matched_dice=0.5)
  _write_run(tmp_path, 'remask-softmax-gate_sigmoid-seed1', 50.0)
  arguments = [f'--config_file={CONFIG}', f'--output_dir={tmp_path}', '--report_only']
  for override in SET:
    arguments += ['--set', override]
  assert ablation.main(arguments) == 0
  lines = (tmp_path / 'table.md').read_text().splitlines()
  assert capsys.readouterr().out.splitlines() == lines
  # Mean 43; sample standard deviation of 40, 42, 47: sqrt((9 + 1 + 16) / 2) = 3.6.
  assert lines[2].startswith('| plain-softmax | 3 | 43.0 ± 3.6 | 38.0 ± 3.6 | 48.0 ± 3.6 | 0.5 ±')
  assert lines[3].startswith('| remask-softmax-gate_sigmoid | 1 | 50.0 | 45.0 | 55.0 | not meas')
  assert len(lines) == 4
  stored = json.loads((tmp_path / 'results.json').read_text())['runs']
  assert stored[0]['curves']['PQ'] == [[STEPS // 2, 20.0], [STEPS, 40.0]]
  assert PIL.Image.open(tmp_path / 'curves.png').size[0] > 1000


def test_finished_runs_are_skipped_and_failed_ones_reported(tmp_path, capfd):
  done, broken = (
    ablation.Run(ablation.Row('plain', 'softmax', 'none', None, None), seed) for seed in (0, 1)
  )
  _write_run(tmp_path, done.name, 40.0)
  (tmp_path / 'logs').mkdir()
  options = types.SimpleNamespace(
    config_file=str(tmp_path / 'missing.textproto'), output_dir=str(tmp_path), jobs=2, set=[]
  )
  assert ablation.train_all([done, broken], STEPS, options) == [broken]
  shown = capfd.readouterr().err
  assert f'{broken.name} FAILED' in shown and 'missing.textproto' in shown
  assert not (tmp_path / 'logs' / f'{done.name}.log').exists()


def test_what_is_not_measured_in_every_run_is_counted(tmp_path, capsys):
  for seed, value in enumerate((0.25, None, 0.75)):
    _write_run(tmp_path, f'plain-softmax-seed{seed}', 40.0, mask_fp_fn_ratio=value)
  assert (
    ablation.main(
      [f'--config_file={CONFIG}', f'--output_dir={tmp_path}', '--report_only', '--methods=plain']
    )
    == 0
  )
  # Mean 0.5 of two; sample standard deviation: sqrt(2 * 0.25^2) = 0.35.
  assert '| 40.0 ± 0 |' in (text := capsys.readouterr().out)
  assert '| 0.5 ± 0.35 (2 of 3) |' in text


def test_a_seed_given_twice_is_one_run(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(ablation, 'train_all', lambda runs, *_: asked.extend(runs) or [])
  ablation.main(
    [f'--config_file={CONFIG}', f'--output_dir={tmp_path}', '--methods=plain', '--seeds=1,0,1']
  )
  assert [run.seed for run in asked] == [1, 0]


def test_an_interruption_starts_nothing_more(tmp_path, monkeypatch):
  started = []

  def train(run, *_):
    started.append(run)
    if len(started) == 1:
      raise KeyboardInterrupt
    time.sleep(0.5)
    return True

  monkeypatch.setattr(ablation, 'train', train)
  runs = [
    ablation.Run(ablation.Row('plain', 'softmax', 'none', None, None), seed) for seed in range(6)
  ]
  options = types.SimpleNamespace(output_dir=str(tmp_path), jobs=1)
  with pytest.raises(KeyboardInterrupt):
    ablation.train_all(runs, STEPS, options)
  assert len(started) <= 2  # The second may have begun before the first was seen to end.


def _error(tmp_path, capfd, *arguments):
  code = ablation.main(
    [
      f'--config_file={CONFIG}',
      f'--output_dir={tmp_path}',
      '--report_only',
      *(flag for override in SET for flag in ('--set', override)),
      *arguments,
    ]
  )
  assert code == 2
  return capfd.readouterr().err


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--methods=plain,remix', "--methods: 'remix' is none of plain, remask, reclass, remax"),
    ('--gates=tanh', "--gates: 'tanh' is none of sigmoid, softmax"),
    ('--clips=none,x', "--clips: 'x' is no number"),
    ('--clips=-1', "--clips: '-1' is no number"),
    ('--seeds=0,1.5', "--seeds: '1.5' is no number"),
    ('--jobs=0', '--jobs=0: must be 1'),
    ('--seeds=0', 'nothing to report'),
  ],
)
def test_mistakes_are_one_line(tmp_path, capfd, flag, message):
  shown = _error(tmp_path, capfd, flag).strip().splitlines()[-1]
  assert message in shown


def test_a_directory_keeps_to_its_settings(tmp_path, capfd):
  _error(tmp_path, capfd)
  assert 'give another --output_dir' in _error(tmp_path, capfd, '--set', 'experiment_name=x')


def test_rows_need_a_config_that_allows_them(tmp_path):
  with pytest.raises(errors.UserError, match='num_relaxed_layers'):
    load.load(CONFIG, ablation.Row('remask', 'softmax', 'none', 'softmax', None).overrides())


def test_a_directory_whose_settings_are_lost_is_left_alone(tmp_path, capfd):
  (tmp_path / 'settings.json').write_text('{"config_file"')
  shown = _error(tmp_path, capfd)
  assert 'settings.json: not a JSON file' in shown and 'give another --output_dir' in shown


def test_two_ablations_in_one_directory(tmp_path, capfd):
  with locks.hold(str(tmp_path / 'ablation.lock'), 'it'):
    assert f'The ablation in {tmp_path} is in use by process' in _error(tmp_path, capfd)
  assert 'nothing to report' in _error(tmp_path, capfd)


def test_results_are_written_after_every_run(tmp_path, monkeypatch, capfd):
  runs = [
    ablation.Run(ablation.Row('plain', 'softmax', 'none', None, None), seed) for seed in (0, 1, 2)
  ]
  (tmp_path / 'logs').mkdir()
  seen = []

  def train(run, *_):
    if run.seed:
      seen.append(len(json.loads((tmp_path / 'results.json').read_text())['runs']))
      assert (tmp_path / 'table.md').exists() and (tmp_path / 'curves.png').exists()
    if run.seed == 1:  # Says that all is well, but its numbers are cut.
      (tmp_path / 'runs' / run.name / 'eval').mkdir(parents=True, exist_ok=True)
      (tmp_path / 'runs' / run.name / 'eval' / f'metrics-{STEPS}.json').write_text('{"st')
    else:
      _write_run(tmp_path, run.name, 40.0)
    return True

  monkeypatch.setattr(ablation, 'train', train)
  options = types.SimpleNamespace(output_dir=str(tmp_path), jobs=1)
  # One at a time, so that each has been reported before the next begins.
  for number in range(3):
    failed = ablation.train_all(runs[: number + 1], STEPS, options)
  assert seen == [1, 1, 1] and failed == [runs[1]]
  assert f'{runs[1].name} FAILED' in capfd.readouterr().err
  assert len(json.loads((tmp_path / 'results.json').read_text())['runs']) == 2


def test_results_that_cannot_be_written(tmp_path, capfd, limited_files):
  _write_run(tmp_path, 'plain-softmax-seed0', 40.0)
  _error(tmp_path, capfd, '--seeds=7')
  limited_files(1000)
  shown = _error(tmp_path, capfd)
  limited_files()
  assert 'cannot be written' in shown.strip().splitlines()[-1]
