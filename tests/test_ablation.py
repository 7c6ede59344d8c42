"""The grid of the ablation, what is run of it, and the numbers of its table by hand."""

import importlib.util
import json
import pathlib
import shlex
import sys
import time
import types

import PIL.Image
import pytest

from deeplab2 import assemble
from deeplab2 import errors
from deeplab2 import locks
from deeplab2.config import load
from deeplab2.data import datasets
from tests import browser
from tests.disk import limited_files

__all__ = ['limited_files']
_ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(_ROOT / 'scripts'))  # As for a script that is run.
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
from comparison import grid  # noqa: E402  Found by what the lines above did.
from comparison import runs as runs_lib  # noqa: E402
from comparison import summary  # noqa: E402

PLAIN = grid.Row('plain', 'softmax', 'none', None, None)


def _options(directory, **flags):
  """Returns parsed flags."""
  return types.SimpleNamespace(
    **{
      'config_file': CONFIG,
      'output_dir': str(directory),
      'jobs': 1,
      'set': [],
      'train_eval': None,
      'hours': None,
      'seconds_per_step': None,
      'baseline': PLAIN.name,
      'command': 'python scripts/ablation.py',
      **flags,
    }
  )


def _write_run(directory, name, quality, step=STEPS, **diagnostics):
  """Writes the evaluations of a run as the trainer does."""
  (directory / 'runs' / name / 'eval').mkdir(parents=True, exist_ok=True)
  for at, value in ((step // 2, quality / 2), (step, quality)):
    content = {
      'step': at,
      'PQ': value,
      'PQ_things': value - 5,
      'PQ_stuff': value + 5,
      'mIoU': value + 10,
      'diagnostics': {'mask_fp': 0.2, 'mask_fn': 0.1, **diagnostics},
      'training': {'gradient_norm': 3.0},
    }
    (directory / 'runs' / name / 'eval' / f'metrics-{at}.json').write_text(json.dumps(content))


def test_what_a_method_has_not_does_not_multiply_its_rows():
  everything = grid.rows(
    ('plain', 'remask', 'reclass', 'remax'),
    ('softmax', 'sigmoid'),
    ('none', '1.0'),
    ('sigmoid', 'softmax'),
    ('class', 'mask'),
  )
  # 2 mask losses x 2 clips x (1 plain + 2 gates + 2 normalizations + 2 gates x 2 normalizations).
  assert len(everything) == len(set(everything)) == 4 * (1 + 2 + 2 + 4)
  main = grid.rows(
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
  row = grid.Row(*row)
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
  compared = (tmp_path / 'differences.md').read_text().splitlines()
  assert capsys.readouterr().out.splitlines() == [*lines, '', *compared]
  # Mean 43; sample standard deviation of 40, 42, 47: sqrt((9 + 1 + 16) / 2) = 3.6.
  means = ' | '.join(f'{mean} ± 3.6' for mean in ('43.0', '38.0', '48.0', '53.0'))
  assert lines[2].startswith(f'| plain-softmax | 3 | {means} | 0.5 ±')
  assert lines[3].startswith('| remask-softmax-gate_sigmoid | 1 | 50.0 | 45.0 | 55.0 | 60.0 | not')
  assert len(lines) == 4
  stored = json.loads((tmp_path / 'results.json').read_text())['runs']
  assert stored[0]['curves']['PQ'] == [[STEPS // 2, 20.0], [STEPS, 40.0]]
  assert PIL.Image.open(tmp_path / 'curves.png').size[0] > 1000


def test_finished_runs_are_skipped_and_failed_ones_reported(tmp_path, capfd):
  done, broken = (runs_lib.Run(PLAIN, seed, STEPS) for seed in (0, 1))
  _write_run(tmp_path, done.name, 40.0)
  (tmp_path / 'logs').mkdir()
  options = _options(tmp_path, config_file=str(tmp_path / 'missing.textproto'), jobs=2)
  assert ablation.train_all([done, broken], options) == ([broken], [])
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
  monkeypatch.setattr(ablation, 'train_all', lambda runs, *_: asked.extend(runs) or ([], []))
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
  runs = [runs_lib.Run(PLAIN, seed, STEPS) for seed in range(6)]
  with pytest.raises(KeyboardInterrupt):
    ablation.train_all(runs, _options(tmp_path))
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
    ('--baseline=other', "--baseline: 'other' is none of plain-softmax"),
    ('--only=plain-softmax,x', "--only: 'x' is none of plain-softmax"),
    ('--hours=0', '--hours=0.0: must be greater than 0'),
    ('--seconds_per_step=-1', '--seconds_per_step=-1.0: must be greater than 0'),
    ('--train_eval=0', '--train_eval=0: must be 1 or more'),
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
    load.load(CONFIG, grid.Row('remask', 'softmax', 'none', 'softmax', None).overrides())


def test_a_directory_whose_settings_are_lost_is_left_alone(tmp_path, capfd):
  (tmp_path / 'settings.json').write_text('{"config_file"')
  shown = _error(tmp_path, capfd)
  assert 'settings.json: not a JSON file' in shown and 'give another --output_dir' in shown


def test_two_ablations_in_one_directory(tmp_path, capfd):
  with locks.hold(str(tmp_path / 'ablation.lock'), 'it'):
    assert f'The ablation in {tmp_path} is in use by process' in _error(tmp_path, capfd)
  assert 'nothing to report' in _error(tmp_path, capfd)


def test_results_are_written_after_every_run(tmp_path, monkeypatch, capfd):
  runs = [runs_lib.Run(PLAIN, seed, STEPS) for seed in (0, 1, 2)]
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
  options = _options(tmp_path)
  # One at a time, so that each has been reported before the next begins.
  for number in range(3):
    failed, _ = ablation.train_all(runs[: number + 1], options)
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


def _variants(directory, **rows):
  path = directory / 'variants.json'
  path.write_text(json.dumps(rows))
  return path


def _call(directory, plan, *arguments):
  return ablation.main(
    [
      f'--config_file={CONFIG}',
      f'--output_dir={directory / "out"}',
      f'--variants={plan}',
      *(flag for override in SET for flag in ('--set', override)),
      *arguments,
    ]
  )


def _compare(tmp_path):
  """Reports four rows of made runs, and one without; returns the output directory and the plan."""
  out = tmp_path / 'out'
  plain, better = (40.0, 30.0, 50.0, 20.0), (42.0, 31.0, 54.0, 21.0)
  for seed, (one, other) in enumerate(zip(plain, better, strict=True)):
    _write_run(out, f'plain-seed{seed}', one)
    _write_run(out, f'better-seed{seed}', other)
  _write_run(out, 'half-seed0', 10.0, step=STEPS // 2)
  (out / 'logs').mkdir()
  (out / 'logs' / 'fast-seed2.log').write_text('...\nStep 31: not finite: total_loss nan; all')
  vis = out / 'runs' / 'plain-seed0' / 'vis'
  vis.mkdir()
  PIL.Image.new('RGB', (900, 300)).save(vis / '000000_panel.png')
  steps = 'trainer_options.solver_options.training_number_of_steps'
  halved = [f'{steps}={STEPS // 2}']
  plan = _variants(tmp_path, plain=[], better=[], half=halved, fast=[], later=[])
  assert _call(tmp_path, plan, '--report_only', '--seeds=0,1,2,3') == 0
  return out, plan


def test_differences_are_taken_seed_by_seed_and_shown_on_a_page(tmp_path, capsys):
  out, plan = _compare(tmp_path)
  shown = capsys.readouterr().out
  lines = (out / 'differences.md').read_text().splitlines()
  assert lines[2].startswith('| plain (mean of 4) | | 35.00 | 30.00 | 40.00 | 45.00 | not ')
  # Differences 2, 1, 4, 1: mean 2, deviation sqrt(2), error sqrt(2) / 2, t = 3.1824: 2.250.
  assert lines[3].startswith('| better | 4' + 4 * ' | +2.00 ± 2.25' + ' | not ')
  assert lines[4].startswith('| half | 1 | -30.00 (1 pair) | ') and 'reached in 0 of 1' in lines[4]
  assert 'better' in lines[3] and 'reached in' not in lines[3]
  line = 'fast: diverged with 1 of 4 seeds, at step 31.'
  assert line in shown and line in lines
  stored = json.loads((out / 'results.json').read_text())
  assert stored['differences']['PQ']['better']['values'] == [2.0, 1.0, 4.0, 1.0]
  text = (out / 'index.html').read_text()
  assert line in text and 'href="runs/plain-seed0/vis/000000_panel.png"' in text
  assert '://' not in text and text.count('data:image/png;base64,') == 5
  assert f'--variants={shlex.quote(str(plan))}' in text
  assert PIL.Image.open(out / 'differences.png').size[0] > 500


def test_the_page_in_a_browser(tmp_path):
  out, _ = _compare(tmp_path)
  with browser.open_page() as page:
    page.goto((out / 'index.html').as_uri())
    rows = page.locator('table').nth(1).locator('tr')
    assert rows.nth(2).locator('td').first.inner_text() == 'better'
    assert rows.nth(2).inner_text().count('+2.00 ± 2.25') == 4
    widths = page.locator('img').evaluate_all('images => images.map(image => image.naturalWidth)')
    assert len(widths) == 6 and min(widths) >= 420
    # What no run has finished of is folded away; what diverged is not.
    assert page.locator('h3').all_text_contents() == ['plain', 'better', 'half', 'fast', 'later']
    assert not page.locator('#later').is_visible() and page.locator('#fast').is_visible()
    page.get_by_text('1 rows without a finished run').click()
    assert page.locator('#later').is_visible()


def test_steps_to_the_quality_of_the_baseline(tmp_path):
  _write_run(tmp_path, 'plain-seed0', 40.0)
  _write_run(tmp_path, 'better-seed0', 60.0)  # 30 at half of the steps: 40 a third of the way on.
  rows = [ablation.variants.Variant(name, ()) for name in ('plain', 'better')]
  found = summary.results([runs_lib.Run(row, 0, STEPS) for row in rows], str(tmp_path))
  steps = summary.measures(found, 'plain')[summary._STEPS]
  assert steps['plain'] == {0: STEPS}
  assert steps['better'] == {0: pytest.approx(STEPS / 2 + STEPS / 6)}


def test_training_images_are_told_from_unseen_ones(tmp_path):
  directory = tmp_path / 'runs' / 'plain-softmax-seed0' / 'eval'
  directory.mkdir(parents=True)
  for name, files, quality in ((f'{STEPS}', 'val*', 30.0), (f'{STEPS}-0a', 'train*', 70.0)):
    # The name of the training set comes last: it would be taken if sets were not told apart.
    evaluated = {'set': files[::-1], 'file_pattern': [files], 'dataset': 'shapes'}
    content = {'step': STEPS, 'evaluated': evaluated, 'PQ': quality}
    content['training'] = {'steps_per_second': 4.0}
    (directory / f'metrics-{name}.json').write_text(json.dumps(content))
  [found] = summary.results([runs_lib.Run(PLAIN, 0, STEPS, ('train*',))], str(tmp_path))
  assert (found['final']['PQ'], found['train_PQ'], found['seconds_per_step']) == (30.0, 70.0, 0.25)


def test_training_images_are_evaluated_where_that_is_missing(tmp_path, monkeypatch):
  commands = []

  def call(command, **_):
    commands.append(command)
    return types.SimpleNamespace(returncode=0)

  monkeypatch.setattr(ablation.subprocess, 'run', call)
  monkeypatch.setattr(ablation.report_lib, 'write', lambda *_: None)
  (tmp_path / 'logs').mkdir()
  run = runs_lib.Run(PLAIN, 0, STEPS, ('a/train*',))
  _write_run(tmp_path, run.name, 40.0)
  ablation.train_all([run], _options(tmp_path, train_eval=50))
  [command] = commands
  assert '--mode=eval' in command
  assert '--set=eval_dataset_options.file_pattern=a/train*' in command
  assert '--set=evaluator_options.eval_steps=50' in command


def test_pairs_have_the_same_seeds(tmp_path, monkeypatch):
  commands = []
  monkeypatch.setattr(
    ablation.subprocess,
    'run',
    lambda command, **_: commands.append(command) or types.SimpleNamespace(returncode=0),
  )
  (tmp_path / 'logs').mkdir()
  for name in ('plain', 'other'):
    ablation.train(
      runs_lib.Run(ablation.variants.Variant(name, ()), 5, STEPS), _options(tmp_path), 1
    )
  for command in commands:
    assert '--gin_param=set_up.seed = 5' in command
    assert '--set=train_dataset_options.seed=5' in command


def test_what_diverged_is_not_started_again(tmp_path, monkeypatch):
  run = runs_lib.Run(PLAIN, 0, STEPS)
  (tmp_path / 'logs').mkdir()
  (tmp_path / 'logs' / f'{run.name}.log').write_text('Step 31: not finite: total_loss nan')
  monkeypatch.setattr(ablation, 'train', lambda *_: pytest.fail('started'))
  assert ablation.train_all([run], _options(tmp_path)) == ([], [])


def test_a_variant_keeps_its_overrides(tmp_path, capfd, monkeypatch):
  monkeypatch.setattr(ablation.report_lib, 'write', lambda *_: None)
  plan = _variants(tmp_path, plain=[])
  _write_run(tmp_path / 'out', 'plain-seed0', 40.0)
  assert _call(tmp_path, plan, '--report_only') == 0
  plan = _variants(tmp_path, plain=['trainer_options.loss_options.reclass.enable=true'])
  assert _call(tmp_path, plan, '--report_only') == 2
  assert 'plain was []' in capfd.readouterr().err


def test_training_images_that_are_the_unseen_ones(tmp_path, capfd):
  files = ['train_dataset_options.file_pattern=a*', 'eval_dataset_options.file_pattern=a*']
  assert _call(tmp_path, _variants(tmp_path, plain=files), '--train_eval', '--dry_run') == 2
  assert 'plain is evaluated on its training records anyway (a*)' in capfd.readouterr().err


def test_the_plan_of_photographs_fits_its_config(tmp_path, monkeypatch):
  """Every row loads and is another; the control, rates and lengths are what their names say."""
  classes = [{'id': number, 'name': f'class {number}'} for number in range(1, 28)]
  info = datasets.describe('few', classes, 1000, 'here')
  (tmp_path / 'few.json').write_text(datasets.to_json(info))
  monkeypatch.setenv('PHOTOGRAPHS', str(tmp_path / 'few.json'))
  monkeypatch.setenv('PHOTOGRAPHS_TFRECORDS', str(tmp_path))
  path = _ROOT / 'configs' / 'photographs' / 'kmax_mobilenet_v3_small.textproto'
  plan = ablation.variants.read(str(_ROOT / 'configs' / 'ablations' / 'photographs.json'))
  configs = {row.name: load.load(str(path), row.overrides()) for row in plan}
  assert next(iter(configs)) == 'plain'
  texts = {str(config.options) for config in configs.values()}
  # Without weights of a backbone in the config, the rows from scratch differ in their rate alone.
  assert len(texts) == len(plan)
  losses = {n: c.value('trainer_options.loss_options') for n, c in configs.items()}
  solvers = {n: c.value('trainer_options.solver_options') for n, c in configs.items()}
  for config in configs.values():
    assemble.check_model(config)
  assert not losses['plain'].remask.enable and not losses['plain'].reclass.enable
  for name, gates in (('remask', True), ('heads_without_gate', False)):
    assert losses[name].remask.enable and losses[name].remask.gate_masks == gates
    assert losses[name].remask.semantic_activation == losses[name].SOFTMAX
    assert not losses[name].reclass.enable
  for name in ('reclass', 'remax'):
    for row, activation in ((name, 'SIGMOID'), (f'{name}-mask_softmax', 'SOFTMAX')):
      reclass = losses[row].reclass
      assert reclass.enable and reclass.normalization == reclass.MASK_AREA
      assert reclass.mask_activation == getattr(losses[row], activation)
  paper = losses['remax-paper']
  assert paper.mask_loss_activation == paper.SIGMOID and paper.remask.num_relaxed_layers == 4
  assert paper.remask.semantic_activation == paper.remask.class_activation == paper.SIGMOID
  assert paper.reclass.normalization == paper.reclass.CLASS_AREA
  assert paper.reclass.eta == pytest.approx(0.1)
  rate, steps = solvers['plain'].base_learning_rate, solvers['plain'].training_number_of_steps
  for name, solver in solvers.items():
    factor = int(name.rpartition('-rate_')[2]) if '-rate_' in name else 1
    assert solver.base_learning_rate == pytest.approx(factor * rate)
    assert solver.training_number_of_steps == (steps // 2 if name.endswith('-half') else steps)
    assert not solver.use_gradient_clipping
