"""Corrupted inputs, each through the command line that would read it.

A case copies good inputs to a directory of its own, spoils one file, and runs a command there. It
must end with exit code 2 (or 1, where all but what is spoiled is done) and one line on standard
error that names the spoiled file, or with exit code 0 and a right result; without a traceback, a
signal, a hang, or more than 4 GB; having written nowhere but to its output; and a refusal leaves
every file that was there as it was.
"""

from collections.abc import Callable, Iterable, Iterator
import itertools
import json
import os
import pathlib
import random
import re
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
_BEFORE = 'before.txt'  # Digests of all files of a case before the command.


class Reader(NamedTuple):
  """A command line that reads a file."""

  name: str
  line: str  # `{here}` is the case's directory; it writes to `{here}/out`.
  # Called as (directory, exit code, output); AssertionError for a result that is not right.
  check: Callable[[pathlib.Path, int, str], None] = lambda directory, code, output: None
  refusals: tuple[int, ...] = (
    2,
  )  # Exit codes; 1 is for work that is done but for what is spoiled.

  @property
  def inputs(self) -> set[str]:
    """Those of the assets that it names, which are copied to the case's directory."""
    return set(re.findall(r'{here}/(own|records|runs|exported|tiny\.textproto)', self.line))


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
_CONFIG = '--config_file={here}/tiny.textproto'
_TRAIN = f'deeplab2.trainer.train {_CONFIG} --num_gpus=0'
_OWN = '--dataset={here}/own/dataset.json --annotations={here}/own/'
_PANOPTIC = f'{_OWN}panoptic.json --images={{here}}/own/images --num_workers=1'

