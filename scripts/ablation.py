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
--seconds_per_step (evaluations included). --hours starts no run that would not end within so many,
--train_eval included once one such evaluation has been measured.

After every run, DIR has table.md, differences.md, results.json, curves.png, differences.png and
index.html, the page with all of it and the curves and images of every run, made from what is
finished.
"""

from collections.abc import Sequence
import concurrent.futures
import os
import shlex
import subprocess
import sys
import time

from absl import logging
from comparison import grid
from comparison import report as report_lib
from comparison import runs as runs_lib
from comparison import schedule
from comparison import summary
from comparison import variants
import tqdm

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2 import locks
from deeplab2.config import load

_LOSSES = 'trainer_options.loss_options'
_SOLVER = 'trainer_options.solver_options'
_NUMBERS = {'clips': float, 'seeds': int}


def train(run: runs_lib.Run, options, num_threads: int) -> bool:
  """Trains one run in a process of its own; returns whether it was successful."""
  return _call(
    run, options, num_threads, 'train_and_eval', (), runs_lib.log(options.output_dir, run)
  )


def evaluate_on_training(run: runs_lib.Run, options, num_threads: int) -> bool:
  """Evaluates the last checkpoint of a run on its training records; returns as `train`."""
  overrides = [f'eval_dataset_options.file_pattern={",".join(run.training_files)}']
  if options.train_eval != -1:
    overrides.append(f'evaluator_options.eval_steps={options.train_eval}')
  log = runs_lib.log(options.output_dir, run, '.train_eval')
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


def _is_finished(run, options):
  return runs_lib.is_trained(options.output_dir, run) and (
    options.train_eval is None
    or run.steps in runs_lib.training_evaluations(options.output_dir, run)
  )


def _estimate(runs, options):
  """Returns what runs take, by those of them that are finished."""
  measured, evaluations = [], []
  for run in runs:
    directory = runs_lib.directory(options.output_dir, run)
    if runs_lib.is_trained(options.output_dir, run):
      seconds = schedule.seconds_taken(directory)
      measured += [] if seconds is None else [(run.row.name, seconds / run.steps)]
    if options.train_eval is not None and _is_finished(run, options):
      seconds = schedule.seconds_of_evaluation(directory)
      evaluations += [] if seconds is None else [seconds]
  return schedule.Estimate(measured, options.seconds_per_step, evaluations)


def _seconds_left(run, estimate, options):
  """Returns how long what a run lacks takes; None if nothing tells."""
  if _is_finished(run, options):
    return 0.0
  if runs_lib.is_trained(options.output_dir, run):
    return estimate.evaluation
  done = schedule.steps_done(runs_lib.directory(options.output_dir, run))
  seconds = estimate.seconds(run.row.name, max(0, run.steps - done))
  return None if seconds is None else seconds + estimate.evaluation


def _finish(run, all_runs, options, num_threads, deadline):
  """Does what a run lacks; returns whether that went well, None if there is no time for it."""
  if deadline is not None:
    seconds = _seconds_left(run, _estimate(all_runs, options), options)
    if seconds is None or time.monotonic() + seconds > deadline:
      return None
  if not runs_lib.is_trained(options.output_dir, run) and not train(run, options, num_threads):
    return False
  if options.train_eval is None or _is_finished(run, options):
    return True
  return evaluate_on_training(run, options, num_threads)


def train_all(
  runs: Sequence[runs_lib.Run], options, only: Sequence[runs_lib.Run] | None = None
) -> tuple[list[runs_lib.Run], list[runs_lib.Run]]:
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
    if not _is_finished(run, options) and runs_lib.diverged_at(options.output_dir, run) is None
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
        last = (
          runs_lib.evaluations(options.output_dir, run).get(run.steps) if future.result() else None
        )
        if last is None:
          failed.append(run)
          tqdm.tqdm.write(runs_lib.failure(options.output_dir, run), file=sys.stderr)
          continue
        tqdm.tqdm.write(
          f'{run.name}: PQ {last.get("PQ", float("nan")):.2f}; {bar}', file=sys.stderr
        )
        try:
          report_lib.write(runs, summary.results(runs, options.output_dir), options)
        except errors.UserError as error:  # No reason to stop training.
          logging.warning('%s', error)
    except BaseException:
      # Leaving the pool would start all that still waits.
      pool.shutdown(wait=False, cancel_futures=True)
      raise
    bar.close()
  return failed, left


def report(runs: Sequence[runs_lib.Run], options) -> None:
  """Writes the report of what is finished, and prints its tables.

  Raises:
    UserError: if nothing is.
  """
  found = summary.results(runs, options.output_dir)
  if not found:
    steps = ' or '.join(map(str, dict.fromkeys(run.steps for run in runs)))
    raise errors.UserError(
      f'--output_dir={options.output_dir}: no run of this grid has reached step {steps}: nothing '
      'to report.'
    )
  report_lib.write(runs, found, options)
  print(summary.table(found), end='')
  if len({run['row'] for run in found}) > 1:
    print('\n' + summary.differences_table(found, options.baseline), end='')
  for line in report_lib.divergences(runs, options.output_dir):
    print(line)


def print_plan(runs: Sequence[runs_lib.Run], options, all_runs: Sequence[runs_lib.Run]) -> None:
  """Prints the state of `runs`, and how many hours are left, by all that are finished."""
  estimate = _estimate(all_runs, options)
  total, unknown = 0.0, 0
  width = max(len(run.name) for run in runs)
  for run in runs:
    done = schedule.steps_done(runs_lib.directory(options.output_dir, run))
    diverged = runs_lib.diverged_at(options.output_dir, run)
    seconds = _seconds_left(run, estimate, options)
    if diverged is not None:
      state = f'diverged at step {diverged}'
    elif _is_finished(run, options):
      state = 'finished'
    elif runs_lib.is_trained(options.output_dir, run):
      state = 'trained; to be evaluated on the training images'
      total += seconds
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
    if flag in grid.CHOICES and value not in grid.CHOICES[flag]:
      raise errors.UserError(f'--{flag}: {value!r} is none of {", ".join(grid.CHOICES[flag])}.')
    is_none = flag == 'clips' and value == 'none'
    if flag in _NUMBERS and not is_none and not _is_number(value, _NUMBERS[flag]):
      raise errors.UserError(f'--{flag}: {value!r} is no number from 0 on.')
  return values


def _is_number(text, number_type):
  try:
    return not number_type(text) < 0
  except ValueError:
    return False


def _runs(options) -> tuple[list[runs_lib.Run], list[runs_lib.Run]]:
  """Returns all runs, the rows of one seed together, and those that are to be trained.

  Raises:
    UserError: a flag, a variant or the config with it is wrong.
  """
  if options.variants:
    found = variants.read(options.variants)
  else:
    found = grid.rows(*(_values(options, flag) for flag in grid.FLAGS))
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
  runs = [
    runs_lib.Run(row, seed, steps, training) for seed in seeds for row, steps, training in described
  ]
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
  for flag, choices in grid.CHOICES.items():
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
      if any(_seconds_left(run, estimate, options) is None for run in only):
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
