"""A model that TensorFlow runs: exported, or built here with the weights of a checkpoint."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import datasets
from deeplab2.data import stretched
from deeplab2.inference import model
from deeplab2.inference import result as result_lib


class TensorFlowModel(model.Model):
  """Segments a batch by one run of the network."""

  def __init__(self, functions: Any, info: datasets.DatasetInfo):
    """Creates a model.

    Args:
      functions: inference.functions.Functions, or a SavedModel with some of its functions. Of one
        that was exported before there was `in_crop`, images are segmented one by one and segments
        have no scores.
      info: the dataset.
    """
    super().__init__(info)
    self._functions = functions

  def segment(self, images: Sequence[np.ndarray]) -> list[result_lib.Result]:
    """Segments a batch; see Model. UserError if TensorFlow cannot, for lack of memory mostly."""
    try:
      if hasattr(self._functions, 'in_crop'):
        return self._of_batch(images)
      return [self._of_whole(image) for image in images]
    except tf.errors.OpError as error:
      sizes = ', '.join(f'{image.shape[0]}x{image.shape[1]}' for image in images)
      raise errors.UserError(
        f'the model cannot segment {len(images)} images of {sizes} ({files.reason(error)}).'
      ) from error

  def _of_batch(self, images):
    fits = [self._functions.fit(tf.constant(image)) for image in images]
    found = self._functions.in_crop(tf.stack([fit['fitted'] for fit in fits]))
    found = {
      key: found[key].numpy() for key in ('panoptic', 'semantic', 'segment_ids', 'segment_scores')
    }
    results = []
    for number, (image, fit) in enumerate(zip(images, fits, strict=True)):
      places = fit['rows'].numpy(), fit['columns'].numpy()
      ids, scores = found['segment_ids'][number], found['segment_scores'][number]
      results.append(
        result_lib.Result(
          image,
          stretched.StretchedMap(found['panoptic'][number], *places),
          self.info,
          semantic=stretched.StretchedMap(found['semantic'][number], *places),
          scores=dict(zip(ids.tolist(), scores.tolist(), strict=True)),
        )
      )
    return results

  def _of_whole(self, image):
    maps = self._functions.segment(tf.constant(image))
    semantic = maps['semantic_pred'][0].numpy() if 'semantic_pred' in maps else None
    panoptic = maps['panoptic_pred'][0].numpy()
    return result_lib.Result(image, panoptic, self.info, semantic=semantic)
