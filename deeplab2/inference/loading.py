"""From what users have of a model to a model that is ready for images."""

from collections.abc import Iterable
import os
from typing import Any

import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.config import changes
from deeplab2.inference import functions
from deeplab2.inference import litert_file
from deeplab2.inference import litert_model
from deeplab2.inference import model as model_lib
from deeplab2.inference import saved_model
from deeplab2.inference import segmenter
from deeplab2.inference import tensorflow_model

Source = str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]
_EXPECTED = (
  'give the directory of a SavedModel or the .tflite file (both of deeplab2-export), the directory '
  'of a run, or a config and a checkpoint: load(config, checkpoint)'
)

_MOST_NAMES = 100  # Of a directory that is none of these, to look for what was meant.


def load(
  source: Source,
  checkpoint: str | os.PathLike[str] | None = None,
  *,
  overrides: Iterable[str] = (),
) -> model_lib.Model:
  """Loads a model, see `deeplab2.load`."""
  if isinstance(source, tuple) and len(source) == 2 and checkpoint is None:
    source, checkpoint = source
  place = _path(source, 'source')
  if isinstance(overrides, str):
    raise errors.UserError(f"overrides={overrides!r}: must be a list, ['{overrides}'].")
  if checkpoint is not None:
    return _from_checkpoint(place, _path(checkpoint, 'checkpoint'), overrides)
  if place.endswith(litert_file.ENDING):
    if list(overrides):
      raise errors.UserError(
        f'{place}: overrides are for a config; a LiteRT model has none. Load the run directory.'
      )
    return litert_model.LiteRTModel(place)
  if _holds(place, 'saved_model.pb'):
    if list(overrides):
      raise errors.UserError(
        f'{place}: overrides are for a config; an exported model has none. Load the run directory.'
      )
    exported = saved_model.load(place)
    return tensorflow_model.TensorFlowModel(exported.functions, exported.info)
  if _holds(place, changes.OF_RUN):
    return _from_checkpoint(os.path.join(place, changes.OF_RUN), place, overrides)
  raise errors.UserError(f'{place}: {_problem(place)}; {_EXPECTED}.')


def _path(value: Any, name: str) -> str:
  if not isinstance(value, str | os.PathLike):
    raise errors.UserError(f'{name} is of type {type(value).__name__}; {_EXPECTED}.')
  return files.expand(os.fspath(value)).rstrip('/') or '/'


def _holds(directory, name):
  return tf.io.gfile.exists(os.path.join(directory, name))


def _from_checkpoint(config_file, checkpoint, overrides):
  restored = segmenter.restore(config_file, checkpoint, overrides)
  space = restored.info.label_space
  return tensorflow_model.TensorFlowModel(
    functions.Functions(restored.segmenter, space), restored.info
  )


def _problem(place):
  """Returns why no model is found at a place."""
  if not tf.io.gfile.isdir(place):
    if tf.io.gfile.exists(f'{place}.index') or place.endswith(('.pth', '.pt', '.safetensors')):
      return 'is a checkpoint without its config'
    if place.endswith('.textproto'):
      return 'is a config without its checkpoint'
    return 'is no model' if tf.io.gfile.exists(place) else 'no such model'
  if files.matching(place, r'.*\.index'):
    return f'holds checkpoints, but no {changes.OF_RUN} that says of which model'
  names = files.matching(place, '.*')[:_MOST_NAMES]
  runs = [os.path.join(place, name) for name in names if _is_model(os.path.join(place, name))]
  if runs:
    return f'holds several things; is it {errors.listed(runs)}'
  return 'holds no model'


def _is_model(place):
  return _holds(place, changes.OF_RUN) or _holds(place, 'saved_model.pb')
