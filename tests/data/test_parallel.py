"""Work over processes and threads: order, how much waits, what becomes of one that fails."""

import functools
import os
import threading
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


def test_threads_work_ahead_in_order():
  """Three tasks wait for one another, so that they are done only if they are at work at once."""
  together = threading.Barrier(3, timeout=20)

  def meet(task):
    if 1 <= task <= 3:
      together.wait()
    return task

  results = parallel.ahead(meet, range(6), 3)
  assert list(results) == list(range(6))


def test_threads_do_not_run_away(tmp_path):
  drawn = []

  def tasks():
    for task in range(100):
      drawn.append(task)
      yield task

  results = parallel.ahead(functools.partial(_noted, tmp_path), tasks(), 2)
  assert next(results) == 0 and len(drawn) == 1
  assert next(results) == 2 and len(drawn) <= 9
  assert list(results) == list(range(4, 200, 2))


@pytest.mark.parametrize('num_threads, most', [(2, 1), (0, 1)])
def test_large_results_are_computed_one_by_one(num_threads, most):
  alive, peak = [], []

  def work(task):
    alive.append(task)
    peak.append(len(alive))
    return task

  for result in parallel.ahead(work, range(20), num_threads, lambda result: 2**30):
    alive.remove(result)
  assert max(peak) == most


@pytest.mark.parametrize('num_threads', [0, 3])
def test_what_a_thread_raises_comes_in_its_place(num_threads):
  def work(task):
    if task == 5:
      raise errors.UserError('five')
    return task

  results, seen = parallel.ahead(work, range(9), num_threads), []
  with pytest.raises(errors.UserError, match='five'):
    for result in results:
      seen.append(result)
  assert seen == [0, 1, 2, 3, 4]
