"""Writes a SavedModel that segments uint8 RGB images of any size (see saved_model.py).

  python -m deeplab2.inference.export --config_file=CONFIG --checkpoint_path=CHECKPOINT \
      --export_path=DIRECTORY

A model that was exported there before is replaced once the new one is complete.
"""

import sys

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2.checkpoint import restore
from deeplab2.config import checks
from deeplab2.config import load
from deeplab2.config import trainer_checks
from deeplab2.inference import saved_model
from deeplab2.inference import segmenter


def export(config_file: str, checkpoint_path: str, export_path: str, overrides=()) -> None:
  """Exports a checkpoint.

  Args:
    config_file: textproto of the experiment.
    checkpoint_path: prefix of a checkpoint, a directory whose newest one is taken, or a file of
      PyTorch kMaX-DeepLab.
    export_path: directory of the SavedModel.
    overrides: 'a.b.c=value' each.

  Raises:
    UserError: config or checkpoint is wrong, or the directory cannot be written.
  """
  config = load.load(config_file, overrides)
  checks.check_mode(config, 'export')
  saved_model.check_replaceable(export_path)
  model = assemble.model(config, drawn=False)
  restore.restore_model(
    model,
    checkpoint_path,
    averages=trainer_checks.averages_are_used(config),
    conventions=assemble.conventions(config),
  )
  saved_model.save(segmenter.create(config, model), assemble.dataset_info(config), export_path)
  print(f'Exported {checkpoint_path} to {export_path}')


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', required=True, help='Textproto of the experiment.')
  parser.add_path(
    '--checkpoint_path',
    required=True,
    help='Prefix of a checkpoint, a directory whose newest one is taken, or a file of PyTorch.',
  )
  parser.add_path('--export_path', required=True, help='Directory to write the SavedModel to.')
  parser.add_overrides()
  return command_line.run(lambda: export(*vars(parser.parse_args(arguments)).values()))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
