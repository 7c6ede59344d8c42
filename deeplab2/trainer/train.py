"""Trains and evaluates an experiment.

  python -m deeplab2.trainer.train --config_file=CONFIG --mode=train_and_eval --model_dir=DIRECTORY

Everything goes below DIRECTORY/<experiment_name>: checkpoints, TensorBoard logs in `train` and
`eval`, the results `eval/metrics-<step>.json`, images in `vis`. A run that was interrupted goes on
from its newest checkpoint when it is started again, an evaluation after the images that are done.
SIGTERM or Ctrl-C ends it after the step at hand, which is saved, with exit code 143 or 130; another
one ends it at once. One process at a time trains in a directory, or those of several hosts do,
the same command on each, with the environment variable TF_CONFIG or --master=slurm.
`config.textproto` and `run.json` say what the run is and where it was trained.

Modes:
  train            train up to training_number_of_steps
  eval             evaluate the newest checkpoint, or without one initial_checkpoint
  train_and_eval   train, and evaluate every eval_interval steps and at the end
  continuous_eval  evaluate every checkpoint that a training elsewhere saves
"""

from collections.abc import Sequence
import contextlib
import os
import sys

if not __package__:
  # Run by its path, Python would look for packages next to this file.
  sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# pylint: disable=wrong-import-position
from deeplab2 import command_line  # noqa: E402
from deeplab2 import errors  # noqa: E402
from deeplab2.config import checks  # noqa: E402
from deeplab2.config import load  # noqa: E402
from deeplab2.trainer import experiment  # noqa: E402
from deeplab2.trainer import hosts  # noqa: E402
from deeplab2.trainer import runtime  # noqa: E402
from deeplab2.trainer import stopping  # noqa: E402
from deeplab2.trainer import summaries  # noqa: E402

_REPORT = 'evaluator_options.report=true'
MODES = {
  'train': experiment.train,
  'eval': experiment.evaluate,
  'train_and_eval': experiment.train_and_evaluate,
  'continuous_eval': experiment.evaluate_continuously,
}


def run(arguments, summary_writers: Sequence[summaries.Writer] = ()) -> None:
  """Runs an experiment.

  Args:
    arguments: the parsed flags.
    summary_writers: get the logs as TensorBoard does (docs/training.md), and are closed at the end.

  Raises:
    UserError: for a mistake in flags, configuration, data or checkpoints; for a loss that is not
      finite; for a checkpoint that cannot be saved.
    Stopped: by SIGTERM or SIGINT, with everything saved.
  """
  with contextlib.ExitStack() as stack:
    for writer in summary_writers:
      stack.callback(writer.close)
    _run(arguments, summary_writers)


def _run(arguments, summary_writers):
  if arguments.report and 'eval' not in arguments.mode:
    raise errors.UserError(
      f'--report: --mode={arguments.mode} evaluates nothing; choose one that does, or leave it out.'
    )
  overrides = [*arguments.set, *([_REPORT] if arguments.report else [])]
  config = load.load(arguments.config_file, overrides)
  checks.check_mode(config, arguments.mode)
  runtime.bind_gin(arguments.gin_file, arguments.gin_param)
  runtime.set_up()
  strategy = runtime.create_strategy(arguments.num_gpus, arguments.master)
  stop = stopping.Request()
  with stopping.heeded(stop), strategy.scope(), hosts.explained():
    MODES[arguments.mode](config, run_directory(arguments.model_dir, config), stop, summary_writers)


def run_directory(model_dir: str, config) -> str:
  """Returns the directory of a run: below --model_dir, or itself for a run without a name."""
  return os.path.join(model_dir, config.options.experiment_name).rstrip('/') or '/'


def evaluate(arguments: list[str] | None = None) -> int:
  """Runs the command line of evaluation alone; returns its exit code."""
  return main(arguments, ('eval', 'continuous_eval'))


def main(
  arguments: list[str] | None = None,
  modes: Sequence[str] = tuple(MODES),
  summary_writers: Sequence[summaries.Writer] = (),
) -> int:
  """Runs the command line; returns its exit code.

  Args:
    arguments: the flags, without the program's name; None for those of the process.
    modes: which of MODES may be asked for. If these are not all, the first need not be.
    summary_writers: as of `run`.
  """
  runtime.start_logging()
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', required=True, help='Textproto of the experiment.')
  default = None if set(modes) == set(MODES) else modes[0]
  parser.add_argument(
    '--mode', required=default is None, choices=modes, default=default, help='What to do.'
  )
  parser.add_path('--model_dir', required=True, help='Directory that runs are kept in.')
  parser.add_argument('--num_gpus', type=int, help='GPUs to use; 0: the CPU; by default all.')
  parser.add_argument(
    '--master', help='Name or address of a TPU to use; slurm: the hosts of a Slurm job.'
  )
  parser.add_argument(
    '--report',
    action='store_true',
    help='Write report.html into the run (docs/report.md): evaluator_options.report=true.',
  )
  parser.add_overrides()
  parser.add_path(
    '--gin_file', action='append', default=[], help='File of gin bindings; may be repeated.'
  )
  parser.add_argument(
    '--gin_param',
    action='append',
    default=[],
    metavar='"set_up.seed = 1"',
    help='One gin binding, of what the config does not hold; may be repeated.',
  )
  return command_line.run(lambda: run(parser.parse_args(arguments), summary_writers))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
