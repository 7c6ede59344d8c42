"""Says of every config whether it loads, what is filled in, and how large its model is.

  deeplab2-config [--set a.b.c=value ...] [--no_sizes] CONFIG...
  deeplab2-config --list

A config is a textproto of this program or of DeepLab2, or the name of one that comes with the
package, like coco/kmax_resnet50: --list names them. For each: the values that it leaves to its
dataset, the environment variables that it still needs, the files that it names and that are not
there, what a new run starts with, parameters and multiply-adds by part (see scripts/model_size.py;
a few seconds each, which --no_sizes spares), or one line that says what is wrong. The exit code is
0 if all of them are right, else 2; files that are not there are for the machine that trains, and
leave it at 0.
"""

import sys

from google.protobuf import text_format

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import model_size
from deeplab2.checkpoint import pretrained
from deeplab2.checkpoint import restore
from deeplab2.config import checks
from deeplab2.config import load
from deeplab2.config import shipped
from deeplab2.config import textproto

_DATASETS = ('eval_dataset_options', 'train_dataset_options')
_CROPS = tuple(f'{dataset}.crop_size' for dataset in _DATASETS)
_INITIAL = 'model_options.initial_checkpoint'
_PRETRAINED = 'model_options.backbone.pretrained_weights'
_CHECKPOINTS = (_INITIAL, _PRETRAINED)
_PARTS = {
  'backbone': 'backbone',
  'pixel_decoder': 'pixel decoder',
  'kmax_decoder': 'transformer decoder',
  'predictor': 'final masks and classes',
}


def described(path: str, overrides, with_sizes: bool) -> list[str]:
  """Returns the lines about one config.

  Raises:
    UserError: if it does not load, its dataset is unknown, or its model cannot be built.
  """
  config = load.load(path, overrides)
  unresolved = config.unresolved()
  if not any(f'{field}.dataset' in unresolved for field in _DATASETS):
    assemble.check_model(config)
  lines = [f'{path}: loads']
  for field, origin in config.origins.items():
    if not origin.startswith(f'{config.path} ('):  # Neither a line of the file nor an override.
      continue
    parent, descriptor = textproto.lookup(config.options, field)
    source = origin.removeprefix(f'{config.path} (').removesuffix(')')
    lines.append(f'  filled in: {field} = {_shown(parent, descriptor)}: {source}')
  lines += [f'  still needed: ${{{variable}}} of {field}' for field, variable in unresolved.items()]
  lines += [f'  not there: {error}' for error in _absent(config, unresolved)]
  lines.append(f'  a new run starts with: {_start(config)}')
  return lines + (_sizes(config, path, overrides) if with_sizes else [])


def _absent(config, unresolved):
  """Yields one error for each field that names files of which none, or no checkpoint, exists."""
  for dataset in _DATASETS:
    field = f'{dataset}.file_pattern'
    if config.value(field) and field not in unresolved:
      try:
        checks.check_files(config, dataset)
      except errors.UserError as error:
        yield error
  for field in _CHECKPOINTS:
    if config.value(field) and field not in unresolved:
      source = config.value(field)
      try:
        if field == _PRETRAINED and pretrained.is_meant(source):
          pretrained.check_there(source)
        else:
          restore.newest(source)
      except errors.UserError as error:
        yield config.error(field, str(error))


def _start(config):
  """Returns what of the model a new training gets from where."""
  initial, source = config.value(_INITIAL), config.value(_PRETRAINED)
  if initial:
    try:
      # Of one that is not there yet nothing is known.
      is_backbone = restore.holds_backbone_alone(initial)
    except errors.UserError:
      return f'the model, or its backbone, from {initial}'
    if not is_backbone:
      return f'the whole model from {initial}'
    source = initial
  if not source:
    return 'everything from scratch'
  if source == pretrained.IMAGENET:
    source = 'imagenet (Keras Applications)'
  return f'the backbone from {source}, everything else from scratch'


def _shown(parent, field):
  if field.message_type is None:
    return textproto.show(parent, field)
  entries = (
    text_format.MessageToString(entry, as_one_line=True) for entry in getattr(parent, field.name)
  )
  return f'[{", ".join(f"{{ {entry} }}" for entry in entries)}]'


def _sizes(config, path, overrides):
  """Returns the size of the model, at the evaluation crop or else the training crop."""
  crop = next((config.value(field) for field in _CROPS if config.value(field)), None)
  if crop is None:
    raise config.error(_CROPS[0], 'is missing.')
  given = f'{_CROPS[0]}={",".join(map(str, crop))}'
  size = model_size.of_config(load.load(path, [*overrides, given]))
  height, width = size['crop']
  return [
    f'  model: {_numbers(size)} at {height}x{width}; training alone has '
    f'{size["training_only_parameters"] / 1e6:.2f} M parameters more',
    *(f'    {title}: {_numbers(size["by_part"][part])}' for part, title in _PARTS.items()),
  ]


def _numbers(size):
  return (
    f'{size["parameters"] / 1e6:.2f} M parameters, '
    f'{size["multiply_adds"] / 1e9:.2f} G multiply-adds'
  )


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('config', nargs='*')
  parser.add_overrides()
  parser.add_argument('--no_sizes', action='store_true', help='Build no model.')
  parser.add_argument(
    '--list', action='store_true', help='Name the configs that come with the package, and end.'
  )

  def run():
    options = parser.parse_args(arguments)
    if options.list:
      print('\n'.join(shipped.names()))
      return
    if not options.config:
      parser.error('give a config')
    wrong = 0
    for path in options.config:
      try:
        print('\n'.join(described(path, options.set, not options.no_sizes)), flush=True)
      except errors.UserError as error:
        wrong += 1
        print(f'wrong: {error}', flush=True)
    if wrong:
      raise errors.UserError(f'{wrong} of {len(options.config)} configs are wrong.')

  return command_line.run(run)


if __name__ == '__main__':
  sys.exit(main())
