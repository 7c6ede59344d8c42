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
from deeplab2.loss import mask_activation as mask_activation_lib
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


class Scored(NamedTuple):
  """Losses and diagnostics of a batch."""

  losses: dict[str, tf.Tensor]  # Name -> weighted loss, float32 [B].
  diagnostics: dict[str, diagnostics.Ratio]  # Name -> what to watch in addition.


class _Output(NamedTuple):
  """One output of the model as the terms see it; float32, whatever the model computes in."""

  prefix: str  # Of the names of its losses.
  mask_logits_bps: tf.Tensor
  class_logits_bsk: tf.Tensor  # K + 1 channels, void last
  class_target_bsk: tf.Tensor  # softened by ReClass
  feature_bpd: tf.Tensor
  semantic_logits: tf.Tensor | None  # [B, h, w, num_classes] of ReMask
  gate_bps: tf.Tensor | None  # of ReMask, None for outputs beyond its layers


class PanopticLoss:
  """Computes every loss of a batch."""

  def __init__(
    self,
    label_space: structures.LabelSpace,
    *,
    pq_style: terms.Weighting | None = None,
    mask_id_cross_entropy: terms.Weighting | None = None,
    instance_discrimination: terms.Weighting | None = None,
    semantic: terms.Weighting | None = None,
    mask_activation: mask_activation_lib.MaskActivation = mask_activation_lib.SOFTMAX,
    remask: relaxation.ReMask | None = None,
    reclass: relaxation.ReClass | None = None,
  ):
    """Creates a loss.

    Args:
      label_space: the numbering of classes.
      pq_style: class term and dice term; None, as for the others, leaves them out.
      mask_id_cross_entropy: which mask a pixel is of.
      instance_discrimination: of pixel features; without sampling, its unsampled form, things only.
      semantic: cross entropy of the semantic branch.
      mask_activation: of mask logits, in the terms that see masks.
      remask: relaxes masks of auxiliary outputs, which then need semantic logits; None does not.
      reclass: relaxes class targets; None does not.
    """
    self._space = label_space
    self._pq_style = pq_style
    self._mask_id_cross_entropy = mask_id_cross_entropy
    self._instance = instance_discrimination
    self._semantic = semantic
    self._mask_activation = mask_activation
    self._remask = remask
    self._num_relaxed = remask.num_layers if remask is not None else 0
    self._reclass = reclass

  def score(self, prediction: structures.Prediction, targets: structures.Targets) -> Scored:
    """Returns the weighted losses and the diagnostics.

    Args:
      prediction: the model's; as many auxiliary outputs as it has are scored.
      targets: labels at crop size.

    Returns:
      Losses in the order in which they are logged, `total_loss`, the sum of all others, first;
      diagnostics of the final output and, with a prefix, of relaxed ones.

    Raises:
      ValueError: if label and prediction sizes do not fit, semantic logits are missing, or more
        layers are to be relaxed than there are.
    """
    gt, matched = self.match(prediction.final, targets)
    outputs = self._outputs(prediction, gt, matched)
    relaxed = outputs[1 : 1 + self._num_relaxed]
    losses: dict[str, tf.Tensor] = {}

    def add(name, weighting, term, *arguments):
      if weighting is not None and weighting.weight == 0.0:
        losses[name] = tf.zeros([tf.shape(gt.row_bp)[0]])
      elif weighting is not None:
        losses[name] = weighting.weight * term(*arguments)

    of_masks = [self._dice_and_mask_id(output, matched) for output in outputs]
    for output, (dice_b, _) in zip(outputs, of_masks, strict=True):
      add(output.prefix + CLASS, self._pq_style, self._class_term, output, matched)
      add(output.prefix + DICE, self._pq_style, tf.identity, dice_b)
    for output, (_, mask_id_b) in zip(outputs, of_masks, strict=True):
      add(output.prefix + MASK_ID, self._mask_id_cross_entropy, tf.identity, mask_id_b)
    for output in outputs:
      add(output.prefix + INSTANCE, self._instance, self._instance_discrimination, output, gt)
    semantic = [('', prediction.semantic_logits, self._semantic, terms.semantic_cross_entropy)]
    if self._remask is not None:
      how = self._remask.semantic, self._remask.semantic_term
      semantic += [(output.prefix, output.semantic_logits, *how) for output in relaxed]
    for prefix, logits, weighting, term in semantic:
      arguments = (logits, weighting, term, targets, gt)
      add(prefix + SEMANTIC, weighting, self._semantic_cross_entropy, *arguments)

    ratios = {
      output.prefix + name: ratio
      for output in (outputs[0], *relaxed)
      for name, ratio in self._diagnostics(output, gt, matched).items()
    }
    return Scored({TOTAL: tf.add_n(list(losses.values())), **losses}, ratios)

  def match(self, final: structures.MaskPrediction, targets: structures.Targets):
    """Returns (GroundTruth on the grid of the masks, Matching) of the final output."""
    size = final.mask_logits.shape[1:3]
    gt = ground_truth.prepare(targets, tuple(size), self._space)
    fit = matching.similarity(gt, flat(final.mask_logits), tf.cast(final.class_logits, tf.float32))
    return gt, matching.match(gt, fit, self._space.num_real_classes)

  def _outputs(self, prediction, gt, matched):
    """Returns an _Output for the final prediction, then one for each auxiliary one."""
    if self._num_relaxed > len(prediction.auxiliary):
      raise ValueError(
        f'ReMask is to relax {self._num_relaxed} layers, and there are '
        f'{len(prediction.auxiliary)} auxiliary outputs.'
      )
    outputs = []
    for number, output in enumerate((prediction.final, *prediction.auxiliary)):
      class_logits_bsk = tf.cast(output.class_logits, tf.float32)
      mask_logits_bps = flat(output.mask_logits)
      is_relaxed = 0 < number <= self._num_relaxed
      outputs.append(
        _Output(
          # DeepLab2's names have no underscore behind the number.
          f'aux_{number - 1}' if number else '',
          mask_logits_bps,
          class_logits_bsk,
          self._class_target(mask_logits_bps, gt, matched),
          flat(output.pixel_feature),
          output.semantic_logits,
          self._gate(output.semantic_logits, class_logits_bsk) if is_relaxed else None,
        )
      )
    return outputs

  def _class_target(self, mask_logits_bps, gt, matched):
    """Returns the class targets [B, N, K + 1] of an output, softened by its plain masks."""
    if self._reclass is None:
      return matched.class_target_bsk
    overlap_bsk = relaxation.overlap(mask_logits_bps, gt, self._space.class_order, self._reclass)
    return relaxation.soft_target(
      matched.class_target_bsk, overlap_bsk, matched.is_matched_bs, self._reclass
    )

  def _gate(self, semantic_logits, class_logits_bsk):
    """Returns the gate [B, P, N] of a relaxed layer."""
    if semantic_logits is None:
      raise ValueError('ReMask needs the semantic logits of every layer that it relaxes.')
    return relaxation.gate(
      flat(semantic_logits), class_logits_bsk, self._space.class_order, self._remask
    )

  def _acting_gate(self, output):
    """Returns the gate that relaxes the masks of an output, in a list; [] where they stay plain."""
    if output.gate_bps is None or not self._remask.gate_masks:
      return []
    return [output.gate_bps]

  def _relaxed_masks(self, mask_logits_bps, gate_bps=None):
    """Returns the mask logits that the terms see."""
    if gate_bps is None:
      return mask_logits_bps
    return relaxation.relax(mask_logits_bps, gate_bps, self._remask.identity_mapping)

  def _class_term(self, output, matched):
    return terms.class_term(
      output.class_target_bsk,
      matched.class_weight_bs,
      matched.is_matched_bs,
      output.class_logits_bsk,
    )

  def _dice_and_mask_id(self, output, matched):
    """Returns the dice term and the mask-id term of one output, which share its masks; each [B]."""
    top_k = 1.0 if self._mask_id_cross_entropy is None else self._mask_id_cross_entropy.top_k

    # Computed again for the gradient: little work, against several [B, P, N] kept per output.
    @tf.recompute_grad
    def score(*masks):
      return self._mask_activation.dice_and_mask_id(matched, self._relaxed_masks(*masks), top_k)

    return score(output.mask_logits_bps, *self._acting_gate(output))

  def _instance_discrimination(self, output, gt):
    _, top_k, pixels = self._instance
    if not pixels.num_pixels:
      return contrast.mask_centers(gt, output.feature_bpd, top_k)
    index_bk = sampling.draw(gt, pixels)
    return contrast.sampled_pixels(gt, output.feature_bpd, index_bk, top_k)

  def _semantic_cross_entropy(self, logits, weighting, term, targets, gt):
    """Returns `term` of semantic logits, of the branch or of a relaxed layer."""
    if logits is None:
      raise ValueError('The semantic loss needs a model with a semantic branch.')
    size = tuple(logits.shape[1:3])
    label_bn, weight_bn = (
      flat(resampling.subsample(labels, size)[..., tf.newaxis], labels.dtype)[..., 0]
      for labels in (targets.semantic, targets.semantic_weight)
    )
    weight_bn = tf.where(label_bn == self._space.ignore_label, 0.0, weight_bn)
    pixels = [label_bn, weight_bn, flat(logits)]
    if weighting.sampling.num_pixels:
      if label_bn.shape[1] != gt.row_bp.shape[1]:
        raise ValueError(
          'Pixels of the semantic loss are drawn on the grid of the masks, but semantic logits '
          f'have another size, {size}.'
        )
      index_bk = sampling.draw(gt, weighting.sampling)
      pixels = [tf.gather(part, index_bk, batch_dims=1) for part in pixels]
    return term(*pixels, weighting.top_k)

  def _diagnostics(self, output, gt, matched):
    """Returns the diagnostics of one output: name without prefix -> Ratio."""
    mask_logits_bps = self._relaxed_masks(output.mask_logits_bps, *self._acting_gate(output))
    ratios = diagnostics.mask_errors(
      matched, *self._mask_activation.log_masks(tf.stop_gradient(mask_logits_bps))
    )
    if output.gate_bps is None:
      ratios['matched_dice'] = diagnostics.matched_dice(matched)
      ratios.update(diagnostics.beyond_slots(gt, matched))
    else:
      gate_bps = tf.stop_gradient(output.gate_bps)
      ratios.update(diagnostics.gates(gate_bps, gt, matched, self._space.class_order))
    if self._reclass is not None:
      hard_bsk = matched.class_target_bsk
      ratios.update(diagnostics.relaxed_targets(hard_bsk, output.class_target_bsk, matched))
    return ratios


def flat(maps: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
  """[B, h, w, C] of any float type -> float32 [B, P, C]."""
  _, height, width, channels = maps.shape
  return tf.reshape(tf.cast(maps, dtype), [-1, height * width, channels])
