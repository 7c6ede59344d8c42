"""Corrupted inputs, each through the command line that would read it.

A case copies good inputs to a directory of its own, spoils one file, and runs a command there. It
must end with exit code 2 and one line on standard error that names the spoiled file, or with exit
code 0 and a right result; without a traceback, a signal, a hang, or more than 4 GB; having written
nowhere but to its output; and a refusal leaves every file that was there as it was.
"""

from collections.abc import Callable, Iterable, Iterator
import itertools
import json
import os
import pathlib
import random
import shutil
from typing import NamedTuple
import zlib

from campaign import annotations
from campaign import checks
from campaign import examples
from campaign import images
from campaign import mutations
from campaign import processes
from campaign.mutations import Mutation
from campaign.processes import Command
from campaign.results import Result

_SECONDS = 60.0  # Beyond what the same command takes with good inputs.
_MEGABYTES = 4096.0


class Reader(NamedTuple):
  """A command line that reads a file."""

  name: str
  inputs: tuple[str, ...]  # Of the assets, copied to the case's directory.
  command: Command  # `{here}` is the case's directory; it writes to `{here}/out`.
  # Called as (directory, exit code, output); AssertionError for a result that is not right.
  check: Callable[[pathlib.Path, int, str], None] = lambda directory, code, output: None


class Case(NamedTuple):
  """A spoiled file and a command that reads it."""

  group: str
  file: str  # Relative to the case's directory.
  mutation: Mutation
  reader: Reader
  number: int

  @property
  def name(self) -> str:
    """Is unique."""
    return f'{self.number:03d} {self.file}: {self.mutation.name} ({self.reader.name})'


def needed(chosen: Iterable[Case]) -> set[str]:
  """Returns which of assets.PARTS cases need."""
  parts = {'runs': 'model', 'exported': 'model', 'records': 'records'}
  return {parts.get(name, 'own') for case in chosen for name in case.reader.inputs}


def _reader(name, inputs, module, *arguments, check=None):
  return Reader(
    name, inputs, Command(module, arguments), check or (lambda directory, code, output: None)
  )


_TRAIN = 'deeplab2.trainer.train'
_CONFIG = '--config_file={here}/tiny.textproto'
_CPU = '--num_gpus=0'
_RECORDS = tuple(
  f'--set={split}_dataset_options.file_pattern={{here}}/records/{name}-*'
  for split, name in (('train', 'train'), ('eval', 'val'))
)
_WITH_RECORDS = ('records', 'tiny.textproto')
_LONGER = '--set=trainer_options.solver_options.training_number_of_steps=6'
_OWN = (
  '--dataset={here}/own/dataset.json',
  '--split=train',
  '--output_dir={here}/out',
  '--images={here}/own/images',
  '--annotations={here}/own/panoptic.json',
  '--num_workers=1',
)

