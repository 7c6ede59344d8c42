"""Activation of mask logits in the loss: softmax over slots, or a sigmoid for each slot."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import tensorflow as tf

from deeplab2.loss import matching
from deeplab2.loss import terms

# 1 minus the largest float32 below 1.
_RESOLUTION = 6e-8


class MaskActivation(NamedTuple):
  """An activation, and the terms of the loss that see masks."""

  # (Matching, mask logits [B, P, N], top_k of the mask-id term) -> dice term [B], mask-id term [B].
  dice_and_mask_id: Callable[[matching.Matching, tf.Tensor, float], tuple[tf.Tensor, tf.Tensor]]
  # Mask logits [B, P, N] -> log q and log(1 - q) of the predicted masks q, each [B, P, N].
  log_masks: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _softmax_terms(matched, mask_logits_bps, top_k):
  gt_mask_bps = matched.one_hot_bps
  log_mask_bps = tf.nn.log_softmax(mask_logits_bps)
  return (
    terms.dice_term(gt_mask_bps, matched.dice_weight_bs, tf.exp(log_mask_bps)),
    terms.mask_id_cross_entropy(gt_mask_bps, log_mask_bps, top_k),
  )


def _sigmoid_terms(matched, mask_logits_bps, top_k, all_slots=False):
  if top_k != 1.0:
    raise ValueError(f'Sigmoid masks are scored on all pixels; top_k is {top_k}, it must be 1.')
  gt_mask_bps = matched.one_hot_bps
  return (
    terms.dice_term(gt_mask_bps, matched.dice_weight_bs, tf.sigmoid(mask_logits_bps)),
    terms.mask_id_binary_cross_entropy(
      gt_mask_bps, matched.is_matched_bs, mask_logits_bps, all_slots
    ),
  )


def _log_softmax_masks(mask_logits_bps):
  log_mask_bps = tf.nn.log_softmax(mask_logits_bps)
  return log_mask_bps, tf.math.log(1.0 - tf.exp(log_mask_bps) + _RESOLUTION)


def _log_sigmoid_masks(mask_logits_bps):
  return -tf.nn.softplus(-mask_logits_bps), -tf.nn.softplus(mask_logits_bps)


SOFTMAX = MaskActivation(_softmax_terms, _log_softmax_masks)  # kMaX-DeepLab.
SIGMOID = MaskActivation(_sigmoid_terms, _log_sigmoid_masks)  # ReMaX.
# Slots without a match are scored by the binary cross entropy as well.
SIGMOID_ALL_SLOTS = MaskActivation(
  functools.partial(_sigmoid_terms, all_slots=True), _log_sigmoid_masks
)
