"""ReMaX: relaxed masks (ReMask) and relaxed class targets (ReClass), for training alone.

ReMaX (Sun et al. 2023, "ReMaX: Relaxing for Better Training on Efficient Panoptic Segmentation",
arXiv 2306.17319, sec. 3). docs/remax.md says what is from the paper and what is our reading.

Axes: b image, p pixel, s slot, k real class channel, c semantic channel (dataset id).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab2.loss import ground_truth
from deeplab2.loss import terms

# Turns logits into numbers in [0, 1]: tf.sigmoid, or tf.nn.softmax over the last axis.
Activation = Callable[[tf.Tensor], tf.Tensor]
_EPSILON = 1e-5


class ReMask(NamedTuple):
  """Settings of ReMask: masks of decoder layers are gated by semantic predictions."""

  num_layers: int = 4  # The first so many decoder layers are relaxed.
  identity_mapping: bool = True  # m * (1 + gate) instead of m * gate.
  stop_gradient: bool = True  # The gate is a constant to the panoptic losses.
  gate_masks: bool = True  # Without, semantic heads are trained, and the gate is only watched.
  semantic_activation: Activation = tf.sigmoid
  class_activation: Activation = tf.sigmoid
  # What trains the semantic heads of the layers; arguments as of terms.semantic_cross_entropy.
  semantic_term: Callable[..., tf.Tensor] = terms.semantic_cross_entropy
  semantic: terms.Weighting = terms.Weighting()


class ReClass(NamedTuple):
  """Settings of ReClass: class targets are softened by the classes that a mask covers.

  Raises:
    ValueError: by `soft_target`, if `eta` is not in [0, 1].
  """

  eta: float = 0.1  # The most that is added to the target of another class.
  mask_activation: Activation = tf.sigmoid
  by_mask_area: bool = False  # y is a fraction of the mask; otherwise of the class.
  apply_to_unmatched: bool = False
  renormalize: bool = False  # Targets are divided by their sum.


def gate(
  semantic_logits_bpc: tf.Tensor,
  class_logits_bsk: tf.Tensor,
  class_order: Sequence[int],
  settings: ReMask,
) -> tf.Tensor:
  """Returns how much a pixel's and a slot's classes agree (sec. 3.2), float32 [B, P, N].

  g = act(s) act(c)^T over the real classes: in [0, 1] if the class activation is softmax, in
  [0, K] otherwise.

  Args:
    semantic_logits_bpc: [B, P, C] float32 by dataset id.
    class_logits_bsk: [B, N, K + 1] float32, void last; void takes no part.
    class_order: dataset id of each of the K class channels.
    settings: activations, and whether gradients pass.

  Raises:
    ValueError: if the semantic channels do not cover `class_order`, or it has other than K ids.
  """
  channels, classes = semantic_logits_bpc.shape[-1], class_logits_bsk.shape[-1] - 1
  if len(class_order) != classes or max(class_order) >= channels or min(class_order) < 0:
    raise ValueError(
      f'ReMask: a class order of {len(class_order)} dataset ids from {min(class_order)} to '
      f'{max(class_order)} does not fit {classes} classes of slots and {channels} semantic '
      'channels; every class needs its id among the semantic channels.'
    )
  if settings.stop_gradient:
    semantic_logits_bpc = tf.stop_gradient(semantic_logits_bpc)
    class_logits_bsk = tf.stop_gradient(class_logits_bsk)
  # The channel of the ignore label has no slot class that could agree with it.
  pixel_bpk = tf.gather(settings.semantic_activation(semantic_logits_bpc), class_order, axis=-1)
  slot_bsk = settings.class_activation(class_logits_bsk)[..., :-1]
  return tf.matmul(pixel_bpk, slot_bsk, transpose_b=True)


def relax(mask_logits_bps: tf.Tensor, gate_bps: tf.Tensor, identity_mapping: bool) -> tf.Tensor:
  """Returns relaxed mask logits [B, P, N]: m (1 + g), or m g without identity mapping."""
  return mask_logits_bps * (1.0 + gate_bps if identity_mapping else gate_bps)


def overlap(
  mask_logits_bps: tf.Tensor,
  gt: ground_truth.GroundTruth,
  class_order: Sequence[int],
  settings: ReClass,
) -> tf.Tensor:
  """Returns the overlap [B, N, K] of each slot's predicted mask and each class (sec. 3.3).

  A fraction in [0, 1] of the class's true pixels, crowd included, or of the mask's labelled pixels.
  0 for classes that the image has not. No gradient.

  Args:
    mask_logits_bps: [B, P, N] float32, not relaxed.
    gt: the labels on the grid of the masks.
    class_order: dataset id of each of the K class channels.
    settings: activation and denominator.
  """
  mask_bps = settings.mask_activation(tf.stop_gradient(mask_logits_bps))
  channel_bp = ground_truth.positions(gt.semantic_bp, class_order)
  class_bpk = tf.one_hot(channel_bp, len(class_order))
  shared_bsk = tf.matmul(mask_bps, class_bpk, transpose_a=True)
  if settings.by_mask_area:
    labelled_bp1 = tf.cast(gt.is_labelled_bp, tf.float32)[..., tf.newaxis]
    area = tf.matmul(mask_bps, labelled_bp1, transpose_a=True)
  else:
    area = tf.reduce_sum(class_bpk, axis=1, keepdims=True)
  return shared_bsk / (area + _EPSILON)


def soft_target(
  target_bsk: tf.Tensor, overlap_bsk: tf.Tensor, is_matched_bs: tf.Tensor, settings: ReClass
) -> tf.Tensor:
  """Returns class targets softened by overlaps (sec. 3.3), float32 [B, N, K + 1].

  t + e (1 - t) with e = eta y: the own class stays 1, others get at most eta, void stays as it
  is. Such a target need not sum to 1; no gradient passes.

  Args:
    target_bsk: [B, N, K + 1] one-hot, void last.
    overlap_bsk: [B, N, K].
    is_matched_bs: [B, N] bool.
    settings: eta, whether void slots are softened too, and whether targets are normalised.

  Raises:
    ValueError: if eta is not in [0, 1].
  """
  if not 0.0 <= settings.eta <= 1.0:
    raise ValueError(f'ReClass: eta is {settings.eta}; it must be in [0, 1].')
  softening_bsk = settings.eta * overlap_bsk
  if not settings.apply_to_unmatched:
    softening_bsk *= tf.cast(is_matched_bs, tf.float32)[..., tf.newaxis]
  hard_bsk, void_bs1 = target_bsk[..., :-1], target_bsk[..., -1:]
  softened_bsk = tf.concat([hard_bsk + softening_bsk * (1.0 - hard_bsk), void_bs1], axis=-1)
  if settings.renormalize:
    softened_bsk /= tf.reduce_sum(softened_bsk, axis=-1, keepdims=True)
  return tf.stop_gradient(softened_bsk)
