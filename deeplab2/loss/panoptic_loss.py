"""The training objective of kMaX-DeepLab: Prediction + Targets -> named losses.

Per image, with weights w (kMaX-DeepLab, Yu et al. 2022, sec. 4; terms of MaX-DeepLab, Wang et al.
2021, sec. 3):

  L = w_pq (class + dice) + w_id mask-id cross entropy + w_in instance discrimination   [final]
    + the same for every decoder layer, with the final output's matching                [auxiliary]
    + w_sem semantic cross entropy                                                      [final]

ReMaX (Sun et al. 2023; relaxation.py) gates the masks of the first auxiliary outputs in their dice
and mask-id terms, trains their semantic heads, and softens all class targets.
"""

from typing import NamedTuple

import tensorflow as tf

from deeplab2 import resampling
from deeplab2 import structures
from deeplab2.loss import contrast
from deeplab2.loss import diagnostics
from deeplab2.loss import ground_truth
from deeplab2.loss import mask_terms
from deeplab2.loss import matching
from deeplab2.loss import relaxation
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
  top_k: float = 1.0  # Fraction of the hardest pixels that count.


class Terms(NamedTuple):
  """The kinds of loss that a run has; None where it has not."""

  pq_style: Term | None = None  # Its `top_k` has no meaning.
  mask_id: Term | None = None
  instance: Term | None = None
  semantic: Term | None = None


class Scored(NamedTuple):
  """What the loss says of a batch."""

  losses: dict[str, tf.Tensor]  # Name -> weighted loss, float32 [B].
  diagnostics: dict[str, diagnostics.Ratio]  # Name -> what to watch in addition.


