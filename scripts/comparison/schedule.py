"""How long runs took and will take, from what finished ones left behind."""

from collections.abc import Sequence
import datetime
import os
import re
import statistics

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import directory as directory_lib
from deeplab2.trainer import run_record

_TIME = '%Y-%m-%d %H:%M:%S %z'


def seconds_taken(run: str) -> float | None:
  """Returns how long a run took with its evaluations, in seconds.

  None unless its record tells the whole of it: every start with its end, and the last one finished.
  """
  try:
    starts = [
      start
      for start in files.read_json(os.path.join(run, run_record.RECORD))['starts']
      if start['mode'] != 'eval'
    ]
    times = [
      datetime.datetime.strptime(start[key], _TIME)
      for start in starts
      for key in ('started', 'ended')
    ]
    if not starts or starts[-1]['outcome'] != 'finished':
      return None
  except (errors.UserError, KeyError, TypeError, ValueError):
    return None
  return sum(
    (ended - started).total_seconds()
    for started, ended in zip(times[::2], times[1::2], strict=True)
  )


def steps_done(run: str) -> int:
  """Returns the step of the newest checkpoint of a run, 0 without one."""
  found = [re.search(r'-(\d+)$', prefix) for prefix in directory_lib.stored(run)]
  return max((int(match[1]) for match in found if match), default=0)


class Estimate:
  """Seconds per step, evaluations included, of each row."""

  def __init__(self, measured: Sequence[tuple[str, float]], given: float | None):
    """Creates an estimate.

    Args:
      measured: (row, seconds per step) of finished runs.
      given: what rows without a finished run take; by default the mean of the others.
    """
    self._rows = {
      name: statistics.mean(seconds for row, seconds in measured if row == name)
      for name in {row for row, _ in measured}
    }
    self._other = given
    if given is None and self._rows:
      self._other = statistics.mean(self._rows.values())

  def seconds(self, row: str, steps: int) -> float | None:
    """Returns how long so many steps of a row take; None if nothing tells."""
    rate = self._rows.get(row, self._other)
    return None if rate is None else rate * steps