BUILD = _reader('build_tfrecords', ('own',), 'build_tfrecords', *_OWN, check=checks.built)
INSPECT = _reader(
  'inspect_data annotations',
  ('own',),
  'inspect_data',
  'annotations',
  '--dataset={here}/own/dataset.json',
  '--annotations={here}/own/panoptic.json',
  '--images={here}/own/images',
  '--num_workers=1',
  '--json={here}/out/inspected.json',
  check=checks.inspected,
)
CONVERT_INSTANCES = _reader(
  'instances_to_panoptic',
  ('own',),
  'instances_to_panoptic',
  '--annotations={here}/own/instances.json',
  '--dataset={here}/own/dataset.json',
  '--output={here}/out/made.json',
  check=checks.converted_instances,
)
DESCRIBE = _reader(
  'instances_to_panoptic --describe_only',
  ('own',),
  'instances_to_panoptic',
  '--annotations={here}/own/instances.json',
  '--dataset={here}/out/described.json',
  '--describe_only',
)
INSPECT_RECORDS = _reader(
  'inspect_data records',
  _WITH_RECORDS,
  'inspect_data',
  'records',
  _CONFIG,
  '--split=train',
  *_RECORDS,
  '--json={here}/out/inspected.json',
  check=checks.inspected,
)
TRAIN = _reader(
  'train', _WITH_RECORDS, _TRAIN, _CONFIG, '--mode=train', _CPU, '--model_dir={here}/out', *_RECORDS
)
EVALUATE = _reader(
  'train --mode=eval',
  (*_WITH_RECORDS, 'runs'),
  _TRAIN,
  _CONFIG,
  '--mode=eval',
  _CPU,
  '--model_dir={here}/runs',
  *_RECORDS,
  '--set=evaluator_options.save_raw_predictions=true',
  check=checks.evaluated,
)
RESUME = _reader(
  'train, resumed',
  ('runs', 'tiny.textproto'),
  _TRAIN,
  _CONFIG,
  '--mode=train',
  _CPU,
  '--model_dir={here}/runs',
  _LONGER,
  check=checks.trained,
)
INITIAL = _reader(
  'train from initial_checkpoint',
  ('runs', 'tiny.textproto'),
  _TRAIN,
  _CONFIG,
  '--mode=train',
  _CPU,
  '--model_dir={here}/out',
  '--set=model_options.initial_checkpoint={here}/runs/tiny/ckpt-4',
)
EXPORT = _reader(
  'export',
  ('runs', 'tiny.textproto'),
  'deeplab2.inference.export',
  _CONFIG,
  '--checkpoint_path={here}/runs/tiny',
  '--export_path={here}/out/exported',
  check=checks.exported,
)
CONVERT = _reader(
  'checkpoint.convert',
  ('runs', 'tiny.textproto'),
  'deeplab2.checkpoint.convert',
  _CONFIG,
  '--checkpoint={here}/runs/tiny',
  '--output_dir={here}/out/converted',
  check=checks.converted,
)
PREDICT = _reader(
  'predict',
  ('own/images', 'exported'),
  'deeplab2.inference.predict',
  '--model={here}/exported',
  '--input={here}/own/images',
  '--output_dir={here}/out',
  check=checks.predicted,
)
CHECK_CONFIG = _reader(
  'check_config', ('tiny.textproto',), 'check_config', '{here}/tiny.textproto', '--no_sizes'
)
CHECK_SIZES = _reader(
  'check_config with sizes', ('tiny.textproto',), 'check_config', '{here}/tiny.textproto'
)
PLOT = _reader(
  'plot_run',
  ('runs',),
  'plot_run',
  '--run={here}/runs/tiny',
  '--output={here}/out/curves.png',
  check=checks.plotted,
)
# The fast ones first.
READERS = (
  BUILD,
  INSPECT,
  CONVERT_INSTANCES,
  DESCRIBE,
  CHECK_CONFIG,
  INSPECT_RECORDS,
  PLOT,
  PREDICT,
  CONVERT,
  EXPORT,
  CHECK_SIZES,
  RESUME,
  INITIAL,
  EVALUATE,
  TRAIN,
)


class _Target(NamedTuple):
  """Files of one sort with the ways to spoil them and the commands that read them."""

  group: str
  weight: int  # Of 100 cases.
  files: tuple[str, ...]  # By turns.
  fixed: tuple[Mutation, ...]
  drawn: tuple[Mutation, ...]
  readers: tuple[Reader, ...]  # By turns.
  expected: str = ''  # Of all its mutations, if not their own.


