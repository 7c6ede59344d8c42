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
  line: str  # `{here}` is the case's directory; it writes to `{here}/out`.
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


_RECORDS = (
  '"--set=train_dataset_options.file_pattern={here}/records/train-*" '
  '"--set=eval_dataset_options.file_pattern={here}/records/val-*"'
)
_TRAIN = 'deeplab2.trainer.train --config_file={here}/tiny.textproto --num_gpus=0'
_OWN = '--dataset={here}/own/dataset.json --annotations={here}/own/'
_PANOPTIC = f'{_OWN}panoptic.json --images={{here}}/own/images --num_workers=1'
_WITH_RECORDS = ('records', 'tiny.textproto')
_RUN = ('runs', 'tiny.textproto')

BUILD = Reader(
  'build_tfrecords',
  ('own',),
  f'build_tfrecords {_PANOPTIC} --split=train --output_dir={{here}}/out',
  checks.built,
)
INSPECT = Reader(
  'inspect_data annotations',
  ('own',),
  f'inspect_data annotations {_PANOPTIC} --json={{here}}/out/inspected.json',
  checks.inspected,
)
CONVERT_INSTANCES = Reader(
  'instances_to_panoptic',
  ('own',),
  f'instances_to_panoptic {_OWN}instances.json --output={{here}}/out/made.json',
  checks.converted_instances,
)
DESCRIBE = Reader(
  'instances_to_panoptic --describe_only',
  ('own',),
  'instances_to_panoptic --annotations={here}/own/instances.json '
  '--dataset={here}/out/described.json --describe_only',
)
CHECK_CONFIG = Reader(
  'check_config', ('tiny.textproto',), 'check_config {here}/tiny.textproto --no_sizes'
)
INSPECT_RECORDS = Reader(
  'inspect_data records',
  _WITH_RECORDS,
  f'inspect_data records --config_file={{here}}/tiny.textproto --split=train {_RECORDS} '
  '--json={here}/out/inspected.json',
  checks.inspected,
)
PLOT = Reader(
  'plot_run',
  ('runs',),
  'plot_run --run={here}/runs/tiny --output={here}/out/curves.png',
  checks.plotted,
)
PREDICT = Reader(
  'predict',
  ('own/images', 'exported'),
  'deeplab2.inference.predict --model={here}/exported --input={here}/own/images '
  '--output_dir={here}/out',
  checks.predicted,
)
CONVERT = Reader(
  'checkpoint.convert',
  _RUN,
  'deeplab2.checkpoint.convert --config_file={here}/tiny.textproto '
  '--checkpoint={here}/runs/tiny --output_dir={here}/out/converted',
  checks.converted,
)
EXPORT = Reader(
  'export',
  _RUN,
  'deeplab2.inference.export --config_file={here}/tiny.textproto '
  '--checkpoint_path={here}/runs/tiny --export_path={here}/out/exported',
  checks.exported,
)
CHECK_SIZES = Reader(
  'check_config with sizes', ('tiny.textproto',), 'check_config {here}/tiny.textproto'
)
RESUME = Reader(
  'train, resumed',
  _RUN,
  f'{_TRAIN} --mode=train --model_dir={{here}}/runs '
  '--set=trainer_options.solver_options.training_number_of_steps=6',
  checks.trained,
)
INITIAL = Reader(
  'train from initial_checkpoint',
  _RUN,
  f'{_TRAIN} --mode=train --model_dir={{here}}/out '
  '--set=model_options.initial_checkpoint={here}/runs/tiny/ckpt-4',
)
EVALUATE = Reader(
  'train --mode=eval',
  (*_WITH_RECORDS, 'runs'),
  f'{_TRAIN} --mode=eval --model_dir={{here}}/runs {_RECORDS} '
  '--set=evaluator_options.save_raw_predictions=true',
  checks.evaluated,
)
TRAIN = Reader('train', _WITH_RECORDS, f'{_TRAIN} --mode=train --model_dir={{here}}/out {_RECORDS}')
# The fast ones first.
READERS = (
  *(BUILD, INSPECT, CONVERT_INSTANCES, DESCRIBE, CHECK_CONFIG, INSPECT_RECORDS, PLOT, PREDICT),
  *(CONVERT, EXPORT, CHECK_SIZES, RESUME, INITIAL, EVALUATE, TRAIN),
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
  *mutations.named(
    {
      f'a name {what}': mutations.becomes(b'model_checkpoint_path: "%s"\n' % name)
      for what, name in (
        ('of nothing', b'ckpt-99'),
        ('elsewhere', b'../../../../../../etc/passwd'),
        ('of a million letters', b'x' * 10**6),
      )
    }
  ),
  Mutation(
    'names, a million', mutations.becomes(b'all_model_checkpoint_paths: "ckpt-4"\n' * 10**6)
  ),
)
_DATA = ('runs/tiny/ckpt-4.index', 'runs/tiny/ckpt-4.data-00000-of-00001')
_VALUES = ('exported/variables/variables.index', 'exported/variables/variables.data-00000-of-00001')
_TRAIN_RECORDS = ('records/train-00000-of-00002.tfrecord',)
_ALL_RECORDS = (*mutations.RECORD_FILES, *examples.EXAMPLES)
_JSONS = (mutations.JSONS, mutations.JSON_RANDOM)
_FRAMES = (mutations.RECORD_FILES, mutations.RECORD_FILES_RANDOM)
_EXAMPLES = (examples.EXAMPLES, examples.EXAMPLES_RANDOM)
_MODEL = (_ANY, mutations.RANDOM, (PREDICT,))
_CHECKPOINT = (_CHECKPOINT_FILES, mutations.RANDOM, (EXPORT, RESUME, EVALUATE))
_TEXTPROTO = ('tiny.textproto',)
_TARGETS = tuple(
  _Target(*parts)
  for parts in (
    ('records', 6, _TRAIN_RECORDS, *_FRAMES, (INSPECT_RECORDS,)),
    ('records', 13, _TRAIN_RECORDS, *_EXAMPLES, (INSPECT_RECORDS,)),
    (
      'records',
      2,
      ('records/val-00000-of-00002.tfrecord',),
      _ALL_RECORDS,
      examples.EXAMPLES_RANDOM,
      (EVALUATE,),
    ),
    ('records', 2, _TRAIN_RECORDS, _ALL_RECORDS, examples.EXAMPLES_RANDOM, (TRAIN,)),
    ('images', 10, ('own/images/image1.png',), images.PNGS, images.PNGS_RANDOM, (BUILD, PREDICT)),
    ('images', 8, ('own/images/image2.jpg',), images.JPEGS, images.PNGS_RANDOM, (PREDICT, BUILD)),
    ('images', 3, ('own/panoptic/image1.png',), images.PNGS, images.PNGS_RANDOM, (BUILD, INSPECT)),
    ('JSON', 8, ('own/panoptic.json',), *_JSONS, (BUILD, INSPECT)),
    ('JSON', 3, ('own/instances.json',), *_JSONS, (CONVERT_INSTANCES, DESCRIBE)),
    (
      'JSON',
      6,
      ('own/instances.json',),
      annotations.INSTANCES,
      mutations.JSON_RANDOM,
      (CONVERT_INSTANCES,),
    ),
    ('JSON', 5, ('own/dataset.json',), *_JSONS, (BUILD, INSPECT, CONVERT_INSTANCES)),
    ('JSON', 2, ('runs/tiny/eval/metrics-4.json',), *_JSONS, (PLOT,), 'any'),
    ('textproto', 9, _TEXTPROTO, mutations.TEXTPROTOS, mutations.TEXTPROTO_RANDOM, (CHECK_CONFIG,)),
    ('textproto', 2, _TEXTPROTO, (), mutations.TEXTPROTO_RANDOM, (CHECK_SIZES,)),
    ('checkpoints', 5, _DATA, _ANY, mutations.RANDOM, (EXPORT, RESUME, CONVERT)),
    ('checkpoints', 3, ('runs/tiny/checkpoint',), *_CHECKPOINT),
    ('checkpoints', 1, _DATA, (), mutations.RANDOM, (INITIAL, EVALUATE)),
    ('logs', 2, ('runs/tiny/train/events',), *_FRAMES, (PLOT,), 'any'),
    ('SavedModels', 4, ('exported/saved_model.pb',), *_MODEL),
    ('SavedModels', 3, _VALUES, *_MODEL),
    ('SavedModels', 1, ('exported/fingerprint.pb',), *_MODEL),
    ('SavedModels', 2, ('exported/assets.extra/dataset.json',), *_JSONS, (PREDICT,)),
  )
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
  """Returns the command or function that runs a case in `directory`."""

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
    Command.of(case.reader.line).within(here=directory),
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
  details = finished.output[-2000:] if failed else ''
  costs = (finished.seconds, finished.peak_mb)
  return Result(
    'corrupt', case.group, case.name, outcome, failed, *costs, details, str(job.command)
  )


def _outcome_of_exit(case, finished):
  """Classifies an exit code with its output."""
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
