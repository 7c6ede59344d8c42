"""Runs of a comparison below its directory: what they left behind."""

import os
import re
from typing import NamedTuple

from comparison import grid
from comparison import variants
from deeplab2.trainer import reports

_DIVERGED = re.compile(r'Step (\d+): not finite')


class Run(NamedTuple):
  """One variant with one seed."""

  row: grid.Row | variants.Variant
  seed: int
  steps: int  # That it is trained for.
  training_files: tuple[str, ...] = ()  # Patterns of its training records; () if not told apart.

  @property
  def name(self) -> str:
    """Name of the run's directory."""
    return f'{self.row.name}-seed{self.seed}'


def directory(root: str, run: Run) -> str:
  """Returns the directory of a run below `root`, that of its comparison."""
  return os.path.join(root, 'runs', run.name)


def log(root: str, run: Run, ending: str = '') -> str:
  """Returns the path of a run's log; with an ending, of what was done with it later."""
  return os.path.join(root, 'logs', f'{run.name}{ending}.log')


def evaluations(root: str, run: Run) -> dict[int, dict]:
  """Returns the evaluations on unseen images by step."""
  return reports.read_all(directory(root, run), besides=run.training_files)


def training_evaluations(root: str, run: Run) -> dict[int, dict]:
  """Returns the evaluations on the training records by step."""
  return reports.read_images(directory(root, run), run.training_files)


def is_trained(root: str, run: Run) -> bool:
  """Returns whether a run has been evaluated on unseen images at its end."""
  return run.steps in evaluations(root, run)


def diverged_at(root: str, run: Run) -> int | None:
  """Returns the step at which a run's loss was not finite; None if it was not so."""
  if is_trained(root, run):
    return None
  try:
    with open(log(root, run), encoding='utf-8', errors='replace') as file:
      found = _DIVERGED.findall(''.join(file.readlines()[-3:]))
  except OSError:
    return None
  return int(found[-1]) if found else None


def failure(root: str, run: Run) -> str:
  """Returns the message at the end of a run's log, for people."""
  path = log(root, run)
  try:
    with open(path, encoding='utf-8', errors='replace') as file:
      last = ''.join(file.readlines()[-3:])
  except OSError as error:
    last = f'The log cannot be read ({error.strerror}).'
  return f'{run.name} FAILED, see {path}:\n{last}'
