"""Computations that exist in two forms: plain TensorFlow, and tuned for a CPU of a few cores.

A module of this package holds one computation. Its docstring says why the tuned form exists, what
it gains on 2 cores of a CPU, and what both forms must equal. GPUs, TPUs and XLA get the plain form:
loops of small operations are slow there, and no tuned form was measured there. All together, a
training step (COCO, ResNet-50, crop 321, batch 2) takes 4.2 instead of 5.8 CPU seconds and 4.0
instead of 4.8 GB: `scripts/benchmark.py train --kernels=tuned` and `plain`.

Two loops of small operations have a single form, because each of their steps needs the one before:
the exact assignment (loss/assignment.py) and the pasting of masks (model/postprocess.py).
"""

from collections.abc import Callable, Iterator
import contextlib
import functools

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

FORMS = ('auto', 'plain', 'tuned')

# Of all threads: replicas are traced in threads of their own.
_form = 'auto'
_with_gradients = True


@contextlib.contextmanager
def use(form: str) -> Iterator[None]:
  """Builds all graphs that are traced inside the context in one form; 'auto' asks the devices.

  Graphs that are to run on devices that this process does not have, such as exports for phones,
  want 'plain'.
  """
  global _form
  if form not in FORMS:
    raise ValueError(f'There is no form {form!r} of kernels; choose from {FORMS}.')
  outer, _form = _form, form
  try:
    yield
  finally:
    _form = outer


def tuned() -> bool:
  """Returns whether the form tuned for CPUs is to be built, at the time a graph is traced.

  It is if all devices of the current strategy (without one: all devices that TensorFlow sees) are
  CPUs, and XLA does not compile the graph.
  """
  if _form != 'auto':
    return _form == 'tuned'
  # TensorFlow has no public way to ask.
  if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
    return False
  return device_types() == {'CPU'}


def device_types() -> set[str]:
  """Returns the types ('CPU', 'GPU', 'TPU') of the current strategy's devices; without a strategy,
  of all devices that TensorFlow sees."""
  if not tf.distribute.has_strategy():
    return {device.device_type for device in tf.config.list_logical_devices()}
  names = tf.distribute.get_strategy().extended.worker_devices
  return {str(tf.DeviceSpec.from_string(name).device_type) for name in names}


@contextlib.contextmanager
def without_gradients() -> Iterator[None]:
  """Builds graphs that are traced inside the context without gradients of their own.

  A SavedModel would hold them all, which takes longer to write than the rest.
  """
  global _with_gradients
  outer, _with_gradients = _with_gradients, False
  try:
    yield
  finally:
    _with_gradients = outer


def custom_gradient(function: Callable) -> Callable:
  """As `tf.custom_gradient`, but for the context `without_gradients`."""
  with_gradient = tf.custom_gradient(function)

  @functools.wraps(function)
  def computed(*arguments):
    return with_gradient(*arguments) if _with_gradients else function(*arguments)[0]

  return computed
