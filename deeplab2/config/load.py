"""Reads the configuration of an experiment: the one way from a textproto to checked options."""

from collections.abc import Iterable
import os

from absl import logging
from google.protobuf import text_format

from deeplab2 import errors
from deeplab2 import files
from deeplab2.config import checks
from deeplab2.config import config_pb2
from deeplab2.config import model_pb2
from deeplab2.config import overrides as overrides_lib
from deeplab2.config import scope
from deeplab2.config import shipped
from deeplab2.config import textproto
from deeplab2.config.experiment import Config
from deeplab2.config.experiment import substitute

# What DeepLab2 derives from the name of the dataset. Pixel decoder stages below the stride of the
# masks are left out. A dataset without a row has that of COCO.
_COMMON = """
  pixel_decoder_stages { filters: 512 num_blocks: 1 type: AXIAL }
  pixel_decoder_stages { filters: 256 num_blocks: 5 type: AXIAL }
  pixel_decoder_stages { filters: 128 num_blocks: 1 type: BOTTLENECK }
  pixel_decoder_stages { filters: 64 num_blocks: 1 type: BOTTLENECK }
  pixel_decoder_stages { filters: 32 num_blocks: 1 type: BOTTLENECK }
  decoder_layers: [2, 2, 2]
  cluster_channels: 256
  feed_forward_channels: 2048
"""
KMAX_DEFAULTS = {
  dataset: f"""{_COMMON}
  high_resolution_stride: {stride}
  num_mask_slots: {slots}
  semantic_decoder: {semantic_decoder}
  decoder_drop_path_keep_prob: {keep_prob}
"""
  for dataset, stride, slots, semantic_decoder, keep_prob in (
    ('coco_panoptic', 4, 128, 'true', 0.8),
    ('cityscapes_panoptic', 2, 256, 'false', 0.8),
    ('ade20k_panoptic', 4, 128, 'true', 1.0),
  )
}

_MOST_CHARACTERS = 2**20  # The released ones have 5000; so many take seconds to read.

# Every option that is a path, or a pattern of paths.
PATHS = (
  'model_options.initial_checkpoint',
  'model_options.backbone.pretrained_weights',
  *(
    f'{dataset}.{name}'
    for dataset in ('train_dataset_options', 'eval_dataset_options')
    for name in ('file_pattern', 'dataset')
  ),
  'evaluator_options.override_save_dir',
)


def load(path: str, overrides: Iterable[str] = ()) -> Config:
  """Reads, completes and checks a configuration.

  In order: parse the file, apply `overrides`, put environment variables in for `${VAR}`, fill in
  model_options.kmax, refuse what cannot be honoured, check values and fields against one another.
  What depends on how it is used is checked by `checks.check_mode` and
  `checks.check_batch`.

  Args:
    path: textproto of an ExperimentOptions message, or of a bare ModelOptions message; or the name
      of a config of the package, see shipped.py.
    overrides: 'a.b.c=value' each, see overrides.py.

  Raises:
    UserError: naming file, line, field, value, and what would be right.
  """
  config = parse(path, overrides)
  scope.check(config)
  config = _fill_kmax(config)
  checks.check(config)
  return config


def parse(path: str, overrides: Iterable[str] = ()) -> Config:
  """Reads a configuration of any model of DeepLab2 without completing or checking it.

  Raises:
    UserError: if the file cannot be read or parsed, or an override does not fit.
  """
  path = shipped.find(path)
  text = files.read_text(path)
  if len(text) > _MOST_CHARACTERS:
    raise errors.UserError(
      f'{path}: has {len(text)} characters; a configuration has at most {_MOST_CHARACTERS}.'
    )
  options = config_pb2.ExperimentOptions()
  if textproto.first_word(text) in model_pb2.ModelOptions.DESCRIPTOR.fields_by_name:
    prefix, message = 'model_options', options.model_options
  else:
    prefix, message = '', options
  origins: dict[str, str] = {}
  for field in textproto.parse(text, message, path, prefix):
    origins.setdefault(field.path, f'{path}:{field.line}')
  for override in overrides:
    overrides_lib.apply(override, options, origins)
  substitute(options, os.environ)
  config = Config(options, path, text, origins)
  _expand_paths(config)
  return config


def _expand_paths(config):
  """Puts home directories in for `~` and `~user` in every option that is a path."""
  for field_path in PATHS:
    parent, field = textproto.lookup(config.options, field_path)
    value = getattr(parent, field.name)
    if not value or (field.name == 'dataset' and not value.endswith('.json')):
      continue
    try:
      if textproto.is_repeated(field):
        value[:] = [files.expand(text) for text in value]
      else:
        setattr(parent, field.name, files.expand(value))
    except errors.UserError as error:
      raise config.error(field_path, str(error)) from error


def _fill_kmax(config):
  """Returns `config` with what model_options.kmax leaves out filled in from KMAX_DEFAULTS."""
  options = config_pb2.ExperimentOptions()
  options.CopyFrom(config.options)
  origins = dict(config.origins)
  _fill_drop_path(config, options, origins)
  dataset = options.train_dataset_options.dataset or options.eval_dataset_options.dataset
  if dataset in KMAX_DEFAULTS:
    source = f'the default of {dataset}'
  else:
    why = f'{dataset!r} has none of its own' if dataset else 'no dataset is named'
    source = f'the default (of COCO; {why})'
  text = KMAX_DEFAULTS.get(dataset, KMAX_DEFAULTS['coco_panoptic'])
  defaults = text_format.Parse(text, model_pb2.KMaXOptions())
  kmax = options.model_options.kmax
  stride = (kmax if kmax.HasField('high_resolution_stride') else defaults).high_resolution_stride
  del defaults.pixel_decoder_stages[{4: 4, 2: 5}.get(stride, 5) :]

  given = {field.name for field, _ in kmax.ListFields()}
  for field, _ in defaults.ListFields():
    if field.name in given:
      defaults.ClearField(field.name)
    else:
      origins[f'model_options.kmax.{field.name}'] = f'{config.path} ({source})'
  kmax.MergeFrom(defaults)
  if defaults.ListFields():
    logging.info(
      '%s: model_options.kmax takes %s: %s',
      config.path,
      source,
      text_format.MessageToString(defaults, as_one_line=True),
    )
  return Config(options, config.path, config.text, origins)


def _fill_drop_path(config, options, origins):
  """Takes kmax.decoder_drop_path_keep_prob from the older field of the same meaning."""
  old_path = 'model_options.max_deeplab.transformer_decoder_drop_path_keep_prob'
  new_path = 'model_options.kmax.decoder_drop_path_keep_prob'
  max_deeplab, kmax = options.model_options.max_deeplab, options.model_options.kmax
  if not max_deeplab.HasField('transformer_decoder_drop_path_keep_prob'):
    return
  given = max_deeplab.transformer_decoder_drop_path_keep_prob
  if not kmax.HasField('decoder_drop_path_keep_prob'):
    kmax.decoder_drop_path_keep_prob = given
    origins[new_path] = config.origin(old_path)
  elif kmax.decoder_drop_path_keep_prob != given:
    raise config.error(
      old_path,
      f'{new_path} says {kmax.decoder_drop_path_keep_prob:.7g}; '
      'they mean the same, so give one of them.',
    )
