"""Work over processes: order, how much waits, and what becomes of a worker that dies."""
import functools
import os
import time

import pytest

from deeplab2 import errors
from deeplab2.data import parallel


def _noted(folder, task):
  (folder / str(task)).touch()
  return 2 * task


def _dies(task):
  os._exit(task)


def test_results_come_in_order_and_few_wait(tmp_path):
  results = parallel.in_order(functools.partial(_noted, tmp_path), range(60), 2)
  assert next(results) == 0
  time.sleep(0.5)  # Time enough for all 60, if nothing held them back.
  assert len(list(tmp_path.iterdir())) <= 8
  assert list(results) == list(range(2, 120, 2))


def test_a_worker_that_dies_is_named():
  with pytest.raises(errors.UserError, match='a worker process was killed.*--num_workers=2'):
    list(parallel.in_order(_dies, range(1, 5), 2))
