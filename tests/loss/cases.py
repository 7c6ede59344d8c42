"""The inputs of the loss goldens as this project's structures."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2 import structures
from tests.goldens import losses_inputs

CASES = tuple(losses_inputs.CASES)


class Inputs(NamedTuple):
  """One case: what the loss gets, as variables so that gradients can be asked for."""

  case: object
  space: structures.LabelSpace
  targets: structures.Targets
  outputs: tuple
  semantic_logits: tf.Variable

  @property
  def prediction(self):
    """The structure that the model would return."""
    return structures.Prediction(self.outputs[0], self.outputs[1:], self.semantic_logits)

  def draws(self):
    """Returns a generator of DeepLab2's numbers: final output, auxiliary ones, semantic loss."""
    return _Draws(self.case)


class _Draws:
  """The uniform numbers whose Gumbel noise is stored for each draw of a case."""

  def __init__(self, case):
    self._case = case
    self._calls = 0

  def uniform(self, shape):
    """Returns the numbers of the next draw."""
    del shape
    gumbel = losses_inputs.gumbel(self._case, self._calls).astype(np.float64)
    self._calls += 1
    return tf.constant(np.exp(-np.exp(-gumbel)), tf.float32)


def inputs(name):
  """Returns the Inputs of a case of losses_inputs."""
  case = losses_inputs.CASES[name]
  semantic, thing_id_mask, thing_id_class, weight = losses_inputs.labels(case)
  space = structures.LabelSpace(case.num_classes, case.ignore_label, 1000, case.thing_class_ids)
  assert space.stuff_ids == case.stuff_class_ids
  outputs = tuple(
    structures.MaskPrediction(*map(tf.Variable, losses_inputs.output(case, index)))
    for index in range(case.num_aux + 1)
  )
  targets = structures.Targets(
    tf.constant(semantic),
    tf.constant(thing_id_mask),
    tf.constant(thing_id_class.astype(np.int32)),
    tf.constant(weight),
  )
  return Inputs(case, space, targets, outputs, tf.Variable(losses_inputs.semantic_logits(case)))


def assert_gradient(actual, expected, images=slice(None)):
  """Compares gradients as losses.md asks: 2e-5 of the largest element."""
  np.testing.assert_allclose(
    actual.numpy()[images], expected[images], rtol=0, atol=2e-5 * np.abs(expected).max()
  )
