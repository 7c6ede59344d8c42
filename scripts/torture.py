"""Tortures the command lines: kills them, feeds them broken files, watches their memory.

  python scripts/torture.py all --work_dir=DIRECTORY [--json=REPORT.json]
  python scripts/torture.py kill|corrupt|memory|report --work_dir=DIRECTORY ...

`kill` kills training (which saves and evaluates, with ReMask), conversion and prediction at random
moments, --kills of each, starts them again until they end, and compares variables, metrics, records
and predictions with those of a run that nobody interrupted. `corrupt` runs --cases broken records,
images, JSON files, textprotos, checkpoints, SavedModels and logs through the commands that read
them: each must end in one line that names the file, or in a right result, within a minute and 4 GB.
`memory` trains for --steps steps, evaluates and predicts as many images of changing size, and fails
if memory grows. `report` shows what is there.

Everything follows --seed. Results are kept in --work_dir as they come: the same command goes on
where it was stopped. Take a new directory for another version of the program. A failure keeps its
directory and is shown with the command that reproduces it. The exit code is 2 if there is any.
The whole takes about two hours on two cores.
"""

import argparse
import pathlib
import signal
import sys
import zlib

from campaign import assets
from campaign import corrupt
from campaign import kill
from campaign import memory
from campaign import results
import tensorflow as tf  # noqa: F401  Before the forks, which then need not import it.

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files

# The corrupted inputs come first: they are read in forks, before TensorFlow reads anything here.
_PARTS = ('corrupt', 'kill', 'memory')


def parse_options(arguments: list[str]) -> argparse.Namespace:
  """Reads the flags; UserError for a mistake."""
  parser = command_line.Parser(__doc__)
  positive = command_line.integer_from(1)
  parser.add_argument('part', choices=(*_PARTS, 'all', 'report'))
  parser.add_path('--work_dir', required=True, help='Directory for everything that is made.')
  parser.add_argument('--seed', type=command_line.integer_from(0), default=0)
  parser.add_argument('--kills', type=positive, default=50, help='Of each command.')
  parser.add_argument('--cases', type=positive, default=300, help='Corrupted inputs.')
  parser.add_argument('--steps', type=positive, default=2000, help='Of memory.')
  parser.add_argument('--jobs', type=positive, default=1, help='Corrupted inputs at a time.')
  parser.add_argument(
    '--only',
    action='append',
    default=[],
    metavar='TEXT',
    help='Cases whose name holds TEXT, or one of several; they are run again if they were before.',
  )
  parser.add_path('--json', help='File to write the results to.')
  return parser.parse_args(arguments)


def torture(options: argparse.Namespace) -> list[results.Result]:
  """Runs the parts that are asked for; returns the results of all that were ever run."""
  work = pathlib.Path(options.work_dir).resolve()
  wanted = _PARTS if options.part == 'all' else (options.part,)
  found: list[results.Result] = []
  for part in _PARTS:
    journal = results.Journal(work / f'{part}.jsonl')
    if part in wanted:
      journal.begin(_settings(part, options))
      try:
        for result in _run(part, work, journal, options):
          journal.add(result)
          costs = f'{result.seconds:6.1f} s {result.peak_mb:5.0f} MB'
          details = f' ({result.details})' if part == 'memory' else ''
          print(f'{costs} {result.outcome}: {result.group}: {result.name}{details}', flush=True)
      except RuntimeError as error:
        print(error, file=sys.stderr)
        raise errors.UserError(
          f'{part}: a command fails although nothing disturbs it; see above.'
        ) from error
    found += journal.results.values()
  return found


def _settings(part, options):
  """Returns the settings that the results of a part depend on; --kills may be raised later."""
  settings = {'part': part, 'seed': options.seed}
  if part == 'memory':
    settings['steps'] = options.steps
  elif part == 'corrupt':
    names = [case.name for case in corrupt.cases(options.cases, options.seed)]
    settings['names'] = zlib.crc32('\n'.join(names).encode())
  return settings


def _run(part, work, journal, options):
  """Yields the results that are missing."""

  done = {} if options.only else journal.results

  def is_wanted(name):
    return name not in done and any(text in name for text in options.only or [''])

  place, made = work / part, work / 'assets'
  if part == 'kill':
    chosen = [one for one in kill.COMMANDS if is_wanted(one.name)]
    assets.make(made, {one.needs for one in chosen})
    return kill.run_all(chosen, options.kills, made, place, options.seed, done)
  if part == 'memory':
    return memory.run_all(assets.make(made), place, options.steps, done)
  chosen = [case for case in corrupt.cases(options.cases, options.seed) if is_wanted(case.name)]
  assets.make(made, corrupt.needed(chosen))
  return corrupt.run(chosen, made, place, options.seed, options.jobs)


def main(arguments: list[str]) -> int:
  """Runs the command line; returns its exit code."""

  def run():
    options = parse_options(arguments)
    # So that what was started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    found = torture(options)
    print(f'{results.table(found)}\n')
    for result in found:
      if result.part == 'memory' and not result.failed:
        print(f'{result.name}: {result.details}')
    if options.json:
      files.write_json(options.json, {'results': [result._asdict() for result in found]})
    failed = sum(result.failed for result in found)
    if failed:
      print(results.failures(found))
      raise errors.UserError(f'{failed} of {len(found)} cases failed.')

  return command_line.run(run)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
