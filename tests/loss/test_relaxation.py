"""ReMask and ReClass against float64 numbers of this project's own (numpy, central differences).

Inputs are those of the case `wide`: output 0 is matched, output 1 is the relaxed layer.
"""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.loss import mask_activation
from deeplab2.loss import panoptic_loss
from deeplab2.loss import relaxation
from deeplab2.loss import sampling
from deeplab2.loss import terms
from tests.loss import cases

SIGMOID = relaxation.ReMask()
SOFTMAX = relaxation.ReMask(semantic_activation=tf.nn.softmax, class_activation=tf.nn.softmax)
GATES = {'sigmoid': SIGMOID, 'softmax': SOFTMAX}
MASKS = {'sigmoid': tf.sigmoid, 'softmax': tf.nn.softmax}


@pytest.fixture(name='layer')
def _layer(golden):
  """What a relaxed layer is scored with."""
  return Layer(golden('losses_remax'))


class Layer:
  """One decoder layer of the case `wide`, matched by the final output."""

  def __init__(self, stored):
    self.stored = stored
    self.inputs = cases.inputs('wide')
    self.order = self.inputs.space.class_order
    output = self.inputs.outputs[1]
    self.mask = panoptic_loss.flat(output.mask_logits)
    self.class_ = tf.cast(output.class_logits, tf.float32)
    self.semantic = panoptic_loss.flat(tf.constant(stored['in_relaxed_semantic_logits']))
    loss = panoptic_loss.PanopticLoss(self.inputs.space)
    self.gt, self.matched = loss.match(self.inputs.outputs[0], self.inputs.targets)

  def gate(self, settings):
    return relaxation.gate(self.semantic, self.class_, self.order, settings)

  def scores(self, mask_logits, masks=mask_activation.SOFTMAX):
    """Returns (dice term, mask-id term)."""
    return masks.dice_and_mask_id(self.matched, mask_logits, 1.0)

  def assert_array(self, actual, name, tolerance=1e-5):
    """Compares gates, overlaps and targets as remax.md section 10 asks."""
    wanted = self.stored[name]
    np.testing.assert_allclose(
      actual, wanted, rtol=0, err_msg=name, atol=tolerance * max(1.0, np.abs(wanted).max())
    )

  def assert_loss(self, actual, name):
    np.testing.assert_allclose(actual, self.stored[name], rtol=1e-5, atol=1e-6, err_msg=name)

  def assert_gradient(self, actual, name, tolerance=2e-5):
    wanted = self.stored[name]
    np.testing.assert_allclose(
      actual, wanted, rtol=0, err_msg=name, atol=tolerance * np.abs(wanted).max()
    )


@pytest.mark.parametrize('activation', GATES)
def test_gates(layer, activation):
  gate = layer.gate(GATES[activation])
  assert gate.dtype == tf.float32
  layer.assert_array(gate, f'gate_{activation}')


def test_gate_by_hand(golden):
  """Three pixels, two slots, two classes."""
  stored = golden('losses_remax')
  semantic, class_, mask = (
    tf.constant(stored[f'hand_{name}'][np.newaxis], tf.float32)
    for name in ('semantic', 'class', 'mask')
  )
  gate = relaxation.gate(semantic, class_, (0, 1), SIGMOID)
  np.testing.assert_allclose(gate[0], stored['hand_gate'], rtol=1e-6)
  np.testing.assert_allclose(
    relaxation.relax(mask, gate, True)[0], stored['hand_relaxed'], rtol=1e-6
  )


@pytest.mark.parametrize('activation', GATES)
@pytest.mark.parametrize('kind', ['identity', 'product'])
def test_relaxed_losses_and_their_gradients(layer, activation, kind):
  gate = layer.gate(GATES[activation])
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(layer.mask)
    relaxed = relaxation.relax(layer.mask, gate, kind == 'identity')
    scores = layer.scores(relaxed)
  if kind == 'identity':
    layer.assert_array(relaxed, f'{activation}_identity_relaxed_mask_logits')
  for name, score in zip(('dice_term', 'mask_id_ce'), scores, strict=True):
    layer.assert_loss(score, f'{activation}_{kind}_{name}')
    if kind == 'identity':
      layer.assert_gradient(
        tape.gradient(score, layer.mask),
        f'{activation}_identity_grad_{name}',
        1e-4 if activation == 'sigmoid' else 2e-5,
      )


