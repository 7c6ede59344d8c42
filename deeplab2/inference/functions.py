"""The functions of a segmenter as TensorFlow runs them, in this process or in a SavedModel.

The network is one function, traced once, that all others call.
"""

from collections.abc import Callable

import tensorflow as tf

from deeplab2 import kernels
from deeplab2 import structures
from deeplab2.data import geometry
from deeplab2.inference import segmenter as segmenter_lib

# Names of the signatures that are written if nothing else is asked for, besides the two that every
# model has.
OPTIONAL = ('batch', 'encoded', 'logits')


class Functions(tf.Module):
  """All functions, and exactly the variables that they read.

  Attributes:
    fit: uint8 image [H0, W0, 3] -> `fitted` float32 [h, w, 3] as the network takes it, and int32
      `rows` [H0] and `columns` [W0]: where the pixels of the image are in the maps of the crop.
    in_crop: `fitted` [B, h, w, 3] -> int32 `panoptic`, `instance`, `semantic` and float32
      `instance_scores`, `semantic_scores` [B, h, w]; `segment_ids` int32 and `segment_scores`
      float32 [B, N], see structures.Segments.
    masks: `fitted` -> mask logits [B, h', w', N] and class logits [B, N, K + 1].
    segment: the signature `serving_default` (see saved_model.py).
    panoptic_in_crop: the signature of that name.
    batch, encoded, logits: the signatures of these names, where they are wanted.
  """

  def __init__(
    self,
    segmenter: segmenter_lib.Segmenter,
    label_space: structures.LabelSpace,
    outputs: tuple[str, ...] = (),
    batch_size: int | None = None,
  ):
    """Creates the functions; `fit` and `in_crop` are traced at their first call.

    Args:
      segmenter: with restored weights.
      label_space: of its maps.
      outputs: which of OPTIONAL to have.
      batch_size: number of images that the optional ones take, None for any.
    """
    super().__init__()
    # Only the closures know the segmenter: tracking the model would save its training-only
    # variables too.
    fitted = tf.TensorSpec([None, *segmenter.crop_size, 3], tf.float32, 'fitted')
    image = tf.TensorSpec([None, None, 3], tf.uint8, 'input_tensor')

    @_function(fitted)
    def masks(fitted):
      # Gradients would be traced and stored with the model.
      with kernels.without_gradients():
        final = segmenter.infer(fitted)
      return final.mask_logits, final.class_logits

    @_function(fitted)
    def in_crop(fitted):
      maps, segments = segmenter.merged(structures.MaskPrediction(*masks(fitted), None))
      return {**maps._asdict(), **_named(segments)}

    @_function(image)
    def fit(input_tensor):
      fitted, placement = segmenter.fit(input_tensor)
      rows, columns = geometry.restore_indices(placement)
      return {'fitted': fitted, 'rows': rows, 'columns': columns}

    @_function(image)
    def segment(input_tensor):
      fitted, placement = segmenter.fit(input_tensor)
      found = in_crop(fitted[tf.newaxis])
      whole = {
        key: geometry.restore(found[key][0], placement)[tf.newaxis]
        for key in structures.PanopticMap._fields
      }
      return {
        'panoptic_pred': whole['panoptic'],
        'instance_pred': whole['instance'],
        'semantic_pred': whole['semantic'],
        'instance_scores': whole['instance_scores'],
        'semantic_scores': whole['semantic_scores'],
        'segment_ids': tf.ensure_shape(found['segment_ids'], [1, None]),
        'segment_scores': tf.ensure_shape(found['segment_scores'], [1, None]),
      }

    @_function(image)
    def panoptic_in_crop(input_tensor):
      fitted, placement = segmenter.fit(input_tensor)
      rows, columns = geometry.restore_indices(placement)
      values = in_crop(fitted[tf.newaxis])['panoptic'][0]
      return {'values': values, 'rows': rows, 'columns': columns}

    self.fit, self.in_crop = fit, in_crop
    self.segment, self.panoptic_in_crop = segment, panoptic_in_crop
    if 'batch' in outputs:
      self.batch = _batch(segmenter, in_crop, label_space, batch_size)
    if 'encoded' in outputs:
      self.encoded = _encoded(segmenter, in_crop, label_space, batch_size)
    if 'logits' in outputs:
      self.logits = _logits(segmenter, masks, batch_size)
    self.masks = masks

  def signatures(self) -> dict[str, Callable]:
    """Returns the signatures of a SavedModel by name."""
    optional = {name: getattr(self, name) for name in OPTIONAL if hasattr(self, name)}
    return {
      'serving_default': self.segment,
      'panoptic_in_crop': self.panoptic_in_crop,
      **optional,
    }

  def _trackable_children(self, save_type='checkpoint', **kwargs):
    """Saves the variables that the network reads with it.

    They are known once it is traced. A trace from before a SavedModel is written is not the one
    that is written, so it is made here, where that one is.
    """
    children = super()._trackable_children(save_type, **kwargs)
    if save_type == 'savedmodel' and 'read_variables' not in children:
      self.read_variables = list(self.masks.get_concrete_function().graph.variables)
      children['read_variables'] = self.read_variables
    return children


