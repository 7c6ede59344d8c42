"""Numbers of finished runs: of each, over seeds, and as differences to a baseline."""

from collections.abc import Sequence
import re
import statistics

from comparison import paired
from comparison import runs as runs_lib

_PQ, _MIOU, _DICE = 'PQ', 'mIoU', 'matched dice'
# Column of the table -> the number in the last evaluation's JSON file.
_COLUMNS = {
  _PQ: ('PQ',),
  'PQ things': ('PQ_things',),
  'PQ stuff': ('PQ_stuff',),
  _MIOU: ('mIoU',),
  _DICE: ('diagnostics', 'matched_dice'),
  'FP loss': ('diagnostics', 'mask_fp'),
  'FN loss': ('diagnostics', 'mask_fn'),
  'FP/FN': ('diagnostics', 'mask_fp_fn_ratio'),
  'gradient norm': ('training', 'gradient_norm'),
}
CURVES = (_PQ, 'FP loss', 'FN loss')
# Of the page alone.
MORE_CURVES = {'FP/FN over all slots': ('diagnostics', 'all_slots_fp_fn_ratio')}
_GATES = re.compile(r'diagnostics/(aux_\d+gate_(?:same|other)_class)')
_RATE = ('training', 'steps_per_second')
# What is compared with the baseline, and how its differences are written.
_TRAIN_PQ = 'PQ on training images'
_STEPS, _SECONDS = "steps to the baseline's final PQ", 'seconds per step'
_MEASURES = {
  _PQ: '.2f',
  'PQ things': '.2f',
  'PQ stuff': '.2f',
  _MIOU: '.2f',
  _DICE: '.4f',
  _TRAIN_PQ: '.2f',
  _STEPS: '.0f',
  _SECONDS: '.3f',
}
# What is drawn of it, with the titles of the panels.
DRAWN = {_PQ: 'PQ on unseen images', _MIOU: 'mIoU on unseen images', _TRAIN_PQ: _TRAIN_PQ}


def results(runs: Sequence[runs_lib.Run], directory: str) -> list[dict]:
  """Returns for every finished run its row, seed, final numbers and curves."""
  found = []
  for run in runs:
    evaluations = runs_lib.evaluations(directory, run)
    if run.steps not in evaluations:
      continue
    rates = [_number(entry, _RATE) for entry in evaluations.values()]
    seconds = [1.0 / rate for rate in rates if rate]
    on_training = runs_lib.training_evaluations(directory, run).get(run.steps)
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
            **{curve: _COLUMNS[curve] for curve in CURVES},
            **MORE_CURVES,
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


def _number(content, path):
  for key in path:
    content = content.get(key) if isinstance(content, dict) else None
  return content if isinstance(content, (int, float)) else None
