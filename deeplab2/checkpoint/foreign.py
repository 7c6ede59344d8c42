"""Weights of a backbone in files of other programs: which variable gets what.

Every tensor of a file and every variable of the backbone is accounted for before anything is
changed.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from absl import logging
import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import gates
from deeplab2.checkpoint import released_keys


class Tensor(NamedTuple):
  """A tensor of a file that has not been read yet."""

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


class Weights(NamedTuple):
  """What a file has for a backbone, each tensor under the path of its variable.

  Attributes:
    path: of the file.
    described: what the file is of, for people: 'MobileNetV3 of Keras with 11 blocks'.
    tensors: path below the backbone, such as `blocks/0/kernel` -> tensor, in the variable's shape.
    names: path below the backbone -> the file's own name of it.
    left_out: names of what is of no use to a backbone: a classifier.
    unknown: all other names.
    gate: squeeze-and-excite gate that the weights are for; None if they have none.
    adjust: function of the values, by path, and of the backbone, that returns those that the
      variables get: what differs in the network around them is taken into account.
  """

  path: str
  described: str
  tensors: Mapping[str, Tensor]
  names: Mapping[str, str]
  left_out: tuple[str, ...]
  unknown: tuple[str, ...]
  gate: str | None
  adjust: Callable[[dict[str, np.ndarray], tf.Module], dict[str, np.ndarray]]


def fill(backbone: tf.Module, weights: Weights) -> None:
  """Fills all variables of a backbone; logs a report.

  Raises:
    UserError: the file cannot be read, or is not of exactly this backbone. No variable has been
      changed then.
  """
  variables = dict(released_keys.walk(backbone, ''))
  check(backbone, weights, variables)
  values = {path: read(weights, path) for path in variables}
  values = weights.adjust(values, backbone)
  for path, variable in variables.items():
    variable.assign(values[path])
  left_out = f'; left out, as of no use to it: {", ".join(weights.left_out)}'
  logging.info(
    '%s, %s: all %d tensors of the backbone matched%s.',
    weights.path,
    weights.described,
    len(variables),
    left_out if weights.left_out else '',
  )


def check(backbone: tf.Module, weights: Weights, variables: Mapping[str, tf.Variable]) -> None:
  """Accounts for the tensors of a file and for `variables`, those that it must fill, by path.

  Raises:
    UserError: one lacks what the other has, or has it in another shape or for another gate.
  """
  name = getattr(backbone, 'name', 'backbone')
  if weights.left_out and not weights.tensors:
    raise errors.UserError(
      f'{weights.path}: holds a classifier ({errors.listed(weights.left_out, 1)}) without its '
      f'backbone; the configuration has {name}.'
    )
  missing = [path for path in variables if path not in weights.tensors]
  surplus = [weights.names[path] for path in weights.tensors if path not in variables]
  surplus += weights.unknown
  wrong = [
    f'{weights.names[path]} is {list(weights.tensors[path].shape)} there and '
    f'{variable.shape.as_list()} here'
    for path, variable in variables.items()
    if path in weights.tensors and weights.tensors[path].shape != tuple(variable.shape)
  ]
  complaints = []
  if missing:
    complaints.append(f'it lacks {errors.listed(missing, 1)}')
  if surplus:
    complaints.append(f'it has {errors.listed(surplus, 1)} in addition')
  if wrong:
    complaints.append(errors.listed(wrong, 1))
  if complaints:
    raise errors.UserError(
      f'{weights.path}: holds {weights.described}, where the configuration has {name}'
      f'{_width(backbone)}: {"; ".join(complaints)}. Take the weights of that network, or set '
      'model_options.backbone.name and model_options.backbone.backbone_width_multiplier to what '
      'the file holds.'
    )
  gates.check(weights.gate, backbone, weights.path)


def _width(backbone):
  """Returns the width of a backbone for people, '' where there is no choice."""
  width = getattr(backbone, 'width_multiplier', None)
  return '' if width is None else f' of width {width:g}'


def read(weights: Weights, path: str) -> np.ndarray:
  """Returns a tensor as float32.

  Raises:
    UserError: it cannot be read, or a value is not finite.
  """
  try:
    value = np.asarray(weights.tensors[path].read()).astype(np.float32)
  except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
    raise errors.UserError(
      f'{weights.path}: {weights.names[path]} cannot be read (truncated or damaged?): '
      f'{files.reason(error)}.'
    ) from error
  if not np.isfinite(value).all():
    raise errors.UserError(
      f'{weights.path}: {weights.names[path]} has values that are not finite (damaged?).'
    )
  return value


def norms(backbone: tf.Module) -> dict[str, tf.Module]:
  """Returns the batch norms of a backbone by path: those that have moving statistics."""
  by_variable = {
    id(module.moving_variance): module
    for module in backbone.submodules
    if hasattr(module, 'moving_variance')
  }
  return {
    path.rpartition('/')[0]: by_variable[id(variable)]
    for path, variable in released_keys.walk(backbone, '')
    if id(variable) in by_variable
  }


def with_epsilon(
  values: dict[str, np.ndarray], backbone: tf.Module, epsilon: float
) -> dict[str, np.ndarray]:
  """Returns weights whose batch norms added `epsilon` for a backbone whose norms add another one.

  gamma / sqrt(variance + epsilon) stays what it was by another gamma: inference is the same, and
  so is training wherever the variance of a batch is the stored one. (A variance less by the
  difference would be the same in inference alone, and may not stay positive.)
  """
  values = dict(values)
  for path, norm in norms(backbone).items():
    ours = norm.epsilon
    if ours != epsilon:
      variance = values[f'{path}/moving_variance'].astype(np.float64)
      factor = np.sqrt((variance + ours) / (variance + epsilon))
      values[f'{path}/gamma'] = (values[f'{path}/gamma'] * factor).astype(np.float32)
  return values


def of_normalized_images(
  kernel: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Lets a first convolution normalise the image, as something before it does elsewhere.

  Args:
    kernel: [h, w, 3, C], of (pixel - mean) / deviation.
    mean: of pixels 0..255, by channel of the image.
    deviation: of them.

  Returns:
    (kernel of pixels / 127.5 - 1, what has to be added to the result by channel), float32. The same
    wherever the kernel lies within the image.
  """
  kernel = kernel.astype(np.float64)
  # (127.5 x + 127.5 - mean) / deviation = x * scale + offset.
  scale, offset = 127.5 / deviation, (127.5 - mean) / deviation
  shift = np.einsum('hwio,i->o', kernel, offset)
  return (kernel * scale[:, np.newaxis]).astype(np.float32), shift.astype(np.float32)