_ANY = (*mutations.ANY_FILE, *mutations.PLACES)
_CHECKPOINT_FILES = (
  *_ANY,
  Mutation('a name of nothing', mutations.becomes(b'model_checkpoint_path: "ckpt-99"\n')),
  Mutation(
    'a name elsewhere',
    mutations.becomes(b'model_checkpoint_path: "../../../../../../etc/passwd"\n'),
  ),
  Mutation(
    'a name of a million letters',
    mutations.becomes(b'model_checkpoint_path: "' + b'x' * 10**6 + b'"\n'),
  ),
  Mutation(
    'names, a million', mutations.becomes(b'all_model_checkpoint_paths: "ckpt-4"\n' * 10**6)
  ),
)
_DATA = ('runs/tiny/ckpt-4.index', 'runs/tiny/ckpt-4.data-00000-of-00001')
_TARGETS = (
  _Target(
    'records',
    6,
    ('records/train-00000-of-00002.tfrecord',),
    mutations.RECORD_FILES,
    mutations.RECORD_FILES_RANDOM,
    (INSPECT_RECORDS,),
  ),
  _Target(
    'records',
    13,
    ('records/train-00000-of-00002.tfrecord',),
    examples.EXAMPLES,
    examples.EXAMPLES_RANDOM,
    (INSPECT_RECORDS,),
  ),
  _Target(
    'records',
    2,
    ('records/val-00000-of-00002.tfrecord',),
    (*mutations.RECORD_FILES, *examples.EXAMPLES),
    examples.EXAMPLES_RANDOM,
    (EVALUATE,),
  ),
  _Target(
    'records',
    2,
    ('records/train-00000-of-00002.tfrecord',),
    (*mutations.RECORD_FILES, *examples.EXAMPLES),
    examples.EXAMPLES_RANDOM,
    (TRAIN,),
  ),
  _Target(
    'images', 10, ('own/images/image1.png',), images.PNGS, images.PNGS_RANDOM, (BUILD, PREDICT)
  ),
  _Target(
    'images', 8, ('own/images/image2.jpg',), images.JPEGS, images.PNGS_RANDOM, (PREDICT, BUILD)
  ),
  _Target(
    'images', 3, ('own/panoptic/image1.png',), images.PNGS, images.PNGS_RANDOM, (BUILD, INSPECT)
  ),
  _Target(
    'JSON', 8, ('own/panoptic.json',), mutations.JSONS, mutations.JSON_RANDOM, (BUILD, INSPECT)
  ),
  _Target(
    'JSON',
    3,
    ('own/instances.json',),
    mutations.JSONS,
    mutations.JSON_RANDOM,
    (CONVERT_INSTANCES, DESCRIBE),
  ),
  _Target(
    'JSON',
    6,
    ('own/instances.json',),
    annotations.INSTANCES,
    mutations.JSON_RANDOM,
    (CONVERT_INSTANCES,),
  ),
  _Target(
    'JSON',
    5,
    ('own/dataset.json',),
    mutations.JSONS,
    mutations.JSON_RANDOM,
    (BUILD, INSPECT, CONVERT_INSTANCES),
  ),
  _Target(
    'JSON',
    2,
    ('runs/tiny/eval/metrics-4.json',),
    mutations.JSONS,
    mutations.JSON_RANDOM,
    (PLOT,),
    'any',
  ),
  _Target(
    'textproto',
    9,
    ('tiny.textproto',),
    mutations.TEXTPROTOS,
    mutations.TEXTPROTO_RANDOM,
    (CHECK_CONFIG,),
  ),
  _Target('textproto', 2, ('tiny.textproto',), (), mutations.TEXTPROTO_RANDOM, (CHECK_SIZES,)),
  _Target('checkpoints', 5, _DATA, _ANY, mutations.RANDOM, (EXPORT, RESUME, CONVERT)),
  _Target(
    'checkpoints',
    3,
    ('runs/tiny/checkpoint',),
    _CHECKPOINT_FILES,
    mutations.RANDOM,
    (EXPORT, RESUME, EVALUATE),
  ),
  _Target('checkpoints', 1, _DATA, (), mutations.RANDOM, (INITIAL, EVALUATE)),
  _Target(
    'logs',
    2,
    ('runs/tiny/train/events',),
    mutations.RECORD_FILES,
    mutations.RECORD_FILES_RANDOM,
    (PLOT,),
    'any',
  ),
  _Target('SavedModels', 4, ('exported/saved_model.pb',), _ANY, mutations.RANDOM, (PREDICT,)),
  _Target(
    'SavedModels',
    3,
    ('exported/variables/variables.index', 'exported/variables/variables.data-00000-of-00001'),
    _ANY,
    mutations.RANDOM,
    (PREDICT,),
  ),
  _Target('SavedModels', 1, ('exported/fingerprint.pb',), _ANY, mutations.RANDOM, (PREDICT,)),
  _Target(
    'SavedModels',
    2,
    ('exported/assets.extra/dataset.json',),
    mutations.JSONS,
    mutations.JSON_RANDOM,
    (PREDICT,),
  ),
)


def cases(count: int, seed: int) -> list[Case]:
  """Returns `count` cases, the same for the same arguments."""
  rng = random.Random(seed)
  found = []
  total = sum(target.weight for target in _TARGETS)
  done = 0
  for target in _TARGETS:
    done += target.weight
    wanted = round(count * done / total) - len(found)
    pairs = list(itertools.product(target.files, target.readers))
    chosen = mutations.choose(target.fixed, target.drawn, wanted, rng)
    for index, mutation in enumerate(chosen):
      if target.expected:
        mutation = mutation._replace(expected=target.expected)
      # Every file with every reader.
      file, reader = pairs[index % len(pairs)]
      found.append(Case(target.group, file, mutation, reader, len(found)))
  return found


