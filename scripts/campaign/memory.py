"""Watches memory over thousands of steps, and thousands of images of changing size."""

from collections.abc import Iterator
import pathlib
import re
import shutil
from typing import NamedTuple

from campaign import assets
from campaign import processes
from campaign.processes import Command
from campaign.results import Result

# Resident memory may grow by so much between a quarter of the way and its end. A leak of one small
# feature map an image would be more; the allocator's own ups and downs are less.
MOST_GROWTH_MB = 100.0
_PARTS = (0.25, 0.5, 0.75, 1.0)
_WINDOW = 0.1
_SAMPLE_SECONDS = 0.5


class Task(NamedTuple):
  """A long command and how to see how far it is."""

  name: str
  line: str  # {here} is the directory of this part, {assets} that of the assets.
  progress: str | None  # Pattern whose group is the number that is done; None: count PNGs.


_IMAGES = (
  'build_tfrecords --dataset=shapes --split=val --num_images={count} --output_dir={here}/data '
  '--images_dir={here}/data/images --num_workers=2 --label_format=zlib'
)
TASKS = (
  Task(
    'training',
    'deeplab2.trainer.train --config_file={assets}/tiny.textproto --mode=train --num_gpus=0 '
    '--model_dir={here}/training --gin_param="Lines.seconds_between = 1.0" '
    '--set=trainer_options.solver_options.training_number_of_steps={count} '
    '--set=trainer_options.save_checkpoints_steps={part} '
    '--set=trainer_options.steps_per_loop=10 --set=trainer_options.save_summaries_steps=10',
    r'train: step (\d+)',
  ),
  Task(
    'evaluation of images of changing size',
    'deeplab2.trainer.train --config_file={assets}/tiny.textproto --mode=eval --num_gpus=0 '
    '--model_dir={here}/evaluation --gin_param="Lines.seconds_between = 1.0" '
    '--set=eval_dataset_options.file_pattern={here}/data/val-*.tfrecord',
    r'eval: image (\d+)',
  ),
  Task(
    'prediction of images of changing size',
    'deeplab2.inference.predict --model={assets}/exported --input={here}/data/images '
    '--output_dir={here}/prediction',
    None,
  ),
)


def _measure(task, command, work, total) -> Result:
  """Runs a task and looks at its resident memory a quarter, half, three quarters through."""
  log = work / f'{task.name.partition(" ")[0]}.txt'
  log.unlink(missing_ok=True)
  samples: list[tuple[int, float]] = []  # (done, MB)

  def look(_, weight):
    done = _done(task, work, log)
    if done and weight:
      samples.append((done, weight))
    return ''

  ended = processes.watch(command, log, look, pause=_SAMPLE_SECONDS)
  outcome, details = judge(samples, total)
  if ended.code != 0:
    outcome = ended.ended_by if ended.code is None else f'exit code {ended.code}'
    details = ended.output[-2000:]
  failed = outcome != 'does not grow'
  costs = (ended.seconds, ended.peak_mb)
  return Result('memory', task.name, task.name, outcome, failed, *costs, details, str(command))


def judge(samples: list[tuple[int, float]], total: int) -> tuple[str, str]:
  """Returns the outcome and the numbers behind it.

  Args:
    samples: (steps or images done, resident MB), in the order of time.
    total: of steps or images.
  """
  weights = []
  for part in _PARTS:
    # The most of a tenth of the way: at the very end memory is already given back.
    near = [weight for done, weight in samples if part - _WINDOW < done / total <= part]
    if not near:
      return 'not seen', f'no sample between {part - _WINDOW:.0%} and {part:.0%} of {total}'
    weights.append(max(near))
  growth = weights[-1] - weights[0]
  details = ', '.join(
    f'{part:.0%} {weight:.0f} MB' for part, weight in zip(_PARTS, weights, strict=True)
  )
  details += f'; growth {growth:.0f} MB, at most {MOST_GROWTH_MB:.0f}'
  return ('grows' if growth > MOST_GROWTH_MB else 'does not grow'), details


def _done(task, work, log):
  """Returns how many steps or images are done."""
  if task.progress is None:
    return len(list((work / 'prediction' / 'panoptic').glob('*.png')))
  if not log.exists():  # The process has not begun to write.
    return 0
  return int([0, *re.findall(task.progress, log.read_text(errors='replace'))][-1])


def run_all(
  made: pathlib.Path, work: pathlib.Path, count: int, done: dict[str, Result]
) -> Iterator[Result]:
  """Yields the results of the tasks, of `count` steps or images each, that are not in `done`."""
  work.mkdir(parents=True, exist_ok=True)
  places = {'here': work, 'assets': made, 'count': count, 'part': max(1, count // 20)}
  if not (work / 'data' / 'manifest-val.json').exists():
    shutil.rmtree(work / 'data', ignore_errors=True)
    assets.call(_IMAGES, work, count=count)
  for name in ('training', 'evaluation', 'prediction'):
    shutil.rmtree(work / name, ignore_errors=True)
  shutil.copytree(made / 'runs', work / 'evaluation')
  for task in TASKS:
    if task.name not in done:
      yield _measure(task, Command.of(task.line, **places), work, count)
