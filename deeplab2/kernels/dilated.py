"""Dilated convolution with stride 1 and 'SAME' padding.

Plain: `tf.nn.conv2d`, whose gradient exists on CPUs only with oneDNN, and not in float16.

Tuned, for small maps and large dilations in float32: one matrix product per tap, of the pixels that
it does not put on padding. Value and gradients of 2048 -> 256 channels, batch 2, take 28 instead of
81 CPU ms at 11x11 with dilation 6, 7 instead of 63 with dilation 12, where one tap of nine is left,
and 86 instead of 172 at 21x21 with dilation 12. At 41x41, copies of pixels cost more than is saved.

Tuned, for others: a gradient of other operations, a convolution with the mirrored kernel and one
matrix product per tap, and no taps that lie on padding wherever the kernel is put.

All forms equal the sum over taps, and its gradients.
"""

import tensorflow as tf

from deeplab2 import kernels

# Maps of at most so many pixels, of which the taps read at most such a part on average.
_SMALL = 32 * 32
_READ = 0.7


def conv2d(x: tf.Tensor, kernel: tf.Tensor, dilation: int) -> tf.Tensor:
  """Convolves `x`.

  Args:
    x: [B, H, W, C].
    kernel: [n, m, C, D], n and m odd.
    dilation: distance between neighbouring taps, in pixels.

  Returns:
    [B, H, W, D].
  """
  if not kernels.tuned():
    return tf.nn.conv2d(x, kernel, 1, 'SAME', dilations=dilation)
  # Sums of rounded products would not be exact enough in half precision.
  if x.dtype == tf.float32 and _is_mostly_padding(kernel.shape, x.shape, dilation):
    return _sum_of_taps(x, kernel, dilation)
  return _conv2d(x, _reachable(kernel, x, dilation), dilation)


def _is_mostly_padding(kernel_shape, shape, dilation):
  """Returns whether the sum over taps is the cheapest form."""
  pixels = shape[1:3].num_elements()
  if pixels is None or pixels > _SMALL:
    return False
  read = sum(
    (shape[1] - sum(rows)) * (shape[2] - sum(columns))
    for _, (rows, columns), _ in _taps(kernel_shape, shape, dilation)
  )
  return read <= _READ * pixels * kernel_shape[:2].num_elements()


def _sum_of_taps(x, kernel, dilation):
  @kernels.custom_gradient
  def convolve(x, kernel):
    taps = list(_taps(kernel.shape, x.shape, dilation))

    def gradient(upstream):
      downstream = tf.add_n(
        [
          _padded(tf.matmul(_rows(upstream, to), kernel[tap], transpose_b=True), of, x.shape)
          for tap, of, to in taps
        ]
      )
      return downstream, _kernel_gradient(x, upstream, kernel, dilation)

    products = [_padded(tf.matmul(_rows(x, of), kernel[tap]), to, x.shape) for tap, of, to in taps]
    return tf.add_n(products), gradient

  return convolve(x, kernel)


def _taps(kernel_shape, shape, dilation):
  """Yields (row, column) of every tap that is not always on padding, and the pixels it connects.

  These are margins ((top, bottom), (left, right)) of what it reads, and of what it adds to.
  """
  offsets = [[(i - size // 2) * dilation for i in range(size)] for size in kernel_shape[:2]]
  for row, down in enumerate(offsets[0]):
    for column, right in enumerate(offsets[1]):
      if abs(down) < shape[1] and abs(right) < shape[2]:
        of = tuple((max(offset, 0), max(-offset, 0)) for offset in (down, right))
        yield (row, column), of, tuple(margins[::-1] for margins in of)


def _rows(x, margins):
  """Returns the pixels of `x` [B, H, W, C] inside `margins`, [pixels, C]."""
  (top, bottom), (left, right) = margins
  inside = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
  return tf.reshape(inside, [-1, x.shape[-1]])


def _padded(rows, margins, shape):
  """Puts pixels [pixels, C] inside `margins` of a map [B, H, W, C] with H and W of `shape`."""
  (top, bottom), (left, right) = margins
  size = [-1, shape[1] - top - bottom, shape[2] - left - right, rows.shape[-1]]
  return tf.pad(tf.reshape(rows, size), [[0, 0], *margins, [0, 0]])


def _conv2d(x, kernel, dilation):
  @kernels.custom_gradient
  def convolve(x, kernel):
    def gradient(upstream):
      mirrored = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
      return (
        tf.nn.conv2d(upstream, mirrored, 1, 'SAME', dilations=dilation),
        _kernel_gradient(x, upstream, kernel, dilation),
      )

    return tf.nn.conv2d(x, kernel, 1, 'SAME', dilations=dilation), gradient

  return convolve(x, kernel)


def _reachable(kernel, x, dilation):
  """Cuts off the outer taps of `kernel` that lie on the padding of `x` wherever it is put."""
  cuts = []
  for size, side in zip(kernel.shape[:2], x.shape[1:3], strict=True):
    reach = size // 2 if side is None else min(size // 2, (side - 1) // dilation)
    cuts.append(slice(size // 2 - reach, size // 2 + reach + 1))
  return kernel[cuts[0], cuts[1]]


def _kernel_gradient(x, upstream, kernel, dilation):
  """Each tap's gradient: the pixels that it was multiplied by, times what they went into."""
  height, width, channels, filters = kernel.shape
  taps = []
  for row in range(height):
    rows_in, rows_out = _overlap((row - height // 2) * dilation)
    for column in range(width):
      columns_in, columns_out = _overlap((column - width // 2) * dilation)
      taps.append(
        tf.matmul(
          tf.reshape(x[:, rows_in, columns_in], [-1, channels]),
          tf.reshape(upstream[:, rows_out, columns_out], [-1, filters]),
          transpose_a=True,
        )
      )
  return tf.reshape(tf.stack(taps), kernel.shape)


def _overlap(offset):
  """Returns the slices of input and output that a tap at `offset` connects."""
  if offset < 0:
    return slice(None, offset), slice(-offset, None)
  return slice(offset, None), slice(None, -offset or None)
