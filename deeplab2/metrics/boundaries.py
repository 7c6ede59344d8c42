"""Boundaries of segments (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", CVPR 2021, section 4; https://github.com/bowenc0221/boundary-iou-api).

A pixel is at the boundary of its segment if a pixel of another segment, or the frame of the image,
is at most d rows and d columns away, d being 2 % of the image's diagonal. That is what is left of
a mask that is eroded d times by a square of 3 x 3 pixels.
"""

import math

import numpy as np

RATIO = 0.02  # Of the diagonal; the paper's for COCO.


def width(size: tuple[int, int], ratio: float = RATIO) -> int:
  """Returns the width of boundaries in pixels, at least 1, in an image of `size` (H, W)."""
  return max(1, round(ratio * math.hypot(*size)))


def find_boundaries(ids: np.ndarray, ratio: float = RATIO) -> np.ndarray:
  """Returns where a map [H, W] of segment ids is at the boundary of its segment: [H, W] bool."""
  distance = width(ids.shape, ratio)
  height, columns = ids.shape
  # Changes between neighbours, the frame of the image being one; then whether a row has one nearby.
  padded, changes = _changes(height, columns, distance, 1)
  np.not_equal(ids[:, 1:], ids[:, :-1], out=changes[:, 1:-1])
  nearby = _any_of_window(padded, distance, 1)
  # A change between two rows, or nearby in either of them.
  padded, changes = _changes(height, columns, distance, 0)
  inner = changes[1:-1]
  np.not_equal(ids[1:], ids[:-1], out=inner)
  inner |= nearby[1:]
  inner |= nearby[:-1]
  return _any_of_window(padded, distance, 0)


def _changes(height, columns, distance, axis):
  """Returns an array for the n + 1 changes along an axis, True at both ends, and a view of it.

  Change k is between pixels k - 1 and k. The array has room for windows at the ends.
  """
  size = [height, columns]
  size[axis] += 2 * distance - 1
  padded = np.zeros(size, bool)
  inside = slice(distance - 1, -(distance - 1) or None)
  changes = padded[:, inside] if axis else padded[inside]
  for end in (0, -1):
    changes[(slice(None), end) if axis else end] = True
  return padded, changes


def _any_of_window(values, distance, axis):
  """Returns whether a change is at most `distance` from each of n pixels along an axis.

  A window is put together of ever larger ones.
  """

  def shifted(start, stop):
    return values[:, start:stop] if axis else values[start:stop]

  span = 1
  while 2 * span <= 2 * distance:
    values = shifted(None, -span) | shifted(span, None)
    span *= 2
  if span < 2 * distance:
    rest = 2 * distance - span
    values = shifted(None, -rest) | shifted(rest, None)
  return values
