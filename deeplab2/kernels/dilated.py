"""Dilated convolution with stride 1 and 'SAME' padding.

Plain: `tf.nn.conv2d`, whose gradient exists on CPUs only with oneDNN, and not in float16. Tuned:
without the taps that lie on padding wherever the kernel is put, and with a gradient of other
operations: a convolution with the mirrored kernel, and one matrix product per tap.
Value and gradients of 512 -> 256 channels take 15 % less CPU time at 41x41 with dilation 6, and two
thirds less at 11x11 with dilation 12, where one tap of nine is left.
Both forms equal the sum over taps, and its gradients.
"""

import tensorflow as tf

from deeplab2 import kernels


def conv2d(x: tf.Tensor, kernel: tf.Tensor, dilation: int) -> tf.Tensor:
  """Convolves `x`.

  Args:
    x: [B, H, W, C].
    kernel: [n, m, C, D], n and m odd.
    dilation: distance between neighbouring taps, in pixels.

  Returns:
    [B, H, W, D].
  """
  if kernels.tuned():
    return _conv2d(x, _reachable(kernel, x, dilation), dilation)
  return tf.nn.conv2d(x, kernel, 1, 'SAME', dilations=dilation)


def _conv2d(x, kernel, dilation):
  @tf.custom_gradient
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
