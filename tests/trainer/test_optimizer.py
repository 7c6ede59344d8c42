"""Schedules and update rules, against DeepLab2's numbers and against the papers' formulas."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.trainer import optimizer

# Rates are float32 in the configuration: 5e-4 there is not 5e-4 here.
F = lambda value: float(np.float32(value))  # noqa: E731

_SCHEDULES = {
  'coco_head': (optimizer.poly(F(5e-4), 150000, F(0.9)), F(5e-4), 5000),
  'coco_backbone': (optimizer.poly(F(5e-4) * F(0.1), 150000, F(0.9)), F(5e-4) * F(0.1), 5000),
  'cityscapes_head': (optimizer.poly(F(3e-4), 60000, F(0.9)), F(3e-4), 5000),
  'poly_nowarm_end': (optimizer.poly(F(1e-2), 60000, 2.0, F(1e-3)), F(1e-2), 0),
  'poly_end_mult': (optimizer.poly(F(1e-2) * F(0.1), 60000, F(0.9), F(1e-3)), None, 0),
  'cosine_nowarm': (optimizer.cosine(F(5e-4), 150000), F(5e-4), 0),
  'cosine_warm': (optimizer.cosine(F(5e-4), 150000), F(5e-4), 5000),
  'warm_longer_than_train': (optimizer.poly(F(5e-4), 1000, F(0.9)), F(5e-4), 2000),
}


@pytest.mark.parametrize('case', sorted(_SCHEDULES))
def test_schedule_is_that_of_the_reference(golden, case):
  data = golden('eval_optimizer')
  decay, base_rate, warm_up = _SCHEDULES[case]
  schedule = optimizer.with_warm_up(decay, base_rate, warm_up)
  values = np.asarray([schedule(tf.constant(step)) for step in data['lr_steps']])
  expected = data['lr_values'][list(data['lr_cases']).index(case)]
  np.testing.assert_array_less(np.abs(values - expected), 1e-6 * np.abs(expected) + 1e-10)


def _updates(data, name, *, weight_decay, warm_up, clip_norm=None):
  """Applies the golden's three gradients; returns the variables after each step, and the group."""
  names = data['var_names']
  variables = [tf.Variable(data[f'init_{i}'], name=n) for i, n in enumerate(names)]
  schedule = optimizer.with_warm_up(optimizer.poly(F(0.01), 100, F(0.9)), F(0.01), warm_up)
  group = optimizer.create(name, schedule, F(weight_decay), variables)
  history = []
  for step in range(3):
    gradients = [tf.constant(data[f'grad_{i}'][step]) for i in range(len(names))]
    gradients = optimizer.clip(gradients, tf.linalg.global_norm(gradients), clip_norm)
    group.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    history.append([v.numpy() for v in variables])
  return history, group


@pytest.mark.parametrize(
  'case, settings',
  [
    ('adamw', dict(name='adamw', weight_decay=0.05, warm_up=2)),
    ('adamw_clip', dict(name='adamw', weight_decay=0.05, warm_up=0, clip_norm=0.5)),
    ('adamw_nowd', dict(name='adamw', weight_decay=0.0, warm_up=0)),
    ('adam', dict(name='adam', weight_decay=0.05, warm_up=2)),
    ('sgd', dict(name='sgd', weight_decay=0.05, warm_up=2)),
  ],
)
def test_updates_are_those_of_the_reference(golden, case, settings):
  data = golden('eval_optimizer')
  history, group = _updates(data, **settings)
  for step, values in enumerate(history):
    for index, value in enumerate(values):
      np.testing.assert_allclose(
        value,
        data[f'{case}_var_{index}'][step],
        rtol=0,
        atol=1e-6,
        err_msg=f'{data["var_names"][index]} after step {step}',
      )
  if case == 'adamw':
    for index, variable in enumerate(group.variables):
      for slot in 'mv':
        np.testing.assert_allclose(
          group.optimizer.get_slot(variable, slot), data[f'adamw_{slot}_{index}'], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize('name', ['adamw', 'adam', 'sgd'])
def test_a_variable_can_have_a_multiple_of_the_rate(name):
  start, gradients = np.linspace(-1, 1, 6), np.random.default_rng(0).normal(size=(4, 6))

  def trained(rate, multiple):
    first, second = (tf.Variable(start, dtype=tf.float32, name='kernel') for _ in range(2))
    multiples = {second.ref(): multiple}
    group = optimizer.create(name, rate, F(0.05), [first, second], multiples)
    for gradient in gradients:
      gradient = tf.constant(gradient, tf.float32)
      group.optimizer.apply_gradients([(gradient, first), (gradient, second)])
    return first.numpy(), second.numpy()

  first, second = trained(0.01, 0.25)
  slower, _ = trained(0.0025, 1.0)
  np.testing.assert_array_equal(second, slower)
  assert np.all(first != second)
  np.testing.assert_array_equal(first, trained(0.01, 1.0)[1])


def test_decay_follows_the_last_word_of_the_name():
  assert optimizer.decays('a/kernel:0')
  assert optimizer.decays('a/depthwise_kernel:0')
  assert optimizer.decays('qkv_kernel')
  assert optimizer.decays('moat/weight:0')
  assert not optimizer.decays('kernel_norm/bias:0')
  assert not optimizer.decays('a/kernel/replica_1:0')


def test_split_is_by_identity_not_by_name():
  first, second, third = (tf.Variable(float(i), name='layer_scale') for i in range(3))
  rest, backbone = optimizer.split([first, second, third], [second])
  assert [v.numpy() for v in rest] == [0.0, 2.0]
  assert [v.numpy() for v in backbone] == [1.0]


def test_clip_scales_to_the_limit_only_above_it():
  gradients = [tf.constant([3.0]), tf.constant([4.0])]
  clipped = optimizer.clip(gradients, tf.constant(5.0), 1.0)
  np.testing.assert_allclose(np.concatenate(clipped), [0.6, 0.8], rtol=1e-6)
  kept = optimizer.clip(gradients, tf.constant(5.0), 10.0)
  np.testing.assert_allclose(np.concatenate(kept), [3.0, 4.0])
  assert optimizer.clip(gradients, tf.constant(5.0), None) is gradients


def test_unknown_optimizer_is_named():
  with pytest.raises(ValueError, match="'lamb' is no optimizer.*adamw"):
    optimizer.create('lamb', 0.1, 0.0, [])