BUILD = Reader(
  'build_tfrecords',
  f'build_tfrecords {_PANOPTIC} --split=train --output_dir={{here}}/out',
  checks.built,
)
INSPECT = Reader(
  'inspect_data annotations',
  f'inspect_data annotations {_PANOPTIC} --json={{here}}/out/inspected.json',
  checks.inspected,
)
CONVERT_INSTANCES = Reader(
  'instances_to_panoptic',
  f'instances_to_panoptic {_OWN}instances.json --output={{here}}/out/made.json',
  checks.converted_instances,
)
DESCRIBE = Reader(
  'instances_to_panoptic --describe_only',
  'instances_to_panoptic --annotations={here}/own/instances.json '
  '--dataset={here}/out/described.json --describe_only',
)
CHECK_CONFIG = Reader('check_config', 'check_config {here}/tiny.textproto --no_sizes')
INSPECT_RECORDS = Reader(
  'inspect_data records',
  f'inspect_data records {_CONFIG} --split=train {_RECORDS} --json={{here}}/out/inspected.json',
  checks.inspected,
)
PLOT = Reader(
  'plot_run', 'plot_run --run={here}/runs/tiny --output={here}/out/curves.png', checks.plotted
)
PREDICT = Reader(
  'predict',
  'deeplab2.inference.predict --model={here}/exported --input={here}/own/images '
  '--output_dir={here}/out',
  checks.predicted,
  refusals=(1, 2),
)
CONVERT = Reader(
  'checkpoint.convert',
  f'deeplab2.checkpoint.convert {_CONFIG} --checkpoint={{here}}/runs/tiny '
  '--output_dir={here}/out/converted',
  checks.converted,
)
EXPORT = Reader(
  'export',
  f'deeplab2.inference.export {_CONFIG} --checkpoint_path={{here}}/runs/tiny '
  '--export_path={here}/out/exported',
  checks.exported,
)
CHECK_SIZES = Reader('check_config with sizes', 'check_config {here}/tiny.textproto')
RESUME = Reader(
  'train, resumed',
  f'{_TRAIN} --mode=train --model_dir={{here}}/runs '
  '--set=trainer_options.solver_options.training_number_of_steps=6',
  checks.trained,
)
INITIAL = Reader(
  'train from initial_checkpoint',
  f'{_TRAIN} --mode=train --model_dir={{here}}/out '
  '--set=model_options.initial_checkpoint={here}/runs/tiny/ckpt-4',
)
EVALUATE = Reader(
  'train --mode=eval',
  f'{_TRAIN} --mode=eval --model_dir={{here}}/runs {_RECORDS} '
  '--set=evaluator_options.save_raw_predictions=true',
  checks.evaluated,
)
TRAIN = Reader('train', f'{_TRAIN} --mode=train --model_dir={{here}}/out {_RECORDS}')
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
_CHECKPOINT_NAMES = {
  'a name of nothing': b'model_checkpoint_path: "ckpt-99"\n',
  'a name elsewhere': b'model_checkpoint_path: "../../../../../../etc/passwd"\n',
  'a name of a million letters': b'model_checkpoint_path: "%s"\n' % (b'x' * 10**6),
  'names, a million': b'all_model_checkpoint_paths: "ckpt-4"\n' * 10**6,
}
_CHECKPOINT_FILES = (
  *_ANY,
  *mutations.named({what: mutations.becomes(text) for what, text in _CHECKPOINT_NAMES.items()}),
)
_DATA = ('runs/tiny/ckpt-4.index', 'runs/tiny/ckpt-4.data-00000-of-00001')
_VALUES = ('exported/variables/variables.index', 'exported/variables/variables.data-00000-of-00001')
_TRAIN_RECORDS = ('records/train-00000-of-00002.tfrecord',)
_VAL_RECORDS = ('records/val-00000-of-00002.tfrecord',)
_INSTANCES = ('own/instances.json',)
_TEXTPROTO = ('tiny.textproto',)
_JSONS = (mutations.JSONS, mutations.JSON_RANDOM)
_FRAMES = (mutations.RECORD_FILES, mutations.RECORD_FILES_RANDOM)
_EXAMPLES = (examples.EXAMPLES, examples.EXAMPLES_RANDOM)
_ALL_OF_RECORDS = ((*mutations.RECORD_FILES, *examples.EXAMPLES), examples.EXAMPLES_RANDOM)
_PNGS = (images.PNGS, images.PNGS_RANDOM)
_MODEL = (_ANY, mutations.RANDOM, (PREDICT,))
_CHECKPOINT = (_CHECKPOINT_FILES, mutations.RANDOM, (EXPORT, RESUME, EVALUATE))
_CONVERSIONS = (annotations.INSTANCES, mutations.JSON_RANDOM, (CONVERT_INSTANCES,))
_TARGETS = (
  _Target('records', 6, _TRAIN_RECORDS, *_FRAMES, (INSPECT_RECORDS,)),
  _Target('records', 13, _TRAIN_RECORDS, *_EXAMPLES, (INSPECT_RECORDS,)),
  _Target('records', 2, _VAL_RECORDS, *_ALL_OF_RECORDS, (EVALUATE,)),
  _Target('records', 2, _TRAIN_RECORDS, *_ALL_OF_RECORDS, (TRAIN,)),
  _Target('images', 10, ('own/images/image1.png',), *_PNGS, (BUILD, PREDICT)),
  _Target('images', 8, ('own/images/image2.jpg',), images.JPEGS, _PNGS[1], (PREDICT, BUILD)),
  _Target('images', 3, ('own/panoptic/image1.png',), *_PNGS, (BUILD, INSPECT)),
  _Target('JSON', 8, ('own/panoptic.json',), *_JSONS, (BUILD, INSPECT)),
  _Target('JSON', 3, _INSTANCES, *_JSONS, (CONVERT_INSTANCES, DESCRIBE)),
  _Target('JSON', 6, _INSTANCES, *_CONVERSIONS),
  _Target('JSON', 5, ('own/dataset.json',), *_JSONS, (BUILD, INSPECT, CONVERT_INSTANCES)),
  _Target('JSON', 2, ('runs/tiny/eval/metrics-4.json',), *_JSONS, (PLOT,), 'any'),
  _Target(
    'textproto', 9, _TEXTPROTO, mutations.TEXTPROTOS, mutations.TEXTPROTO_RANDOM, (CHECK_CONFIG,)
  ),
  _Target('textproto', 2, _TEXTPROTO, (), mutations.TEXTPROTO_RANDOM, (CHECK_SIZES,)),
  _Target('checkpoints', 5, _DATA, _ANY, mutations.RANDOM, (EXPORT, RESUME, CONVERT)),
  _Target('checkpoints', 3, ('runs/tiny/checkpoint',), *_CHECKPOINT),
  _Target('checkpoints', 1, _DATA, (), mutations.RANDOM, (INITIAL, EVALUATE)),
  _Target('logs', 2, ('runs/tiny/train/events',), *_FRAMES, (PLOT,), 'any'),
  _Target('SavedModels', 4, ('exported/saved_model.pb',), *_MODEL),
  _Target('SavedModels', 3, _VALUES, *_MODEL),
  _Target('SavedModels', 1, ('exported/fingerprint.pb',), *_MODEL),
  _Target('SavedModels', 2, ('exported/assets.extra/dataset.json',), *_JSONS, (PREDICT,)),
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
    mine = [case for case in chosen if case.reader == reader]
    if not mine:
      continue
    seconds = _normal_seconds(reader, assets, work) + _SECONDS
    jobs = {_job(case, assets, work / f'{case.number:03d}', seed, seconds): case for case in mine}
    for job, finished in processes.run_forked(jobs, at_a_time):
      result = _judged(jobs[job], job, finished)
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

  def not_read(place, names):
    return set(names) - case.reader.inputs if pathlib.Path(place) == assets else ()

  def prepare():
    shutil.rmtree(directory)
    shutil.copytree(assets, directory, ignore=not_read)
    (directory / 'out').mkdir()
    if case.file:
      # `events` stands for the one file whose name goes on after it.
      path = min(directory.glob(f'{case.file}*'))
      # Of the seed and the name, so that a case is the same when it is run alone.
      rng = random.Random(zlib.crc32(f'{seed} {case.name}'.encode()))
      mutations.spoil_file(path, case.mutation, rng)
    (directory / _BEFORE).write_text(json.dumps(checks.digests(directory)))

  def check(code, output):
    here = pathlib.Path.cwd()
    written = set(os.listdir(here)) - {'out', 'output.txt', _BEFORE, *case.reader.inputs}
    assert not written, f'{sorted(written)} was written outside the output directory'
    if code == 2:
      before, now = json.loads((here / _BEFORE).read_text()), checks.digests(here)
      changed = [name for name, digest in before.items() if now.get(name) != digest]
      assert not changed, f'refused, but {changed} are not as they were'
    case.reader.check(here, code, output)

  command = Command.of(case.reader.line, here=directory)
  return processes.Job(command, directory, seconds, _MEGABYTES, prepare, check)


def _judged(case, job, finished) -> Result:
  """Returns the result of a case."""
  outcome = _outcome_of_exit(case, finished) if finished.ended_by == 'exit' else finished.ended_by
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
  if finished.code not in case.reader.refusals:
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
