"""Many images over the cores of this machine: results in order, and how far they are.

Processes do what is bound by Python itself, threads what goes on next to the device.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import concurrent.futures.process
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import TypeVar

import tensorflow as tf
import tqdm

from deeplab2 import errors

_WAITING_BYTES = 2**29

Task = TypeVar('Task')
Result = TypeVar('Result')


def in_order(
  function: Callable[[Task], Result],
  tasks: Iterable[Task],
  num_workers: int,
  num_bytes: Callable[[Result], int] = lambda result: 0,
) -> Iterator[Result]:
  """Yields function(task) for each task in order, computed by `num_workers` processes.

  Only a few results are kept waiting, however slowly they are consumed: at most four for a worker,
  and fewer, down to one, where they are large by `num_bytes`.

  Raises:
    UserError: a worker was killed. What `function` raises passes.
  """
  if num_workers == 1:
    yield from map(function, tasks)
    return
  # Forked workers start at once, with all that is imported; but threads do not come along, so they
  # would wait forever for those of a TensorFlow that has run something here. They are then forked
  # from a process that has only imported it.
  context = multiprocessing.get_context('forkserver' if _tensorflow_has_run() else 'fork')
  context.set_forkserver_preload([__name__])
  parent = os.getpid() if context.get_start_method() == 'fork' else None
  # The parent alone answers to Ctrl-C, and takes the workers down with it.
  with concurrent.futures.ProcessPoolExecutor(
    num_workers, context, initializer=_start_worker, initargs=(parent,)
  ) as pool:
    try:
      yield from _in_order(pool, function, tasks, num_bytes, num_workers, 4 * num_workers)
    except concurrent.futures.process.BrokenProcessPool as error:
      raise errors.UserError(
        'a worker process was killed, probably for lack of memory; try fewer '
        f'than --num_workers={num_workers}.'
      ) from error


def ahead(
  function: Callable[[Task], Result],
  tasks: Iterable[Task],
  num_threads: int,
  num_bytes: Callable[[Result], int] = lambda result: 0,
) -> Iterator[Result]:
  """Yields function(task) for each task in order, computed by threads while the caller does else.

  For work that mostly runs outside of Python: decoding, array operations, compression. As few
  results wait as with `in_order`, but even one alone where they are large.

  Args:
    function: the work.
    tasks: drawn by the thread of the caller, no further ahead than results may wait.
    num_threads: 0 computes every result when it is asked for.
    num_bytes: memory that a result takes.

  Raises:
    What `function` raises passes, in its place in the order.
  """
  if num_threads == 0:
    yield from map(function, tasks)
    return
  # How large results are is known from the first on: it is waited for.
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    yield from _in_order(pool, function, tasks, num_bytes, 1, 4 * num_threads, first=1)


def _in_order(pool, function, tasks, num_bytes, fewest, most, first=None):
  """Yields function(task) for each task in order, computed by a pool.

  Args:
    pool: a concurrent.futures.Executor.
    function: the work.
    tasks: its arguments.
    num_bytes: memory that a result takes.
    fewest: how many may be at work or wait, however large they are.
    most: how many may, however small they are.
    first: how many may before it is known how large they are; None for `most`.
  """
  waiting: collections.deque[concurrent.futures.Future] = collections.deque()
  allowed = first or most
  try:
    for task in tasks:
      waiting.append(pool.submit(function, task))
      while waiting and (len(waiting) >= allowed or waiting[0].done()):
        result = waiting.popleft().result()
        # Its neighbours are taken to be as large.
        allowed = min(most, max(fewest, _WAITING_BYTES // max(1, num_bytes(result))))
        yield result
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


def hide_accelerators() -> None:
  """Keeps TensorFlow on the CPU, in this process and those that it starts, before it runs.

  Decoding needs no GPU, and every process that sees one takes its memory.
  """
  os.environ['CUDA_VISIBLE_DEVICES'] = '-1'


def _tensorflow_has_run() -> bool:
  """Returns whether TensorFlow has started its threads in this process."""
  threads = tf.config.threading.get_intra_op_parallelism_threads()
  try:
    # Their number can only be set before.
    tf.config.threading.set_intra_op_parallelism_threads(threads + 1)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
  except RuntimeError:
    return True
  return False


def _start_worker(parent):
  """Leaves Ctrl-C to the parent, and ends the worker when that is gone.

  Args:
    parent: the process that it was forked from; None for the one that it is started by.
  """
  parent = parent or os.getppid()
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  # There is a worker for every core.
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(1)

  def watch():
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def with_progress(
  items: Iterable[Result], total: int, title: str, unit: str = 'image'
) -> Iterator[Result]:
  """Yields `items`, showing a bar on a terminal and a line every 10 seconds elsewhere.

  Args:
    items: whatever is worked on.
    total: how many they are.
    title: what is done to them.
    unit: what one of them is called.
  """
  if sys.stderr.isatty():
    yield from tqdm.tqdm(items, total=total, desc=title, unit=unit)
    return
  started = shown = time.monotonic()
  for done, item in enumerate(items, 1):
    yield item
    now = time.monotonic()
    if now - shown >= 10:
      shown = now
      rate = done / (now - started)
      print(
        f'{title}: {done}/{total} {unit}s, {rate:.1f}/s, {(total - done) / rate:.0f} s left',
        file=sys.stderr,
        flush=True,
      )


def usable_cores() -> int:
  """Returns the number of cores this process may use; containers often allow fewer than exist."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