def test_plain_losses_and_their_gradients(layer):
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(layer.mask)
    scores = layer.scores(layer.mask)
  for name, score in zip(('dice_term', 'mask_id_ce'), scores, strict=True):
    layer.assert_loss(score, f'plain_{name}')
    layer.assert_gradient(tape.gradient(score, layer.mask), f'plain_grad_{name}')


def test_gradients_through_the_gate_only_where_they_are_wanted(layer):
  for settings in (SIGMOID, SIGMOID._replace(stop_gradient=False)):
    with tf.GradientTape() as tape:
      tape.watch([layer.semantic, layer.class_])
      dice, mask_id = layer.scores(relaxation.relax(layer.mask, layer.gate(settings), True))
      total = dice + mask_id
    semantic, class_ = tape.gradient(total, [layer.semantic, layer.class_])
    if settings.stop_gradient:
      assert semantic is None and class_ is None
    else:
      layer.assert_gradient(semantic, 'sigmoid_identity_no_stop_grad_semantic', 1e-4)
      layer.assert_gradient(class_, 'sigmoid_identity_no_stop_grad_class', 1e-4)
      # Neither the channel of the ignore label nor the void column takes part.
      assert not np.asarray(semantic)[..., layer.inputs.space.ignore_label].any()
      assert not np.asarray(class_)[..., -1].any()


@pytest.mark.parametrize('activation', GATES)
def test_the_gradient_of_masks_is_that_of_relaxed_masks_times_1_plus_gate(layer, activation):
  gate = layer.gate(GATES[activation])
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(layer.mask)
    relaxed = relaxation.relax(layer.mask, gate, True)
    dice, mask_id = layer.scores(relaxed)
    total = dice + mask_id
  of_mask, of_relaxed = tape.gradient(total, [layer.mask, relaxed])
  np.testing.assert_allclose(of_mask, (1.0 + gate) * of_relaxed, rtol=1e-6)


def test_a_uniform_gate_is_a_temperature(layer):
  gate = tf.fill(layer.mask.shape, 0.75)
  for relaxed, scaled in zip(
    layer.scores(relaxation.relax(layer.mask, gate, True)),
    layer.scores(1.75 * layer.mask),
    strict=True,
  ):
    np.testing.assert_array_equal(relaxed, scaled)


def test_a_gate_of_zero_changes_no_bit(layer):
  # All slots are sure of void.
  void = tf.constant([0.0] * len(layer.order) + [1e4]) + tf.zeros_like(layer.class_)
  gate = relaxation.gate(layer.semantic, void, layer.order, SOFTMAX)
  assert not np.asarray(gate).any()
  np.testing.assert_array_equal(relaxation.relax(layer.mask, gate, True), layer.mask)


@pytest.mark.parametrize('activation', GATES)
def test_gates_follow_permutations_of_classes_and_slots(layer, activation):
  settings, gate = GATES[activation], layer.gate(GATES[activation])
  classes = np.random.default_rng(0).permutation(len(layer.order))
  order = tuple(np.asarray(layer.order)[classes])
  permuted = tf.gather(layer.class_, [*classes, len(classes)], axis=-1)
  np.testing.assert_allclose(
    relaxation.gate(layer.semantic, permuted, order, settings), gate, rtol=1e-5
  )
  slots = np.random.default_rng(1).permutation(gate.shape[2])
  np.testing.assert_allclose(
    relaxation.gate(layer.semantic, tf.gather(layer.class_, slots, axis=1), layer.order, settings),
    np.asarray(gate)[..., slots],
    rtol=1e-5,
  )
  # Semantic channels are dataset ids, so exchanging two of them changes the gate.
  channels = list(range(layer.semantic.shape[-1]))
  channels[layer.order[0]], channels[layer.order[-1]] = layer.order[-1], layer.order[0]
  other = relaxation.gate(
    tf.gather(layer.semantic, channels, axis=-1), layer.class_, layer.order, settings
  )
  assert np.abs(other - gate).max() > 0.01


