"""An exported model without a network: it segments images by their colours, in no time."""

import pathlib

import numpy as np
import tensorflow as tf

from deeplab2 import structures
from deeplab2.data import datasets
from deeplab2.data import geometry
from deeplab2.inference import saved_model
from deeplab2.inference import segmenter
from deeplab2.model import postprocess

CROP = (65, 65)
COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)], np.uint8)


class _Model(tf.Module):
  """Gives each of the four COLORS a mask: a thing, another thing, and two stuff classes."""

  def __init__(self, num_classes: int, classes):
    super().__init__()
    self._colors = tf.Variable(COLORS.astype(np.float32))
    self._classes = tf.Variable(20 * tf.one_hot(classes, num_classes + 1))

  def infer(self, image):
    """Returns the masks of images [B, H, W, 3], nearest colours first."""
    distances = tf.reduce_sum((image[:, ::4, ::4, tf.newaxis] - self._colors) ** 2, -1)
    classes = tf.repeat(self._classes[tf.newaxis], tf.shape(image)[0], axis=0)
    return structures.MaskPrediction(-distances / 100, classes, None)


def create(dataset: str = 'shapes', classes=(0, 1, 5, 6)) -> segmenter.Segmenter:
  """Returns a segmenter; `classes` are class channels (things first) of the four colours."""
  space = datasets.get(dataset).label_space
  merge = postprocess.MaskwisePostprocess(
    space, CROP, pixel_confidence=0.4, options=postprocess.MaskwiseOptions()
  )
  return segmenter.Segmenter(
    _Model(space.num_real_classes, classes),
    merge,
    crop_size=CROP,
    resize=geometry.Resize(CROP, CROP),
  )


def export(path: str, dataset: str = 'shapes', classes=(0, 1, 5, 6)) -> str:
  """Exports such a model; returns `path`."""
  saved_model.save(create(dataset, classes), datasets.get(dataset), path)
  return path


class _Earlier(tf.Module):
  """What the first version exported: one function."""

  def __init__(self, segment):
    super().__init__()
    self.segment = tf.function(
      lambda input_tensor: {'panoptic_pred': segment(input_tensor).panoptic},
      input_signature=[tf.TensorSpec([None, None, 3], tf.uint8, 'input_tensor')],
    )
    self.read_variables = list(self.segment.get_concrete_function().graph.variables)


def export_as_first_version(path: str) -> str:
  """Exports such a model without list of files and without other functions; returns `path`."""
  module = _Earlier(create())
  tf.saved_model.save(module, path, signatures={'serving_default': module.segment})
  described = pathlib.Path(path, 'assets.extra', 'dataset.json')
  described.parent.mkdir()
  described.write_text(datasets.to_json(datasets.get('shapes')))
  return path


def image(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
  """Returns uint8 [height, width, 3]: rectangles of the four colours."""
  rng = np.random.RandomState(seed)
  index = np.full((height, width), 3)
  for color in (2, 1, 0):
    top, left = rng.randint(0, height // 2), rng.randint(0, width // 2)
    index[top : top + height // 2, left : left + width // 2] = color
  return COLORS[index]
