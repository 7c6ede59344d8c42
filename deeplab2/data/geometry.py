"""Fits an image into the crop, and brings maps of the crop back to the image's own size.

All functions take one image or map without a batch axis, of any size known only when run, and
work in tf.data, in tf.function and in a SavedModel. Sampling is corner-aligned (`resampling`), so
that a map at crop size and features at a stride of it see the same points.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab2 import structures

# Padding of images: the middle of 0..255, which is 0 after the model's normalisation.
PAD_VALUE = 127.5


class Resize(NamedTuple):
  """The range of sizes that images are resized into; all None leaves them as they are."""

  min_size: tuple[int, int] | None = None  # The image is scaled to just cover this...
  max_size: tuple[int, int] | None = None  # ...then shrunk, if need be, to fit into this...
  factor: int | None = None  # ...then each side is raised to the form factor * n + 1.

  @classmethod
  def from_lists(
    cls, min_size: Sequence[int] = (), max_size: Sequence[int] = (), factor: int = 0
  ) -> 'Resize':
    """Reads the short form: one number stands for both sides; none, or a zero, for no limit."""
    return cls(_both_sides(min_size), _both_sides(max_size), factor or None)


def _both_sides(sizes):
  """Returns (height, width) of a list of up to two numbers, or None if it sets no limit."""
  if len(sizes) > 2:
    raise ValueError(f'{list(sizes)} must be one size for both sides, or height and width.')
  if not sizes or min(sizes) <= 0:
    return None
  return (sizes[0], sizes[-1])


def resized_size(size: tf.Tensor, resize: Resize) -> tf.Tensor:
  """Returns the size [2] int32 that `resize` gives an image of `size` [2] int32.

  The ratio of sides is kept up to rounding down. Scales are float32 and sizes are their floor, as
  DeepLab2 computes them: now and then a side that should meet the limit is one pixel short of it.
  """
  if resize.min_size is not None:
    size = scaled_size(size, tf.reduce_max(_ratios(resize.min_size, size)))
  if resize.max_size is not None:
    limit: tuple[int, ...] = resize.max_size
    if resize.factor is not None:
      limit = tuple(side - (side - 1) % resize.factor for side in limit)
    size = scaled_size(size, tf.minimum(tf.reduce_min(_ratios(limit, size)), 1.0))
  if resize.factor is not None:
    size += (1 - size) % resize.factor
  return size


def _ratios(target, size):
  # A quotient of float32 has the bits of one of float64 that is rounded to float32 afterwards, as
  # DeepLab2 computes it (Figueroa 1995: 53 bits are more than twice 24). LiteRT has no other.
  return tf.constant(target, tf.float32) / tf.cast(size, tf.float32)


def scaled_size(size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
  """Returns `size` [2] int32 times a float32 scale, rounded down but at least 1."""
  return tf.maximum(tf.cast(tf.cast(size, tf.float32) * scale, tf.int32), 1)


def fit_image(
  image: tf.Tensor, crop_size: tuple[int, int], resize: Resize
) -> tuple[tf.Tensor, structures.Placement]:
  """Resizes an image into the crop and pads it at the bottom and right.

  Args:
    image: [H0, W0, 3] uint8 or float32.
    crop_size: (H, W).
    resize: range of sizes. Without a max_size, it is the crop.

  Returns:
    [H, W, 3] float32, and a Placement without batch axis (fields [2]) for `restore`.

  Raises:
    ValueError: max_size exceeds the crop.
  """
  resize = within(resize, crop_size)
  raw_size = tf.shape(image)[:2]
  size = resized_size(raw_size, resize)
  fitted = pad(resize_image(image, size), (0, 0), crop_size, PAD_VALUE)
  return fitted, structures.Placement(raw_size=raw_size, resized_size=size)


def fit_label(
  label: tf.Tensor, placement: structures.Placement, crop_size: tuple[int, int], void_id: int
) -> tf.Tensor:
  """Puts the label map [H0, W0] of an image where `fit_image` put the image: [H, W]."""
  return pad(resize_label(label, placement.resized_size), (0, 0), crop_size, void_id)


def restore(label_map: tf.Tensor, placement: structures.Placement) -> tf.Tensor:
  """Undoes `fit_image` for a map of the crop: cuts the padding off, resizes to the image.

  Args:
    label_map: [H, W, ...] of any type; values are copied, never mixed.
    placement: of that image, without batch axis. Not of a padding example, which has no size.

  Returns:
    [H0, W0, ...] of the same type.
  """
  return resize_label(crop(label_map, (0, 0), placement.resized_size), placement.raw_size)


def restore_indices(placement: structures.Placement) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns rows [H0] and columns [W0], int32, with restore(map)[i, j] = map[rows[i], columns[j]].

  Args:
    placement: as of `restore`.
  """
  rows, columns = (
    nearest_index(placement.resized_size[i], placement.raw_size[i]) for i in range(2)
  )
  return rows, columns


