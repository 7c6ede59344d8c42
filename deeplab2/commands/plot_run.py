"""Draws the curves of a run: panoptic quality of every evaluation, losses and rate of training.

deeplab2-plot --run=RUNS/<experiment_name> --output=curves.png
"""

import os
import sys
import warnings

import matplotlib

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2.trainer import event_files
from deeplab2.trainer import reports

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402  The backend is chosen first.

_LOSS = 'losses/train_'
_AUXILIARY = 'aux_'
_QUALITIES = {'PQ': 'all', 'PQ_things': 'things', 'PQ_stuff': 'stuff'}


def read_qualities(run: str) -> dict[str, list[tuple[int, float]]]:
  """Returns for PQ of all, things and stuff the (step, percent) of every evaluation."""
  evaluations = reports.read_all(run)
  return {
    label: [
      (step, content[key])
      for step, content in evaluations.items()
      if isinstance(content.get(key), (int, float))
    ]
    for key, label in _QUALITIES.items()
  }


def read_losses(run: str) -> dict[str, list[tuple[int, float]]]:
  """Returns (step, value) of the losses of the final output by name, from TensorBoard's files.

  Of a file that is cut or damaged, what comes before; a warning says so.
  """
  return {
    name: points
    for tag, points in event_files.read_scalars(os.path.join(run, 'train')).items()
    if (name := tag.removeprefix(_LOSS)) != tag and not name.startswith(_AUXILIARY)
  }


def plot(run: str, output: str) -> None:
  """Draws the curves of `run` into the image file `output`, whose directory is made.

  Raises:
    UserError: the directory holds neither evaluations nor training logs that can be read, or the
      image cannot be written, or its ending is that of no image.
  """
  figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout='constrained')
  endings = figure.canvas.get_supported_filetypes()
  if os.path.splitext(output)[1].lower().removeprefix('.') not in endings:
    raise errors.UserError(
      f'--output={output}: must end in one of '
      f'{", ".join(f".{ending}" for ending in sorted(endings))}.'
    )
  qualities, losses = read_qualities(run), read_losses(run)
  if not any(qualities.values()) and not losses:
    raise errors.UserError(
      f'--run={run}: neither eval/metrics-*.json nor train/events* is there '
      'with anything to draw; give the directory of one run.'
    )
  # A dollar sign would begin a formula.
  figure.suptitle(os.path.basename(os.path.abspath(run)).replace('$', r'\$'))
  for label, points in qualities.items():
    if points:
      left.plot(*zip(*points, strict=True), marker='o', markersize=3, label=label)
  left.set(xlabel='step', ylabel='PQ [%]', ylim=(0, 100), title='panoptic quality')
  for name, points in losses.items():
    right.plot(*zip(*points, strict=True), label=name)
  right.set(xlabel='step', ylabel='weighted loss', yscale='log', title='training losses')
  for axes in (left, right):
    axes.grid(alpha=0.3)
    if axes.has_data():
      axes.legend(fontsize='small')
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph .* missing')  # Of the run's name, in the title.
    files.write_whole(output, lambda path: figure.savefig(path, dpi=110))
  pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--run', required=True, help='Directory of a run.')
  parser.add_path('--output', required=True, help='Image file to write: .png, .pdf, .svg, ...')
  return command_line.run(lambda: plot(*vars(parser.parse_args(arguments)).values()))


if __name__ == '__main__':
  sys.exit(main())
