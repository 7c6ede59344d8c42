"""Runs LiteRT models (.tflite) by ai-edge-litert, on CPUs by XNNPACK."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import geometry
from deeplab2.data import parallel
from deeplab2.data import stretched
from deeplab2.inference import litert
from deeplab2.inference import litert_file
from deeplab2.inference import merging
from deeplab2.inference import model
from deeplab2.inference import result


class LiteRTModel(model.Model):
  """A LiteRT model; one image at a time."""

  def __init__(self, path: str, num_threads: int | None = None):
    """Loads a model.

    Args:
      path: file of `export --format=litert`.
      num_threads: that it computes with; None for one per core.

    Raises:
      UserError: ai-edge-litert is not installed, or the file is missing, damaged or of something
        else.
    """
    described = litert_file.read(path)
    super().__init__(described.info)
    self.settings = described.settings
    self.fingerprint = described.fingerprint
    try:
      self._run = litert.runner(path, num_threads or parallel.usable_cores())
    except (ValueError, RuntimeError) as error:
      raise errors.UserError(
        f'{path}: LiteRT cannot load the model ({files.reason(error)}); export it again.'
      ) from error

  def segment(self, images: Sequence[np.ndarray]) -> list[result.Result]:
    return [self._one(image) for image in images]

  def _one(self, image):
    if self.settings.outputs == 'panoptic':
      outputs = self._run(image=image[np.newaxis])
      return result.Result(
        image, outputs['panoptic_pred'][0], self.info, scores=self._scores(outputs)
      )
    fitted, placement = geometry.fit_image(
      tf.constant(image), self.settings.crop_size, self.settings.resize
    )
    outputs = self._run(image=fitted.numpy()[np.newaxis])
    rows, columns = (index.numpy() for index in geometry.restore_indices(placement))

    def stretch(values):
      return stretched.StretchedMap(values, rows, columns)

    if self.settings.outputs == 'crop':
      panoptic = stretch(outputs['panoptic_pred'][0])
      return result.Result(image, panoptic, self.info, scores=self._scores(outputs))
    merged = merging.merge(
      outputs['mask_logits'][0],
      outputs['class_logits'][0],
      self.settings.crop_size,
      self.info.label_space,
      self.settings.merging,
    )
    return result.Result(
      image,
      stretch(merged.panoptic),
      self.info,
      semantic=stretch(merged.semantic),
      scores=merged.scores,
    )

  def _scores(self, outputs):
    """Returns the scores by panoptic id."""
    ids, scores = outputs['segment_ids'][0].tolist(), outputs['segment_scores'][0].tolist()
    void = self.info.label_space.void_id
    return {key: score for key, score in zip(ids, scores, strict=True) if key != void}
