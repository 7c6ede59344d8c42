"""The whole objective against DeepLab2's numbers, and where this project differs on purpose.

DeepLab2's gradient is wrong at the crowd pixels of image 3 (targets that sum to 0), and its
matching breaks when an image has more masks than slots (image 0 of `overflow`). There the tests
assert what is right instead.
"""

import numpy as np
import pytest
from scipy import optimize
from scipy import special
import tensorflow as tf

from deeplab2 import randomness
from deeplab2.loss import panoptic_loss
from deeplab2.loss import sampling
from deeplab2.loss import terms
from tests.loss import cases

_CROWD_IMAGE = 3
# Pixels of the 9x9 grid where image 3 shows crowd.
_CROWD = np.s_[_CROWD_IMAGE, 0:2, 5:9]


def make_loss(inputs, **kwargs):
  """The objective with the weights of the published configs."""
  weightings = {
    'pq_style': terms.Weighting(3.0),
    'mask_id_cross_entropy': terms.Weighting(0.3),
    'instance_discrimination': terms.Weighting(1.0),
    'semantic': terms.Weighting(1.0),
  }
  return panoptic_loss.PanopticLoss(inputs.space, **weightings | kwargs)


SAMPLED = {
  'instance_discrimination': terms.Weighting(1.0, sampling=sampling.Sampling(24, 1.5)),
  'semantic': terms.Weighting(1.0, sampling=sampling.Sampling(24, 2.0)),
}


def losses_and_gradients(inputs, loss, jit=False):
  """Returns the losses, and gradients of the mean total loss by output and field."""
  variables = [tuple(output[:3]) for output in inputs.outputs] + [(inputs.semantic_logits,)]

  @tf.function(jit_compile=jit)
  def run():
    with tf.GradientTape() as tape, randomness.use(inputs.draws()):
      losses = loss.score(inputs.prediction, inputs.targets).losses
      total = tf.reduce_mean(losses[panoptic_loss.TOTAL])
    return losses, tape.gradient(total, variables)

  return run()


def images_like_deeplab2(name):
  """Images whose values DeepLab2 gets right."""
  return slice(1, None) if name == 'overflow' else slice(None)


