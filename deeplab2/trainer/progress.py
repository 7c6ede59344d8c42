"""Shows how far a task is: a bar on a terminal, lines in a log elsewhere."""

from collections.abc import Mapping
import logging as python_logging
import sys
import time

from absl import logging
import gin
import tqdm


class Bar:
  """A bar with rate, remaining time and values, on a terminal."""

  def __init__(self, task: str, total: int | None, unit: str, done: int = 0):
    """Creates a bar of `total` units (None: unknown), `done` of them before this run."""
    self._bar = tqdm.tqdm(
      desc=task, total=total, initial=done, unit=f' {unit}', dynamic_ncols=True, file=sys.stderr
    )

  def update(self, done: int, values: Mapping[str, float]) -> None:
    """Moves to `done` units and shows `values` next to them."""
    if values:
      self._bar.set_postfix({name: f'{value:.4g}' for name, value in values.items()}, refresh=False)
    self._bar.update(done - self._bar.n)

  def close(self) -> None:
    """Leaves the bar as it is."""
    self._bar.close()


@gin.configurable
class Lines:
  """Log lines with rate, remaining time and values, not more often than every few seconds.

  The first line says how long the first results took. Rates leave that out, because building a
  graph and filling buffers are part of it.
  """

  def __init__(
    self, task: str, total: int | None, unit: str, done: int = 0, seconds_between: float = 10.0
  ):
    """Creates the lines of a task; arguments as of `Bar`."""
    self._task = task
    self._total = total
    self._unit = unit
    self._first: int | None = None
    self._shown = done
    self._seconds_between = seconds_between
    self._started = self._last = time.monotonic()

  def update(self, done: int, values: Mapping[str, float]) -> None:
    """Logs a line if it is the first, the last one is old enough, or the task is complete."""
    now = time.monotonic()
    of_total = '' if self._total is None else f'/{self._total}'
    parts = [f'{self._task}: {self._unit} {done}{of_total}']
    if self._first is None:
      parts.append(f'first results after {_clock(now - self._started)}')
      self._first, self._started = done, now
    elif done == self._total or now - self._last >= self._seconds_between:
      rate = (done - self._shown) / max(now - self._last, 1e-9)
      parts.append(f'{rate:.3g} {self._unit}s/s')
    else:
      return
    if self._total is not None and self._first < done < self._total:
      mean_rate = (done - self._first) / (now - self._started)
      parts.append(f'{_clock((self._total - done) / mean_rate)} left')
    parts += [f'{name} {value:.4g}' for name, value in values.items()]
    logging.info('%s', ', '.join(parts))
    self._shown, self._last = done, now

  def close(self) -> None:
    """Does nothing: lines need no end."""


class LogHandler(python_logging.Handler):
  """Writes log lines above a bar that is being shown, on standard error."""

  def emit(self, record):
    """Writes one record."""
    tqdm.tqdm.write(self.format(record), file=sys.stderr)


def create(task: str, total: int | None, unit: str, done: int = 0):
  """Returns a Bar on a terminal, Lines elsewhere; arguments as of `Bar`."""
  return (Bar if sys.stderr.isatty() else Lines)(task, total, unit, done)


def _clock(seconds):
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}'
