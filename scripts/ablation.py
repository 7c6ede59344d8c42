"""Trains variants of a config over several seeds, and compares them in tables, images and a page.

  python scripts/ablation.py --config_file=CONFIG --output_dir=DIR --variants=FILE [--only=NAME,...]
      [--baseline=NAME] [--set a.b=c ...] [--seeds=0,1,2] [--jobs=2] [--train_eval[=BATCHES]]
      [--hours=H] [--seconds_per_step=S] [--dry_run | --report_only]

FILE is a JSON file of named variants and the overrides that make them, the most important first:

  {"plain": [], "remask": ["trainer_options.loss_options.remask.enable=true"], ...}

Without --variants, the variants are a grid of ReMaX:

  [--methods=plain,remask,reclass,remax] [--mask_losses=softmax,sigmoid] [--clips=none,1.0]
      [--gates=sigmoid,softmax] [--normalizations=class,mask]

One row is one combination; what a method does not have (`gates` without ReMask, `normalizations`
without ReClass) does not multiply its rows:

  methods      plain kMaX-DeepLab, ReMask, ReClass, or both (remax)
  mask_losses  mask_loss_activation
  clips        largest global gradient norm, or none
  gates        activations of ReMask's gate: sigmoid (with sigmoid cross entropy for the semantic
               heads, as the paper) or softmax (with softmax cross entropy)
  normalizations  ReClass's overlaps as fractions of the class or of the mask

`--set` holds for every run. Runs go on side by side, each with its part of the cores, below
DIR/runs, their logs below DIR/logs. What is finished is not run again, what was interrupted goes on
where its newest checkpoint is, and what diverged (a loss that is not finite) stays so: with its
seed it would again. One ablation at a time works in DIR.

Runs of one seed are paired: they have the same images in the same order, the same augmentation, the
same initial values of the variables that they have in common, and the same draws of drop path and
of pixels for losses. So differences to the baseline (the first row, or --baseline) are taken seed
by seed, and given with a 95 % interval by Student's t. `--train_eval` evaluates the last checkpoint
of every run on the training records too, all of them or so many batches.

--dry_run prints which runs are finished and how many hours the others take, by the finished ones or
--seconds_per_step (evaluations included). --hours starts no run that would not end within so many.

After every run, DIR has table.md, differences.md, results.json, curves.png, differences.png and
index.html, the page with all of it and the curves and images of every run, made from what is
finished.
"""

from collections.abc import Sequence
import concurrent.futures
import itertools
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from absl import logging
from comparison import page
from comparison import paired
from comparison import plots
from comparison import schedule
from comparison import variants
import matplotlib
import tqdm

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2 import locks
from deeplab2.config import load
from deeplab2.trainer import reports

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402  The backend is chosen first.

_LOSSES = 'trainer_options.loss_options'
_SOLVER = 'trainer_options.solver_options'
_REMASK = {'plain': False, 'remask': True, 'reclass': False, 'remax': True}
_RECLASS = {'plain': False, 'remask': False, 'reclass': True, 'remax': True}
_CHOICES = {
  'methods': tuple(_REMASK),
  'mask_losses': ('softmax', 'sigmoid'),
  'gates': ('sigmoid', 'softmax'),
  'normalizations': ('class', 'mask'),
}
_NUMBERS = {'clips': float, 'seeds': int}
_GRID = ('methods', 'mask_losses', 'clips', 'gates', 'normalizations')
# Column of the table -> the number in the last evaluation's JSON file.
_COLUMNS = {
  'PQ': ('PQ',),
  'PQ things': ('PQ_things',),
  'PQ stuff': ('PQ_stuff',),
  'matched dice': ('diagnostics', 'matched_dice'),
  'FP loss': ('diagnostics', 'mask_fp'),
  'FN loss': ('diagnostics', 'mask_fn'),
  'FP/FN': ('diagnostics', 'mask_fp_fn_ratio'),
  'gradient norm': ('training', 'gradient_norm'),
}
_CURVES = ('PQ', 'FP loss', 'FN loss')
# Of the page alone.
_MORE_CURVES = {'FP/FN over all slots': ('diagnostics', 'all_slots_fp_fn_ratio')}
_GATES = re.compile(r'diagnostics/(aux_\d+gate_(?:same|other)_class)')
_RATE = ('training', 'steps_per_second')
_DIVERGED = re.compile(r'Step (\d+): not finite')
# What is compared with the baseline, and how its differences are written.
_PQ, _TRAIN_PQ = 'PQ', 'PQ on training images'
_STEPS, _SECONDS = "steps to the baseline's final PQ", 'seconds per step'
_MEASURES = {
  _PQ: '.2f',
  'PQ things': '.2f',
  'PQ stuff': '.2f',
  _TRAIN_PQ: '.2f',
  _STEPS: '.0f',
  _SECONDS: '.3f',
}
_DRAWN = {_PQ: 'PQ on unseen images', _TRAIN_PQ: _TRAIN_PQ}  # With their titles.


