"""Shared fixtures: seeds, the golden files, and the determinism that tests rely on."""

import gc
import pathlib
import resource

from absl import logging
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

from deeplab2 import kernels
from deeplab2.trainer import runtime
from tests import weights

_GROWTH_MB = 300  # After which memory is looked through.

GOLDENS = pathlib.Path(__file__).parent / 'goldens'


def pytest_collection_finish():
  """Leaves out of every later look through memory what was there before the first test.

  Half a million objects, of which only the first look would find a few hundred to be forgotten.
  """
  gc.collect()
  gc.freeze()


@pytest.fixture(autouse=True)
def _same_start():
  """Every test starts from the same random state, and sees the log from INFO on."""
  np.random.seed(0)
  tf.random.set_seed(0)
  logging.set_verbosity(logging.INFO)


@pytest.fixture(autouse=True, scope='module')
def _graphs_go_with_their_module():
  """Forgets the gradients of this module's graphs, by which TensorFlow would keep them for ever.

  Every call of a function with `tf.custom_gradient` in a graph registers a gradient that refers to
  the graph, and so to its variables; the gradients of a module's graphs are taken by its end.
  """
  yield
  registered = ops.gradient_registry._registry  # pylint: disable=protected-access
  for name in [name for name in registered if name.startswith('CustomGradient-')]:
    del registered[name]


_kept_mb = 0.0


@pytest.fixture(autouse=True)
def _memory_goes_back():
  """Gives back the memory of models and graphs, which hold cycles that Python finds late."""
  yield
  global _kept_mb
  if _resident_mb() > _kept_mb + _GROWTH_MB:
    gc.collect()
    runtime.release_freed_memory()
    _kept_mb = _resident_mb()


def _resident_mb():
  try:
    with open('/proc/self/statm', encoding='ascii') as file:
      return int(file.read().split()[1]) * resource.getpagesize() / 2**20
  except OSError:
    return 0.0


@pytest.fixture(params=['plain', 'tuned'])
def each_form(request):
  """Runs a test once with every form of the kernels."""
  with kernels.use(request.param):
    yield request.param


@pytest.fixture(scope='session')
def golden():
  """Returns a loader: golden('losses_base') -> the arrays of tests/goldens/losses_base.npz."""
  return lambda name: np.load(GOLDENS / f'{name}.npz', allow_pickle=False)


@pytest.fixture
def constant_weights():
  """Builds models without random weights, see weights.constant."""
  with weights.constant():
    yield


@pytest.fixture
def weights_without_memory():
  """Builds models of which only the shapes count, see weights.without_memory."""
  with weights.without_memory():
    yield