@pytest.mark.parametrize('activation', GATES)
def test_range_of_gates_and_that_they_rise_with_the_semantic_logit(layer, activation):
  gate = np.asarray(layer.gate(GATES[activation]))
  most = 1.0 if activation == 'softmax' else len(layer.order)
  assert gate.min() >= 0.0 and gate.max() <= most
  extreme = relaxation.gate(
    1e30 * layer.semantic, -1e30 * layer.class_, layer.order, GATES[activation]
  )
  assert np.isfinite(extreme).all() and np.max(extreme) <= most
  if activation == 'sigmoid':
    raised = layer.semantic + 2.0 * tf.one_hot(layer.order[3], layer.semantic.shape[-1])
    higher = relaxation.gate(raised, layer.class_, layer.order, SIGMOID)
    assert (np.asarray(higher) >= gate).all() and (np.asarray(higher) > gate).any()


@pytest.mark.parametrize(
  'order, classes, channels', [((1, 2, 9), 3, 9), ((1, 2), 3, 9), ((-1, 2, 3), 3, 9)]
)
def test_a_class_order_that_the_semantic_head_does_not_cover(order, classes, channels):
  with pytest.raises(ValueError, match='class order of .* does not fit'):
    relaxation.gate(tf.zeros([1, 4, channels]), tf.zeros([1, 2, classes + 1]), order, SIGMOID)


@pytest.mark.parametrize('activation', MASKS)
@pytest.mark.parametrize('area', ['class_area', 'mask_area'])
def test_overlaps(layer, activation, area):
  settings = relaxation.ReClass(mask_activation=MASKS[activation], by_mask_area=area == 'mask_area')
  layer.assert_array(
    relaxation.overlap(layer.mask, layer.gt, layer.order, settings), f'overlap_{activation}_{area}'
  )


def test_softmax_masks_share_each_present_class(layer):
  settings = relaxation.ReClass(mask_activation=tf.nn.softmax)
  sums = np.sum(relaxation.overlap(layer.mask, layer.gt, layer.order, settings), axis=1)
  semantic = np.asarray(layer.gt.semantic_bp)
  present = np.stack([(semantic == label).any(axis=1) for label in layer.order], axis=1)
  assert present.any() and not present.all()
  np.testing.assert_allclose(sums[present], 1.0, rtol=1e-4)
  assert not sums[~present].any()


def _target(layer, **settings):
  settings = relaxation.ReClass(**settings)
  overlap = relaxation.overlap(layer.mask, layer.gt, layer.order, settings)
  return relaxation.soft_target(
    layer.matched.class_target_bsk, overlap, layer.matched.is_matched_bs, settings
  )


@pytest.mark.parametrize('eta', [0.1, 0.5])
@pytest.mark.parametrize('unmatched', [False, True])
@pytest.mark.parametrize('renormalize', [False, True])
def test_soft_targets_and_the_class_term(layer, eta, unmatched, renormalize):
  target = _target(layer, eta=eta, apply_to_unmatched=unmatched, renormalize=renormalize)
  ending = f'eta{eta}' + '_unmatched' * unmatched + '_renormalized' * renormalize
  if eta == 0.1:
    layer.assert_array(target, f'soft_target_{ending}')
  loss = terms.class_term(
    target, layer.matched.class_weight_bs, layer.matched.is_matched_bs, layer.class_
  )
  layer.assert_loss(loss, f'class_term_{ending}')


def test_hard_targets(layer):
  layer.assert_array(layer.matched.class_target_bsk, 'hard_target')
  layer.assert_array(layer.matched.class_weight_bs, 'class_weight')
  np.testing.assert_array_equal(_target(layer, eta=0.0), layer.matched.class_target_bsk)
  layer.assert_loss(
    terms.class_term(
      layer.matched.class_target_bsk,
      layer.matched.class_weight_bs,
      layer.matched.is_matched_bs,
      layer.class_,
    ),
    'class_term_hard',
  )


def test_what_soft_targets_leave_alone(layer):
  hard, soft = np.asarray(layer.matched.class_target_bsk), np.asarray(_target(layer, eta=0.1))
  matched = np.asarray(layer.matched.is_matched_bs)
  assert soft.min() >= 0.0 and soft.max() == 1.0
  np.testing.assert_array_equal(soft[hard == 1.0], 1.0)
  np.testing.assert_array_equal(soft[~matched], hard[~matched])
  np.testing.assert_array_equal(soft[..., -1], hard[..., -1])
  others = soft[matched][hard[matched] == 0.0]
  assert others.max() < 0.1 and others.max() > 0.01


