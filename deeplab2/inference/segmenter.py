"""From a picture to its panoptic map: the one path that evaluation, prediction and export share."""
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
  """Segments pictures of any size: fit to the crop, model, post-processing, back to their size."""

  def __init__(self, model, postprocess, *, crop_size: tuple[int, int],
               resize: geometry.Resize):
    """Creates a segmenter.

    Args:
      model: KMaXDeepLab with its variables created.
      postprocess: MaskPrediction logits -> PanopticMap at crop size (model/postprocess.py).
      crop_size: (height, width) of the evaluation crop, both of the form 32n + 1.
      resize: the range that a picture is resized into before it is padded to the crop.
    """
    super().__init__()
    self._model = model
    self._postprocess = postprocess
    self._crop_size = crop_size
    self._resize = resize

  def __call__(self, picture: tf.Tensor) -> structures.PanopticMap:
    """Segments one uint8 RGB picture [H0, W0, 3]; returns maps [1, H0, W0] at its own size."""
    image, placement = geometry.fit_picture(picture, self._crop_size, self._resize)
    maps = self.maps(self._model.infer(image[tf.newaxis]))
    return self.restore(maps, structures.Placement(*(part[tf.newaxis] for part in placement)), 0)

  def maps(self, final: structures.MaskPrediction) -> structures.PanopticMap:
    """Returns the maps [B, H, W] at crop size of the model's final masks."""
    return self._postprocess(final.mask_logits, final.class_logits)

  def restore(self, maps: structures.PanopticMap, placement: structures.Placement,
              index: int) -> structures.PanopticMap:
    """Brings picture `index` of the crop-sized `maps` to its own size: maps [1, H0, W0]."""
    one = structures.Placement(*(part[index] for part in placement))
    return structures.PanopticMap(*(geometry.restore(m[index], one)[tf.newaxis] for m in maps))
