"""Signals that ask a run to end: it does so after the step or batch at hand, with all of it saved.

Clusters send SIGTERM some time before they take a machine away (Slurm, spot and preemptible
machines, Kubernetes); a user presses Ctrl-C.
"""

from collections.abc import Iterator
import contextlib
import signal
import threading

from absl import logging

from deeplab2 import errors

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Request:
  """Whether the run was asked to end."""

  def __init__(self):
    self._signal: signal.Signals | None = None

  def is_made(self) -> bool:
    """Returns whether the run is to end."""
    return self._signal is not None

  @property
  def number(self) -> int | None:
    """The signal's number, None before one."""
    return None if self._signal is None else int(self._signal)

  def make(self, number: int) -> None:
    """Asks the run to end, because of signal `number`."""
    self._signal = signal.Signals(number)

  def check(self, saved: str) -> None:
    """Ends the run if that was asked for.

    Args:
      saved: a sentence about what is saved where.

    Raises:
      Stopped: with the exit code that shells give to the signal, 128 + its number.
    """
    if self._signal is not None:
      raise errors.Stopped(f'Stopped by {self._signal.name}. {saved}', 128 + self._signal)


@contextlib.contextmanager
def heeded(request: Request) -> Iterator[None]:
  """Lets SIGTERM and SIGINT make `request` while the context lasts; a second one ends at once.

  Signals that are ignored, as SIGINT is in background shells, stay so.
  """
  if threading.current_thread() is not threading.main_thread():  # Signals go to the main thread.
    yield
    return
  before = {number: signal.getsignal(number) for number in _SIGNALS}
  heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

  def end():
    for number in heard:
      signal.signal(number, before[number])

  def first(number, frame):
    del frame
    end()
    request.make(number)
    logging.warning(
      '%s: the run ends after this step or batch and saves; a second signal ends it at once.',
      signal.Signals(number).name,
    )

  for number in heard:
    signal.signal(number, first)
  try:
    yield
  finally:
    end()
