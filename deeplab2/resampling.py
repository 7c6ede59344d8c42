"""The one sampling convention of the package: corner-aligned grids of 32n + 1 samples.

A feature at stride s has (crop - 1) / s + 1 samples per side, and sample i lies exactly on crop
pixel i * s. Resizing keeps corners on corners (`align_corners`), so grids of different strides
nest, and taking every s-th pixel of a label map gives the labels of a stride-s grid.
"""

import tensorflow as tf


def resize_bilinear(images, size):
  """Resizes `images` [B, h, w, C] to `size` (h', w') with corners on corners; float32 result."""
  if tuple(images.shape[1:3]) == tuple(size):
    return tf.cast(images, tf.float32)
  return tf.raw_ops.ResizeBilinear(images=images, size=size, align_corners=True)


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
