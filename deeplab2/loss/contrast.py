"""Instance discrimination: pixels of one mask should have like features (Wang et al. 2021).

`sampled_pixels` contrasts drawn pixels with one another (CMT-DeepLab, Yu et al. 2022, sec. 3.3);
`mask_centers` contrasts every pixel of a thing with the mean features of all masks (MaX-DeepLab,
Wang et al. 2021, eq. 13-14).
"""

import tensorflow as tf

from deeplab2.loss import terms
from deeplab2.loss.ground_truth import GroundTruth

TEMPERATURE = 0.3
_INVALID = -99999.0
# The k x k products of k pixels are made in squares of about this side, which stay in the cache.
_BLOCK = 1024


def sampled_pixels(
  gt: GroundTruth, feature_bpd: tf.Tensor, index_bk: tf.Tensor, top_k: float = 1.0
) -> tf.Tensor:
  """Cross entropy between `same mask` and the similarity of all pairs of drawn pixels, [B].

  For pixel i of a mask with n_i drawn pixels: log sum_j exp(f_i f_j / t) - sum_(j in mask)
  f_i f_j / (t n_i), t = 0.3. Pixels without a mask are contrasted with, but not scored.

  Args:
    gt: the true masks.
    feature_bpd: [B, P, D] float32 features, about unit vectors.
    index_bk: [B, k] int32 drawn pixels.
    top_k: fraction of the hardest pixels that count.
  """
  feature_bkd = tf.gather(feature_bpd, index_bk, batch_dims=1)
  row_bk = tf.gather(gt.row_bp, index_bk, batch_dims=1)
  mean_bkd = _mean_of_own_row(feature_bkd, row_bk, gt.num_rows)
  pull_bk = tf.reduce_sum(feature_bkd * mean_bkd, axis=2) / TEMPERATURE
  return mean_contrast(feature_bkd, pull_bk, row_bk >= 0, top_k)


def mask_centers(gt: GroundTruth, feature_bpd: tf.Tensor, top_k: float = 1.0) -> tf.Tensor:
  """Cross entropy between each thing pixel's mask and its similarity to the masks' centres, [B].

  Args:
    gt: the true masks.
    feature_bpd: [B, P, D] float32 features, about unit vectors.
    top_k: fraction of the hardest pixels that count.
  """
  rows_bpr = tf.one_hot(gt.row_bp, gt.num_rows)
  sum_brd = tf.matmul(rows_bpr, feature_bpd, transpose_a=True)
  mean_brd = sum_brd / tf.maximum(gt.area_br, 1.0)[:, :, tf.newaxis]
  center_brd = tf.math.l2_normalize(mean_brd, axis=-1)
  logits_bpr = tf.matmul(feature_bpd, center_brd, transpose_b=True) / TEMPERATURE
  logits_bpr = tf.where(gt.is_valid_br[:, tf.newaxis], logits_bpr, _INVALID)
  loss_bp = terms.cross_entropy(rows_bpr, logits_bpr)
  return terms.top_k_mean(tf.where(gt.is_instance_bp, loss_bp, 0.0), top_k)


def mean_contrast(
  feature_bkd: tf.Tensor, pull_bk: tf.Tensor, is_scored_bk: tf.Tensor, top_k: float = 1.0
) -> tf.Tensor:
  """Returns the mean over scored pixels of log sum_j exp(f_i f_j / t) - pull_i, [B].

  The gradient is computed along with the value: both need the same k x k exponentials, which are
  too many to keep until the backward pass (64 MB an image for k = 4096) and too expensive to make
  twice. Exponents are not shifted: they are at most |f|^2 / t, 3.3 for unit vectors, and the sum
  is finite up to |f| = 4.8; it is at least 1, for each holds the pixel's product with itself.

  Args:
    feature_bkd: [B, k, D] float32.
    pull_bk: [B, k] float32.
    is_scored_bk: [B, k] bool.
    top_k: fraction of the hardest pixels that count.
  """

  def of_image(image):
    feature_kd, pull_k, is_scored_k = image
    blocks = tf.split(feature_kd, _block_sizes(feature_kd.shape[0]))
    products = _exponentials(blocks, 1.0 / TEMPERATURE)
    sum_k = tf.concat(_row_sums(products, len(blocks)), axis=0)
    mean, weight_k = _mean_and_weights(tf.math.log(sum_k) - pull_k, is_scored_k, top_k)
    slopes = _slopes(products, blocks, tf.split(weight_k / sum_k, [b.shape[0] for b in blocks]))
    return mean, weight_k, tf.concat(slopes, axis=0) / TEMPERATURE

  @tf.custom_gradient
  def mean(feature_bkd, pull_bk):
    # One image after the other, so that only one has its products in memory.
    mean_b, weight_bk, slope_bkd = tf.map_fn(
      of_image,
      (feature_bkd, pull_bk, is_scored_bk),
      parallel_iterations=1,
      fn_output_signature=(tf.float32, tf.float32, tf.float32),
    )

    def gradient(upstream_b):
      return (
        upstream_b[:, tf.newaxis, tf.newaxis] * slope_bkd,
        -upstream_b[:, tf.newaxis] * weight_bk,
      )

    return mean_b, gradient

  return mean(feature_bkd, pull_bk)


