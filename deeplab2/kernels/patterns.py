"""Which masks a pixel lies in, as what pasting them one by one works on.

Plain: every pixel for itself, one pass over the image for each mask that may be pasted. All shapes
are known when the graph is built, as XLA, TPUs and LiteRT need it. Tuned: pixels that lie in the
same masks are counted together, and the passes are over some hundred patterns. Both give the same
maps.
"""

import tensorflow as tf

from deeplab2 import kernels

BITS = 24  # Of a column: integers in float32 are exact up to 2**24.


def ranks_to_paste(passing_n: tf.Tensor) -> tf.Tensor:
  """Returns ranks [M] int32: those where `passing_n` [N] bool is, ascending, then maybe others."""
  if kernels.tuned():
    return tf.cast(tf.where(passing_n)[:, 0], tf.int32)
  return tf.argsort(tf.cast(passing_n, tf.int32), direction='DESCENDING', stable=True)


def distinct(columns_pc: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
  """Groups pixels by the masks that they lie in.

  Args:
    columns_pc: [P, C] int32 below 2**24, bit masks of each pixel.

  Returns:
    rows: [U, C] int32, bit masks that occur.
    counts: [U] int32, the number of pixels of each.
    index: [P] int32, the row of each pixel; None if rows are pixels.
  """
  if not kernels.tuned():
    return columns_pc, tf.ones_like(columns_pc[:, 0]), None

  def refine(column, index_p):
    keys = tf.cast(index_p, tf.int64) * 2**BITS + tf.cast(columns_pc[:, column], tf.int64)
    return column + 1, tf.unique(keys).idx

  num_columns = tf.shape(columns_pc)[1]
  _, index_p = tf.while_loop(
    lambda column, _: column < num_columns, refine, (0, tf.zeros_like(columns_pc[:, 0]))
  )
  size = tf.reduce_max(index_p) + 1
  counts = tf.math.unsorted_segment_sum(tf.ones_like(index_p), index_p, size)
  return tf.math.unsorted_segment_max(columns_pc, index_p, size), counts, index_p