def run(
  chosen: list[Case], assets: pathlib.Path, work: pathlib.Path, seed: int, at_a_time: int
) -> Iterator[Result]:
  """Runs cases; yields their results as they come.

  Raises:
    RuntimeError: one of the commands fails on inputs that are not spoiled.
  """
  for reader in READERS:
    mine = {case.name: case for case in chosen if case.reader == reader}
    if not mine:
      continue
    seconds = _normal_seconds(reader, assets, work) + _SECONDS
    jobs = (
      _job(case, assets, work / f'{case.number:03d}', seed, seconds) for case in mine.values()
    )
    for job, finished in processes.run_forked(jobs, at_a_time):
      result = _judged(mine[job.name], job, finished)
      if not result.failed:
        shutil.rmtree(job.directory)
      yield result


def _normal_seconds(reader, assets, work):
  """Returns how long a command takes with good inputs; it is run unless that is known."""
  path = work / 'normal_seconds.json'
  known = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
  if reader.name not in known:
    good = Case('', '', Mutation('', lambda data, rng: data, 'accepted'), reader, 0)
    job = _job(good, assets, work / 'good', 0, 600.0)
    [(_, finished)] = processes.run_forked([job])
    if finished.ended_by != 'exit' or finished.code != 0:
      raise RuntimeError(
        f'{job.command} fails on good inputs: {finished.ended_by}\n{finished.output[-3000:]}'
      )
    known[reader.name] = finished.seconds
    path.write_text(json.dumps(known), encoding='utf-8')
    shutil.rmtree(job.directory)
  return known[reader.name]


def _job(case, assets, directory, seed, seconds):
  """Returns what runs a case in `directory`."""

  def prepare():
    shutil.rmtree(directory, ignore_errors=True)
    (directory / 'out').mkdir(parents=True)
    for name in case.reader.inputs:
      _copy(assets / name, directory / name)
    if case.file:
      path = _existing(directory / case.file)
      # Of the seed and the name, so that a case is the same when it is run alone.
      rng = random.Random(zlib.crc32(f'{seed} {case.name}'.encode()))
      mutations.spoil_file(path, case.mutation, rng)
    checks.note_files(directory)

  def check(code, output):
    here = pathlib.Path.cwd()
    entries = {'out', 'output.txt', 'prepare.txt', 'before.txt'}
    entries |= {pathlib.PurePath(name).parts[0] for name in case.reader.inputs}
    written = set(os.listdir(here)) - entries
    assert not written, f'{sorted(written)} was written outside the output directory'
    if code == 2:
      changed = checks.changed_files(here)
      assert not changed, f'refused, but {changed} are not as they were'
    case.reader.check(here, code, output)

  return processes.Job(
    case.name,
    case.reader.command.within(directory),
    directory,
    processes.Limits(seconds, _MEGABYTES),
    prepare,
    check,
  )


def _copy(source, target):
  target.parent.mkdir(parents=True, exist_ok=True)
  if source.is_dir():
    shutil.copytree(source, target)
  else:
    shutil.copy(source, target)


def _existing(path):
  """Returns `path`, or where that is no file, the one file whose name goes on after it."""
  if path.exists():
    return path
  [found] = path.parent.glob(f'{path.name}*')
  return found


def _judged(case, job, finished) -> Result:
  """Returns the result of a case."""
  outcome = finished.ended_by
  if outcome == 'exit':
    outcome = _outcome_of_exit(case, finished)
  failed = outcome not in ('refused', 'right result')
  return Result(
    'corrupt',
    case.group,
    case.name,
    outcome,
    failed,
    finished.seconds,
    finished.peak_mb,
    finished.output[-2000:] if failed else '',
    str(job.command),
  )


def _outcome_of_exit(case, finished):
  """Returns what an exit code with an output amounts to."""
  lines = finished.output.rstrip().splitlines()
  if 'Traceback (most recent call last)' in finished.output:
    return 'traceback'
  if finished.code == 0:
    return 'accepted, must be refused' if case.mutation.expected == 'refused' else 'right result'
  if finished.code != 2:
    return f'exit code {finished.code}'
  errors = [line for line in lines if line.startswith('error: ')]
  if len(errors) != 1 or lines[-1] != errors[0]:
    return 'not one line'
  if len(errors[0]) > 2000:
    return 'a line of more than 2000 letters'
  # A checkpoint, a model, and a run are named by their directories.
  known_by = {pathlib.PurePath(case.file).name.partition('.')[0], 'runs/tiny', 'exported'}
  if not any(name in line for name in known_by for line in lines):
    return 'does not name the file'
  if case.mutation.expected == 'accepted':
    return 'refused, must be accepted'
  return 'refused'
