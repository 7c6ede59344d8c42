"""Draws the curves of a run: panoptic quality of every evaluation, losses and rate of training.

  python scripts/plot_run.py --run=RUNS/<experiment_name> --output=curves.png
"""
import glob
import os
import sys

import matplotlib
import tensorflow as tf

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2.trainer import reports

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402  The backend is chosen first.

_LOSS = 'losses/train_'
_AUXILIARY = 'aux_'
_QUALITIES = {'PQ': 'all', 'PQ_things': 'things', 'PQ_stuff': 'stuff'}


def read_qualities(run: str) -> dict[str, list[tuple[int, float]]]:
  """Returns for PQ of all, things and stuff the (step, percent) of every evaluation."""
  evaluations = reports.read_all(run)
  return {label: [(step, content[key]) for step, content in evaluations.items()]
          for key, label in _QUALITIES.items()}


def read_losses(run: str) -> dict[str, list[tuple[int, float]]]:
  """Returns (step, value) of the losses of the final output by name, from TensorBoard's files."""
  curves: dict[str, dict[int, float]] = {}
  for path in sorted(glob.glob(os.path.join(run, 'train', 'events*'))):
    for record in tf.data.TFRecordDataset(path):
      event = tf.compat.v1.Event.FromString(record.numpy())
      for value in event.summary.value:
        name = value.tag.removeprefix(_LOSS)
        if value.tag.startswith(_LOSS) and not name.startswith(_AUXILIARY):
          curves.setdefault(name, {})[event.step] = float(tf.make_ndarray(value.tensor))
  return {name: sorted(points.items()) for name, points in curves.items()}


def plot(run: str, output: str) -> None:
  """Draws the curves of `run` into the PNG file `output`.

  Raises:
    UserError: if the folder holds neither evaluations nor training logs.
  """
  qualities, losses = read_qualities(run), read_losses(run)
  if not any(qualities.values()) and not losses:
    raise errors.UserError(f'--run={run}: neither eval/metrics-*.json nor train/events* is there.')
  figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout='constrained')
  figure.suptitle(os.path.basename(os.path.normpath(run)))
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
  figure.savefig(output, dpi=110)


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_argument('--run', required=True, help='Folder of a run.')
  parser.add_argument('--output', required=True, help='PNG file to write.')
  return command_line.run(lambda: plot(*vars(parser.parse_args(arguments)).values()))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
