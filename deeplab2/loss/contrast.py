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
# The k x k products of k pixels are made in about this many rows at a time.
_BLOCK = 1024


def sampled_pixels(truth: GroundTruth, feature_bpd: tf.Tensor, index_bk: tf.Tensor,
                   top_k: float = 1.0) -> tf.Tensor:
  """Cross entropy between `same mask` and the similarity of all pairs of drawn pixels, [B].

  For pixel i of a mask with n_i drawn pixels: log sum_j exp(f_i f_j / t) - sum_(j in mask)
  f_i f_j / (t n_i), t = 0.3. Pixels without a mask are contrasted with, but not scored.

  Args:
    truth: the true masks.
    feature_bpd: [B, P, D] float32 features, about unit vectors.
    index_bk: [B, k] int32 drawn pixels.
    top_k: share of the hardest pixels that count.
  """
  feature_bkd = tf.gather(feature_bpd, index_bk, batch_dims=1)
  row_bk = tf.gather(truth.row_bp, index_bk, batch_dims=1)
  rows_bkr = tf.one_hot(row_bk, truth.num_rows)
  count_br = tf.reduce_sum(rows_bkr, axis=1)
  sum_brd = tf.matmul(rows_bkr, feature_bkd, transpose_a=True)
  mean_brd = sum_brd / tf.maximum(count_br, 1.0)[:, :, tf.newaxis]
  mean_bkd = tf.matmul(rows_bkr, mean_brd)
  pull_bk = tf.reduce_sum(feature_bkd * mean_bkd, axis=2) / TEMPERATURE
  loss_bk = log_sum_exp_of_products(feature_bkd, 1.0 / TEMPERATURE) - pull_bk
  return terms.top_k_mean(tf.where(row_bk >= 0, loss_bk, 0.0), top_k)


def mask_centers(truth: GroundTruth, feature_bpd: tf.Tensor, top_k: float = 1.0) -> tf.Tensor:
  """Cross entropy between each thing pixel's mask and its similarity to the masks' centres, [B].

  Args:
    truth: the true masks.
    feature_bpd: [B, P, D] float32 features, about unit vectors.
    top_k: share of the hardest pixels that count.
  """
  rows_bpr = tf.one_hot(truth.row_bp, truth.num_rows)
  sum_brd = tf.matmul(rows_bpr, feature_bpd, transpose_a=True)
  mean_brd = sum_brd / tf.maximum(truth.area_br, 1.0)[:, :, tf.newaxis]
  center_brd = tf.math.l2_normalize(mean_brd, axis=-1)
  logits_bpr = tf.matmul(feature_bpd, center_brd, transpose_b=True) / TEMPERATURE
  logits_bpr = tf.where(truth.is_valid_br[:, tf.newaxis], logits_bpr, _INVALID)
  loss_bp = terms.cross_entropy(rows_bpr, logits_bpr)
  return terms.top_k_mean(tf.where(truth.is_instance_bp, loss_bp, 0.0), top_k)


def log_sum_exp_of_products(feature_bkd: tf.Tensor, scale: float) -> tf.Tensor:
  """Returns log sum_j exp(scale f_i f_j) for each i, [B, k].

  The k x k products are symmetric: only the blocks on and above the diagonal are computed, one at
  a time, and none is kept for the gradient, which computes them again. The largest norm bounds
  the exponents, so any features are safe.
  """
  @tf.custom_gradient
  def of_picture(feature_kd):
    blocks = tf.split(feature_kd, _block_sizes(feature_kd.shape[0]))
    # |f_i f_j| <= bound: exp(scale (f_i f_j - bound)) cannot overflow.
    bound = tf.reduce_max(tf.reduce_sum(tf.square(feature_kd), axis=1))
    sums = _row_sums(blocks, scale, bound)
    value_k = scale * bound + tf.math.log(tf.concat(sums, axis=0))

    def gradient(upstream_k):
      weights = tf.split(upstream_k / tf.concat(sums, axis=0), [b.shape[0] for b in blocks])
      return scale * tf.concat(_pull_back(blocks, weights, scale, bound), axis=0)

    return value_k, gradient

  # One picture after the other: the blocks of one fit into the cache.
  return tf.map_fn(of_picture, feature_bkd, parallel_iterations=1)


def _block_sizes(count):
  """Splits `count` rows into blocks of about the same size."""
  num_blocks = max(1, round(count / _BLOCK))
  small, larger = divmod(count, num_blocks)
  return [small + 1] * larger + [small] * (num_blocks - larger)


def _pairs(count):
  return [(i, j) for i in range(count) for j in range(i, count)]


def _exp_products(left, right, scale, bound):
  return tf.exp(scale * (tf.matmul(left, right, transpose_b=True) - bound))


def _row_sums(blocks, scale, bound):
  """Returns, block by block, the sums over all columns of exp(scale (F F^T - bound))."""
  sums = [0.0] * len(blocks)
  for i, j in _pairs(len(blocks)):
    values = _exp_products(blocks[i], blocks[j], scale, bound)
    sums[i] += tf.reduce_sum(values, axis=1)
    if i != j:
      sums[j] += tf.reduce_sum(values, axis=0)
  return sums


def _pull_back(blocks, weights, scale, bound):
  """Returns, block by block, sum_j E_ij (w_i + w_j) f_j with E = exp(scale (F F^T - bound))."""
  gradients = [0.0] * len(blocks)
  for i, j in _pairs(len(blocks)):
    values = _exp_products(blocks[i], blocks[j], scale, bound)
    values *= weights[i][:, tf.newaxis] + weights[j]
    gradients[i] += tf.matmul(values, blocks[j])
    if i != j:
      gradients[j] += tf.matmul(values, blocks[i], transpose_a=True)
  return gradients
