"""Many pictures over the cores of this machine: results in order, and how far they are."""
import collections
from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import concurrent.futures.process
import os
import signal
import sys
import threading
import time
from typing import TypeVar

import tqdm

from deeplab2 import errors

Task = TypeVar('Task')
Result = TypeVar('Result')


def in_order(function: Callable[[Task], Result], tasks: Iterable[Task],
             num_workers: int) -> Iterator[Result]:
  """Yields function(task) for each task in order, computed by `num_workers` processes.

  Only a few results are kept waiting, however slowly they are consumed.

  Raises:
    UserError: a worker was killed. What `function` raises passes.
  """
  if num_workers == 1:
    yield from map(function, tasks)
    return
  # Workers may be forked: the first result must be asked for before TensorFlow runs anything here.
  # The parent alone answers to Ctrl-C, and takes the workers down with it.
  with concurrent.futures.ProcessPoolExecutor(
      num_workers, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
    waiting = collections.deque()
    try:
      for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) >= 4 * num_workers:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
      raise errors.UserError('a worker process was killed, probably for lack of memory; try fewer '
                             f'than --num_workers={num_workers}.') from error
    finally:
      pool.shutdown(cancel_futures=True)


def _start_worker(parent):
  """Leaves Ctrl-C to the parent, and ends the worker when that is gone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch():
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def with_progress(items: Iterable[Result], total: int, title: str) -> Iterator[Result]:
  """Yields `items`, showing a bar on a terminal and a line every 10 seconds elsewhere."""
  if sys.stderr.isatty():
    yield from tqdm.tqdm(items, total=total, desc=title, unit='picture')
    return
  started = shown = time.monotonic()
  for done, item in enumerate(items, 1):
    yield item
    now = time.monotonic()
    if now - shown >= 10:
      shown = now
      rate = done / (now - started)
      print(f'{title}: {done}/{total} pictures, {rate:.1f}/s, {(total - done) / rate:.0f} s left',
            file=sys.stderr, flush=True)


def usable_cores() -> int:
  """Returns the number of cores this process may use; containers often allow fewer than exist."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