class Row(NamedTuple):
  """One variant."""

  method: str
  mask_loss: str
  clip: str  # 'none' or a number.
  gate: str | None  # None without ReMask.
  normalization: str | None  # None without ReClass.

  @property
  def name(self) -> str:
    """A name for people and directories."""
    parts = [self.method, self.mask_loss]
    parts += [f'gate_{self.gate}'] if self.gate else []
    parts += [f'{self.normalization}_area'] if self.normalization else []
    parts += [f'clip_{self.clip}'] if self.clip != 'none' else []
    return '-'.join(parts)

  def overrides(self) -> list[str]:
    """Returns the overrides that make this variant of a config."""
    result = [
      f'{_LOSSES}.remask.enable={_REMASK[self.method]}'.lower(),
      f'{_LOSSES}.reclass.enable={_RECLASS[self.method]}'.lower(),
      f'{_LOSSES}.mask_loss_activation={self.mask_loss.upper()}',
      f'{_SOLVER}.use_gradient_clipping={self.clip != "none"}'.lower(),
    ]
    if self.clip != 'none':
      result.append(f'{_SOLVER}.clip_gradient_norm={self.clip}')
    if self.gate:
      result += [
        f'{_LOSSES}.remask.semantic_activation={self.gate.upper()}',
        f'{_LOSSES}.remask.class_activation={self.gate.upper()}',
        f'{_LOSSES}.remask.semantic_loss.name={self.gate}_cross_entropy',
      ]
    if self.normalization:
      result.append(f'{_LOSSES}.reclass.normalization={self.normalization.upper()}_AREA')
    return result


class Run(NamedTuple):
  """One variant with one seed."""

  row: Row | variants.Variant
  seed: int
  steps: int  # That it is trained for.
  training_files: tuple[str, ...] = ()  # Patterns of its training records; () if not told apart.

  @property
  def name(self) -> str:
    """Name of the run's directory."""
    return f'{self.row.name}-seed{self.seed}'


def rows(
  methods: Sequence[str],
  mask_losses: Sequence[str],
  clips: Sequence[str],
  gates: Sequence[str],
  normalizations: Sequence[str],
) -> list[Row]:
  """Returns every distinct variant, those of one mask loss and clipping together."""
  found = (
    Row(
      *(method, mask_loss, clip),
      gate if _REMASK[method] else None,
      normalization if _RECLASS[method] else None,
    )
    for mask_loss, clip, gate, normalization, method in itertools.product(
      mask_losses, clips, gates, normalizations, methods
    )
  )
  return list(dict.fromkeys(found))


def train(run: Run, options, num_threads: int) -> bool:
  """Trains one run in a process of its own; returns whether it was successful."""
  return _call(run, options, num_threads, 'train_and_eval', (), _log(options.output_dir, run))


def evaluate_on_training(run: Run, options, num_threads: int) -> bool:
  """Evaluates the last checkpoint of a run on its training records; returns as `train`."""
  overrides = [f'eval_dataset_options.file_pattern={",".join(run.training_files)}']
  if options.train_eval != -1:
    overrides.append(f'evaluator_options.eval_steps={options.train_eval}')
  log = _log(options.output_dir, run, '.train_eval')
  return _call(run, options, num_threads, 'eval', overrides, log)


