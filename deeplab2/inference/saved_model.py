"""The exported form of a segmenter: a SavedModel, and the classes that its maps speak of."""
import os

import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import datasets

# Where the classes of an exported model are described, relative to the SavedModel.
_DATASET_FILE = os.path.join('assets.extra', 'dataset.json')


class _Exported(tf.Module):
  """The serving function and exactly the variables that it reads."""

  def __init__(self, segmenter):
    super().__init__()

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8, 'input_tensor')])
    def segment(input_tensor):
      maps = segmenter(input_tensor)
      return {
          'panoptic_pred': maps.panoptic,
          'instance_pred': maps.instance,
          'semantic_pred': maps.semantic,
          'instance_scores': maps.instance_scores,
          'semantic_scores': maps.semantic_scores,
      }

    # Only the closure knows the segmenter: tracking the model would save its training-only
    # variables too.
    self.segment = segment
    self.read_variables = list(segment.get_concrete_function().graph.variables)


def save(segmenter, info: datasets.DatasetInfo, path: str) -> None:
  """Writes `segmenter` as a SavedModel.

  Its signature `serving_default` takes `input_tensor` uint8 [H0, W0, 3] to `panoptic_pred`,
  `instance_pred`, `semantic_pred` (int32), `instance_scores` and `semantic_scores` (float32), each
  [1, H0, W0]. Variables that these do not need are left out.

  Args:
    segmenter: inference.segmenter.Segmenter with restored weights.
    info: the dataset it was trained on, written beside it.
    path: folder to write to.

  Raises:
    UserError: if the folder cannot be written.
  """
  exported = _Exported(segmenter)
  try:
    tf.saved_model.save(exported, path, signatures={'serving_default': exported.segment})
    dataset_file = os.path.join(path, _DATASET_FILE)
    tf.io.gfile.makedirs(os.path.dirname(dataset_file))
    with tf.io.gfile.GFile(dataset_file, 'w') as file:
      file.write(datasets.to_json(info))
  except (OSError, tf.errors.OpError) as error:
    raise errors.UserError(f'{path}: the model cannot be written there: {error}') from error


def load(path: str):
  """Reads what `save` wrote.

  Returns:
    (segment, info): a function of a uint8 picture [H0, W0, 3] returning the named maps, and the
    DatasetInfo of their classes.

  Raises:
    UserError: if `path` holds no such model.
  """
  dataset_file = os.path.join(path, _DATASET_FILE)
  if not (tf.saved_model.contains_saved_model(path) and tf.io.gfile.exists(dataset_file)):
    raise errors.UserError(
        f'{path}: no exported model; it must be a folder written by deeplab2.inference.export, '
        f'with saved_model.pb and {_DATASET_FILE}.')
  loaded = tf.saved_model.load(path)
  # The function does not keep the module alive whose variables it reads.
  return lambda picture: loaded.segment(picture), datasets.load(dataset_file)
