"""The one sampling convention of the package: corner-aligned grids of 32n + 1 samples.

A feature at stride s has (crop - 1) / s + 1 samples per side, and sample i lies exactly on crop
pixel i * s. Resizing keeps corners on corners (`align_corners`), so grids of different strides
nest, and taking every s-th pixel of a label map gives the labels of a stride-s grid.
"""

import math

import tensorflow as tf


def feature_size(crop_size, stride):
  """Returns the number of samples per side of a feature at `stride`: ceil(crop_size / stride)."""
  return tuple(-(-side // stride) for side in crop_size)


def resize_bilinear(images, size):
  """Resizes `images` [B, h, w, C] to `size` (h', w') with corners on corners; float32 result."""
  if tuple(images.shape[1:3]) == tuple(size):
    return tf.cast(images, tf.float32)
  return tf.raw_ops.ResizeBilinear(images=images, size=size, align_corners=True)


def map_resized(function, image, size, signature, rows=8):
  """Applies `function` to a resized image band by band, so that it never exists as a whole.

  Args:
    function: pixelwise; takes a band [rows, W, C] float32 and returns a structure of tensors
      [rows, W, ...].
    image: [h, w, C] float32 of known h and w.
    size: (H, W) to resize to, bilinear with corners on corners.
    signature: the structure that `function` returns, with a dtype for each tensor.
    rows: a band has about this many output rows. Smaller bands stay in the processor's cache.

  Returns:
    `function(resize_bilinear(image, size))` as a structure of tensors [H, W, ...].
  """
  height, width = size
  # Both grids meet `nests` times between top and bottom, so bands that end there resize alone to
  # exactly the values of the whole. Uneven ratios nest rarely, and make one large band.
  nests = math.gcd(image.shape[0] - 1, height - 1)
  step_in, step_out = (image.shape[0] - 1) // nests, (height - 1) // nests
  steps = max(1, rows // step_out)
  num_bands = -(-height // (steps * step_out))

  def band(first):
    source = tf.minimum(first + tf.range(steps * step_in + 1), image.shape[0] - 1)
    resized = resize_bilinear(tf.gather(image, source)[tf.newaxis], (steps * step_out + 1, width))
    return function(resized[0, :-1])

  bands = tf.map_fn(
    band,
    tf.range(num_bands) * (steps * step_in),
    fn_output_signature=signature,
    parallel_iterations=1 if tf.executing_eagerly() else 2,
  )
  return tf.nest.map_structure(
    lambda t: tf.reshape(t, tf.concat([[-1], tf.shape(t)[2:]], 0))[:height], bands
  )


def resize_nearest(labels, size):
  """Resizes `labels` [B, h, w, C] to `size` (h', w'), corners on corners, halves rounded up."""
  return tf.raw_ops.ResizeNearestNeighbor(images=labels, size=size, align_corners=True)


def subsample(labels, size):
  """Takes every s-th pixel of `labels` [B, H, W, ...] so that [B, h, w, ...] of `size` remains.

  Raises ValueError unless (H - 1) / (h - 1) and (W - 1) / (w - 1) are the same integer.
  """
  height, width = labels.shape[1:3]
  if (height, width) == tuple(size):
    return labels
  stride, rest_h = divmod(height - 1, max(size[0] - 1, 1))
  stride_w, rest_w = divmod(width - 1, max(size[1] - 1, 1))
  if rest_h or rest_w or stride != stride_w:
    raise ValueError(
      f'Labels of {height}x{width} cannot be brought to {size[0]}x{size[1]} by one whole stride; '
      'crop sizes must be of the form 32n + 1 and predictions at a whole stride of them.'
    )
  return labels[:, ::stride, ::stride]