# What segmenter.fit returns.
_FITTED = (tf.float32, structures.Placement(tf.int32, tf.int32))


def _function(*specs):
  return tf.function(input_signature=specs, autograph=False)


def _named(segments):
  return {'segment_ids': segments.ids, 'segment_scores': segments.scores}


def _images_and_sizes(batch_size):
  return (
    tf.TensorSpec([batch_size, None, None, 3], tf.uint8, 'images'),
    tf.TensorSpec([batch_size, 2], tf.int32, 'sizes'),
  )


def _batch(segmenter, in_crop, space, batch_size):
  @_function(*_images_and_sizes(batch_size))
  def batch(images, sizes):
    fitted, placement = _fit_all(segmenter, images, sizes)
    return _restored(in_crop(fitted), placement, tf.shape(images)[1:3], space)

  return batch


def _encoded(segmenter, in_crop, space, batch_size):
  @_function(tf.TensorSpec([batch_size], tf.string, 'image_bytes'))
  def encoded(image_bytes):
    def decoded(data):
      image = tf.io.decode_image(data, channels=3, expand_animations=False)
      image.set_shape([None, None, 3])
      return segmenter.fit(image)

    fitted, placement = tf.map_fn(decoded, image_bytes, fn_output_signature=_FITTED)
    size = tf.reduce_max(placement.raw_size, axis=0)
    return {
      **_restored(in_crop(fitted), placement, size, space),
      'sizes': placement.raw_size,
    }

  return encoded


def _logits(segmenter, masks, batch_size):
  @_function(*_images_and_sizes(batch_size))
  def logits(images, sizes):
    fitted, placement = _fit_all(segmenter, images, sizes)
    mask_logits, class_logits = masks(fitted)
    return {
      'mask_logits': mask_logits,
      'class_logits': class_logits,
      'fitted_sizes': placement.resized_size,
    }

  return logits


def _fit_all(segmenter, images, sizes):
  """Returns the images of a batch as the network takes them, and their Placement."""
  shape = tf.shape(images)
  checked = tf.debugging.Assert(
    tf.reduce_all((sizes >= 1) & (sizes <= shape[1:3])),
    ['each of `sizes` must be height and width from 1 to those of `images`', sizes, shape],
  )
  # Else an image without rows may fail first, in other words.
  with tf.control_dependencies([checked]):
    sizes = tf.identity(sizes)

  def fit(part):
    image, size = part
    return segmenter.fit(geometry.crop(image, (0, 0), size))

  return tf.map_fn(fit, (images, sizes), fn_output_signature=_FITTED)


def _restored(found, placement, size, space):
  """Returns the maps of a batch at the sizes of their images, padded to `size`, and segments."""

  def whole(part):
    panoptic, semantic, *places = part
    place = structures.Placement(*places)
    padding = tf.stack([[0, 0], size - place.raw_size], axis=1)
    return tuple(
      tf.pad(geometry.restore(values, place), padding, constant_values=outside)
      for values, outside in ((panoptic, space.void_id), (semantic, space.ignore_label))
    )

  panoptic, semantic = tf.map_fn(
    whole,
    (found['panoptic'], found['semantic'], *placement),
    fn_output_signature=(tf.int32, tf.int32),
  )
  return {
    'panoptic_pred': panoptic,
    'semantic_pred': semantic,
    'segment_ids': found['segment_ids'],
    'segment_scores': found['segment_scores'],
  }
