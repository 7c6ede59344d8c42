"""Sizes that are printed are those that can be counted by hand."""

import importlib.util
import json
import pathlib

import pytest
import tensorflow as tf

from deeplab2 import model_size

_ROOT = pathlib.Path(__file__).parents[1]


def _script():
  spec = importlib.util.spec_from_file_location('model_size', _ROOT / 'scripts' / 'model_size.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _count(function, *shapes):
  specs = [tf.TensorSpec(shape) for shape in shapes]
  graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph
  return sum(model_size.multiply_adds(graph).values())


def test_convolutions():
  # 5 x 5 positions, each 4 sums of 3 x 3 x 2 products.
  assert (
    _count(lambda x, k: tf.nn.conv2d(x, k, 2, 'SAME'), [1, 9, 9, 2], [3, 3, 2, 4]) == 25 * 4 * 18
  )
  # 7 x 7 positions, in each of 2 channels a sum of 3 x 3 products.
  assert (
    _count(lambda x, k: tf.nn.depthwise_conv2d(x, k, [1] * 4, 'VALID'), [1, 9, 9, 2], [3, 3, 2, 1])
    == 49 * 2 * 9
  )


@pytest.mark.parametrize('transpose', [False, True])
def test_matrix_products(transpose):
  first = [2, 7] if transpose else [7, 2]
  product = lambda a, b: tf.matmul(a, b, transpose_a=transpose)  # noqa: E731
  assert _count(product, first, [2, 5]) == 7 * 2 * 5
  assert _count(product, [3, *first], [3, 2, 5]) == 3 * 7 * 2 * 5


def test_einsum():
  assert (
    _count(lambda a, b: tf.einsum('nhld,lmd->nhlm', a, b), [2, 3, 4, 5], [4, 6, 5])
    == 2 * 3 * 4 * 5 * 6
  )


def test_what_a_call_holds_counts_for_the_caller():
  inner = tf.function(lambda a, b: tf.matmul(a, b) + 1.0)
  assert _count(lambda a, b: inner(a, b) + tf.matmul(a, b), [7, 2], [2, 5]) == 2 * 70


def test_sizes_that_are_not_known_are_no_zeros():
  with pytest.raises(ValueError, match='known only when it runs'):
    _count(tf.matmul, [None, 2], [2, 5])
  with pytest.raises(ValueError, match='Conv3D are not counted'):
    _count(lambda x, k: tf.nn.conv3d(x, k, [1] * 5, 'SAME'), [1, 3, 3, 3, 1], [1, 1, 1, 1, 1])


def test_command_line(capsys):
  config = _ROOT / 'configs' / 'shapes' / 'kmax_mobilenet_v3_small.textproto'
  assert (
    _script().main(
      [
        f'--config_file={config}',
        '--set',
        'eval_dataset_options.crop_size=65,65',
        '--set',
        'eval_dataset_options.min_resize_value=65',
        '--set',
        'eval_dataset_options.max_resize_value=65',
      ]
    )
    == 0
  )
  result = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert result['crop'] == [65, 65]
  # MobileNetV3-Small without its classifier (Howard et al. 2019, table 2), counted layer by layer.
  assert result['by_part']['backbone']['parameters'] == 927008
  for name in ('parameters', 'multiply_adds'):
    assert sum(part[name] for part in result['by_part'].values()) == result[name]
  assert result['training_only_parameters'] > 0
