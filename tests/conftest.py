"""Shared fixtures: seeds, the golden files, and the determinism that tests rely on."""

import pathlib

from absl import logging
import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import kernels

GOLDENS = pathlib.Path(__file__).parent / 'goldens'


@pytest.fixture(autouse=True)
def _same_start():
  """Every test starts from the same random state, and sees the log from INFO on."""
  np.random.seed(0)
  tf.random.set_seed(0)
  logging.set_verbosity(logging.INFO)


@pytest.fixture(params=['plain', 'tuned'])
def each_form(request):
  """Runs a test once with every form of the kernels."""
  with kernels.use(request.param):
    yield request.param


@pytest.fixture(scope='session')
def golden():
  """Returns a loader: golden('losses_base') -> the arrays of tests/goldens/losses_base.npz."""
  return lambda name: np.load(GOLDENS / f'{name}.npz', allow_pickle=False)
