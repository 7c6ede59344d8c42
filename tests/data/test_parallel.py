"""Work over processes: order, how much waits, and what becomes of a worker that dies."""

import functools
import os
import time

import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import parallel


def _noted(directory, task):
  (directory / str(task)).touch()
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


def _threads(task):
  """Runs TensorFlow; returns what it computes, and of how many threads it was told."""
  total = tf.reduce_sum(tf.random.stateless_uniform([2000, 200], (task, 0)))
  return float(total > 0), tf.config.threading.get_intra_op_parallelism_threads()


def test_workers_run_tensorflow_even_if_it_has_run_here():
  assert float(tf.reduce_sum(tf.ones([3]))) == 3
  assert list(parallel.in_order(_threads, range(4), 2)) == [(1.0, 1)] * 4


def test_a_worker_that_dies_as_advised(tmp_path):
  """Fewer workers, down to one, are taken."""
  for num_workers in (2, 1):
    results = parallel.in_order(functools.partial(_noted, tmp_path), range(3), num_workers)
    assert list(results) == [0, 2, 4]
