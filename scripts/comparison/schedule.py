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
  starts = [start for start in _starts(run) if start['mode'] != 'eval']
  if not starts or not starts[-1]['finished'] or None in (start['seconds'] for start in starts):
    return None
  return sum(start['seconds'] for start in starts)


def seconds_of_evaluation(run: str) -> float | None:
  """Returns how long the last evaluation of a run in a process of its own took, None if none."""
  taken = [
    start['seconds'] for start in _starts(run) if start['mode'] == 'eval' and start['finished']
  ]
  return taken[-1] if taken else None


def _starts(run):
  """Returns the starts that a run has a record of: mode, whether finished, seconds or None."""
  try:
    return [
      {
        'mode': start['mode'],
        'finished': start.get('outcome') == 'finished',
        'seconds': _seconds(start),
      }
      for start in files.read_json(os.path.join(run, run_record.RECORD))['starts']
    ]
  except (errors.UserError, KeyError, TypeError, AttributeError):
    return []


def _seconds(start):
  try:
    started, ended = (datetime.datetime.strptime(start[key], _TIME) for key in ('started', 'ended'))
  except (KeyError, TypeError, ValueError):
    return None
  return (ended - started).total_seconds()


def steps_done(run: str) -> int:
  """Returns the step of the newest checkpoint of a run, 0 without one."""
  found = [re.search(r'-(\d+)$', prefix) for prefix in directory_lib.stored(run)]
  return max((int(match[1]) for match in found if match), default=0)


class Estimate:
  """Seconds per step, evaluations on the way included, of each row, and those of one at the end."""

  def __init__(
    self,
    measured: Sequence[tuple[str, float]],
    given: float | None,
    evaluations: Sequence[float] = (),
  ):
    """Creates an estimate.

    Args:
      measured: (row, seconds per step) of finished runs.
      given: what rows without a finished run take; by default the mean of the others.
      evaluations: seconds of evaluations on the training images; without any, they count nothing.
    """
    self.evaluation = statistics.mean(evaluations) if evaluations else 0.0
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
