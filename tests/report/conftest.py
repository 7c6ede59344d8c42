"""Runs that tests share."""

import pytest

from tests.report import made


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  """The directory of a run with three evaluations; nothing is written into it."""
  return made.make_run(tmp_path_factory.mktemp('runs') / 'plain')


@pytest.fixture(scope='session')
def other_run(tmp_path_factory):
  """Another run, evaluated on the same images, that makes fewer errors."""
  return made.make_run(tmp_path_factory.mktemp('runs') / 'better', 0.15, seed=1)
