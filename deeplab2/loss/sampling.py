"""Draws pixels for losses that cannot afford all of them."""

from typing import NamedTuple

import tensorflow as tf

from deeplab2 import randomness
from deeplab2.loss.ground_truth import GroundTruth

# Keeps pixels without a mask out as long as there are others.
_NEVER = -99999.0


class Sampling(NamedTuple):
  """Number and distribution of the pixels that are drawn."""

  num_pixels: int = 0  # Pixels of each image; 0 for all, without drawing.
  # The first pixel lies in a given mask with a probability of area ** (1 - temperature):
  # 1 draws from all masks alike, more prefers small masks, less large ones.
  temperature: float = 1.0


ALL_PIXELS = Sampling()


def logits(gt: GroundTruth, temperature: float) -> tf.Tensor:
  """Returns float32 [B, P]: log of each pixel's relative probability to be drawn first."""
  num_pixels = tf.cast(tf.shape(gt.row_bp)[1], tf.float32)
  area_bp = tf.gather(gt.area_br, tf.maximum(gt.row_bp, 0), batch_dims=1)
  by_area_bp = temperature * tf.math.log(num_pixels / tf.maximum(area_bp, 1.0))
  outside_bp = temperature * tf.math.log(num_pixels) + _NEVER
  return tf.where(gt.has_mask_bp, by_area_bp, outside_bp)


def draw(gt: GroundTruth, sampling: Sampling) -> tf.Tensor:
  """Draws pixels of each image without replacement (Gumbel top-k), by randomness.py.

  Args:
    gt: the true masks.
    sampling: how many, and how; all pixels if there are fewer.

  Returns:
    int32 [B, count] indices of pixels.
  """
  scores_bp = logits(gt, sampling.temperature)
  gumbel_bp = -tf.math.log(-tf.math.log(randomness.uniform(tf.shape(scores_bp))))
  return tf.math.top_k(scores_bp + gumbel_bp, min(sampling.num_pixels, scores_bp.shape[1])).indices
