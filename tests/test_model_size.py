"""Multiply-adds of operations that can be counted by hand."""
import importlib.util
import pathlib

import tensorflow as tf

_PATH = pathlib.Path(__file__).parents[1] / 'scripts' / 'model_size.py'


def _script():
  spec = importlib.util.spec_from_file_location('model_size', _PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_convolutions_products_and_einsums():
  def run(x):
    wide = tf.nn.conv2d(x, tf.ones([3, 3, 2, 5]), 1, 'SAME')  # 4 * 6 * 5 * (3 * 3 * 2)
    deep = tf.nn.depthwise_conv2d(wide, tf.ones([3, 3, 5, 1]), [1, 1, 1, 1], 'SAME')  # 120 * 9
    flat = tf.reshape(deep, [24, 5])
    product = tf.matmul(flat, tf.ones([5, 7]))  # 24 * 7 * 5
    crossed = tf.matmul(product, product, transpose_a=True)  # 7 * 7 * 24
    return crossed, tf.einsum('ij,kj->ik', flat, tf.ones([3, 5]))  # 24 * 3 * 5

  graph = tf.function(run).get_concrete_function(tf.TensorSpec([1, 4, 6, 2])).graph
  wanted = 120 * 18 + 120 * 9 + 24 * 35 + 49 * 24 + 24 * 15
  assert sum(_script().multiply_adds(graph).values()) == wanted