@pytest.mark.parametrize('name', cases.CASES)
def test_losses_of_all_pixels(name, golden):
  inputs, stored = cases.inputs(name), golden(f'losses_case_{name}')
  losses, _ = losses_and_gradients(inputs, make_loss(inputs))
  images = images_like_deeplab2(name)
  for key, value in losses.items():
    wanted = stored['a_loss_total' if key == panoptic_loss.TOTAL else f'a_loss_{key}']
    np.testing.assert_allclose(value[images], wanted[images], rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize('name', ['wide', 'tall'])
def test_gradients_of_all_pixels(name, golden):
  inputs, stored = cases.inputs(name), golden(f'losses_case_{name}')
  _, gradients = losses_and_gradients(inputs, make_loss(inputs))
  for index, (mask, class_, feature) in enumerate(gradients[:-1]):
    output = 'main' if index == 0 else f'aux_{index - 1}'
    wanted = stored[f'a_grad_total__{output}_mask_logits']
    right = np.ones(wanted.shape[:3], bool)
    right[_CROWD] = False
    np.testing.assert_allclose(
      mask.numpy()[right], wanted[right], rtol=0, atol=2e-5 * np.abs(wanted).max()
    )
    cases.assert_gradient(class_, stored[f'a_grad_total__{output}_class_logits'])
    cases.assert_gradient(feature, stored[f'a_grad_total__{output}_feature'])
  cases.assert_gradient(gradients[-1][0], stored['a_grad_total__semantic_logits'])


def test_crowd_pixels_give_masks_no_gradient():
  inputs = cases.inputs('wide')
  _, gradients = losses_and_gradients(inputs, make_loss(inputs))
  for mask, _, _ in gradients[:-1]:
    assert np.abs(mask.numpy()[_CROWD]).max() == 0.0
    assert np.abs(mask.numpy()[_CROWD_IMAGE]).max() > 0.0


@pytest.mark.usefixtures('each_form')
@pytest.mark.parametrize('name', cases.CASES)
def test_losses_of_sampled_pixels(name, golden):
  inputs, stored = cases.inputs(name), golden(f'losses_case_{name}')
  losses, gradients = losses_and_gradients(inputs, make_loss(inputs, **SAMPLED))
  # DeepLab2 draws crowd pixels first, so image 3 has other samples.
  for key in stored.files:
    if key.startswith('b_loss_'):
      np.testing.assert_allclose(
        losses[key[7:]][:_CROWD_IMAGE],
        stored[key][:_CROWD_IMAGE],
        rtol=1e-5,
        atol=1e-6,
        err_msg=key,
      )
  wanted = stored['b_grad_total__semantic_logits']
  cases.assert_gradient(gradients[-1][0], wanted, slice(_CROWD_IMAGE))


@pytest.mark.parametrize('name', ['wide', 'tall'])
def test_semantic_loss_of_the_hardest_pixels(name, golden):
  inputs, stored = cases.inputs(name), golden(f'losses_case_{name}')
  losses, gradients = losses_and_gradients(
    inputs, make_loss(inputs, semantic=terms.Weighting(top_k=0.2))
  )
  np.testing.assert_allclose(
    losses[panoptic_loss.SEMANTIC], stored['c_loss_semantic_loss'], rtol=1e-5, atol=1e-6
  )
  cases.assert_gradient(gradients[-1][0], stored['c_grad_total__semantic_logits'])


def test_more_masks_than_slots_leave_the_rest_out():
  inputs = cases.inputs('overflow')
  loss = make_loss(inputs)
  gt, matched = loss.match(inputs.outputs[0], inputs.targets)
  slots = matched.slot_of_row_br.numpy()[0]
  valid = gt.is_valid_br.numpy()[0]
  assert valid.sum() == 6 and sorted(slots[slots >= 0]) == [0, 1, 2, 3]
  assert (matched.class_target_bsk.numpy()[0].sum(axis=1) == 1.0).all()
  losses, gradients = losses_and_gradients(inputs, loss)
  assert all(value.numpy()[0] < 10.0 for value in losses.values())
  left_over = np.isin(gt.row_bp.numpy()[0], np.flatnonzero(valid & (slots < 0))).reshape(9, 9)
  assert left_over.any()
  assert np.abs(gradients[0][0].numpy()[0][left_over]).max() == 0.0


def test_more_masks_than_slots_by_hand():
  """Image 0 of `overflow` in float64 from the formulas, rows without a slot left out."""
  inputs = cases.inputs('overflow')
  mask_logits, class_logits, _ = (
    field.numpy()[0].astype(np.float64) for field in inputs.outputs[0][:3]
  )
  mask_logits = mask_logits.reshape(81, 4)
  semantic, thing = (labels.numpy()[0, ::4, ::4].ravel() for labels in inputs.targets[:2])
  order = inputs.space.class_order
  rows = []  # (mask over pixels, class channel)
  for number in range(inputs.case.max_thing_id):
    class_id = int(inputs.targets.thing_id_class[0, number])
    if (thing == number).any():
      rows.append((thing == number, order.index(class_id)))
  for class_id in inputs.space.stuff_ids:
    if (semantic == class_id).any():
      rows.append((semantic == class_id, order.index(class_id)))
  gt = np.stack([mask for mask, _ in rows]).astype(np.float64)
  channels = np.asarray([channel for _, channel in rows])

  labelled = semantic != inputs.space.ignore_label
  mask = special.softmax(mask_logits, axis=1)
  on_labelled = mask * labelled[:, None]
  sizes = gt.sum(axis=1)[:, None] + on_labelled.sum(axis=0)
  dice = gt @ on_labelled / (sizes / 2 + 1e-5)
  right_class = special.softmax(class_logits, axis=1)[:, channels].T
  matched, slots = optimize.linear_sum_assignment(-dice * right_class)
  assert len(matched) == 4 < len(rows)
  dice, right_class = dice[matched, slots], right_class[matched, slots]
  gt, channels = gt[matched], channels[matched]

  log_class = special.log_softmax(class_logits, axis=1)
  class_term = -(0.75 * dice * log_class[slots, channels]).mean()
  has_mask = gt.sum(axis=0)
  predicted = mask[:, slots].T * has_mask
  dice_loss = 1 - (2 * (predicted * gt).sum(axis=1) + 1) / (
    predicted.sum(axis=1) + gt.sum(axis=1) + 1
  )
  dice_term = 0.75 / 4 * (right_class * dice_loss).sum()
  log_mask = special.log_softmax(mask_logits, axis=1)[:, slots].T
  mask_id = -(gt * log_mask).sum() / has_mask.sum()

  losses, _ = losses_and_gradients(inputs, make_loss(inputs))
  for name, wanted in (
    (panoptic_loss.CLASS, 3 * class_term),
    (panoptic_loss.DICE, 3 * dice_term),
    (panoptic_loss.MASK_ID, 0.3 * mask_id),
  ):
    np.testing.assert_allclose(losses[name][0], wanted, rtol=1e-5, err_msg=name)


def test_a_prediction_that_is_not_finite_shows_in_its_losses_only():
  inputs = cases.inputs('tall')
  broken = inputs.outputs[0].mask_logits.numpy()
  broken[0, 4, 4, 2] = np.nan
  prediction = inputs.prediction._replace(
    final=inputs.outputs[0]._replace(mask_logits=tf.constant(broken))
  )
  loss = make_loss(inputs)
  whole, total = (
    loss.score(each, inputs.targets).losses[panoptic_loss.TOTAL].numpy()
    for each in (inputs.prediction, prediction)
  )
  assert np.isnan(total[0])
  np.testing.assert_array_equal(total[1:], whole[1:])


def test_names_are_those_of_deeplab2_in_their_order(golden):
  inputs = cases.inputs('wide')
  prediction = inputs.prediction
  names = list(make_loss(inputs).score(prediction, inputs.targets).losses)
  assert names[0] == panoptic_loss.TOTAL
  assert names[1:] == list(golden('losses_case_wide')['loss_names_in_order'])
  final_alone = prediction._replace(auxiliary=())
  assert len(make_loss(inputs).score(final_alone, inputs.targets).losses) == 6


def test_weight_0_reports_zeros_and_absent_terms_nothing():
  inputs = cases.inputs('tall')
  loss = panoptic_loss.PanopticLoss(
    inputs.space, pq_style=terms.Weighting(0.0), mask_id_cross_entropy=terms.Weighting(0.3)
  )
  losses = loss.score(inputs.prediction._replace(semantic_logits=None), inputs.targets).losses
  assert not losses[panoptic_loss.CLASS].numpy().any()
  assert set(losses) == {panoptic_loss.TOTAL} | {
    prefix + name
    for prefix in ('', 'aux_0', 'aux_1')
    for name in (panoptic_loss.CLASS, panoptic_loss.DICE, panoptic_loss.MASK_ID)
  }
  total = sum(losses[name].numpy() for name in losses if name != panoptic_loss.TOTAL)
  np.testing.assert_allclose(losses[panoptic_loss.TOTAL], total, rtol=1e-6)


def test_16_bit_predictions_are_scored_in_float32():
  inputs = cases.inputs('tall')

  def cast(prediction, dtype):
    return tf.nest.map_structure(lambda x: None if x is None else tf.cast(x, dtype), prediction)

  halved = cast(inputs.prediction, tf.bfloat16)
  rounded = cast(halved, tf.float32)
  loss = make_loss(inputs)
  wanted = loss.score(rounded, inputs.targets).losses
  for name, value in loss.score(halved, inputs.targets).losses.items():
    assert value.dtype == tf.float32
    np.testing.assert_array_equal(value, wanted[name], err_msg=name)


@pytest.mark.usefixtures('each_form')
def test_compiles_under_xla():
  inputs = cases.inputs('tall')
  loss = make_loss(inputs, **SAMPLED)
  compiled, compiled_gradients = losses_and_gradients(inputs, loss, jit=True)
  losses, gradients = losses_and_gradients(inputs, loss)
  for name, value in losses.items():
    np.testing.assert_allclose(compiled[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
  for actual, wanted in zip(
    tf.nest.flatten(compiled_gradients), tf.nest.flatten(gradients), strict=True
  ):
    cases.assert_gradient(actual, wanted.numpy())


def test_a_model_without_semantic_branch_is_named():
  inputs = cases.inputs('tall')
  with pytest.raises(ValueError, match='semantic branch'):
    make_loss(inputs).score(inputs.prediction._replace(semantic_logits=None), inputs.targets)
