"""Reads what a report shows from the directory of a run."""

from collections.abc import Mapping, Sequence
import os
import shlex
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.report import segments_file
from deeplab2.trainer import event_files
from deeplab2.trainer import reports
from deeplab2.trainer import run_record

Curve = Sequence[tuple[int, float]]  # (step, value), by step.
MOST_RUNS = 4
_LOSS = 'losses/train_'
_AUXILIARY = 'aux_'
_RATES = ('learning_rate', 'learning_rate_backbone')
_PER_CLASS = {'id', 'name', 'isthing', 'PQ', 'SQ', 'RQ', 'IoU', 'TP', 'FN', 'FP'}


class Run(NamedTuple):
  """What a report shows of a run."""

  path: str
  name: str  # Tells it from the other runs of the report.
  label: str  # The same in one letter: A, B, ...
  step: int
  metrics: Mapping[str, Any]  # The content of its metrics file.
  qualities: Mapping[str, Curve]  # PQ of all, things and stuff in percent.
  losses: Mapping[str, Curve]  # Of training, of the final output, by name.
  eval_losses: Curve  # The total loss of the evaluations.
  rates: Mapping[str, Curve]  # Learning rates.
  segments: segments_file.Content | None  # None where they were not kept.
  notes: Sequence[str] = ()  # What the reader must know of what is shown.

  @property
  def dataset(self) -> str | None:
    """The name of the evaluated dataset; None of evaluations that do not say."""
    return self.metrics.get('evaluated', {}).get('dataset')


def read(paths: Sequence[str]) -> list[Run]:
  """Reads runs of one dataset, whose newest evaluations are compared.

  Raises:
    UserError: a directory is no run or has no evaluation, the runs are of different images, or
      there are too many.
  """
  if len(paths) > MOST_RUNS:
    raise errors.UserError(
      f'{len(paths)} runs are given; a report compares at most {MOST_RUNS}: choose among them.'
    )
  names = _names(paths)
  runs: list[Run] = []
  for path, name in zip(paths, names, strict=True):
    run = _read(path, name, runs[0] if runs else None)
    if runs:
      _check_same(runs[0], run)
    runs.append(run._replace(label=chr(ord('A') + len(runs))))
  return runs


def read_evaluation(path: str, metrics: str) -> Run:
  """Reads a run at the evaluation that wrote the file `metrics`; UserError as of `read`."""
  return _read(path, _names([path])[0], None, metrics)


def _names(paths):
  """Returns the last parts of paths, as many as tell them apart."""
  parts = [os.path.abspath(path).strip('/').split('/') for path in paths]
  for count in range(1, max(map(len, parts)) + 1):
    names = ['/'.join(part[-count:]) for part in parts]
    if len(set(names)) == len(names):
      return names
  raise errors.UserError(f'{paths[0]}: is given twice; a report compares different runs.')


def _read(path, name, first, metrics=None):
  if not tf.io.gfile.isdir(path):
    raise errors.UserError(f'{path}: there is no such directory; give the directory of a run.')
  evaluations = dict(reports.read_files(os.path.join(path, 'eval')))
  evaluations = {
    file: of for file, of in evaluations.items() if isinstance(of.get('PQ'), (int, float))
  }
  if not evaluations:
    raise errors.UserError(_nothing(path))
  of_set, others = _choose(evaluations, first, metrics)
  shown = metrics or _newest(of_set)
  notes = [f'{name}: {_of_others(others)}'] if others else []
  segments = None
  kept = [file for file in of_set if tf.io.gfile.exists(segments_file.beside(file))]
  if shown in kept:
    segments = segments_file.read(segments_file.beside(shown))
  else:
    notes.append(
      f'{name}: segments of step {of_set[shown]["step"]} were not kept, so sizes, scores, '
      f'confusion and images are missing. This command keeps them: {command(path)}'
    )
  metrics = of_set[shown]
  scalars = event_files.read_scalars(os.path.join(path, 'train'))
  by_step = sorted(of_set.values(), key=lambda content: content['step'])
  return Run(
    path,
    name,
    'A',
    metrics['step'],
    {**metrics, 'per_class': _per_class(metrics.get('per_class'))},
    {
      label: [(of['step'], of[key]) for of in by_step if isinstance(of.get(key), (int, float))]
      for key, label in (('PQ', 'all'), ('PQ_things', 'things'), ('PQ_stuff', 'stuff'))
    },
    {
      tag.removeprefix(_LOSS): points
      for tag, points in scalars.items()
      if tag.startswith(_LOSS) and not tag.startswith(_LOSS + _AUXILIARY)
    },
    [
      (of['step'], loss)
      for of in by_step
      if isinstance(loss := (of.get('losses') or {}).get('total_loss'), (int, float))
    ],
    {tag: scalars[tag] for tag in _RATES if tag in scalars},
    segments,
    notes,
  )


