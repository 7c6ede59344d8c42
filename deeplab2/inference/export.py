"""Writes a model that segments images: a SavedModel, for LiteRT, or with a page for browsers.

  deeplab2-export --config_file=CONFIG --checkpoint_path=CHECKPOINT --export_path=DIRECTORY \
      [--input_size=H,W] [--outputs=batch,encoded,logits] [--batch=N] [--overwrite]
  deeplab2-export --format=litert --config_file=CONFIG --checkpoint_path=CHECKPOINT \
      --export_path=MODEL.tflite [--input_size=H,W] [--outputs=panoptic|logits] \
      [--quantize=float16|dynamic_int8|int8] [--calibration=IMAGES] [--overwrite]
  deeplab2-export --format=web --config_file=CONFIG --checkpoint_path=CHECKPOINT \
      --export_path=SITE [--input_size=H,W] [--quantize=...] [--calibration=IMAGES] [--overwrite]

or `python -m deeplab2.inference.export`. A model takes images of any size; the network sees them at
one, that of the config's evaluation or --input_size: a smaller one is faster and finds less. With
--overwrite, a model that was exported there before is replaced once the new one is complete.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import sys

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2.config import checks
from deeplab2.config import load
from deeplab2.inference import functions
from deeplab2.inference import litert_export
from deeplab2.inference import saved_model
from deeplab2.inference import segmenter
from deeplab2.inference import web

_CROP = 'eval_dataset_options.crop_size'
_RESIZE = ('eval_dataset_options.min_resize_value', 'eval_dataset_options.max_resize_value')
_AREAS = ('evaluator_options.thing_area_limit', 'evaluator_options.stuff_area_limit')


def export(options: argparse.Namespace) -> None:
  """Exports a checkpoint.

  Args:
    options: the parsed flags.

  Raises:
    UserError: config, checkpoint or a flag is wrong, or the place cannot be written to or holds
      something else.
  """
  FORMATS[options.format](options)
  print(f'Exported {options.checkpoint_path} to {options.export_path}')


def restored(options: argparse.Namespace) -> segmenter.Restored:
  """Returns the segmenter that the flags ask for; UserError if config or checkpoint is wrong."""
  overrides = [*options.set, *input_size_overrides(options)]
  return segmenter.restore(options.config_file, options.checkpoint_path, overrides)


def input_size_overrides(options: argparse.Namespace) -> list[str]:
  """Returns the overrides of the config that give the network the size --input_size.

  Area limits are pixels of what the network sees, so they follow its area.

  Raises:
    UserError: the network cannot have this size; the next larger one is proposed.
  """
  if options.input_size is None:
    return []
  height, width = options.input_size
  valid = checks.next_size(options.input_size)
  if valid != [height, width]:
    raise errors.UserError(
      f'--input_size={height},{width}: sides must be of the form {checks.OUTPUT_STRIDE}n + 1; the '
      f'next such size is {valid[0]},{valid[1]}.'
    )
  config = load.load(options.config_file, options.set)
  before = config.require(_CROP)
  area = height * width / (before[0] * before[1])
  resized = [f'{field}={height},{width}' for field in _RESIZE if any(config.value(field))]
  limits = [f'{field}={round(config.value(field) * area)}' for field in _AREAS]
  return [f'{_CROP}={height},{width}', *resized, *limits]


def _export_saved_model(options):
  for flag, left_out in (('quantize', 'none'), ('calibration', None)):
    value = getattr(options, flag)
    if value != left_out:
      raise errors.UserError(f'--{flag}={value}: is for --format=litert, not saved_model.')
  saved_model.check_replaceable(options.export_path, overwrite=options.overwrite)
  outputs = functions.OPTIONAL if options.outputs is None else _names(options.outputs)
  model = restored(options)
  saved_model.save(
    model.segmenter,
    model.info,
    options.export_path,
    outputs=outputs,
    batch_size=options.batch,
  )


def _names(text: str, known: Sequence[str] = functions.OPTIONAL) -> tuple[str, ...]:
  """Returns the outputs that a list names."""
  names = tuple(filter(None, text.split(',')))
  unknown = [name for name in names if name not in known]
  if unknown:
    raise errors.UserError(
      f'--outputs={text}: {unknown[0]!r} is no output; choose from {",".join(known)}, '
      'or nothing (--outputs=) for the signatures of one image alone.'
    )
  return names


def _export_litert(options):
  litert_export.export(options, lambda: restored(options))


def _export_web(options):
  web.export(options, lambda: restored(options))


FORMATS: Mapping[str, Callable[[argparse.Namespace], None]] = {
  'saved_model': _export_saved_model,
  'litert': _export_litert,
  'web': _export_web,
}


def flags() -> command_line.Parser:
  """Returns the parser of the command line."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', required=True, help='Textproto of the experiment.')
  parser.add_path(
    '--checkpoint_path',
    required=True,
    help='Prefix of a checkpoint, a directory whose newest one is taken, or a file of PyTorch.',
  )
  parser.add_argument(
    '--export_path',
    '--output',
    type=command_line.path,
    required=True,
    help='Directory, or .tflite file, to write to.',
  )
  parser.add_argument('--format', choices=FORMATS, default='saved_model', help='What to write.')
  parser.add_argument(
    '--input_size',
    type=size,
    metavar='H,W',
    help='Height and width that the network sees images at, both of the form 32n + 1. Default: '
    'the crop_size of the evaluation.',
  )
  parser.add_argument(
    '--batch',
    type=command_line.integer_from(1),
    help='Number of images that the outputs below take at once. Default: any.',
  )
  parser.add_argument(
    '--outputs',
    metavar='NAME,...',
    help=f'Signatures besides those of one image: {",".join(functions.OPTIONAL)} (default), some '
    f'of them, or none. LiteRT: {" (default) or ".join(litert_export.OUTPUTS)}.',
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='Replace a model that was exported there before.'
  )
  litert_export.add_flags(parser)
  parser.add_overrides()
  return parser


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  return command_line.run(lambda: export(flags().parse_args(arguments)))


def size(text: str) -> tuple[int, int]:
  """Returns (height, width) of 'H,W'; one number stands for both."""
  parts = text.split(',')
  if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
    raise argparse.ArgumentTypeError(f'{text!r} must be height and width, like 641,641')
  return int(parts[0]), int(parts[-1])


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
