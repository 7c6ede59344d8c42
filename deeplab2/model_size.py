"""Parameters and multiply-adds of models, counted from the graph of inference."""

from collections.abc import Iterable
import math
from typing import Any

import tensorflow as tf

from deeplab2 import assemble

_CONVOLUTIONS = {'Conv2D': 3, 'DepthwiseConv2dNative': 2}  # Axes of the kernel that are summed.
_MATRIX_PRODUCTS = {'MatMul': 'transpose_a', 'BatchMatMulV2': 'adj_x'}
_CALLS = ('PartitionedCall', 'StatefulPartitionedCall')
_UNCOUNTED = (
  'Conv3D',
  'Conv2DBackpropInput',
  'BatchMatMul',
  'BatchMatMulV3',
  'While',
  'If',
  'StatelessWhile',
  'StatelessIf',
)


def multiply_adds(graph: tf.Graph) -> dict[str, int]:
  """Returns the multiply-adds of a graph: {first part of the operation's name: number}.

  Raises:
    ValueError: on an operation whose number is not known.
  """
  found: dict[str, int] = {}
  for op in graph.get_operations():
    part = op.name.split('/')[0]
    if op.type in _CALLS:
      inner = graph._get_function(op.get_attr('f').name).graph  # pylint: disable=protected-access
      count = sum(multiply_adds(inner).values())
    else:
      count = _of_operation(op)
    if count:
      found[part] = found.get(part, 0) + count
  return found


def _of_operation(op):
  if op.type in _CONVOLUTIONS:
    return _size(op, op.outputs[0].shape) * _size(op, op.inputs[1].shape[: _CONVOLUTIONS[op.type]])
  if op.type in _MATRIX_PRODUCTS:
    summed = op.inputs[0].shape[-2 if op.get_attr(_MATRIX_PRODUCTS[op.type]) else -1]
    return _size(op, op.outputs[0].shape) * summed
  if op.type == 'Einsum' and len(op.inputs) == 2:
    labels = op.get_attr('equation').decode().split('->')[0].split(',')
    if any('.' in label for label in labels):
      raise ValueError(f'{op.name}: einsum with an ellipsis.')
    return _size(
      op,
      dict(zip(''.join(labels), [*op.inputs[0].shape, *op.inputs[1].shape], strict=True)).values(),
    )
  if op.type in _UNCOUNTED:
    raise ValueError(f'{op.name}: multiply-adds of {op.type} are not counted.')
  return 0


def _size(op, sides: Iterable):
  sides = list(sides)
  if None in sides:
    raise ValueError(f'{op.name}: its size {sides} is known only when it runs.')
  return math.prod(sides)


def parameters(variables: Iterable[tf.Variable]) -> int:
  """Returns the number of trainable numbers in `variables`."""
  return sum(math.prod(variable.shape) for variable in variables if variable.trainable)


def inference_graph(model, crop: tuple[int, int]) -> tf.Graph:
  """Returns the graph of inference, post-processing left out, for one image of a size."""
  return (
    tf.function(model.infer, autograph=False)
    .get_concrete_function(tf.TensorSpec([1, *crop, 3], tf.float32))
    .graph
  )


def of_config(config) -> dict[str, Any]:
  """Returns the size of a configuration's model, as scripts/model_size.py prints it."""
  model = assemble.model(config, training=True)
  (height, width), _ = assemble.eval_fit(config)
  graph = inference_graph(model, (height, width))
  read = {variable.ref() for variable in graph.variables}
  parts = {
    'backbone': model.backbone,
    'pixel_decoder': model.pixel_decoder,
    'kmax_decoder': model.kmax_decoder,
    'predictor': model.predictor,
  }
  operations = multiply_adds(graph)
  return {
    'crop': [height, width],
    'parameters': parameters(graph.variables),
    'multiply_adds': sum(operations.values()),
    'training_only_parameters': parameters(
      v for v in model.trainable_variables if v.ref() not in read
    ),
    'by_part': {
      name: {
        'parameters': parameters(v for v in part.variables if v.ref() in read),
        'multiply_adds': operations.get(part.name, 0),
      }
      for name, part in parts.items()
    },
  }
