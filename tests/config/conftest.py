"""Fixtures of the configuration tests."""

import pytest

from deeplab2.config import load

from . import configs


@pytest.fixture
def write(tmp_path):
  """Returns a function that writes a text as a configuration file and returns its path."""

  def write_text(text, name='experiment.textproto'):
    path = tmp_path / name
    path.write_text(text)
    return str(path)

  return write_text


@pytest.fixture
def small(write):
  """Returns a function that loads configs.SMALL with overrides."""
  path = write(configs.SMALL)
  return lambda *overrides: load.load(path, overrides)
