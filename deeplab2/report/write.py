"""Writes the report of runs."""

from collections.abc import Sequence
import os

from absl import logging

from deeplab2 import errors
from deeplab2 import files
from deeplab2.report import page
from deeplab2.report import runs as runs_lib

NAME = 'report.html'


def write(paths: Sequence[str], output: str | None = None) -> str:
  """Writes the report of one run, or of several side by side; returns its path.

  Args:
    paths: directories of runs.
    output: HTML file; by default `report.html` in the first run.

  Raises:
    UserError: a directory has no evaluation to show, or the runs are of different images, or the
      file cannot be written.
  """
  output = output or os.path.join(paths[0], NAME)
  if not output.lower().endswith(('.html', '.htm')):
    raise errors.UserError(f'--output={output}: must end in .html.')
  runs = runs_lib.read(paths)
  for run in runs:
    for note in run.notes:
      logging.warning('%s', note)
  files.write_whole(output, page.render(runs).encode())
  return output


def after(directory: str, metrics: str) -> None:
  """Writes the report of a run right after an evaluation.

  Args:
    directory: of the run.
    metrics: the file of the evaluation, which is the one that is shown.

  Raises:
    UserError: as of `write`.
  """
  output = os.path.join(directory, NAME)
  files.write_whole(output, page.render([runs_lib.read_evaluation(directory, metrics)]).encode())
  logging.info('Report: %s', output)
