"""Writes a checkpoint of this program from a released one, or from other weights.

  python -m deeplab2.checkpoint.convert --config_file=CONFIG --checkpoint=CHECKPOINT \
      --output_dir=DIRECTORY [--statistics_images=DIRECTORY] [--set a.b.c=value ...]

CHECKPOINT is one of DeepLab2, or a file of PyTorch kMaX-DeepLab (.pth, .pt or .safetensors). The
config says which model it is of: the released textproto, or one of this program (configs/*/pytorch
for files of PyTorch). Evaluation, export and `initial_checkpoint` take every type of checkpoint; a
converted one is for use without the released keys. The step of DeepLab2's is kept, optimizers are
not, so that a run cannot be resumed from it: use `initial_checkpoint` to train further.

What `backbone.pretrained_weights` takes may be given as well: a checkpoint of a backbone alone,
`imagenet`, or a file of another program (see checkpoint/pretrained.py). What is written is a
checkpoint of the backbone alone then. Weights whose batch norm is folded in need images, 100 or so
of the kind that will be trained on, to take it out again: --statistics_images.
"""

from collections.abc import Iterator
import os
import sys

from absl import logging
import numpy as np
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import directory
from deeplab2.checkpoint import folded_weights
from deeplab2.checkpoint import pretrained
from deeplab2.checkpoint import restore
from deeplab2.checkpoint import run_checkpoints
from deeplab2.config import checks
from deeplab2.config import load
from deeplab2.data import images as images_lib

_MOST_IMAGES = 100
_SHORT_SIDE = 257  # Of images that statistics are taken of, pixels.


def convert(
  config_file: str,
  checkpoint: str,
  output_dir: str,
  overrides=(),
  statistics_images: str | None = None,
) -> str:
  """Converts a checkpoint.

  Args:
    config_file: textproto of the experiment.
    checkpoint: prefix of a checkpoint, a directory whose newest one is taken, or other weights.
    output_dir: directory to write to, made if need be.
    overrides: 'a.b.c=value' each.
    statistics_images: directory of images, for weights whose batch norm is folded in.

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
  is_folded = checkpoint.endswith(pretrained.FOLDED_ENDING)
  if statistics_images and not is_folded:
    raise errors.UserError(
      f'--statistics_images={statistics_images}: is for weights whose batch norm is folded in '
      f'({pretrained.FOLDED_ENDING}), and --checkpoint={checkpoint} is none; leave it out.'
    )
  model = assemble.model(config)
  if pretrained.is_meant(checkpoint) or restore.holds_backbone_alone(checkpoint):
    if is_folded and statistics_images:
      folded_weights.initialize(model.backbone, checkpoint, _images(statistics_images))
    else:
      conventions = assemble.conventions(config)
      restore.initialize_backbone(model.backbone, checkpoint, conventions=conventions)
    written = run_checkpoints.save_backbone(model.backbone, output_dir)
    print(f'Wrote {written}, of the backbone alone, from {checkpoint}')
    return written
  prefix = restore.restore_model(model, checkpoint, conventions=assemble.conventions(config))
  step = tf.Variable(restore.stored_step(prefix), dtype=tf.int64, trainable=False)
  run_checkpoints.Checkpoints(output_dir, model=model, global_step=step).save()
  written = directory.prefix_of(output_dir, int(step.numpy()))
  print(f'Wrote {written}, of step {step.numpy()}, from {prefix}')
  return written


def _images(directory) -> Iterator[tf.Tensor]:
  """Yields some images of a directory, evenly spread over it: float32 [1, H, W, 3] in -1..1."""
  endings = images_lib.ENDINGS
  if not os.path.isdir(directory):
    raise errors.UserError(f'--statistics_images={directory}: no such directory.')
  names = sorted(name for name in os.listdir(directory) if name.lower().endswith(endings))
  if not names:
    raise errors.UserError(f'--statistics_images={directory}: no image ({", ".join(endings)}).')
  for index in np.unique(np.linspace(0, len(names) - 1, _MOST_IMAGES).astype(int)):
    pixels = images_lib.read(os.path.join(directory, names[index]))
    factor = _SHORT_SIDE / min(pixels.shape[:2])
    size = [max(_SHORT_SIDE, round(side * factor)) for side in pixels.shape[:2]]
    yield tf.image.resize(pixels[np.newaxis], size) / 127.5 - 1.0


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', required=True, help='Textproto of the model.')
  parser.add_path(
    '--checkpoint',
    required=True,
    help='Prefix of a checkpoint, a directory whose newest one is taken, or other weights.',
  )
  parser.add_path('--output_dir', required=True, help='Directory to write to.')
  parser.add_overrides()
  parser.add_path(
    '--statistics_images', help='Directory of images, for weights whose batch norm is folded in.'
  )
  logging.set_verbosity(logging.INFO)  # The account of all tensors.
  return command_line.run(lambda: convert(*vars(parser.parse_args(arguments)).values()))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
