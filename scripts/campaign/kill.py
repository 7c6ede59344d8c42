"""Kills commands at random moments, starts them again until they end, and compares the results.

Half of the moments wait for a file that is being written (a checkpoint, a shard, an image, a
report) and strike within 30 ms of its appearance; the other half is spread over the whole of a
start, from the import of TensorFlow on, to one and a half times what it takes until something is
saved, so that a command gets on. Some kills hit the command alone, some its workers too.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import time
from typing import Any, NamedTuple
import zlib

import tensorflow as tf

from campaign import processes
from campaign.processes import Command
from campaign.results import Result

_POLL_SECONDS = 0.001
_MOST_KILLS = 15  # Of one run; then it may end.
_LONGEST_SECONDS = 900.0  # Of one start.
_DURING_IMPORT = 0.2  # Part of the kills at random times.
# Names of files while they are written, or of what says that writing is under way.
_BEING_WRITTEN = re.compile(r'.*(_temp|\.part|\.tmp|^\.writing-|^unfinished-|\.tempstate)')


class Long(NamedTuple):
  """A command that takes long and goes on where it stopped."""

  name: str
  command: Command  # `{here}` is the directory of a run of it.
  saved: re.Pattern[str]  # Paths of what it has saved for the next start.
  events: re.Pattern[str]  # Names of files whose appearance is a moment to kill.
  results: Callable[[pathlib.Path], dict[str, Any]]  # What two runs must agree in.


class Reference(NamedTuple):
  """A run that nobody interrupted."""

  results: dict[str, Any]
  seconds_to_save: float  # Until the first file is saved.
  seconds: float  # Until the end.


def commands(assets: pathlib.Path) -> tuple[Long, ...]:
  """Returns the commands that are killed."""
  config = f'--config_file={assets / "tiny.textproto"}'
  solver = 'trainer_options.solver_options'
  training = Command(
    'deeplab2.trainer.train',
    (
      config,
      '--mode=train_and_eval',
      '--model_dir={here}/runs',
      '--num_gpus=0',
      f'--set={solver}.training_number_of_steps=12',
      '--set=evaluator_options.eval_interval=4',
      '--gin_param=set_up.seed = 1',
      '--gin_param=set_up.deterministic = True',
    ),
  )
  own = assets / 'own_many'
  tfrecords = re.compile(r'.*\.tfrecord(\.part)?')
  return (
    Long(
      'training',
      training,
      re.compile(r'.*ckpt-[1-9]\d*\.index'),
      re.compile(_BEING_WRITTEN.pattern + r'|ckpt-.*|checkpoint.*|metrics-.*'),
      _of_training,
    ),
    Long(
      'conversion of own data',
      Command(
        'build_tfrecords',
        (
          f'--dataset={own / "dataset.json"}',
          '--split=train',
          '--output_dir={here}/records',
          f'--images={own / "images"}',
          f'--annotations={own / "panoptic.json"}',
          '--num_shards=15',
          '--num_workers=2',
        ),
      ),
      tfrecords,
      re.compile(_BEING_WRITTEN.pattern + r'|.*\.tfrecord|manifest-.*'),
      _of_files('records'),
    ),
    Long(
      'conversion of shapes',
      Command(
        'build_tfrecords',
        (
          '--dataset=shapes',
          '--split=train',
          '--output_dir={here}/records',
          '--num_images=200',
          '--num_shards=10',
          '--num_workers=2',
          '--images_dir={here}/images',
        ),
      ),
      tfrecords,
      re.compile(_BEING_WRITTEN.pattern + r'|.*\.tfrecord|manifest-.*'),
      _of_files('records', 'images'),
    ),
    Long(
      'prediction',
      Command(
        'deeplab2.inference.predict',
        (
          f'--model={assets / "exported"}',
          f'--input={own / "images"}',
          '--output_dir={here}/predictions',
        ),
      ),
      re.compile(r'.*panoptic/.*\.png'),
      re.compile(_BEING_WRITTEN.pattern + r'|.*\.png|.*\.json.*'),
      _of_files('predictions'),
    ),
  )


def needed(chosen: Iterable[Long]) -> set[str]:
  """Returns which of assets.PARTS commands need."""
  return {{'training': 'records', 'prediction': 'model'}.get(one.name, 'own') for one in chosen}


def _of_training(directory):
  """Returns digests of the final variables, the numbers of all evaluations, and drawn images."""
  run = directory / 'runs' / 'tiny'
  indices = sorted(run.glob('ckpt-*.index'), key=lambda path: int(path.stem.split('-')[1]))
  found: dict[str, Any] = {'checkpoints': [path.stem for path in indices]}
  if indices:
    reader = tf.train.load_checkpoint(str(indices[-1].with_suffix('')))
    for key in sorted(reader.get_variable_to_shape_map()):
      if key.endswith('VARIABLE_VALUE') and 'save_counter' not in key:
        found[key] = _digest(reader.get_tensor(key).tobytes())
  for path in sorted((run / 'eval').glob('metrics-*.json')):
    content = json.loads(path.read_text(encoding='utf-8'))
    # Logs of the process that trains meanwhile: none if it was started to evaluate alone.
    content.pop('training', None)
    found[path.name] = content
  found.update(_digests(run / 'vis'))
  return found


def _of_files(*names):
  """Returns a function that returns digests of files below the directories of a run."""

  def results(directory):
    found = {}
    for name in names:
      found.update(_digests(directory / name))
    return found

  return results


def _digests(directory):
  """Returns digests of the files below a directory; of JSON their content without times."""
  found = {}
  for path in sorted(directory.rglob('*')):
    if path.is_file():
      name = str(path.relative_to(directory.parent))
      data = path.read_bytes()
      if path.suffix == '.json':
        content = json.loads(data)
        found[name] = {
          key: value
          for key, value in content.items()
          if key not in ('created', 'seconds', 'time', 'date_created')
        }
      else:
        found[name] = _digest(data)
  return found


def _digest(data):
  return hashlib.sha256(data).hexdigest()


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
  """Returns what is missing, surplus or different, one line each."""
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


def refer(one: Long, directory: pathlib.Path) -> Reference:
  """Runs a command without interruption.

  Raises:
    RuntimeError: it fails.
  """
  shutil.rmtree(directory, ignore_errors=True)
  directory.mkdir(parents=True)
  started = time.monotonic()
  saved = None
  with processes.started(one.command.within(directory), directory / 'output.txt') as process:
    while process.poll() is None:
      if saved is None and any(map(one.saved.fullmatch, _files(directory))):
        saved = time.monotonic() - started
      time.sleep(0.02)
  if process.returncode:
    raise RuntimeError(
      f'{one.command.within(directory)}: exit code {process.returncode}:\n'
      f'{_output(directory)[-2000:]}'
    )
  seconds = time.monotonic() - started
  return Reference(one.results(directory), seconds if saved is None else saved, seconds)


def run(
  one: Long, number: int, most_kills: int, reference: Reference, directory: pathlib.Path, seed: int
) -> tuple[Result, int]:
  """Runs a command to its end with kills on the way; returns the result and the number of kills."""
  rng = random.Random(zlib.crc32(f'{seed} {one.name} {number}'.encode()))
  shutil.rmtree(directory, ignore_errors=True)
  directory.mkdir(parents=True)
  command = one.command.within(directory)
  started = time.monotonic()
  kills, peak = [], 0.0
  outcome, details = '', []
  while not outcome:
    may_kill = len(kills) < min(most_kills, _MOST_KILLS)
    moment = _moment(rng, reference) if may_kill else None
    with processes.started(command, directory / 'output.txt') as process:
      how, weight = _watch(process, one, directory, moment)
    peak = max(peak, weight)
    if how:
      kills.append(how)
    elif process.returncode < 0:
      outcome = f'signal {-process.returncode}'
    elif process.returncode:
      outcome = 'refuses to go on'
    else:
      break
  if not outcome:
    details = differences(one.results(directory), reference.results)
    outcome = 'different' if details else 'equal'
  if outcome not in ('equal', 'different'):
    details = _output(directory).splitlines()
  left = [name for name in _files(directory) if _BEING_WRITTEN.match(os.path.basename(name))]
  lines = [
    f'{len(kills)} kills: {", ".join(kills)}',
    *details[-12:],
    *([f'left over: {", ".join(left[:5])}'] if left else []),
  ]
  result = Result(
    'kill',
    one.name,
    f'{one.name} {number}',
    outcome,
    outcome != 'equal',
    time.monotonic() - started,
    peak,
    '\n'.join(lines),
    str(command),
  )
  return result, len(kills)


class _Moment(NamedTuple):
  """When to kill: the `count`th new file that matches, or `seconds` after the start."""

  seconds: float
  count: int  # 0: at a time.
  delay: float
  with_workers: bool


def _moment(rng, reference):
  """Draws a moment."""
  if rng.random() < 0.5:
    return _Moment(
      _LONGEST_SECONDS, rng.choice([1, 1, 2, 3, 5, 8]), rng.uniform(0, 0.03), rng.random() < 0.5
    )
  if rng.random() < _DURING_IMPORT:
    return _Moment(rng.uniform(0, 0.3 * reference.seconds_to_save), 0, 0.0, rng.random() < 0.5)
  return _Moment(rng.uniform(0.3, 1.5) * reference.seconds_to_save, 0, 0.0, rng.random() < 0.5)


def _watch(process, one, directory, moment) -> tuple[str, float]:
  """Waits for the moment and kills; returns what it was, '' if the process ended, and the peak."""
  started, peak = time.monotonic(), 0.0
  known = set(_files(directory))
  new = 0
  while process.poll() is None:
    seconds = time.monotonic() - started
    peak = max(peak, processes.resident_mb(process.pid))
    if seconds > _LONGEST_SECONDS:
      raise RuntimeError(f'{one.name}: takes more than {_LONGEST_SECONDS} seconds.')
    why = ''
    if moment is not None and moment.count:
      appeared = [name for name in _files(directory) if name not in known]
      known.update(appeared)
      matching = [name for name in appeared if one.events.fullmatch(os.path.basename(name))]
      new += len(matching)
      if new >= moment.count:
        time.sleep(moment.delay)
        why = f'{os.path.basename(matching[-1])} at {seconds:.1f} s'
    elif moment is not None and seconds > moment.seconds:
      why = f'{seconds:.1f} s'
    if why:
      if process.poll() is not None:
        break
      with contextlib.suppress(ProcessLookupError):
        if moment.with_workers:
          os.killpg(process.pid, signal.SIGKILL)
        else:
          process.kill()
      process.wait()
      if process.returncode == -signal.SIGKILL:
        return why, peak
      break
    time.sleep(_POLL_SECONDS if moment is not None and moment.count else 0.02)
  process.wait()
  return '', peak


def _files(directory) -> list[str]:
  """Returns the paths below a directory that is being written to."""
  found, waiting = [], [str(directory)]
  while waiting:
    try:
      with os.scandir(waiting.pop()) as entries:
        for entry in entries:
          found.append(entry.path)
          if entry.is_dir(follow_symlinks=False):
            waiting.append(entry.path)
    except OSError:  # Gone since.
      pass
  return found


def _output(directory):
  return (directory / 'output.txt').read_text(errors='replace')


def run_all(
  chosen: tuple[Long, ...], count: int, work: pathlib.Path, seed: int, done: dict[str, Result]
) -> Iterator[Result]:
  """Kills each command at least `count` times over as many runs as that takes.

  Args:
    chosen: the commands.
    count: of kills of each.
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
    reference = refer(one, work / name / 'reference')
    if f'{one.name} 0' not in done:
      again, _ = run(one, 0, 0, reference, work / name / '0', seed)
      yield again
    number = 1 + sum(result.group == one.name for result in done.values() if _kills_of(result))
    while kills < count:
      directory = work / name / str(number)
      result, more = run(one, number, count - kills, reference, directory, seed)
      kills, number = kills + more, number + 1
      if not result.failed:
        shutil.rmtree(directory)
      yield result


def _kills_of(result):
  """Returns how many kills a result counts."""
  return int(result.details.split()[0])
