"""From an image to its panoptic map: the one path that evaluation, prediction and export share."""

from collections.abc import Iterable
import contextlib
from typing import NamedTuple

import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import structures
from deeplab2.checkpoint import restore as restore_lib
from deeplab2.config import checks
from deeplab2.config import load
from deeplab2.config import trainer_checks
from deeplab2.config.experiment import Config
from deeplab2.data import datasets
from deeplab2.data import geometry
from deeplab2.inference import augmentation as augmentation_lib
from deeplab2.model.layers import norm


class Restored(NamedTuple):
  """What `restore` returns."""

  segmenter: 'Segmenter'
  info: datasets.DatasetInfo
  config: Config


def restore(config_file: str, checkpoint: str, overrides: Iterable[str] = ()) -> Restored:
  """Builds the segmenter of a configuration with the weights of a checkpoint.

  Args:
    config_file: textproto of the experiment.
    checkpoint: prefix of a checkpoint, a directory whose newest one is taken, or a file of PyTorch
      kMaX-DeepLab.
    overrides: 'a.b.c=value' each.

  Raises:
    UserError: config or checkpoint is wrong.
  """
  config = load.load(config_file, overrides)
  checks.check_mode(config, 'export')
  restore_lib.newest(checkpoint)  # Before a model is built for nothing.
  model = assemble.model(config, drawn=False)
  restore_lib.restore_model(
    model,
    checkpoint,
    averages=trainer_checks.averages_are_used(config),
    conventions=assemble.conventions(config),
  )
  return Restored(create(config, model), assemble.dataset_info(config), config)


def create(config: Config, model) -> 'Segmenter':
  """Builds the segmenter of an experiment around its model."""
  crop_size, resize = assemble.eval_fit(config)
  return Segmenter(
    model,
    assemble.post_processing(config),
    crop_size=crop_size,
    resize=resize,
    augmentation=augmentation(config, model),
  )


def augmentation(config: Config, model) -> augmentation_lib.Augmentation | None:
  """Builds the average over copies of an image that the config asks for, None if for none."""
  views = assemble.eval_views(config)
  if not views.any():
    return None
  return augmentation_lib.Augmentation(
    model.infer, augmentation_lib.views(views.scales, flip=views.flip)
  )


class Segmenter(tf.Module):
  """Segments images of any size: fit to the crop, model, post-processing, back to their size."""

  def __init__(
    self,
    model,
    postprocess,
    *,
    crop_size: tuple[int, int],
    resize: geometry.Resize,
    augmentation: augmentation_lib.Augmentation | None = None,
  ):
    """Creates a segmenter.

    Args:
      model: KMaXDeepLab with its variables created.
      postprocess: MaskPrediction logits -> PanopticMap at crop size (model/postprocess.py).
      crop_size: (height, width) of the evaluation crop, both of the form 32n + 1.
      resize: the range that an image is resized into before it is padded to the crop.
      augmentation: averages over copies of an image; None for the image alone.
    """
    super().__init__()
    self._model = model
    self._postprocess = postprocess
    self._crop_size = crop_size
    self._resize = resize
    self._augmentation = augmentation

  def __call__(self, image: tf.Tensor) -> structures.PanopticMap:
    """Segments one uint8 RGB image [H0, W0, 3]; returns maps [1, H0, W0] at its own size."""
    fitted, placement = self.fit(image)
    maps = self.maps(self.infer(fitted[tf.newaxis]))
    return self.restore(maps, structures.Placement(*(part[tf.newaxis] for part in placement)), 0)

  @property
  def crop_size(self) -> tuple[int, int]:
    """(height, width) of the images that the network takes."""
    return self._crop_size

  @property
  def resize(self) -> geometry.Resize:
    """The range that an image is resized into before it is padded to the crop."""
    return self._resize

  @property
  def merging(self) -> dict[str, float | str]:
    """Settings of the post-processing, see model/postprocess.py."""
    return self._postprocess.settings

  def fit(self, image: tf.Tensor) -> tuple[tf.Tensor, structures.Placement]:
    """Returns an image uint8 [H0, W0, 3] as the network takes it, see geometry.fit_image."""
    return geometry.fit_image(image, self._crop_size, self._resize)

  def infer(self, fitted: tf.Tensor) -> structures.MaskPrediction:
    """Returns the final masks and classes of images [B, H, W, 3] float32 in the crop."""
    return self.averaged(fitted, self._model.infer(fitted))

  def averaged(
    self, fitted: tf.Tensor, final: structures.MaskPrediction
  ) -> structures.MaskPrediction:
    """Returns masks and classes averaged over the copies of the images, if there are any.

    Args:
      fitted: images [B, H, W, 3] float32 in the crop.
      final: what the model gave for them.
    """
    return final if self._augmentation is None else self._augmentation(fitted, final)

  def constant_norms(self) -> contextlib.AbstractContextManager[None]:
    """Lets graphs that are traced in the context hold as little of norms as inference needs."""
    return norm.constant(self._model)

  def merged(
    self, final: structures.MaskPrediction
  ) -> tuple[structures.PanopticMap, structures.Segments]:
    """Returns the maps [B, H, W] at crop size, and their segments."""
    return self._postprocess.with_segments(final.mask_logits, final.class_logits)

  def maps(self, final: structures.MaskPrediction) -> structures.PanopticMap:
    """Returns the maps [B, H, W] at crop size of the model's final masks."""
    return self._postprocess(final.mask_logits, final.class_logits)

  def restore(
    self, maps: structures.PanopticMap, placement: structures.Placement, index: int
  ) -> structures.PanopticMap:
    """Brings image `index` of the crop-sized `maps` to its own size: maps [1, H0, W0]."""
    one = structures.Placement(*(part[index] for part in placement))
    return structures.PanopticMap(*(geometry.restore(m[index], one)[tf.newaxis] for m in maps))
