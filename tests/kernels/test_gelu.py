"""GELU against its formula, in both forms."""

import math

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.kernels import gelu

X = np.linspace(-5, 5, 41)
NORMAL = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in X])
DENSITY = np.exp(-(X**2) / 2) / math.sqrt(2 * math.pi)
pytestmark = pytest.mark.usefixtures('each_form')


def test_gelu_and_its_gradient():
  variable = tf.constant(X, tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(variable)
    y = gelu.gelu(variable)
  np.testing.assert_allclose(y, X * NORMAL, atol=1e-6)
  np.testing.assert_allclose(tape.gradient(y, variable), NORMAL + X * DENSITY, atol=1e-6)


def test_gelu_of_an_affine_map_has_the_gradient_of_its_result():
  scale, offset = tf.constant([2.0]), tf.constant([-1.0])
  x = tf.constant((X[:, np.newaxis] - offset) / scale, tf.float32)
  y = x * scale + offset
  with tf.GradientTape() as tape:
    tape.watch((x, y))
    result = gelu.gelu_of_affine(y, x, scale, offset)
  np.testing.assert_allclose(result[:, 0], X * NORMAL, atol=1e-6)
  of_x, of_y = tape.gradient(result, (x, y))
  assert of_x is None
  np.testing.assert_allclose(of_y[:, 0], NORMAL + X * DENSITY, atol=1e-6)
