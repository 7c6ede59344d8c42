"""Trains a grid of ReMaX variants over several seeds, and compares them in a table and an image.

  python scripts/ablation.py --config_file=CONFIG --output_dir=DIR [--set a.b=c ...]
      [--methods=plain,remask,reclass,remax] [--mask_losses=softmax,sigmoid] [--clips=none,1.0]
      [--gates=sigmoid,softmax] [--normalizations=class,mask] [--seeds=0,1,2] [--jobs=2]
      [--report_only]

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
where its newest checkpoint is. DIR/table.md, DIR/results.json and DIR/curves.png are made from what
is finished, after every run. One ablation at a time works in DIR.
"""

from collections.abc import Sequence
import concurrent.futures
import itertools
import os
import statistics
import subprocess
import sys
from typing import NamedTuple

from absl import logging
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

  row: Row
  seed: int

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
  overrides = [*options.set, *run.row.overrides(), f'experiment_name={run.name}']
  overrides.append(f'train_dataset_options.seed={run.seed}')
  command = [
    *(sys.executable, '-m', 'deeplab2.trainer.train', '--mode=train_and_eval'),
    f'--config_file={options.config_file}',
    f'--model_dir={options.output_dir}/runs',
    f'--gin_param=set_up.seed = {run.seed}',
    f'--gin_param=set_up.num_threads = {num_threads}',
    *(f'--set={override}' for override in overrides),
  ]
  with open(_log(options.output_dir, run), 'w', encoding='utf-8') as log:
    return subprocess.run(command, stdout=log, stderr=log, check=False).returncode == 0


def _log(directory, run):
  return os.path.join(directory, 'logs', f'{run.name}.log')


def train_all(runs: Sequence[Run], steps: int, options) -> list[Run]:
  """Trains what is not finished; returns the runs that failed, having shown why."""
  waiting = [run for run in runs if steps not in _evaluations(options.output_dir, run)]
  num_threads = max(1, (os.cpu_count() or 1) // options.jobs)
  failed = []
  with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
    started = {pool.submit(train, run, options, num_threads): run for run in waiting}
    # Shown on terminals and in logs alike: a line for each run, with the time that is left.
    bar = tqdm.tqdm(total=len(runs), initial=len(runs) - len(waiting), unit=' run', file=sys.stderr)
    try:
      for future in concurrent.futures.as_completed(started):
        run = started[future]
        bar.update()
        last = _evaluations(options.output_dir, run).get(steps) if future.result() else None
        if last is None:
          failed.append(run)
          tqdm.tqdm.write(_failure(options.output_dir, run), file=sys.stderr)
          continue
        tqdm.tqdm.write(
          f'{run.name}: PQ {last.get("PQ", float("nan")):.2f}; {bar}', file=sys.stderr
        )
        try:
          write_report(results(runs, options.output_dir, steps), options.output_dir)
        except errors.UserError as error:  # No reason to stop training.
          logging.warning('%s', error)
    except BaseException:
      # Leaving the pool would start all that still waits.
      pool.shutdown(wait=False, cancel_futures=True)
      raise
    bar.close()
  return failed


def _failure(directory, run):
  """Returns the message at the end of a run's log."""
  log = _log(directory, run)
  try:
    with open(log, encoding='utf-8', errors='replace') as file:
      last = ''.join(file.readlines()[-3:])
  except OSError as error:
    last = f'The log cannot be read ({error.strerror}).'
  return f'{run.name} FAILED, see {log}:\n{last}'


def _evaluations(directory, run):
  return reports.read_all(os.path.join(directory, 'runs', run.name))


def _number(content, path):
  for key in path:
    content = content.get(key) if isinstance(content, dict) else None
  return content if isinstance(content, (int, float)) else None


def results(runs: Sequence[Run], directory: str, steps: int) -> list[dict]:
  """Returns for every finished run its row, seed, final numbers and curves."""
  found = []
  for run in runs:
    evaluations = _evaluations(directory, run)
    if steps not in evaluations:
      continue
    found.append(
      {
        'row': run.row.name,
        'seed': run.seed,
        'step': steps,
        'final': {name: _number(evaluations[steps], path) for name, path in _COLUMNS.items()},
        'curves': {
          name: [[at, _number(entry, _COLUMNS[name])] for at, entry in evaluations.items() if at]
          for name in _CURVES
        },
      }
    )
  return found


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


def report(runs: Sequence[Run], directory: str, steps: int) -> None:
  """Writes table.md, results.json and curves.png of what is finished, and prints the table.

  Raises:
    UserError: if nothing is.
  """
  found = results(runs, directory, steps)
  if not found:
    raise errors.UserError(
      f'--output_dir={directory}: no run of this grid has reached step {steps}: nothing to report.'
    )
  write_report(found, directory)
  print(table(found), end='')


def write_report(found: Sequence[dict], directory: str) -> None:
  """Writes table.md, results.json and curves.png.

  Raises:
    UserError: one of them cannot be written.
  """
  files.write_whole(os.path.join(directory, 'table.md'), table(found).encode())
  files.write_json(os.path.join(directory, 'results.json'), {'runs': list(found)})
  plot(found, os.path.join(directory, 'curves.png'))


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


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', required=True)
  parser.add_path('--output_dir', required=True)
  parser.add_overrides()
  for flag, choices in _CHOICES.items():
    default = ','.join(choices) if flag == 'methods' else choices[0]
    parser.add_argument(f'--{flag}', default=default, help=f'Of {", ".join(choices)}.')
  parser.add_argument('--clips', default='none', help='Gradient norms, or none.')
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='Runs side by side.')
  parser.add_argument('--report_only', action='store_true', help='Train nothing.')
  parser.add_old_name('--shares', '--normalizations')

  def run():
    """Trains what is missing of the grid and reports; a run that fails is named at the end."""
    options = parser.parse_args(arguments)
    if options.jobs < 1:
      raise errors.UserError(f'--jobs={options.jobs}: must be 1 or more.')
    flags = ('methods', 'mask_losses', 'clips', 'gates', 'normalizations')
    grid = rows(*(_values(options, flag) for flag in flags))
    seeds = dict.fromkeys(map(int, _values(options, 'seeds')))
    runs = [Run(row, seed) for seed in seeds for row in grid]
    for row in grid:
      config = load.load(options.config_file, [*options.set, *row.overrides()])
    steps = config.value(f'{_SOLVER}.training_number_of_steps')
    files.make_directory(os.path.join(options.output_dir, 'logs'), '--output_dir')
    lock = os.path.join(options.output_dir, 'ablation.lock')
    with locks.hold(lock, f'The ablation in {options.output_dir}'):
      _check_settings(options)
      failed = [] if options.report_only else train_all(runs, steps, options)
      report(runs, options.output_dir, steps)
    if failed:
      raise errors.UserError(
        f'{len(failed)} of {len(runs)} runs failed: {", ".join(run.name for run in failed)}.'
      )

  return command_line.run(run)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
