"""The squeeze-and-excite gate that weights are for.

MobileNetV3 with a sigmoid and with a hard sigmoid has the same variables, so that restoring alone
would not notice the wrong one. A checkpoint of this program names its gate where that is not the
sigmoid; one that names none has the sigmoid, as all had before there was a choice. Checkpoints with
released keys are of DeepLab2, which has the sigmoid alone.
"""

import tensorflow as tf

from deeplab2 import errors
from deeplab2.checkpoint import reading

SIGMOID = 'SIGMOID'
HARD_SIGMOID = 'HARD_SIGMOID'
PART = 'squeeze_excite_gate'  # Of a checkpoint.
KEY = f'{PART}/.ATTRIBUTES/py_state'


class _Name(tf.train.experimental.PythonState):
  """The name of a gate, as a part of a checkpoint."""

  def __init__(self, name: str):
    self.name = name

  def serialize(self):
    return self.name

  def deserialize(self, string_value):
    """Leaves the name as it is: `check` has compared it."""


def of(backbone: object) -> str | None:
  """Returns the gate of a backbone, None if it has no choice of gates."""
  return getattr(backbone, 'squeeze_excite_gate', None)


def parts(backbone: object) -> dict[str, tf.train.experimental.PythonState]:
  """Returns what checkpoints of a backbone, or of a model with it, say of its gate."""
  gate = of(backbone)
  return {} if gate in (None, SIGMOID) else {PART: _Name(gate)}


def check_native(reader: reading.Reader, backbone: object) -> None:
  """Checks that a checkpoint of this program has the gate of a backbone.

  Raises:
    UserError: it has another one, or cannot be read.
  """
  found = bytes(reader.get(KEY)).decode() if reader.has(KEY) else SIGMOID
  check(found, backbone, reader.prefix)


def check(found: str | None, backbone: object, path: str) -> None:
  """Checks that the weights of a file are for the gate of a backbone.

  Args:
    found: gate that they are for, None if they have none.
    backbone: that is to be filled.
    path: of the file.

  Raises:
    UserError: the backbone has another gate.
  """
  gate = of(backbone)
  if found is not None and gate is not None and found != gate:
    raise errors.UserError(
      f'{path}: its squeeze-and-excite ends in a {found}, and that of the configuration in a '
      f'{gate}, with which these weights mean something else: set '
      f'model_options.backbone.squeeze_excite_gate={found}, or take other weights.'
    )
