"""What a LiteRT model computes, as a graph of LiteRT's built-in operations.

Once the size of the image is set, LiteRT knows the shape of every tensor before it runs: what
follows from an image's size is where values are taken from, never how many there are. Otherwise
XNNPACK, its library for CPUs, would not take part.
"""

from collections.abc import Callable

import tensorflow as tf

from deeplab2 import kernels
from deeplab2 import structures
from deeplab2.data import geometry
from deeplab2.inference import segmenter as segmenter_lib

# Around the network, in the names of its tensors: what may be quantized.
NETWORK = 'network'


class Graph(tf.Module):
  """One function of a segmenter, and exactly the variables that it reads."""

  def __init__(self, function: Callable[..., dict[str, tf.Tensor]], signature: tf.TensorSpec):
    super().__init__()

    @tf.function(input_signature=[signature], autograph=False)
    def plain(image):
      with kernels.use('plain'), kernels.without_gradients():
        return function(image)

    self.function = plain
    self.read_variables = list(plain.get_concrete_function().graph.variables)


def panoptic(segmenter: segmenter_lib.Segmenter) -> Graph:
  """Returns the graph from an image to its map.

  It takes `image` uint8 RGB [1, H0, W0, 3] of any size to `panoptic_pred` int32 [1, H0, W0],
  `segment_ids` int32 and `segment_scores` float32, [1, N] each (structures.Segments), and
  `class_logits` float32 [1, N, K + 1] of the slots.
  """

  def function(image):
    fitted, placement = fit(image, segmenter.crop_size, segmenter.resize)
    outputs = _segment(segmenter, fitted)
    rows, columns = geometry.restore_indices(placement)
    whole = tf.gather(tf.gather(outputs['panoptic_pred'], rows, axis=1), columns, axis=2)
    return {**outputs, 'panoptic_pred': whole}

  return Graph(function, tf.TensorSpec([1, None, None, 3], tf.uint8, 'image'))


def panoptic_of_crop(segmenter: segmenter_lib.Segmenter) -> Graph:
  """Returns the graph from an image in the crop to its map there.

  It takes `image` float32 [1, H, W, 3] of 0..255, padded with 127.5, to the same as `panoptic`, the
  map being [1, H, W].
  """
  return Graph(lambda image: _segment(segmenter, image), _crop_signature(segmenter))


def logits(segmenter: segmenter_lib.Segmenter) -> Graph:
  """Returns the graph of the network alone.

  It takes `image`, as `panoptic_of_crop`, to `mask_logits` [1, h, w, N] and `class_logits`
  [1, N, K + 1], float32.
  """

  def function(image):
    final = _network(segmenter, image)
    return {'mask_logits': final.mask_logits, 'class_logits': final.class_logits}

  return Graph(function, _crop_signature(segmenter))


def fit(
  image: tf.Tensor, crop_size: tuple[int, int], resize: geometry.Resize
) -> tuple[tf.Tensor, structures.Placement]:
  """Does what geometry.fit_image does, to the last bit, with shapes that are known beforehand.

  Args:
    image: uint8 [1, H0, W0, 3].
    crop_size: (H, W).
    resize: range of sizes.

  Returns:
    [1, H, W, 3] float32, and a Placement without batch axis.
  """
  raw_size = tf.shape(image)[1:3]
  size = geometry.resized_size(raw_size, geometry.within(resize, crop_size))
  top, bottom, down = _neighbours(raw_size[0], size[0], crop_size[0])
  left, right, across = _neighbours(raw_size[1], size[1], crop_size[1])

  def lines(rows):
    line = tf.gather(image[0], rows, axis=0)
    first, second = (
      tf.cast(tf.gather(line, columns, axis=1), tf.float32) for columns in (left, right)
    )
    return first + (second - first) * across[:, tf.newaxis]

  above, below = lines(top), lines(bottom)
  resized = above + (below - above) * down[:, tf.newaxis, tf.newaxis]
  inside = (tf.range(crop_size[0]) < size[0])[:, tf.newaxis, tf.newaxis] & (
    tf.range(crop_size[1]) < size[1]
  )[:, tf.newaxis]
  fitted = tf.where(inside, resized, geometry.PAD_VALUE)
  return fitted[tf.newaxis], structures.Placement(raw_size=raw_size, resized_size=size)


def _neighbours(size, new_size, length):
  """Returns the samples that bilinear resizing mixes: lower and upper [length], share of the upper.

  Args:
    size: scalar, number of samples.
    new_size: scalar, number of samples to resize to, at most `length`; what is beyond is any.
    length: static size of the results.
  """
  # The operations of TensorFlow's resizing, in its order.
  step = tf.cast(size - 1, tf.float32) / tf.cast(tf.maximum(new_size - 1, 1), tf.float32)
  position = tf.cast(tf.minimum(tf.range(length), new_size - 1), tf.float32) * step
  below = tf.floor(position)
  lower = tf.cast(below, tf.int32)
  return tf.minimum(lower, size - 1), tf.minimum(lower + 1, size - 1), position - below


def _crop_signature(segmenter):
  return tf.TensorSpec([1, *segmenter.crop_size, 3], tf.float32, 'image')


def _network(segmenter, image):
  with tf.name_scope(NETWORK):
    return segmenter.infer(image)


def _segment(segmenter, image):
  final = _network(segmenter, image)
  maps, segments = segmenter.merged(final)
  return {
    'panoptic_pred': maps.panoptic,
    'segment_ids': segments.ids,
    'segment_scores': segments.scores,
    'class_logits': final.class_logits,
  }
