"""The training objective of kMaX-DeepLab: Prediction + Targets -> named losses.

Per picture, with weights w (kMaX-DeepLab, Yu et al. 2022, sec. 4; terms of MaX-DeepLab, Wang et al.
2021, sec. 3):

  L = w_pq (class + dice) + w_id mask-id cross entropy + w_in instance discrimination   [final]
    + the same for every decoder layer, with the final output's matching                [auxiliary]
    + w_sem semantic cross entropy                                                      [final]
"""
from typing import NamedTuple

import tensorflow as tf

from deeplab2 import resampling
from deeplab2 import structures
from deeplab2.loss import contrast
from deeplab2.loss import ground_truth
from deeplab2.loss import matching
from deeplab2.loss import sampling
from deeplab2.loss import terms

TOTAL = 'total_loss'
CLASS = 'pq_style_loss_class_term'
DICE = 'pq_style_loss_mask_dice_term'
MASK_ID = 'mask_id_cross_entropy_loss'
INSTANCE = 'instance_discrimination_loss'
SEMANTIC = 'semantic_loss'


class Term(NamedTuple):
  """One kind of loss."""
  weight: float = 1.0  # 0 reports zeros and computes nothing.
  top_k: float = 1.0  # Share of the hardest pixels that count.


class Terms(NamedTuple):
  """The kinds of loss that a run has; None where it has not."""
  pq_style: Term | None = None  # Its `top_k` has no meaning.
  mask_id: Term | None = None
  instance: Term | None = None
  semantic: Term | None = None