def within(resize: Resize, crop_size: tuple[int, int]) -> Resize:
  """Returns `resize` with a max_size, that of the crop if it has none; ValueError if larger."""
  if resize.max_size is None:
    return resize._replace(max_size=crop_size)
  if resize.max_size[0] > crop_size[0] or resize.max_size[1] > crop_size[1]:
    raise ValueError(
      f'Images resized up to {resize.max_size} do not fit into a crop of '
      f'{tuple(crop_size)} (height, width).'
    )
  return resize


def resize_image(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
  """Resizes [h, w, 3] to float32 [h', w', 3], bilinear; its own size leaves every bit as it is."""
  return tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=size, align_corners=True)[0]


def resize_label(label: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
  """Resizes [h, w, ...] to [h', w', ...] by taking the nearest pixel, halves rounded up."""
  # Two gathers, the second of whole rows, take a third of the time of TF's nearest resize.
  old = tf.shape(label)
  columns = tf.gather(label, nearest_index(old[1], size[1]), axis=1)
  return tf.gather(columns, nearest_index(old[0], size[0]), axis=0)


def nearest_index(size: tf.Tensor, new_size: tf.Tensor) -> tf.Tensor:
  """Returns, for each of `new_size` samples, which of `size` samples is nearest. int32.

  First and last sample lie on first and last. A single sample lies on the first.
  """
  step = tf.cast(size - 1, tf.float32) / tf.cast(tf.maximum(new_size - 1, 1), tf.float32)
  position = tf.cast(tf.range(new_size), tf.float32) * step
  below = tf.floor(position)
  index = tf.cast(below, tf.int32) + tf.cast(position - below >= 0.5, tf.int32)
  return tf.minimum(index, size - 1)


def pad(image: tf.Tensor, offset: Sequence[int], size: tuple[int, int], value) -> tf.Tensor:
  """Puts [h, w, ...] at `offset` (top, left) into a plane of `size` (H, W) full of `value`.

  The image must lie inside the plane.
  """
  shape = tf.shape(image)
  around = [[offset[i], size[i] - shape[i] - offset[i]] for i in range(2)]
  paddings = tf.stack(around + [[0, 0]] * (image.shape.rank - 2))
  padded = tf.pad(image, paddings, constant_values=tf.cast(value, image.dtype))
  padded.set_shape((*size, *image.shape[2:]))
  return padded


def crop(image: tf.Tensor, offset: Sequence[int], size: Sequence[int]) -> tf.Tensor:
  """Cuts `size` (h', w') at `offset` (top, left) out of [h, w, ...]."""
  top, left = offset[0], offset[1]
  return image[top : top + size[0], left : left + size[1]]


def flip(image: tf.Tensor) -> tf.Tensor:
  """Mirrors [h, w, ...] left to right."""
  return tf.reverse(image, [1])
