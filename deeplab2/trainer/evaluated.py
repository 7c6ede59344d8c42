"""Identifies an evaluation: its images, how they are segmented, and the checkpoint."""

from collections.abc import Mapping
import hashlib
import json
import os
from typing import Any

from deeplab2 import assemble
from deeplab2 import files as disk
from deeplab2.checkpoint import native
from deeplab2.config.experiment import Config
from deeplab2.data import pipeline

_FIELD = 'eval_dataset_options'
_EVALUATOR = 'evaluator_options'
_COMMON = (
  'transformer_post_processing',
  'pixel_confidence_threshold',
  'thing_area_limit',
  'stuff_area_limit',
)
_PIXELWISE = ('transformer_class_confidence_threshold',)
_MASKWISE = tuple(
  f'maskwise_postprocessing.{name}'
  for name in (
    'transformer_class_confidence_threshold_thing',
    'transformer_class_confidence_threshold_stuff',
    'overlapping_threshold',
    'reorder_class_weight',
    'reorder_mask_weight',
  )
)


def describe(config: Config) -> dict[str, Any]:
  """Returns the evaluated set and options for JSON, without checkpoint and number of images.

  `set` is a digest of it by which two evaluations are known to be of the same. Files count by name
  and size, so that a set may be moved.

  Raises:
    UserError: a file pattern matches nothing.
  """
  patterns = list(config.require(f'{_FIELD}.file_pattern'))
  files = pipeline.find_files(patterns)
  sizes = disk.sizes(files)
  listed = sorted(zip(map(os.path.basename, files), sizes, strict=True))
  rule = config.value(f'{_EVALUATOR}.transformer_post_processing')
  content = {
    'dataset': _dataset(config),
    'num_files': len(files),
    'num_bytes': sum(sizes),
    'files': digest(listed),
    **{
      name: list(config.value(f'{_FIELD}.{name}'))
      for name in ('crop_size', 'min_resize_value', 'max_resize_value')
    },
    'resize_factor': config.value(f'{_FIELD}.resize_factor'),
    'eval_steps': config.value(f'{_EVALUATOR}.eval_steps'),
    'post_processing': {
      name: _shown(config.value(f'{_EVALUATOR}.{name}'))
      for name in (*_COMMON, *(_PIXELWISE if rule == 'pixelwise' else _MASKWISE))
    },
  }
  views = assemble.eval_views(config)
  if views.any():
    content['views'] = {'scales': list(views.scales) or [1.0], 'flipped': views.flip}
  if content['eval_steps'] != -1:
    content['batch_size'] = config.value(f'{_FIELD}.batch_size')
  return {'set': digest(content), 'file_pattern': patterns, **content}


def _dataset(config):
  """Returns the name of the dataset; of one's own, that of the file without its directory."""
  return os.path.basename(config.resolved(f'{_FIELD}.dataset'))


def _shown(value):
  # Seven digits are what a float32 holds.
  return float(f'{value:.7g}') if isinstance(value, float) else value


def digest(content: Any) -> str:
  """Returns eight hexadecimal digits that tell this JSON content from others."""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def identity(content: Mapping[str, Any]) -> tuple:
  """Returns the part by which two evaluations of one step are compared: set and checkpoint."""
  return content.get('set'), content.get('checkpoint')


def weights_digest(model) -> str:
  """Returns a digest of all variables of a model that checkpoints hold below `model`."""
  found = hashlib.sha1(usedforsecurity=False)
  for variable in native.variable_keys({'model': model}).values():
    found.update(variable.numpy().tobytes())
  return found.hexdigest()
