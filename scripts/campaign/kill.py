"""Kills commands at random moments, starts them again until they end, and compares the results.

Half of the moments wait for a file that is being written (a checkpoint, a shard, an image, a
report) and strike within 30 ms of its appearance; the other half is spread over the whole of a
start, from the import of TensorFlow on, to one and a half times what it takes until something is
saved, so that a command gets on. Some kills hit the command alone, some its workers too.
"""

from collections.abc import Callable, Collection, Iterator
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import time
from typing import Any, NamedTuple
import zlib

import tensorflow as tf

from campaign import checks
from campaign import processes
from campaign.processes import Command
from campaign.results import Result

_POLL_SECONDS = 0.001
_MOST_KILLS = 15  # Of one run; then it may end.
_LONGEST_SECONDS = 900.0  # Of one start.
_DURING_IMPORT = 0.2  # Part of the kills at random times.
# Names of files while they are written, or of what says that writing is under way.
_BEING_WRITTEN = r'.*(_temp|\.part|\.tmp|^\.writing-|^unfinished-|\.tempstate)'
_KILLED = 'killed: '


class Long(NamedTuple):
  """A command that takes long and goes on where it stopped."""

  name: str
  needs: str  # Of assets.PARTS.
  line: str  # {here} is the directory of a run of it, {assets} that of the assets.
  saved: str  # Pattern of the paths of what it has saved for the next start.
  events: str  # Of names of files, besides _BEING_WRITTEN, whose appearance is a moment to kill.
  results: Callable[[pathlib.Path], dict[str, Any]]  # What two runs must agree in.


class Reference(NamedTuple):
  """A run that nobody interrupted."""

  results: dict[str, Any]
  seconds_to_save: float  # Until the first file is saved, or the end.


def _of_training(directory):
  """Returns digests of the final variables, the numbers of all evaluations, and drawn images."""
  run = directory / 'runs' / 'tiny'
  indices = sorted(run.glob('ckpt-*.index'), key=lambda path: int(path.stem.split('-')[1]))
  found: dict[str, Any] = {'checkpoints': [path.stem for path in indices]}
  if indices:
    reader = tf.train.load_checkpoint(str(indices[-1].with_suffix('')))
    for key in sorted(reader.get_variable_to_shape_map()):
      if key.endswith('VARIABLE_VALUE') and 'save_counter' not in key:
        found[key] = hashlib.sha256(reader.get_tensor(key).tobytes()).hexdigest()
  for path in sorted((run / 'eval').glob('metrics-*.json')):
    content = json.loads(path.read_text(encoding='utf-8'))
    # Logs of the process that trains meanwhile: none if it was started to evaluate alone.
    content.pop('training', None)
    found[path.name] = content
  return found | _of_files('vis')(run)


def _of_files(*names):
  """Returns a function: directory -> digests of files below `names`; of JSON, all but times."""

  def results(directory):
    found: dict[str, Any] = {}
    for path, content in checks.digests(directory).items():
      if path.partition('/')[0] not in names:
        continue
      if path.endswith('.json'):
        content = json.loads((directory / path).read_bytes())
        for key in ('created', 'seconds', 'time', 'date_created'):
          content.pop(key, None)
      found[path] = content
    return found

  return results


_SHARDS = (r'.*\.tfrecord(\.part)?', r'.*\.tfrecord|manifest-.*')
COMMANDS = (
  Long(
    'training',
    'records',
    'deeplab2.trainer.train --config_file={assets}/tiny.textproto --mode=train_and_eval '
    '--model_dir={here}/runs --num_gpus=0 --set=evaluator_options.eval_interval=4 '
    '--set=trainer_options.solver_options.training_number_of_steps=12 '
    '--gin_param="set_up.seed = 1" --gin_param="set_up.deterministic = True"',
    r'.*ckpt-[1-9]\d*\.index',
    'ckpt-.*|checkpoint.*|metrics-.*',
    _of_training,
  ),
  Long(
    'conversion of own data',
    'own',
    'build_tfrecords --dataset={assets}/own_many/dataset.json --split=train '
    '--output_dir={here}/records --images={assets}/own_many/images '
    '--annotations={assets}/own_many/panoptic.json --num_shards=15 --num_workers=2',
    *_SHARDS,
    _of_files('records'),
  ),
  Long(
    'conversion of shapes',
    'own',
    'build_tfrecords --dataset=shapes --split=train --output_dir={here}/records --num_images=200 '
    '--num_shards=10 --num_workers=2 --images_dir={here}/images',
    *_SHARDS,
    _of_files('records', 'images'),
  ),
  Long(
    'prediction',
    'model',
    'deeplab2.inference.predict --model={assets}/exported --input={assets}/own_many/images '
    '--output_dir={here}/predictions',
    r'.*panoptic/.*\.png',
    r'.*\.png|.*\.json.*',
    _of_files('predictions'),
  ),
)


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
  """Returns the differences (missing, surplus, different), one line each."""
  lines = [f'missing: {key}' for key in sorted(wanted.keys() - found.keys())]
  lines += [f'surplus: {key}' for key in sorted(found.keys() - wanted.keys())]
  for key in sorted(wanted.keys() & found.keys()):
    if found[key] != wanted[key]:
      lines.append(f'different: {key}{_inside(found[key], wanted[key])}')
  return lines


def _inside(found, wanted):
  """Returns the first place in which two values of a JSON differ, shown behind its name."""
  if isinstance(found, dict) and isinstance(wanted, dict):
    for key in sorted(found.keys() | wanted.keys(), key=str):
      if found.get(key) != wanted.get(key):
        return f'.{key}{_inside(found.get(key), wanted.get(key))}'
  return f': {found!s:.60} instead of {wanted!s:.60}'