def _call(run, options, num_threads, mode, more_overrides, log_path):
  overrides = [*options.set, *run.row.overrides(), *more_overrides, f'experiment_name={run.name}']
  overrides.append(f'train_dataset_options.seed={run.seed}')
  command = [
    *(sys.executable, '-m', 'deeplab2.trainer.train', f'--mode={mode}'),
    f'--config_file={options.config_file}',
    f'--model_dir={options.output_dir}/runs',
    f'--gin_param=set_up.seed = {run.seed}',
    f'--gin_param=set_up.num_threads = {num_threads}',
    *(f'--set={override}' for override in overrides),
  ]
  with open(log_path, 'w', encoding='utf-8') as log:
    return subprocess.run(command, stdout=log, stderr=log, check=False).returncode == 0


def _log(directory, run, ending=''):
  return os.path.join(directory, 'logs', f'{run.name}{ending}.log')


def _is_trained(run, directory):
  return run.steps in _evaluations(directory, run)


def _is_finished(run, options):
  return _is_trained(run, options.output_dir) and (
    options.train_eval is None or run.steps in _training_evaluations(options.output_dir, run)
  )


def _diverged_at(run, directory):
  """Returns the step at which a run's loss was not finite; None if it was not so."""
  if _is_trained(run, directory):
    return None
  try:
    with open(_log(directory, run), encoding='utf-8', errors='replace') as file:
      found = _DIVERGED.findall(''.join(file.readlines()[-3:]))
  except OSError:
    return None
  return int(found[-1]) if found else None


def _estimate(runs, options):
  """Returns what runs take, by those of them that are finished."""
  measured = []
  for run in runs:
    if _is_trained(run, options.output_dir):
      seconds = schedule.seconds_taken(_directory(options.output_dir, run))
      measured += [] if seconds is None else [(run.row.name, seconds / run.steps)]
  return schedule.Estimate(measured, options.seconds_per_step)


def _seconds_left(run, estimate, directory):
  """Returns how long the rest of a run takes; None if nothing tells."""
  if _is_trained(run, directory):
    return 0.0
  done = schedule.steps_done(_directory(directory, run))
  return estimate.seconds(run.row.name, max(0, run.steps - done))


def _finish(run, all_runs, options, num_threads, deadline):
  """Does what a run lacks; returns whether that went well, None if there is no time for it."""
  if not _is_trained(run, options.output_dir):
    if deadline is not None:
      seconds = _seconds_left(run, _estimate(all_runs, options), options.output_dir)
      if seconds is None or time.monotonic() + seconds > deadline:
        return None
    if not train(run, options, num_threads):
      return False
  if options.train_eval is None or _is_finished(run, options):
    return True
  return evaluate_on_training(run, options, num_threads)