def _nothing(path):
  """Returns why nothing of a directory can be shown, and what to do."""
  below = [
    name
    for name in files.matching(path, '[^.].*')
    if tf.io.gfile.isdir(os.path.join(path, name, 'eval'))
  ]
  if below:
    return (
      f'{path}: is no run, but holds runs: give one of them, such as '
      f'{os.path.join(path, below[0])}.'
    )
  is_run = any(
    tf.io.gfile.exists(os.path.join(path, name))
    for name in (run_record.RECORD, run_record.CONFIG, 'checkpoint')
  )
  if is_run:
    return (
      f'{path}: the run has no evaluation (eval/metrics-<step>.json); make one: {command(path)}'
    )
  return (
    f'{path}: is no run: neither evaluations (eval/metrics-<step>.json) nor checkpoints are there; '
    'give MODEL_DIR/<experiment_name> of a run.'
  )


def command(path: str) -> str:
  """Returns the command that evaluates the newest checkpoint of a run for a report."""
  config = os.path.join(path, run_record.CONFIG)
  name = ''
  if tf.io.gfile.exists(config):
    name = _experiment_name(config)
  else:
    config = 'CONFIG'
  whole = os.path.abspath(path) if '://' not in path else path.rstrip('/')
  model_dir = 'MODEL_DIR'
  if name and whole.endswith(f'/{name}'):
    model_dir = whole[: -len(name) - 1] or '/'
  return (
    f'python -m deeplab2.trainer.train --config_file={shlex.quote(config)} --mode=eval '
    f'--model_dir={shlex.quote(model_dir)} --report'
  )


def _experiment_name(config):
  # Read as text: a report needs none of the configuration's checks.
  for line in files.read_text(config).splitlines():
    if line.startswith('experiment_name: "'):
      return line.removeprefix('experiment_name: "').removesuffix('"')
  return ''


def _choose(evaluations, first, metrics):
  """Returns the evaluations {file: content} of the set that is shown, and of other sets.

  Those that do not say what they are of, from older versions, stand in where the set has none.
  """
  sets: dict[str, dict[str, dict]] = {}
  for file, content in evaluations.items():
    sets.setdefault(content.get('evaluated', {}).get('set') or '', {})[file] = content
  unnamed = sets.pop('', {})
  if not sets:
    return unnamed, {}
  same = sets
  if first is not None:
    images = first.metrics.get('evaluated', {}).get('files')
    same = {
      name: of
      for name, of in sets.items()
      if next(iter(of.values()))['evaluated'].get('files') == images
    } or sets

  def order(name):
    of_set = same[name]
    has_segments = any(tf.io.gfile.exists(segments_file.beside(file)) for file in of_set)
    return has_segments, len(of_set), name

  chosen = max(same, key=order)
  if metrics is not None:
    chosen = evaluations[metrics].get('evaluated', {}).get('set') or chosen
  steps = {content['step'] for content in sets[chosen].values()}
  stand_in = {file: of for file, of in unnamed.items() if of['step'] not in steps}
  others = {name: of for name, of in sets.items() if name != chosen}
  return {**stand_in, **sets[chosen]}, others


def _newest(of_set):
  """Returns the file of the greatest step that has segments, or of the greatest step."""
  kept = [file for file in of_set if tf.io.gfile.exists(segments_file.beside(file))]
  return max(kept or of_set, key=lambda file: of_set[file]['step'])


def _of_others(others):
  listed = '; '.join(
    f'{name} ({", ".join(next(iter(of.values()))["evaluated"].get("file_pattern", ()))})'
    for name, of in others.items()
  )
  return f'Other images, or the same segmented in another way, were evaluated too: {listed}.'


def _per_class(rows):
  if not isinstance(rows, list):
    return []
  return [row for row in rows if isinstance(row, dict) and set(row) >= _PER_CLASS]


def _check_same(first, second):
  """Raises a UserError if two runs were evaluated on different images or classes."""
  if first.dataset != second.dataset:
    raise errors.UserError(
      f'{second.path}: was evaluated on dataset {second.dataset}, {first.path} on {first.dataset}; '
      'runs are compared on the same images: give runs of one dataset.'
    )
  ours, theirs = ([row['name'] for row in run.metrics['per_class']] for run in (first, second))
  if ours != theirs:
    raise errors.UserError(
      f'{second.path}: was evaluated on {len(theirs)} classes, {first.path} on {len(ours)}, or '
      'they have other names; runs are compared on the same classes.'
    )
  evaluated = [run.metrics.get('evaluated', {}) for run in (first, second)]
  if evaluated[0].get('files') != evaluated[1].get('files'):
    patterns = [', '.join(of.get('file_pattern', ())) or 'unknown files' for of in evaluated]
    raise errors.UserError(
      f'{second.path}: was evaluated on other images ({patterns[1]}) than {first.path} '
      f'({patterns[0]}); evaluate both on the same ones.'
    )
