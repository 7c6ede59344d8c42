"""From an image to its panoptic map: the one path that evaluation, prediction and export share."""

import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import structures
from deeplab2.config.experiment import Config
from deeplab2.data import geometry


def create(config: Config, model) -> 'Segmenter':
  """Builds the segmenter of an experiment around its model."""
  crop_size, resize = assemble.eval_fit(config)
  return Segmenter(model, assemble.post_processing(config), crop_size=crop_size, resize=resize)


class Segmenter(tf.Module):
  """Segments images of any size: fit to the crop, model, post-processing, back to their size."""

  def __init__(self, model, postprocess, *, crop_size: tuple[int, int], resize: geometry.Resize):
    """Creates a segmenter.

    Args:
      model: KMaXDeepLab with its variables created.
      postprocess: MaskPrediction logits -> PanopticMap at crop size (model/postprocess.py).
      crop_size: (height, width) of the evaluation crop, both of the form 32n + 1.
      resize: the range that an image is resized into before it is padded to the crop.
    """
    super().__init__()
    self._model = model
    self._postprocess = postprocess
    self._crop_size = crop_size
    self._resize = resize

  def __call__(self, image: tf.Tensor) -> structures.PanopticMap:
    """Segments one uint8 RGB image [H0, W0, 3]; returns maps [1, H0, W0] at its own size."""
    maps, placement = self._in_crop(image)
    return self.restore(maps, structures.Placement(*(part[tf.newaxis] for part in placement)), 0)

  def panoptic_in_crop(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Segments one image as a call does, but leaves its panoptic map in the crop.

    Args:
      image: uint8 RGB [H0, W0, 3].

    Returns:
      (values, rows, columns): int32 [h, w], [H0] and [W0]. The map at the image's own size is
      values[rows[i], columns[j]] at pixel (i, j).
    """
    maps, placement = self._in_crop(image)
    return (maps.panoptic[0], *geometry.restore_indices(placement))

  def _in_crop(self, image):
    """Returns the maps [1, h, w] of an image in the crop, and its Placement without batch."""
    fitted, placement = geometry.fit_image(image, self._crop_size, self._resize)
    return self.maps(self._model.infer(fitted[tf.newaxis])), placement

  def maps(self, final: structures.MaskPrediction) -> structures.PanopticMap:
    """Returns the maps [B, H, W] at crop size of the model's final masks."""
    return self._postprocess(final.mask_logits, final.class_logits)

  def restore(
    self, maps: structures.PanopticMap, placement: structures.Placement, index: int
  ) -> structures.PanopticMap:
    """Brings image `index` of the crop-sized `maps` to its own size: maps [1, H0, W0]."""
    one = structures.Placement(*(part[index] for part in placement))
    return structures.PanopticMap(*(geometry.restore(m[index], one)[tf.newaxis] for m in maps))
