"""Writes a checkpoint of this program from a released one, of DeepLab2 or PyTorch kMaX-DeepLab.

  python -m deeplab2.checkpoint.convert --config_file=CONFIG --checkpoint=CHECKPOINT \
      --output_dir=DIRECTORY [--set a.b.c=value ...]

The config says which model the checkpoint is of: the released textproto, or one of this program
(configs/*/pytorch for files of PyTorch: .pth, .pt or .safetensors). Evaluation, export and
`initial_checkpoint` take every type of checkpoint; a converted one is for use without the released
keys. The step of DeepLab2's is kept, optimizers are not, so that a run cannot be resumed from it:
use `initial_checkpoint` to train further.
"""

import sys

from absl import logging
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import directory
from deeplab2.checkpoint import restore
from deeplab2.config import checks
from deeplab2.config import load


def convert(config_file: str, checkpoint: str, output_dir: str, overrides=()) -> str:
  """Converts a checkpoint.

  Args:
    config_file: textproto of the experiment.
    checkpoint: prefix of a checkpoint, a directory whose newest one is taken, or a file of PyTorch.
    output_dir: directory to write to, made if need be.
    overrides: 'a.b.c=value' each.

  Returns:
    The prefix of what was written.

  Raises:
    UserError: config or checkpoint is wrong, or the directory has checkpoints or cannot be written.
  """
  config = load.load(config_file, overrides)
  checks.check_mode(config, 'export')
  if files.matching(output_dir, r'ckpt-.*|checkpoint'):
    raise errors.UserError(
      f'--output_dir={output_dir}: there are checkpoints; give a new directory.'
    )
  model = assemble.model(config)
  prefix = restore.restore_model(model, checkpoint, conventions=assemble.conventions(config))
  step = tf.Variable(restore.stored_step(prefix), dtype=tf.int64, trainable=False)
  restore.Checkpoints(output_dir, model=model, global_step=step).save()
  written = directory.prefix_of(output_dir, int(step.numpy()))
  print(f'Wrote {written}, of step {step.numpy()}, from {prefix}')
  return written


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', required=True, help='Textproto of the model.')
  parser.add_path(
    '--checkpoint',
    required=True,
    help='Prefix of a checkpoint, a directory whose newest one is taken, or a file of PyTorch.',
  )
  parser.add_path('--output_dir', required=True, help='Directory to write to.')
  parser.add_overrides()
  logging.set_verbosity(logging.INFO)  # The account of all tensors.
  return command_line.run(lambda: convert(*vars(parser.parse_args(arguments)).values()))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
