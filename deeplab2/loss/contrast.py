"""Instance discrimination: pixels of one mask should have like features (Wang et al. 2021).

`sampled_pixels` contrasts drawn pixels with one another (CMT-DeepLab, Yu et al. 2022, sec. 3.3);
`mask_centers` contrasts every pixel of a thing with the mean features of all masks (MaX-DeepLab,
Wang et al. 2021, eq. 13-14).
"""

import tensorflow as tf

from deeplab2.kernels import pairs
from deeplab2.loss import terms
from deeplab2.loss.ground_truth import GroundTruth

TEMPERATURE = 0.3
_INVALID = -99999.0


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

  def mean(loss_nk, is_scored_nk):
    return terms.top_k_mean(tf.where(is_scored_nk, loss_nk, 0.0), top_k)

  return pairs.mean_contrast(feature_bkd, pull_bk, TEMPERATURE, mean, row_bk >= 0)


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


def _mean_of_own_row(feature_bkd, row_bk, num_rows):
  """Returns [B, k, D], the mean feature of all pixels of the same row; any for pixels without."""
  batch = tf.shape(feature_bkd)[0]
  _, count, depth = feature_bkd.shape
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