def refer(one: Long, directory: pathlib.Path, assets: pathlib.Path) -> Reference:
  """Runs a command without interruption.

  Raises:
    RuntimeError: it fails.
  """
  command = _begin(one, directory, assets)
  saved: list[float] = []

  def look(seconds, _):
    if not saved and any(re.fullmatch(one.saved, path) for path in _files(directory)):
      saved.append(seconds)
    return ''

  ended = processes.watch(command, directory / 'output.txt', look)
  if ended.code != 0:
    raise RuntimeError(f'{command}: {ended.ended_by} {ended.code}:\n{ended.output[-2000:]}')
  return Reference(one.results(directory), [*saved, ended.seconds][0])


def _begin(one, directory, assets):
  """Returns the command of a run in a new directory."""
  shutil.rmtree(directory, ignore_errors=True)
  directory.mkdir(parents=True)
  return Command.of(one.line, here=directory, assets=assets)


def run(
  one: Long,
  number: int,
  most_kills: int,
  reference: Reference,
  directory: pathlib.Path,
  assets: pathlib.Path,
  seed: int,
) -> Result:
  """Runs a command to its end with at most `most_kills` kills on the way."""
  rng = random.Random(zlib.crc32(f'{seed} {one.name} {number}'.encode()))
  command = _begin(one, directory, assets)
  log = directory / 'output.txt'
  kills, seconds, peak = [], 0.0, 0.0
  while True:
    look, pause, with_workers = _never, 0.02, True
    if len(kills) < min(most_kills, _MOST_KILLS):
      look, pause = _moment(rng, one, reference, directory)
      with_workers = rng.random() < 0.5
    ended = processes.watch(command, log, look, pause=pause, with_workers=with_workers)
    seconds, peak = seconds + ended.seconds, max(peak, ended.peak_mb)
    if not ended.ended_by.startswith(_KILLED):
      break
    kills.append(ended.ended_by.removeprefix(_KILLED))
  details = ended.output.splitlines()
  if ended.code == 0:
    details = differences(one.results(directory), reference.results)
    outcome = 'different' if details else 'equal'
  else:
    outcome = ended.ended_by if ended.code is None else 'refuses to go on'
  left = [path for path in _files(directory) if re.match(_BEING_WRITTEN, os.path.basename(path))]
  lines = [f'{len(kills)} kills: {", ".join(kills)}', *details[-12:]]
  lines += [f'left over: {", ".join(left[:5])}'] if left else []
  name, failed, shown = f'{one.name} {number}', outcome != 'equal', '\n'.join(lines)
  return Result('kill', one.name, name, outcome, failed, seconds, peak, shown, str(command))


def _never(seconds, _):
  if seconds > _LONGEST_SECONDS:
    raise RuntimeError(f'a command takes more than {_LONGEST_SECONDS} seconds.')
  return ''


def _moment(rng, one, reference, directory):
  """Draws when to kill: after some new files, or at a time; returns (look, seconds between)."""
  if rng.random() < 0.5:
    count, delay = rng.choice([1, 1, 2, 3, 5, 8]), rng.uniform(0, 0.03)
    known, new = set(_files(directory)), []
    is_event = re.compile(f'{_BEING_WRITTEN}|{one.events}').fullmatch

    def look(seconds, _):
      appeared = [path for path in _files(directory) if path not in known]
      known.update(appeared)
      new.extend(filter(is_event, map(os.path.basename, appeared)))
      if len(new) < count:
        return _never(seconds, _)
      time.sleep(delay)
      return f'{_KILLED}{new[-1]} at {seconds:.1f} s'

    return look, _POLL_SECONDS
  early = rng.random() < _DURING_IMPORT
  moment = reference.seconds_to_save * (rng.uniform(0, 0.3) if early else rng.uniform(0.3, 1.5))
  return lambda seconds, _: f'{_KILLED}{seconds:.1f} s' if seconds > moment else '', 0.02


def _files(directory) -> list[str]:
  """Returns the paths below a directory that is being written to."""
  return [os.path.join(at, name) for at, *both in os.walk(directory) for name in sum(both, [])]


def run_all(
  chosen: Collection[Long],
  count: int,
  assets: pathlib.Path,
  work: pathlib.Path,
  seed: int,
  done: dict[str, Result],
) -> Iterator[Result]:
  """Kills each command at least `count` times over as many runs as that takes.

  Args:
    chosen: the commands.
    count: of kills of each.
    assets: what the commands work on.
    work: directory for the runs; those that are not equal stay there.
    seed: of the moments.
    done: results of an earlier campaign, which are not repeated.

  Yields:
    The results, that of a second run without interruption among them.
  """
  for one in chosen:
    name = one.name.replace(' ', '_')
    kills = sum(_kills_of(result) for result in done.values() if result.group == one.name)
    if kills >= count:
      continue
    reference = refer(one, work / name / 'reference', assets)
    if f'{one.name} 0' not in done:
      yield run(one, 0, 0, reference, work / name / '0', assets, seed)
    number = 1 + sum(result.group == one.name for result in done.values() if _kills_of(result))
    while kills < count:
      directory = work / name / str(number)
      result = run(one, number, count - kills, reference, directory, assets, seed)
      kills, number = kills + _kills_of(result), number + 1
      if not result.failed:
        shutil.rmtree(directory)
      yield result


def _kills_of(result):
  """Returns how many kills a result counts."""
  return int(result.details.split()[0])