def test_gradient_of_the_class_term(layer):
  with tf.GradientTape() as tape:
    tape.watch([layer.class_, layer.mask])
    target = _target(layer, eta=0.1)
    loss = terms.class_term(
      target, layer.matched.class_weight_bs, layer.matched.is_matched_bs, layer.class_
    )
  of_class, of_mask = tape.gradient(loss, [layer.class_, layer.mask])
  assert of_mask is None
  layer.assert_gradient(of_class, 'grad_class_term_eta0.1')
  # ((sum t) softmax - t) times each slot's weight over the number of slots that count.
  target = np.asarray(target, np.float64)
  fraction = np.where(layer.matched.is_matched_bs, 0.75, 0.25) * layer.matched.class_weight_bs
  softmax = np.asarray(tf.nn.softmax(tf.cast(layer.class_, tf.float64)))
  wanted = (
    fraction[..., np.newaxis]
    / fraction.shape[1]
    * (target.sum(axis=-1, keepdims=True) * softmax - target)
  )
  np.testing.assert_allclose(of_class, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize('eta', [-0.01, 1.01, float('nan')])
def test_eta_beyond_0_to_1(layer, eta):
  with pytest.raises(ValueError, match='eta is .* must be in'):
    _target(layer, eta=eta)


@pytest.mark.parametrize('kind', ['plain', 'relaxed_softmaxgate'])
def test_sigmoid_masks(layer, kind):
  mask = layer.mask
  if kind != 'plain':
    mask = relaxation.relax(mask, layer.gate(SOFTMAX), True)
  dice, mask_id = layer.scores(mask, mask_activation.SIGMOID)
  layer.assert_loss(dice, f'sigmoid_mask_{kind}_dice_term')
  layer.assert_loss(mask_id, f'sigmoid_mask_{kind}_bce')


def test_sigmoid_masks_of_all_slots(layer):
  """To the stored entropy of matched slots comes softplus(m) of the others, by hand."""
  dice, mask_id = layer.scores(layer.mask, mask_activation.SIGMOID_ALL_SLOTS)
  layer.assert_loss(dice, 'sigmoid_mask_plain_dice_term')
  matched = layer.matched.is_matched_bs.numpy()
  has_mask = layer.matched.one_hot_bps.numpy().sum(axis=2)
  false_mask = np.logaddexp(0.0, layer.mask.numpy().astype(np.float64))
  wanted = layer.stored['sigmoid_mask_plain_bce'].astype(np.float64).copy()
  for image in np.flatnonzero(matched.any(axis=1)):
    added = (has_mask[image] @ false_mask[image])[~matched[image]].sum()
    wanted[image] += added / (has_mask[image].sum() * matched[image].sum())
  np.testing.assert_allclose(mask_id, wanted, rtol=1e-5, atol=1e-6)
  assert matched.any() and not matched.any(axis=1).all(), 'an image without a match is a case'


def test_sigmoid_masks_have_no_hardest_pixels(layer):
  with pytest.raises(ValueError, match='top_k is 0.5'):
    mask_activation.SIGMOID.dice_and_mask_id(layer.matched, layer.mask, 0.5)


def test_loss_of_a_false_positive_under_gates(golden):
  """A pixel of no mask's, logit m, gate g: softplus((1 + g) m) and its derivative."""
  stored = golden('losses_remax')
  for row, gate in enumerate(stored['curve_g']):
    mask = tf.constant(stored['curve_m'], tf.float32)
    with tf.GradientTape() as tape:
      tape.watch(mask)
      relaxed = relaxation.relax(mask, tf.constant(gate, tf.float32), True)
      loss = -mask_activation.SIGMOID.log_masks(relaxed)[1]
    np.testing.assert_allclose(loss, stored['curve_fp_loss'][row], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
      tape.gradient(loss, mask), stored['curve_fp_grad'][row], rtol=1e-5, atol=1e-6
    )


def test_three_slots_under_gates(golden):
  """m = (m_true, 1, 1) and gates (1, 1, 0): loss and gradient, plain and relaxed."""
  for row in golden('losses_remax')['softmax_three_slot_table']:
    mask = tf.constant([[[row[0], 1.0, 1.0]]], tf.float32)
    for gate, wanted in (((0.0, 0.0, 0.0), row[1:5]), ((1.0, 1.0, 0.0), row[5:9])):
      with tf.GradientTape() as tape:
        tape.watch(mask)
        relaxed = relaxation.relax(mask, tf.constant(gate), True)
        loss = terms.mask_id_cross_entropy(
          tf.constant([[[1.0, 0.0, 0.0]]]), tf.nn.log_softmax(relaxed)
        )
      np.testing.assert_allclose(loss[0], wanted[0], rtol=1e-5, atol=1e-6)
      np.testing.assert_allclose(tape.gradient(loss, mask)[0, 0], wanted[1:], rtol=1e-5, atol=1e-6)


def _score(inputs, **settings):
  """Scores the case with semantic logits in its first two layers; no gradients' sampling."""
  generator = np.random.default_rng(0)
  channels = inputs.semantic_logits.shape[-1]
  auxiliary = [
    output._replace(
      semantic_logits=tf.constant(
        generator.normal(size=[*output.mask_logits.shape[:3], channels]), tf.float32
      )
    )
    if index < 2
    else output
    for index, output in enumerate(inputs.outputs[1:])
  ]
  prediction = inputs.prediction._replace(auxiliary=tuple(auxiliary))
  one = terms.Weighting()
  loss = panoptic_loss.PanopticLoss(
    inputs.space,
    pq_style=one,
    mask_id_cross_entropy=one,
    instance_discrimination=one,
    semantic=one,
    **settings,
  )
  watched = [tuple(output[:3]) for output in prediction.auxiliary]
  semantic = [output.semantic_logits for output in prediction.auxiliary[:2]]
  with tf.GradientTape() as tape:
    tape.watch((watched, semantic))
    scored = loss.score(prediction, inputs.targets)
    total = tf.reduce_sum(scored.losses[panoptic_loss.TOTAL])
  return scored, tape.gradient(total, (watched, semantic))


REMASK = SIGMOID._replace(num_layers=2)


def test_remask_changes_the_mask_terms_of_relaxed_layers_alone():
  inputs = cases.inputs('wide')
  plain, (plain_gradients, _) = _score(inputs)
  relaxed, (gradients, _) = _score(inputs, remask=REMASK)
  changed = {
    name for name, value in plain.losses.items() if not np.array_equal(value, relaxed.losses[name])
  }
  assert changed == {panoptic_loss.TOTAL} | {
    f'aux_{layer}{name}' for layer in (0, 1) for name in (panoptic_loss.DICE, panoptic_loss.MASK_ID)
  }
  assert set(relaxed.losses) - set(plain.losses) == {
    f'aux_{layer}{panoptic_loss.SEMANTIC}' for layer in (0, 1)
  }
  for layer, (ours, plains) in enumerate(zip(gradients, plain_gradients, strict=True)):
    for field, (one, other) in enumerate(zip(ours, plains, strict=True)):
      same = np.array_equal(one, other)
      # Mask logits are the first field; class logits and pixel features keep their gradient.
      assert same == (layer >= 2 or field > 0), (layer, field)


def test_without_gating_masks_the_heads_are_trained_and_the_masks_are_plain():
  """Numbers of the plain loss, and of ReMask's semantic losses, are the independent source."""
  inputs = cases.inputs('wide')
  plain, (plain_gradients, _) = _score(inputs)
  gated, (_, gated_heads) = _score(inputs, remask=REMASK)
  control, (gradients, heads) = _score(inputs, remask=REMASK._replace(gate_masks=False))
  assert list(control.losses) == list(gated.losses)
  for name, value in control.losses.items():
    if name != panoptic_loss.TOTAL:
      wanted = plain.losses.get(name, gated.losses[name])
      np.testing.assert_array_equal(value, wanted, err_msg=name)
  semantic = sum(gated.losses[f'aux_{layer}{panoptic_loss.SEMANTIC}'] for layer in (0, 1))
  total = plain.losses[panoptic_loss.TOTAL] + semantic
  np.testing.assert_allclose(control.losses[panoptic_loss.TOTAL], total, rtol=1e-6)
  tf.nest.map_structure(np.testing.assert_array_equal, gradients, plain_gradients)
  tf.nest.map_structure(np.testing.assert_array_equal, heads, gated_heads)
  # The gate is still watched; the errors of masks are those of plain ones.
  assert control.diagnostics.keys() == gated.diagnostics.keys()
  for name in ('aux_0gate_same_class', 'aux_1gate_other_class'):
    np.testing.assert_array_equal(control.diagnostics[name], gated.diagnostics[name])
  everything = {f'aux_0{name}' for name in ('mask_fp', 'mask_fn')}
  for name in everything:
    assert not np.array_equal(control.diagnostics[name], gated.diagnostics[name])


def test_no_panoptic_loss_trains_the_semantic_heads():
  inputs = cases.inputs('wide')
  _, (_, trained) = _score(inputs, remask=REMASK)
  assert all(np.abs(gradient).max() > 0 for gradient in trained)
  _, (_, untrained) = _score(inputs, remask=REMASK._replace(semantic=terms.Weighting(0.0)))
  assert untrained == [None, None]
  _, (_, through) = _score(
    inputs, remask=REMASK._replace(semantic=terms.Weighting(0.0), stop_gradient=False)
  )
  assert all(np.abs(gradient).max() > 0 for gradient in through)


def test_reclass_changes_class_terms_alone():
  inputs = cases.inputs('wide')
  plain, (plain_gradients, _) = _score(inputs)
  soft, (gradients, _) = _score(inputs, reclass=relaxation.ReClass())
  changed = {
    name for name, value in plain.losses.items() if not np.array_equal(value, soft.losses[name])
  }
  assert changed == {panoptic_loss.TOTAL} | {
    name for name in plain.losses if name.endswith(panoptic_loss.CLASS)
  }
  for ours, plains in zip(gradients, plain_gradients, strict=True):
    assert [np.array_equal(*pair) for pair in zip(ours, plains, strict=True)] == [True, False, True]
  nothing, _ = _score(inputs, reclass=relaxation.ReClass(eta=0.0))
  for name, value in plain.losses.items():
    np.testing.assert_array_equal(nothing.losses[name], value, err_msg=name)


def test_names_have_the_semantic_losses_of_relaxed_layers_last():
  scored, _ = _score(cases.inputs('wide'), remask=REMASK)
  assert list(scored.losses)[-3:] == ['semantic_loss', 'aux_0semantic_loss', 'aux_1semantic_loss']


def test_semantic_loss_with_sigmoids_by_hand():
  labels, weights = tf.constant([[1, 3, 0]]), tf.constant([[2.0, 1.0, 0.0]])
  logits = tf.constant([[[9.0, 1.0, 9.0, -1.0], [9.0, 0.5, 9.0, 2.0], [9.0, 9.0, 9.0, 9.0]]])
  loss = terms.semantic_binary_cross_entropy(labels, weights, logits, class_order=(3, 1))
  first = 2.0 * (np.log1p(np.exp(-1.0)) + np.log1p(np.exp(-1.0)))
  second = np.log1p(np.exp(0.5)) + np.log1p(np.exp(-2.0))
  np.testing.assert_allclose(loss, [(first + second) / 2], rtol=1e-6)


def test_drawing_more_pixels_than_there_are_draws_all():
  inputs = cases.inputs('wide')
  every, _ = _score(inputs, remask=REMASK)
  drawn, _ = _score(
    inputs, remask=REMASK._replace(semantic=terms.Weighting(sampling=sampling.Sampling(10**6, 2.0)))
  )
  for layer in (0, 1):
    name = f'aux_{layer}{panoptic_loss.SEMANTIC}'
    np.testing.assert_allclose(drawn.losses[name], every.losses[name], rtol=1e-5)


@pytest.mark.parametrize(
  'settings, message',
  [
    (REMASK._replace(num_layers=7), 'relax 7 layers, and there are 6'),
    (REMASK._replace(num_layers=3), 'needs the semantic logits of every layer'),
  ],
)
def test_layers_that_cannot_be_relaxed(settings, message):
  with pytest.raises(ValueError, match=message):
    _score(cases.inputs('wide'), remask=settings)


def test_diagnostics_of_every_output_that_is_watched():
  inputs = cases.inputs('wide')
  scored, _ = _score(inputs, remask=REMASK, reclass=relaxation.ReClass())
  once = {'matched_dice', 'unmatched_segments', 'images_beyond_slots'}
  final = {
    'mask_fp',
    'mask_fn',
    'mask_fp_fn_ratio',
    'all_slots_fp_fn_ratio',
    'reclass_relaxed_fraction',
    'reclass_added_mass',
  } | once
  layer = final - once | {'gate_same_class', 'gate_other_class'}
  assert set(scored.diagnostics) == final | {f'aux_{i}{name}' for i in (0, 1) for name in layer}
  for name, ratio in scored.diagnostics.items():
    assert np.isfinite(ratio).all(), name
