"""The dilated convolution against sums over taps, and its gradient against finite differences."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import kernels
from deeplab2.kernels import dilated


def _brute_force(x, kernel, dilation):
  batch, height, width, _ = x.shape
  result = np.zeros((batch, height, width, kernel.shape[-1]))
  for row in range(kernel.shape[0]):
    for column in range(kernel.shape[1]):
      for y in range(height):
        for z in range(width):
          source_y = y + (row - kernel.shape[0] // 2) * dilation
          source_z = z + (column - kernel.shape[1] // 2) * dilation
          if 0 <= source_y < height and 0 <= source_z < width:
            result[:, y, z] += x[:, source_y, source_z] @ kernel[row, column]
  return result


@pytest.mark.usefixtures('each_form')
@pytest.mark.parametrize(
  'size, dilation', [((6, 7), 2), ((5, 9), 6), ((4, 4), 18), ((33, 35), 30), ((9, 12), 1)]
)
def test_values_and_gradients(size, dilation):
  generator = np.random.RandomState(0)
  x = generator.normal(size=(2, *size, 3))
  kernel = generator.normal(size=(3, 3, 3, 4))
  upstream = generator.normal(size=(2, *size, 4))
  expected = _brute_force(x, kernel, dilation)

  variables = [tf.constant(value, tf.float32) for value in (x, kernel)]
  with tf.GradientTape() as tape:
    tape.watch(variables)
    result = dilated.conv2d(*variables, dilation)
  np.testing.assert_allclose(result, expected, atol=1e-5)

  # The result is linear in both: gradients are inner products with one-hot inputs.
  x_gradient, kernel_gradient = tape.gradient(result, variables, upstream.astype(np.float32))
  for index in [(0, 0, 0, 0), (1, 1, 1, 2), (2, 0, 2, 1), (1, 2, 0, 3)]:
    unit = np.zeros_like(kernel)
    unit[index] = 1.0
    assert kernel_gradient.numpy()[index] == pytest.approx(
      np.sum(upstream * _brute_force(x, unit, dilation)), abs=1e-4
    )
  for index in [(0, 0, 0, 0), (1, 3, 2, 1)]:
    unit = np.zeros_like(x)
    unit[index] = 1.0
    assert x_gradient.numpy()[index] == pytest.approx(
      np.sum(upstream * _brute_force(unit, kernel, dilation)), abs=1e-4
    )


@pytest.mark.parametrize(
  'size, products, taps',
  [((5, 9), 3, None), ((7, 7), 9, None), ((25, 25), 0, 9), ((5, 300), 0, 3), ((40, 40), 0, 9)],
)
def test_taps_out_of_reach_are_left_out_in_the_tuned_form(size, products, taps):
  with kernels.use('tuned'):
    graph = tf.function(lambda x: dilated.conv2d(x, tf.ones([3, 3, 2, 2]), 6))
    concrete = graph.get_concrete_function(tf.TensorSpec([1, *size, 2]))
  operations = concrete.graph.get_operations()
  assert sum(op.type == 'MatMul' for op in operations) == products
  convolved = [op.inputs[1].shape[:2].num_elements() for op in operations if op.type == 'Conv2D']
  assert convolved == ([] if taps is None else [taps])