class PanopticLoss:
  """Computes every loss of a batch."""

  def __init__(
    self,
    label_space: structures.LabelSpace,
    kinds: Terms,
    *,
    instance_sampling: sampling.Sampling = sampling.ALL_PIXELS,
    semantic_sampling: sampling.Sampling = sampling.ALL_PIXELS,
    masks: mask_terms.MaskTerms = mask_terms.SOFTMAX,
    remask: relaxation.ReMask | None = None,
    reclass: relaxation.ReClass | None = None,
  ):
    """Creates a loss.

    Args:
      label_space: the numbering of classes.
      kinds: which losses there are.
      instance_sampling: pixels of instance discrimination; by default its unsampled form, things
        only.
      semantic_sampling: pixels of the semantic loss.
      masks: the mask terms, by activation of the mask logits.
      remask: relaxes masks of auxiliary outputs, which then need semantic logits; None does not.
      reclass: relaxes class targets; None does not.
    """
    self._space = label_space
    self._kinds = kinds
    self._instance_sampling = instance_sampling
    self._semantic_sampling = semantic_sampling
    self._masks = masks
    self._remask = remask
    self._num_relaxed = remask.num_layers if remask is not None else 0
    self._reclass = reclass

  def __call__(
    self,
    prediction: structures.Prediction,
    targets: structures.Targets,
    noise: sampling.Noise = sampling.gumbel,
  ) -> dict[str, tf.Tensor]:
    """Returns the losses of `score` alone."""
    return self.score(prediction, targets, noise).losses

  def score(
    self,
    prediction: structures.Prediction,
    targets: structures.Targets,
    noise: sampling.Noise = sampling.gumbel,
  ) -> Scored:
    """Returns the weighted losses and the diagnostics.

    Args:
      prediction: the model's; as many auxiliary outputs as it has are scored.
      targets: labels at crop size.
      noise: of the sampling, called for the final output (0), each auxiliary one (1 + i), the
        semantic loss (1 + number of auxiliary ones) and, after it, those of relaxed layers.

    Returns:
      Losses for each of `names`, `total_loss` being the sum of all others; diagnostics of the final
      output and, with a prefix, of relaxed ones.

    Raises:
      ValueError: if label and prediction sizes do not fit, semantic logits are missing, or more
        layers are to be relaxed than there are.
    """
    outputs = (prediction.final, *prediction.auxiliary)
    if self._num_relaxed >= len(outputs):
      raise ValueError(
        f'ReMask is to relax {self._num_relaxed} layers, and there are '
        f'{len(outputs) - 1} auxiliary outputs.'
      )
    gt, matched = self.match(prediction.final, targets)
    losses, ratios = {}, {}
    for number, output in enumerate(outputs):
      gate_bps = self._gate(output) if 0 < number <= self._num_relaxed else None
      target_bsk = self._class_target(output, gt, matched)
      for name, value in self._output_losses(
        output, gt, matched, gate_bps, target_bsk, noise, number
      ).items():
        losses[_prefix(number) + name] = value
      if number <= self._num_relaxed:
        for name, ratio in self._output_diagnostics(
          output, gt, matched, gate_bps, target_bsk
        ).items():
          ratios[_prefix(number) + name] = ratio
    losses.update(self._semantic_losses(prediction, targets, gt, noise))
    losses[TOTAL] = tf.add_n(list(losses.values()))
    names = self.names(len(prediction.auxiliary))
    return Scored({name: losses[name] for name in names}, ratios)

  def names(self, num_auxiliary: int) -> list[str]:
    """Returns the names of all losses in the order in which they are logged."""
    families = []
    if self._kinds.pq_style is not None:
      families.append((CLASS, DICE))
    if self._kinds.mask_id is not None:
      families.append((MASK_ID,))
    if self._kinds.instance is not None:
      families.append((INSTANCE,))
    names = [
      _prefix(number) + name
      for family in families
      for number in range(num_auxiliary + 1)
      for name in family
    ]
    semantic = [SEMANTIC] if self._kinds.semantic is not None else []
    semantic += [_prefix(1 + layer) + SEMANTIC for layer in range(self._num_relaxed)]
    return [TOTAL] + names + semantic

  def match(self, final: structures.MaskPrediction, targets: structures.Targets):
    """Returns (GroundTruth on the grid of the masks, Matching) of the final output."""
    size = final.mask_logits.shape[1:3]
    gt = ground_truth.prepare(targets, tuple(size), self._space)
    fit = matching.similarity(gt, flat(final.mask_logits), float32(final.class_logits))
    return gt, matching.match(gt, fit, self._space.num_real_classes)

  def _gate(self, output):
    """Returns the gate [B, P, N] of a relaxed layer."""
    if output.semantic_logits is None:
      raise ValueError('ReMask needs the semantic logits of every layer that it relaxes.')
    return relaxation.gate(
      flat(output.semantic_logits),
      float32(output.class_logits),
      self._space.class_order,
      self._remask,
    )

  def _class_target(self, output, gt, matched):
    """Returns the class targets [B, N, K + 1] of one output, relaxed by its plain masks."""
    if self._reclass is None:
      return matched.class_target_bsk
    overlap_bsk = relaxation.overlap(
      flat(output.mask_logits), gt, self._space.class_order, self._reclass
    )
    return relaxation.soft_target(
      matched.class_target_bsk, overlap_bsk, matched.is_matched_bs, self._reclass
    )

  def _output_losses(self, output, gt, matched, gate_bps, target_bsk, noise, number):
    """Scores one output: name without prefix -> [B]."""
    losses = {}
    pq_style, mask_id, instance = self._kinds[:3]
    # Computed again for the gradient: little work, against several [B, P, N] kept per output.
    dice_b, mask_id_b = tf.recompute_grad(lambda *masks: self._mask_terms(matched, *masks))(
      *([flat(output.mask_logits)] if gate_bps is None else [flat(output.mask_logits), gate_bps])
    )
    if pq_style is not None:
      losses[CLASS] = _weighted(
        pq_style.weight,
        lambda: terms.class_term(
          target_bsk, matched.class_weight_bs, matched.is_matched_bs, float32(output.class_logits)
        ),
        gt,
      )
      losses[DICE] = _weighted(pq_style.weight, lambda: dice_b, gt)
    if mask_id is not None:
      losses[MASK_ID] = _weighted(mask_id.weight, lambda: mask_id_b, gt)
    if instance is not None:
      losses[INSTANCE] = _weighted(
        instance.weight, lambda: self._instance_loss(output, gt, noise, number), gt
      )
    return losses

  def _mask_terms(self, matched, mask_logits_bps, gate_bps=None):
    """Returns the dice term and the mask-id term of one output, each [B]."""
    top_k = 1.0 if self._kinds.mask_id is None else self._kinds.mask_id.top_k
    return self._masks.score(matched, self._relaxed(mask_logits_bps, gate_bps), top_k)

  def _relaxed(self, mask_logits_bps, gate_bps):
    if gate_bps is None:
      return mask_logits_bps
    return relaxation.relax(mask_logits_bps, gate_bps, self._remask.identity_mapping)

  def _output_diagnostics(self, output, gt, matched, gate_bps, target_bsk):
    """Returns what to watch of one output: name without prefix -> Ratio."""
    relaxed_bps = tf.stop_gradient(self._relaxed(flat(output.mask_logits), gate_bps))
    ratios = diagnostics.mask_errors(matched, *self._masks.log_masks(relaxed_bps))
    if gate_bps is None:
      ratios['matched_dice'] = diagnostics.matched_dice(matched)
      ratios.update(diagnostics.beyond_slots(gt, matched))
    else:
      ratios.update(
        diagnostics.gates(tf.stop_gradient(gate_bps), gt, matched, self._space.class_order)
      )
    if self._reclass is not None:
      ratios.update(diagnostics.relaxed_targets(matched.class_target_bsk, target_bsk, matched))
    return ratios

  def _instance_loss(self, output, gt, noise, call):
    feature_bpd = flat(output.pixel_feature)
    top_k = self._kinds.instance.top_k
    if not self._instance_sampling.count:
      return contrast.mask_centers(gt, feature_bpd, top_k)
    index_bk = sampling.draw(gt, self._instance_sampling, noise, call)
    return contrast.sampled_pixels(gt, feature_bpd, index_bk, top_k)

  def _semantic_losses(self, prediction, targets, gt, noise):
    """Scores the semantic branch and the semantic heads of relaxed layers."""
    losses = {}
    call = 1 + len(prediction.auxiliary)
    kind = self._kinds.semantic
    if kind is not None:
      if prediction.semantic_logits is None:
        raise ValueError('The semantic loss needs a model with a semantic branch.')
      losses[SEMANTIC] = self._semantic_loss(
        prediction.semantic_logits,
        targets,
        gt,
        kind.weight,
        self._semantic_sampling,
        noise,
        call,
        lambda *pixels: terms.semantic_cross_entropy(*pixels, kind.top_k),
      )
    for layer in range(self._num_relaxed):
      losses[_prefix(1 + layer) + SEMANTIC] = self._semantic_loss(
        prediction.auxiliary[layer].semantic_logits,
        targets,
        gt,
        self._remask.semantic_weight,
        self._remask.semantic_sampling,
        noise,
        call + 1 + layer,
        lambda *pixels: self._remask.semantic_loss(*pixels, self._remask.semantic_top_k),
      )
    return losses

  def _semantic_loss(self, logits, targets, gt, weight, pixels, noise, call, score):
    """Scores semantic logits by `score`, on all pixels or on those drawn as `pixels` says."""
    size = tuple(logits.shape[1:3])
    label_bn, weight_bn = (
      flat(resampling.subsample(labels, size)[..., tf.newaxis], labels.dtype)[..., 0]
      for labels in (targets.semantic, targets.semantic_weight)
    )
    weight_bn = tf.where(label_bn == self._space.ignore_label, 0.0, weight_bn)
    logits_bnk = flat(logits)

    def score_picked():
      picked = (label_bn, weight_bn, logits_bnk)
      if pixels.count:
        if label_bn.shape[1] != gt.row_bp.shape[1]:
          raise ValueError(
            f'Pixels of the semantic loss are drawn on the grid of the masks, but '
            f'semantic logits have another size, {size}.'
          )
        index_bk = sampling.draw(gt, pixels, noise, call)
        picked = (tf.gather(part, index_bk, batch_dims=1) for part in picked)
      return score(*picked)

    return _weighted(weight, score_picked, gt)


def flat(maps: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
  """[B, h, w, C] of any float type -> float32 [B, P, C]."""
  _, height, width, channels = maps.shape
  return tf.reshape(tf.cast(maps, dtype), [-1, height * width, channels])


def float32(tensor: tf.Tensor) -> tf.Tensor:
  """Losses are computed in float32, whatever the model computes in."""
  return tf.cast(tensor, tf.float32)


def _weighted(weight, score, gt):
  if weight == 0.0:
    return tf.zeros([tf.shape(gt.row_bp)[0]])
  return weight * score()


def _prefix(number):
  """Returns the prefix of output `number`; DeepLab2's names have no underscore behind it."""
  return f'aux_{number - 1}' if number else ''
