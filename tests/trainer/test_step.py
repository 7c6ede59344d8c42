"""One training step with its options: parts, loss scale, averages, XLA, recomputation."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.trainer import averages as averages_lib
from deeplab2.trainer import loss_scale as loss_scale_lib
from deeplab2.trainer import step as step_lib
from tests.trainer import fakes


def _frozen(trainer, model):
  """Takes the batch norm's statistics from its variables, so that no batch matters to another."""
  del trainer
  layer = model.backbone.layers[1]
  layer.trainable = False
  return model


def _dataset(parts, batch=4, weight=1.0):
  """Returns a batch of `batch` images again and again, in parts; `weight` scales the loss."""
  sample = fakes.sample(0, batch, weight)
  return tf.data.Dataset.from_tensor_slices(sample).batch(batch // parts).repeat()


def _trained(steps, parts=1, freeze=True, weight=1.0, **settings):
  batches = _dataset(parts, weight=weight)
  trainer, model, step = fakes.trainer(batches, name='sgd', parts=parts, **settings)
  model.set_weights(_start(model))
  if freeze:
    _frozen(trainer, model)
  logs = [trainer.train(1) for _ in range(steps)]
  return trainer, model, step, logs


def _start(model):
  return [
    tf.random.stateless_uniform(v.shape, [index, 5], 0.1, 1.0).numpy()
    for index, v in enumerate(model.variables)
  ]


@pytest.fixture(name='of_whole_batches', scope='module')
def _of_whole_batches():
  """The trained model and the logs of its steps: by calls, and in a loop on the device."""
  runs = (_trained(3, clip_norm=0.01, loop_on_device=on_device) for on_device in (False, True))
  return [(model, logs) for _, model, _, logs in runs]


@pytest.mark.parametrize('loop_on_device', [False, True], ids=['calls', 'loop'])
@pytest.mark.parametrize('parts', [2, 4])
def test_parts_update_as_the_whole_batch_does(of_whole_batches, parts, loop_on_device):
  whole, logs = of_whole_batches[loop_on_device]
  _, model, step, other = _trained(3, parts=parts, clip_norm=0.01, loop_on_device=loop_on_device)
  assert step.numpy() == 3
  for ours, theirs in zip(model.variables, whole.variables, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
  assert not np.allclose(whole.head.kernel, _start(whole)[-2], atol=1e-4)
  for one, two in zip(logs, other, strict=True):
    for tag in ('losses/train_total_loss', 'gradient_norm', 'diagnostics/logit_of_0'):
      assert two[tag] == pytest.approx(one[tag], rel=1e-4)
    assert two['images_per_second'] == pytest.approx(4 * two['steps_per_second'])


def test_parts_have_batch_statistics_of_their_own():
  _, model, _, _ = _trained(1, parts=2, freeze=False)
  norm = model.backbone.layers[1]
  start = dict(zip([v.name for v in model.variables], _start(model), strict=True))
  conv = model.backbone.layers[0]
  mean = start[norm.moving_mean.name]
  for part in (slice(0, 2), slice(2, 4)):
    images = fakes.sample(0).image[part] / 255.0
    feature = tf.nn.conv2d(images, start[conv.kernel.name], 1, 'SAME')
    mean = 0.99 * mean + 0.01 * np.mean(feature, (0, 1, 2))
  np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5)


def test_a_part_that_is_not_finite_undoes_the_others():
  sample = fakes.sample(0)
  bad = sample.targets._replace(
    semantic_weight=sample.targets.semantic_weight * [[[1.0]], [[1.0]], [[1.0]], [[np.nan]]]
  )
  dataset = tf.data.Dataset.from_tensor_slices(sample._replace(targets=bad)).batch(2).repeat()
  trainer, model, step = fakes.trainer(dataset, parts=2)
  before = model.get_weights()
  with pytest.raises(errors.UserError, match='Step 1: not finite: total_loss'):
    trainer.train(1)
  assert step.numpy() == 0
  for ours, theirs in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert all(not np.any(sum_) for sum_ in trainer._step._sums)


@pytest.mark.parametrize('parts', [1, 2])
def test_a_loss_scale_changes_no_update(parts):
  _, plain, _, logs = _trained(3, parts=parts)
  scale = loss_scale_lib.LossScale(2.0**10, growth_steps=2)
  _, model, _, other = _trained(3, parts=parts, loss_scale=scale)
  for ours, theirs in zip(model.variables, plain.variables, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # A power of 2 moves no bits.
  assert [log['gradient_norm'] for log in other] == pytest.approx(
    [log['gradient_norm'] for log in logs]
  )
  assert scale.value.numpy() == 2.0**11 and scale.good_steps.numpy() == 1


def test_a_step_that_overflows_is_skipped_and_counted(caplog):
  scale = loss_scale_lib.LossScale(2.0**127, growth_steps=100)
  trainer, model, step, _ = _trained(0, loss_scale=scale, freeze=False, weight=100.0)
  before = model.get_weights()
  logs = trainer.train(1)
  assert logs['skipped_steps'] == 1 and 'gradient_norm' not in logs
  assert np.isfinite(logs['losses/train_total_loss'])
  assert step.numpy() == 1 and scale.value.numpy() == 2.0**126
  for ours, theirs in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert '1 of 1 steps were skipped' in caplog.text
  scale.value.assign(2.0)
  logs = trainer.train(2)
  assert 'skipped_steps' not in logs and logs['gradient_norm'] > 0
  assert scale.good_steps.numpy() == 2 and step.numpy() == 3


def test_gradients_that_no_scale_makes_finite_end_the_training():
  scale = loss_scale_lib.LossScale(4.0)
  trainer, _, step, _ = _trained(0, loss_scale=scale)

  def square_root_of_zero(prediction, targets):
    losses, ratios = fakes.loss(prediction, targets)
    nothing = tf.sqrt(tf.reduce_sum(0.0 * prediction.semantic_logits, axis=[1, 2, 3]))
    return {**losses, 'total_loss': losses['total_loss'] + nothing}, ratios

  trainer._step._loss = square_root_of_zero
  with pytest.raises(errors.UserError, match='Step 3: not finite: gradient_norm'):
    trainer.train(9)
  assert step.numpy() == 2 and scale.value.numpy() == 1.0


def test_averages_follow_the_variables():
  dataset = _dataset(1)
  trainer, model, step = fakes.trainer(dataset, name='sgd')
  averages = averages_lib.Averages({v.name: v for v in model.variables}, 0.4)
  trainer._step._averages = averages
  expected = model.get_weights()
  for number in range(1, 6):
    trainer.train(1)
    decay = min(0.4, (1 + number) / (10 + number))
    expected = [
      decay * average + (1 - decay) * value
      for average, value in zip(expected, model.get_weights(), strict=True)
    ]
  raw = model.get_weights()
  with averages.applied():
    for ours, theirs in zip(model.get_weights(), expected, strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  for ours, theirs in zip(model.get_weights(), raw, strict=True):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('parts', [1, 2])
def test_compiled_by_xla_it_is_the_same_step(parts):
  _, plain, _, logs = _trained(3, parts=parts, freeze=False, clip_norm=0.01)
  _, model, _, other = _trained(3, parts=parts, freeze=False, clip_norm=0.01, jit_compile=True)
  for ours, theirs in zip(model.variables, plain.variables, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  assert other[-1]['losses/train_total_loss'] == pytest.approx(
    logs[-1]['losses/train_total_loss'], rel=1e-5
  )
  assert step_lib.SKIPPED not in other[-1]