def _mean_of_own_row(feature_bkd, row_bk, num_rows):
  """Returns [B, k, D], the mean feature of all pixels of the same row; any for pixels without."""
  batch, count, depth = tf.shape(feature_bkd)[0], *feature_bkd.shape[1:]
  first_b1 = num_rows * tf.range(batch)[:, tf.newaxis]
  # Negative segments are left out of the sums.
  segment_n = tf.reshape(tf.where(row_bk >= 0, first_b1 + row_bk, -1), [-1])
  sum_sd = tf.math.unsorted_segment_sum(
    tf.reshape(feature_bkd, [-1, depth]), segment_n, batch * num_rows
  )
  size_s = tf.math.unsorted_segment_sum(
    tf.ones_like(segment_n, tf.float32), segment_n, batch * num_rows
  )
  mean_sd = sum_sd / tf.maximum(size_s, 1.0)[:, tf.newaxis]
  return tf.reshape(tf.gather(mean_sd, tf.maximum(segment_n, 0)), [-1, count, depth])


def _mean_and_weights(loss_k, is_scored_k, top_k):
  """Returns the mean of the losses that count, and the weight of each loss in it."""
  with tf.GradientTape() as tape:
    tape.watch(loss_k)
    mean = terms.top_k_mean(tf.where(is_scored_k, loss_k, 0.0)[tf.newaxis], top_k)[0]
  # A mean is linear in its elements: its derivatives are their weights.
  return mean, tape.gradient(mean, loss_k)


def _block_sizes(count):
  """Splits `count` rows into blocks of about the same size."""
  num_blocks = max(1, round(count / _BLOCK))
  small, larger = divmod(count, num_blocks)
  return [small + 1] * larger + [small] * (num_blocks - larger)


def _exponentials(blocks, scale):
  """Returns {(i, j): exp(scale F_i F_j^T)} of the blocks on and above the diagonal.

  The whole is symmetric: the others are transposes.
  """
  scaled = [scale * block for block in blocks]
  return {
    (i, j): tf.exp(tf.matmul(scaled[i], blocks[j], transpose_b=True))
    for i in range(len(blocks))
    for j in range(i, len(blocks))
  }


def _row_sums(products, num_blocks):
  """Returns, block by block, the sum of each row of the whole symmetric matrix."""
  sums = [[] for _ in range(num_blocks)]
  for (i, j), product in products.items():
    sums[i].append(tf.reduce_sum(product, axis=1))
    if i != j:
      sums[j].append(tf.reduce_sum(product, axis=0))
  return [tf.add_n(parts) for parts in sums]


def _slopes(products, blocks, weights):
  """Returns, block by block, sum_j E_ij (w_i + w_j) f_j for the whole symmetric matrix E."""
  slopes = [[] for _ in blocks]
  for (i, j), product in products.items():
    weighted = product * (weights[i][:, tf.newaxis] + weights[j])
    slopes[i].append(tf.matmul(weighted, blocks[j]))
    if i != j:
      slopes[j].append(tf.matmul(weighted, blocks[i], transpose_a=True))
  return [tf.add_n(parts) for parts in slopes]
