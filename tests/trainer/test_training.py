"""What trains, as the configuration says."""

import pytest
import tensorflow as tf
import tf_keras

from deeplab2 import assemble
from deeplab2.config import load
from deeplab2.config import trainer_pb2
from deeplab2.trainer import training
from tests.trainer import runs

_SOLVER = runs.SOLVER
_RATE = f'{_SOLVER}.base_learning_rate=0.002'


@pytest.fixture(scope='module')
def model():
  return assemble.model(load.load(runs.CONFIG, []))


def _state(model, *overrides):
  return training.create_state(load.load(runs.CONFIG, [_RATE, *overrides]), model)


def test_optimizer_groups_follow_the_options(model):
  groups = _state(
    model, f'{_SOLVER}.backbone_learning_rate_multiplier=0.1', f'{_SOLVER}.warmup_steps=0'
  ).groups
  assert list(groups) == ['optimizer', 'backbone_optimizer']
  assert [v.name for v in groups['backbone_optimizer'].variables] == [
    v.name for v in model.backbone.trainable_variables
  ]
  assert float(groups['optimizer'].rate(tf.constant(0))) == pytest.approx(2e-3)
  assert float(groups['backbone_optimizer'].rate(tf.constant(0))) == pytest.approx(2e-4)
  assert groups['optimizer'].optimizer._weight_decay == pytest.approx(0.05)


def test_one_group_with_a_warm_up_from_a_rate_and_cosine(model):
  groups = _state(
    model,
    f'{_SOLVER}.learning_policy=cosine',
    f'{_SOLVER}.warmup_steps=100',
    f'{_SOLVER}.warmup_start_learning_rate=0.0004',
    f'{_SOLVER}.training_number_of_steps=1500',
  ).groups
  assert list(groups) == ['optimizer']
  rates = [float(groups['optimizer'].rate(tf.constant(step))) for step in (0, 50, 750)]
  # Half way of the rise, and of the cosine.
  assert rates == pytest.approx([4e-4, 1.2e-3, 1e-3])


@pytest.mark.parametrize('multiplier', [[], [f'{_SOLVER}.backbone_learning_rate_multiplier=0.1']])
def test_rates_of_the_backbone_fall_towards_the_images(model, multiplier):
  groups = _state(model, *multiplier, f'{_SOLVER}.backbone_layer_decay=0.5').groups
  multiples = list(groups.values())[-1].optimizer.multiples
  assert set(multiples) == {variable.ref() for variable in model.backbone.trainable_variables}
  # MobileNetV3-Small: the stem; one, two, five and four blocks of the strides 4 to 32.
  stem, *_, last = model.backbone.blocks
  assert {multiples[variable.ref()] for variable in stem.trainable_variables} == {0.5**7}
  assert {multiples[variable.ref()] for variable in last.trainable_variables} == {0.5}
  assert set(multiples.values()) == {0.5**power for power in range(1, 8)}
  if multiplier:
    assert not groups['optimizer'].optimizer.multiples


def test_only_what_is_switched_on_is_saved(model):
  assert set(_state(model).parts()) == {'optimizer'}
  options = ['trainer_options.precision=FLOAT16', 'trainer_options.ema_decay=0.99']
  assert set(_state(model, *options).parts()) == {'optimizer', 'loss_scale', 'averages'}


def test_precision_is_that_of_the_layers_alone():
  options = trainer_pb2.TrainerOptions
  outer = tf_keras.mixed_precision.global_policy()
  half = assemble.model(load.load(runs.CONFIG, []), precision=options.BFLOAT16)
  assert half.backbone.compute_dtype == half.kmax_decoder.compute_dtype == 'bfloat16'
  assert {variable.dtype for variable in half.variables} == {tf.float32}
  assert tf_keras.mixed_precision.global_policy() is outer