def train_all(
  runs: Sequence[Run], options, only: Sequence[Run] | None = None
) -> tuple[list[Run], list[Run]]:
  """Trains what is not finished.

  Args:
    runs: of the comparison, which is written after every one.
    options: the parsed flags.
    only: those that are trained; by default all.

  Returns:
    The runs that failed, why having been shown, and those that there was no time for.
  """
  only = runs if only is None else only
  waiting = [
    run
    for run in only
    if not _is_finished(run, options) and _diverged_at(run, options.output_dir) is None
  ]
  num_threads = max(1, (os.cpu_count() or 1) // options.jobs)
  deadline = None if options.hours is None else time.monotonic() + 3600.0 * options.hours
  failed, left = [], []
  with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
    started = {
      pool.submit(_finish, run, runs, options, num_threads, deadline): run for run in waiting
    }
    # Shown on terminals and in logs alike: a line for each run, with the time that is left.
    bar = tqdm.tqdm(total=len(only), initial=len(only) - len(waiting), unit=' run', file=sys.stderr)
    try:
      for future in concurrent.futures.as_completed(started):
        run = started[future]
        bar.update()
        if future.result() is None:
          left.append(run)
          continue
        last = _evaluations(options.output_dir, run).get(run.steps) if future.result() else None
        if last is None:
          failed.append(run)
          tqdm.tqdm.write(_failure(options.output_dir, run), file=sys.stderr)
          continue
        tqdm.tqdm.write(
          f'{run.name}: PQ {last.get("PQ", float("nan")):.2f}; {bar}', file=sys.stderr
        )
        try:
          write_report(runs, results(runs, options.output_dir), options)
        except errors.UserError as error:  # No reason to stop training.
          logging.warning('%s', error)
    except BaseException:
      # Leaving the pool would start all that still waits.
      pool.shutdown(wait=False, cancel_futures=True)
      raise
    bar.close()
  return failed, left


def _failure(directory, run):
  """Returns the message at the end of a run's log."""
  log = _log(directory, run)
  try:
    with open(log, encoding='utf-8', errors='replace') as file:
      last = ''.join(file.readlines()[-3:])
  except OSError as error:
    last = f'The log cannot be read ({error.strerror}).'
  return f'{run.name} FAILED, see {log}:\n{last}'


def _directory(directory, run):
  return os.path.join(directory, 'runs', run.name)


def _evaluations(directory, run):
  """Returns the evaluations on unseen images by step."""
  return reports.read_all(_directory(directory, run), besides=run.training_files)


def _training_evaluations(directory, run):
  """Returns the evaluations on the training records by step."""
  return reports.read_images(_directory(directory, run), run.training_files)


def _number(content, path):
  for key in path:
    content = content.get(key) if isinstance(content, dict) else None
  return content if isinstance(content, (int, float)) else None


def results(runs: Sequence[Run], directory: str) -> list[dict]:
  """Returns for every finished run its row, seed, final numbers and curves."""
  found = []
  for run in runs:
    evaluations = _evaluations(directory, run)
    if run.steps not in evaluations:
      continue
    rates = [_number(entry, _RATE) for entry in evaluations.values()]
    seconds = [1.0 / rate for rate in rates if rate]
    on_training = _training_evaluations(directory, run).get(run.steps)
    found.append(
      {
        'row': run.row.name,
        'seed': run.seed,
        'step': run.steps,
        'final': {name: _number(evaluations[run.steps], path) for name, path in _COLUMNS.items()},
        'train_PQ': _number(on_training, ('PQ',)),
        'seconds_per_step': statistics.mean(seconds) if seconds else None,
        'curves': {
          name: [[at, _number(entry, path)] for at, entry in evaluations.items() if at]
          for name, path in {
            **{curve: _COLUMNS[curve] for curve in _CURVES},
            **_MORE_CURVES,
          }.items()
        },
        'gates': _gate_curves(evaluations),
      }
    )
  return found


def _gate_curves(evaluations):
  """Returns the mean gates of training by name: (step, value) at every evaluation."""
  curves: dict[str, list] = {}
  for step, entry in evaluations.items():
    logs = entry.get('training')
    for key, value in logs.items() if isinstance(logs, dict) else ():
      match = _GATES.fullmatch(key)
      if match:
        curves.setdefault(match[1], []).append([step, value])
  return curves


def measures(found: Sequence[dict], baseline: str) -> dict[str, dict[str, dict[int, float | None]]]:
  """Returns what is compared: measure -> row -> seed -> number, None where it is not measured."""
  finals = {run['seed']: run['final'][_PQ] for run in found if run['row'] == baseline}
  names = dict.fromkeys(run['row'] for run in found)

  def number(run, measure):
    if measure == _TRAIN_PQ:
      return run['train_PQ']
    if measure == _SECONDS:
      return run['seconds_per_step']
    if measure == _STEPS:
      level = finals.get(run['seed'])
      return None if level is None else paired.first_step(run['curves'][_PQ], level)
    return run['final'][measure]

  return {
    measure: {
      name: {run['seed']: number(run, measure) for run in found if run['row'] == name}
      for name in names
    }
    for measure in _MEASURES
  }


def differences(
  found: Sequence[dict], baseline: str
) -> dict[str, dict[str, paired.Difference | None]]:
  """Returns the differences to the baseline: measure -> row, without the baseline -> difference."""
  return {
    measure: {
      name: paired.difference(numbers, rows_of.get(baseline, {}))
      for name, numbers in rows_of.items()
      if name != baseline
    }
    for measure, rows_of in measures(found, baseline).items()
  }


def differences_table(found: Sequence[dict], baseline: str) -> str:
  """Returns a table in Markdown: means of the baseline, and the differences of the others to it."""
  numbers, compared = measures(found, baseline), differences(found, baseline)
  seeds = {name: set(by_seed) for name, by_seed in numbers[_PQ].items()}
  lines = [f'| row | pairs | {" | ".join(_MEASURES)} |', f'{"|---" * (len(_MEASURES) + 2)}|']
  of_baseline = seeds.pop(baseline, set())
  if of_baseline:
    cells = []
    for measure, digits in _MEASURES.items():
      values = [v for v in numbers[measure][baseline].values() if v is not None]
      cells.append(f'{statistics.mean(values):{digits}}' if values else 'not measured')
    lines.append(f'| {baseline} (mean of {len(of_baseline)}) | | {" | ".join(cells)} |')
  for name, of_row in seeds.items():
    pairs = len(of_row & of_baseline)
    cells = []
    for measure, digits in _MEASURES.items():
      difference = compared[measure][name]
      count = len(difference.values) if difference else 0
      text = paired.shown(difference, digits)
      if measure == _STEPS and count < pairs:
        # No mean of those that reached it: the others would only have made it worse.
        text = f'reached in {count} of {pairs}'
      cells.append(text)
    lines.append(f'| {name} | {pairs} | {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'


def table(found: Sequence[dict]) -> str:
  """Returns a table in Markdown: mean and sample standard deviation over seeds of every row."""
  lines = [f'| row | seeds | {" | ".join(_COLUMNS)} |', f'{"|---" * (len(_COLUMNS) + 2)}|']
  for name in dict.fromkeys(result['row'] for result in found):
    finals = [result['final'] for result in found if result['row'] == name]
    cells = [name, str(len(finals))]
    for column in _COLUMNS:
      values = [final[column] for final in finals if final[column] is not None]
      # A run may lack a number: one that was not finite, or logs of a training cut off at its end.
      part = f' ({len(values)} of {len(finals)})' if 0 < len(values) < len(finals) else ''
      cells.append(_spread(values) + part)
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def _spread(values):
  if not values:
    return 'not measured'
  mean = statistics.mean(values)
  shown = f'{mean:.3g}' if mean < 10 else f'{mean:.1f}'
  return shown if len(values) == 1 else f'{shown} ± {statistics.stdev(values):.2g}'


def plot(found: Sequence[dict], path: str) -> None:
  """Draws the curves of every row: mean over seeds, and a band from the least to the most."""
  figure, panels = pyplot.subplots(1, len(_CURVES), figsize=(16, 6), layout='constrained')
  names = list(dict.fromkeys(result['row'] for result in found))
  for axes, curve in zip(panels, _CURVES, strict=True):
    for index, name in enumerate(names):
      curves = [result['curves'][curve] for result in found if result['row'] == name]
      points = [(step, value) for step, value in sum(curves, []) if value is not None]
      steps = sorted({step for step, _ in points})
      values = [[value for at, value in points if at == step] for step in steps]
      color = pyplot.get_cmap('tab20')(2 * index % 20 + index // 10)
      style = {'marker': 'o', 'markersize': 3, 'linestyle': '--' if '-sigmoid' in name else '-'}
      axes.plot(steps, list(map(statistics.mean, values)), color=color, label=name, **style)
      low, high = list(map(min, values)), list(map(max, values))
      axes.fill_between(steps, low, high, color=color, alpha=0.12)
    axes.set(
      xlabel='step',
      title=f'{curve} of evaluation' + (' [%]' if curve == 'PQ' else ''),
      yscale='linear' if curve == 'PQ' else 'log',
    )
    axes.grid(alpha=0.3)
  # Outside the panels: inside, a grid's many rows would hide the curves.
  figure.legend(
    *panels[0].get_legend_handles_labels(), fontsize='small', ncols=4, loc='outside lower center'
  )
  files.write_whole(path, lambda temporary: figure.savefig(temporary, dpi=100))
  pyplot.close(figure)


def report(runs: Sequence[Run], options) -> None:
  """Writes the report of what is finished, and prints its tables.

  Raises:
    UserError: if nothing is.
  """
  found = results(runs, options.output_dir)
  if not found:
    steps = ' or '.join(map(str, dict.fromkeys(run.steps for run in runs)))
    raise errors.UserError(
      f'--output_dir={options.output_dir}: no run of this grid has reached step {steps}: nothing '
      'to report.'
    )
  write_report(runs, found, options)
  print(table(found), end='')
  if len({run['row'] for run in found}) > 1:
    print('\n' + differences_table(found, options.baseline), end='')
  for line in _divergences(runs, options.output_dir):
    print(line)


def _divergences(runs, directory):
  """Returns a line for each row that diverged with some seed."""
  steps: dict[str, list[int]] = {}
  counts: dict[str, int] = {}
  for run in runs:
    counts[run.row.name] = counts.get(run.row.name, 0) + 1
    step = _diverged_at(run, directory)
    if step is not None:
      steps.setdefault(run.row.name, []).append(step)
  return [
    f'{name}: diverged with {len(at)} of {counts[name]} seeds, at step '
    f'{", ".join(map(str, sorted(at)))}.'
    for name, at in steps.items()
  ]


def write_report(runs: Sequence[Run], found: Sequence[dict], options) -> None:
  """Writes table.md, differences.md, results.json, the images and the page.

  Args:
    runs: all of the comparison.
    found: as of `results`.
    options: the parsed flags.

  Raises:
    UserError: one of them cannot be written.
  """
  directory, baseline = options.output_dir, options.baseline
  compared = differences(found, baseline)
  tables = {'Means': table(found), 'Differences': differences_table(found, baseline)}
  divergences = _divergences(runs, directory)
  content = {
    'runs': list(found),
    'baseline': baseline,
    'differences': {
      measure: {
        name: None if difference is None else difference._asdict()
        for name, difference in of_rows.items()
      }
      for measure, of_rows in compared.items()
    },
    'diverged': divergences,
  }
  files.write_whole(os.path.join(directory, 'table.md'), tables['Means'].encode())
  ending = ''.join(f'\n{line}\n' for line in divergences)
  files.write_whole(
    os.path.join(directory, 'differences.md'), (tables['Differences'] + ending).encode()
  )
  files.write_json(os.path.join(directory, 'results.json'), content)
  plot(found, os.path.join(directory, 'curves.png'))
  figures = {}
  drawn = {title: compared[name] for name, title in _DRAWN.items() if any(compared[name].values())}
  if drawn:
    figures['Differences'] = plots.png(plots.differences(drawn, baseline))
    files.write_whole(os.path.join(directory, 'differences.png'), figures['Differences'])
  with open(os.path.join(directory, 'curves.png'), 'rb') as file:
    figures['Curves'] = file.read()
  text = page.render(
    f'Variants of {os.path.basename(options.config_file)}',
    options.command,
    tables,
    figures,
    _sections(runs, found, directory),
    directory,
  )
  files.write_whole(os.path.join(directory, 'index.html'), text.encode())


def _sections(runs, found, directory):
  """Returns the parts of the page, one for each row."""
  sections = []
  for row in dict.fromkeys(run.row for run in runs):
    of_row = [run for run in runs if run.row == row]
    finished = [result for result in found if result['row'] == row.name]
    panels = {
      curve: {f'seed {result["seed"]}': result['curves'][curve] for result in finished}
      for curve in (*_CURVES, *_MORE_CURVES)
      if any(value is not None for result in finished for _, value in result['curves'][curve])
    }
    if any(result['gates'] for result in finished):
      # One run is enough for the eye; lines of all layers of all seeds would cover one another.
      panels[f'mean gates, seed {finished[0]["seed"]}'] = finished[0]['gates']
    images = {}
    for run in of_row:
      for name in files.matching(_directory(directory, run), 'vis(-.*)?'):
        panel = os.path.join(_directory(directory, run), name, '000000_panel.png')
        images[f'{run.name}, {name}'] = panel
    sections.append(
      page.Section(
        row.name,
        row.overrides(),
        plots.png(plots.curves(panels)) if panels else None,
        images,
        _divergences(of_row, directory),
      )
    )
  return sections


def print_plan(runs: Sequence[Run], options, all_runs: Sequence[Run]) -> None:
  """Prints the state of `runs`, and how many hours are left, by all that are finished."""
  estimate = _estimate(all_runs, options)
  total, unknown = 0.0, 0
  width = max(len(run.name) for run in runs)
  for run in runs:
    done = schedule.steps_done(_directory(options.output_dir, run))
    diverged = _diverged_at(run, options.output_dir)
    seconds = _seconds_left(run, estimate, options.output_dir)
    if diverged is not None:
      state = f'diverged at step {diverged}'
    elif _is_finished(run, options):
      state = 'finished'
    elif _is_trained(run, options.output_dir):
      state = 'trained; to be evaluated on the training images'
    else:
      state = f'step {done} of {run.steps}'
      unknown += seconds is None
      total += seconds or 0.0
      state += ', time unknown' if seconds is None else f', {seconds / 3600:.2f} h'
    print(f'{run.name:{width}}  {state}')
  print(f'{total / 3600 / options.jobs:.1f} hours are left with --jobs={options.jobs}', end='')
  print(f', and {unknown} runs of unknown time: give --seconds_per_step.' if unknown else '.')


def _check_settings(options):
  """Writes down what holds for all runs below a directory, or sees that it is the same.

  Raises:
    UserError: if the directory holds runs of another config or other overrides.
  """
  path = os.path.join(options.output_dir, 'settings.json')
  settings = {'config_file': options.config_file, 'set': options.set}
  if not os.path.exists(path):
    files.write_json(path, settings)
    return
  try:
    before = files.read_json(path)
  except errors.UserError as error:
    raise errors.UserError(
      f'{error} It is not known what the runs there have; give another --output_dir.'
    ) from error
  if before != settings:
    raise errors.UserError(
      f'{path}: the runs there have {before}; give another --output_dir for {settings}.'
    )


def _check_variants(found, directory):
  """Writes down what the variants below a directory are, or sees that they are the same.

  Raises:
    UserError: if one had other overrides before.
  """
  path = os.path.join(directory, 'variants.json')
  before = files.read_json(path) if os.path.exists(path) else {}
  for variant in found:
    if before.get(variant.name, variant.overrides()) != variant.overrides():
      raise errors.UserError(
        f'{path}: {variant.name} was {before[variant.name]}, and is {variant.overrides()} now; '
        'give it another name, or another --output_dir.'
      )
  now = {variant.name: variant.overrides() for variant in found}
  files.write_json(path, {**before, **now})


def _values(options, flag):
  """Returns the values of a flag, choices or numbers; UserError naming one that is not right."""
  values = getattr(options, flag).split(',')
  for value in values:
    if flag in _CHOICES and value not in _CHOICES[flag]:
      raise errors.UserError(f'--{flag}: {value!r} is none of {", ".join(_CHOICES[flag])}.')
    is_none = flag == 'clips' and value == 'none'
    if flag in _NUMBERS and not is_none and not _is_number(value, _NUMBERS[flag]):
      raise errors.UserError(f'--{flag}: {value!r} is no number from 0 on.')
  return values


def _is_number(text, number_type):
  try:
    return not number_type(text) < 0
  except ValueError:
    return False


def _runs(options) -> tuple[list[Run], list[Run]]:
  """Returns all runs, the rows of one seed together, and those that are to be trained.

  Raises:
    UserError: a flag, a variant or the config with it is wrong.
  """
  if options.variants:
    found = variants.read(options.variants)
  else:
    found = rows(*(_values(options, flag) for flag in _GRID))
  names = [row.name for row in found]
  options.baseline = options.baseline or names[0]
  only = options.only.split(',') if options.only else names
  for flag, values in (('baseline', [options.baseline]), ('only', only)):
    for value in values:
      if value not in names:
        raise errors.UserError(f'--{flag}: {value!r} is none of {", ".join(names)}.')
  seeds = dict.fromkeys(map(int, _values(options, 'seeds')))
  described = []
  for row in found:
    config = load.load(options.config_file, [*options.set, *row.overrides()])
    training, unseen = (
      tuple(config.value(f'{part}_dataset_options.file_pattern')) for part in ('train', 'eval')
    )
    if training == unseen and options.train_eval is not None:
      raise errors.UserError(
        f'--train_eval: {row.name} is evaluated on its training records anyway '
        f'({", ".join(training)}).'
      )
    steps = config.value(f'{_SOLVER}.training_number_of_steps')
    described.append((row, steps, () if training == unseen else training))
  runs = [Run(row, seed, steps, training) for seed in seeds for row, steps, training in described]
  return runs, [run for run in runs if run.row.name in only]


def _check_flags(options):
  """Checks numbers; UserError naming the flag that is wrong."""
  if options.jobs < 1:
    raise errors.UserError(f'--jobs={options.jobs}: must be 1 or more.')
  if options.train_eval is not None and options.train_eval < 1 and options.train_eval != -1:
    raise errors.UserError(f'--train_eval={options.train_eval}: must be 1 or more.')
  for flag in ('hours', 'seconds_per_step'):
    value = getattr(options, flag)
    if value is not None and not value > 0:
      raise errors.UserError(f'--{flag}={value}: must be greater than 0.')


def _parser():
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', required=True)
  parser.add_path('--output_dir', required=True)
  parser.add_overrides()
  parser.add_path('--variants', help='JSON file of named variants, in place of a grid.')
  parser.add_argument('--baseline', help='Row that the others are compared with; the first one.')
  parser.add_argument('--only', help='Rows to train, of those that are reported.')
  for flag, choices in _CHOICES.items():
    default = ','.join(choices) if flag == 'methods' else choices[0]
    parser.add_argument(f'--{flag}', default=default, help=f'Of {", ".join(choices)}.')
  parser.add_argument('--clips', default='none', help='Gradient norms, or none.')
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='Runs side by side.')
  parser.add_argument(
    '--train_eval',
    type=int,
    nargs='?',
    const=-1,
    metavar='BATCHES',
    help='Evaluate on the training records too.',
  )
  parser.add_argument('--hours', type=float, help='Start nothing that would end later.')
  parser.add_argument('--seconds_per_step', type=float, help='Of rows without a finished run.')
  parser.add_argument('--dry_run', action='store_true', help='Print the runs and their hours.')
  parser.add_argument('--report_only', action='store_true', help='Train nothing.')
  parser.add_old_name('--shares', '--normalizations')
  return parser


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = _parser()

  def run():
    """Trains what is missing of the variants and reports; a failed run is named at the end."""
    options = parser.parse_args(arguments)
    options.command = f'python scripts/ablation.py {shlex.join(arguments)}'
    _check_flags(options)
    runs, only = _runs(options)
    if options.dry_run:
      print_plan(only, options, runs)
      return
    if options.hours is not None and not options.report_only:
      estimate = _estimate(runs, options)
      if any(_seconds_left(run, estimate, options.output_dir) is None for run in only):
        raise errors.UserError(
          f'--hours={options.hours}: no run is finished that tells how long one takes; give '
          '--seconds_per_step.'
        )
    files.make_directory(os.path.join(options.output_dir, 'logs'), '--output_dir')
    lock = os.path.join(options.output_dir, 'ablation.lock')
    failed, left = [], []
    with locks.hold(lock, f'The ablation in {options.output_dir}'):
      _check_settings(options)
      if options.variants:
        _check_variants(dict.fromkeys(run.row for run in runs), options.output_dir)
      if not options.report_only:
        failed, left = train_all(runs, options, only)
      report(runs, options)
    if left:
      names = ', '.join(run.name for run in left)
      print(f'{len(left)} runs were not started, for want of time: {names}.')
    if failed:
      raise errors.UserError(
        f'{len(failed)} of {len(only)} runs failed: {", ".join(run.name for run in failed)}.'
      )

  return command_line.run(run)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
