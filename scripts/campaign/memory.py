"""Whether memory grows: thousands of steps, and thousands of images of changing size."""

from collections.abc import Iterator
import os
import pathlib
import re
import shutil
import time
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
  command: Command
  total: int
  progress: re.Pattern[str]  # Its group is the number of steps or images that are done.
  output: pathlib.Path | None = None  # Directory whose PNGs are counted instead.


def tasks(directory: pathlib.Path, work: pathlib.Path, count: int) -> tuple[Task, ...]:
  """Returns the commands of `count` steps or images each; makes the images that they need."""
  made = work / 'data'
  if not (made / 'manifest-val.json').exists():
    shutil.rmtree(made, ignore_errors=True)
    assets.call(
      Command(
        'build_tfrecords',
        (
          '--dataset=shapes',
          '--split=val',
          f'--num_images={count}',
          f'--output_dir={made}',
          f'--images_dir={made / "images"}',
          '--num_workers=2',
          '--label_format=zlib',
        ),
      )
    )
  config = f'--config_file={directory / "tiny.textproto"}'
  train = 'deeplab2.trainer.train'
  lines = '--gin_param=Lines.seconds_between = 1.0'
  for name in ('training', 'evaluation', 'prediction'):
    shutil.rmtree(work / name, ignore_errors=True)
  shutil.copytree(directory / 'runs', work / 'evaluation')
  return (
    Task(
      'training',
      Command(
        train,
        (
          config,
          '--mode=train',
          f'--model_dir={work / "training"}',
          '--num_gpus=0',
          lines,
          f'--set=trainer_options.solver_options.training_number_of_steps={count}',
          f'--set=trainer_options.save_checkpoints_steps={max(1, count // 20)}',
          '--set=trainer_options.steps_per_loop=10',
          '--set=trainer_options.save_summaries_steps=10',
        ),
      ),
      count,
      re.compile(r'train: step (\d+)'),
    ),
    Task(
      'evaluation of images of changing size',
      Command(
        train,
        (
          config,
          '--mode=eval',
          f'--model_dir={work / "evaluation"}',
          '--num_gpus=0',
          lines,
          f'--set=eval_dataset_options.file_pattern={made}/val-*.tfrecord',
        ),
      ),
      count,
      re.compile(r'eval: (?:image|image) (\d+)'),
    ),
    Task(
      'prediction of images of changing size',
      Command(
        'deeplab2.inference.predict',
        (
          f'--model={directory / "exported"}',
          f'--input={made / "images"}',
          f'--output_dir={work / "prediction"}',
        ),
      ),
      count,
      re.compile(r'(?!)'),
      work / 'prediction' / 'panoptic',
    ),
  )


def measure(task: Task, log: pathlib.Path) -> Result:
  """Runs a task and looks at its resident memory a quarter, half, three quarters through."""
  log.parent.mkdir(parents=True, exist_ok=True)
  log.unlink(missing_ok=True)
  started = time.monotonic()
  samples: list[tuple[int, float]] = []  # (done, MB)
  peak = 0.0
  with processes.started(task.command, log) as process:
    while process.poll() is None:
      weight = processes.resident_mb(process.pid)
      peak = max(peak, weight)
      done = _done(task, log)
      if done and weight:
        samples.append((done, weight))
      time.sleep(_SAMPLE_SECONDS)
  seconds = time.monotonic() - started
  outcome, details = judge(samples, task.total)
  if process.returncode:
    outcome, details = f'exit code {process.returncode}', log.read_text(errors='replace')[-2000:]
  return Result(
    'memory',
    task.name,
    task.name,
    outcome,
    outcome != 'does not grow',
    seconds,
    peak,
    details,
    str(task.command),
  )


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


def _done(task, log):
  """Returns how many steps or images are done."""
  if task.output is not None:
    try:
      return sum(name.endswith('.png') for name in os.listdir(task.output))
    except FileNotFoundError:
      return 0
  found = task.progress.findall(log.read_text(errors='replace'))
  return int(found[-1]) if found else 0


def run_all(
  directory: pathlib.Path, work: pathlib.Path, count: int, done: dict[str, Result]
) -> Iterator[Result]:
  """Yields the results of the tasks that are not in `done`."""
  for task in tasks(directory, work, count):
    if task.name not in done:
      yield measure(task, work / f'{task.name.partition(" ")[0]}.txt')