class PanopticLoss:
  """Computes every loss of a batch."""

  def __init__(self, label_space: structures.LabelSpace, kinds: Terms, *,
               instance_sampling: sampling.Sampling = sampling.ALL_PIXELS,
               semantic_sampling: sampling.Sampling = sampling.ALL_PIXELS):
    """Creates a loss.

    Args:
      label_space: the numbering of classes.
      kinds: which losses there are.
      instance_sampling: pixels of instance discrimination; by default its unsampled form, things
        only.
      semantic_sampling: pixels of the semantic loss.
    """
    self._space = label_space
    self._kinds = kinds
    self._instance_sampling = instance_sampling
    self._semantic_sampling = semantic_sampling

  def __call__(self, prediction: structures.Prediction, targets: structures.Targets,
               noise: sampling.Noise = sampling.gumbel) -> dict[str, tf.Tensor]:
    """Returns the weighted losses.

    Args:
      prediction: the model's; as many auxiliary outputs as it has are scored.
      targets: labels at crop size.
      noise: of the sampling, called for the final output (0), each auxiliary one (1 + i), and the
        semantic loss (1 + number of auxiliary ones).

    Returns:
      float32 [B] for each of `names`, `total_loss` being the sum of all others.

    Raises:
      ValueError: if label and prediction sizes do not fit, or semantic logits are missing.
    """
    truth, matched = self.match(prediction.final, targets)
    outputs = (prediction.final, *prediction.auxiliary)
    losses = {}
    for number, output in enumerate(outputs):
      prefix = _prefix(number)
      for name, value in self._output_losses(output, truth, matched, noise, number).items():
        losses[prefix + name] = value
    if self._kinds.semantic is not None:
      losses[SEMANTIC] = self._semantic_loss(
          prediction.semantic_logits, targets, truth, noise, call=len(outputs))
    losses[TOTAL] = tf.add_n(list(losses.values()))
    return {name: losses[name] for name in self.names(len(prediction.auxiliary))}

  def names(self, num_auxiliary: int) -> list[str]:
    """Returns the names of all losses in the order in which they are logged."""
    families = []
    if self._kinds.pq_style is not None:
      families.append((CLASS, DICE))
    if self._kinds.mask_id is not None:
      families.append((MASK_ID,))
    if self._kinds.instance is not None:
      families.append((INSTANCE,))
    names = [_prefix(number) + name for family in families
             for number in range(num_auxiliary + 1) for name in family]
    return [TOTAL] + names + ([SEMANTIC] if self._kinds.semantic is not None else [])

  def match(self, final: structures.MaskPrediction, targets: structures.Targets):
    """Returns (GroundTruth on the grid of the masks, Matching) of the final output."""
    size = final.mask_logits.shape[1:3]
    truth = ground_truth.prepare(targets, tuple(size), self._space)
    fit = matching.similarity(truth, flat(final.mask_logits), float32(final.class_logits))
    return truth, matching.match(truth, fit, self._space.num_real_classes)

  def _output_losses(self, output, truth, matched, noise, number):
    """Scores one output: name without prefix -> [B]."""
    losses = {}
    pq_style, mask_id, instance = self._kinds[:3]
    # Computed again for the gradient: little work, against several [B, P, N] kept per output.
    dice_b, mask_id_b = tf.recompute_grad(
        lambda logits_bps: _mask_terms(logits_bps, matched, mask_id))(flat(output.mask_logits))
    if pq_style is not None:
      losses[CLASS] = _weighted(pq_style, lambda: terms.class_term(
          matched.class_target_bsk, matched.class_weight_bs, matched.is_matched_bs,
          float32(output.class_logits)), truth)
      losses[DICE] = _weighted(pq_style, lambda: dice_b, truth)
    if mask_id is not None:
      losses[MASK_ID] = _weighted(mask_id, lambda: mask_id_b, truth)
    if instance is not None:
      losses[INSTANCE] = _weighted(instance, lambda: self._instance_loss(
          output, truth, noise, number), truth)
    return losses

  def _instance_loss(self, output, truth, noise, call):
    feature_bpd = flat(output.pixel_feature)
    top_k = self._kinds.instance.top_k
    if not self._instance_sampling.count:
      return contrast.mask_centers(truth, feature_bpd, top_k)
    index_bk = sampling.draw(truth, self._instance_sampling, noise, call)
    return contrast.sampled_pixels(truth, feature_bpd, index_bk, top_k)

  def _semantic_loss(self, logits, targets, truth, noise, call):
    """Scores the semantic logits, on all pixels or on drawn ones."""
    if logits is None:
      raise ValueError('The semantic loss needs a model with a semantic branch.')
    size = tuple(logits.shape[1:3])
    label_bn, weight_bn = (
        flat(resampling.subsample(labels, size)[..., tf.newaxis], labels.dtype)[..., 0]
        for labels in (targets.semantic, targets.semantic_weight))
    weight_bn = tf.where(label_bn == self._space.ignore_label, 0.0, weight_bn)
    logits_bnk = flat(logits)

    def score():
      picked = (label_bn, weight_bn, logits_bnk)
      if self._semantic_sampling.count:
        if label_bn.shape[1] != truth.row_bp.shape[1]:
          raise ValueError(f'Pixels of the semantic loss are drawn on the grid of the masks, but '
                           f'semantic logits have another size, {size}.')
        index_bk = sampling.draw(truth, self._semantic_sampling, noise, call)
        picked = (tf.gather(part, index_bk, batch_dims=1) for part in picked)
      return terms.semantic_cross_entropy(*picked, self._kinds.semantic.top_k)

    return _weighted(self._kinds.semantic, score, truth)


def flat(maps: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
  """[B, h, w, C] of any float type -> float32 [B, P, C]."""
  _, height, width, channels = maps.shape
  return tf.reshape(tf.cast(maps, dtype), [-1, height * width, channels])


def float32(tensor: tf.Tensor) -> tf.Tensor:
  """Losses are computed in float32, whatever the model computes in."""
  return tf.cast(tensor, tf.float32)


def _mask_terms(mask_logits_bps, matched, mask_id):
  """Returns the dice term and the mask-id cross entropy of one output, each [B]."""
  truth_bps = matched.one_hot_bps
  log_mask_bps = tf.nn.log_softmax(mask_logits_bps)
  top_k = 1.0 if mask_id is None else mask_id.top_k
  return (terms.dice_term(truth_bps, matched.dice_weight_bs, tf.exp(log_mask_bps)),
          terms.mask_id_cross_entropy(truth_bps, log_mask_bps, top_k))


def _weighted(kind, score, truth):
  if kind.weight == 0.0:
    return tf.zeros([tf.shape(truth.row_bp)[0]])
  return kind.weight * score()


def _prefix(number):
  """Returns the prefix of output `number`; DeepLab2's names have no underscore behind it."""
  return f'aux_{number - 1}' if number else ''
