"""Differences of paired runs and their 95 % intervals by Student's t."""

from collections.abc import Mapping, Sequence
import math
import statistics
from typing import NamedTuple

# Quantiles at 0.975 of Student's t distribution by degrees of freedom; the last is the normal one.
_QUANTILES = {
  **dict(
    enumerate(
      (
        *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
        *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
        *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
      ),
      1,
    )
  ),
  40: 2.0211,
  60: 2.0003,
  120: 1.9799,
  math.inf: 1.9600,
}


class Difference(NamedTuple):
  """Mean difference of a row to the baseline over the seeds that both have."""

  mean: float
  half_width: float | None  # Of the 95 % interval; None with one pair.
  values: tuple[float, ...]  # Of each pair, by ascending seed.

  @property
  def is_clear(self) -> bool:
    """Whether the interval leaves out 0."""
    return self.half_width is not None and abs(self.mean) > self.half_width


def quantile(degrees_of_freedom: int) -> float:
  """Returns the quantile at 0.975 of Student's t: 95 % lie within plus and minus it.

  Between the degrees of the table, it is interpolated in their inverse; right to 0.001.

  Raises:
    ValueError: if there is no degree of freedom.
  """
  if degrees_of_freedom < 1:
    raise ValueError(f'{degrees_of_freedom} degrees of freedom; an interval needs 1 or more.')
  below = max(degree for degree in _QUANTILES if degree <= degrees_of_freedom)
  above = min(degree for degree in _QUANTILES if degree >= degrees_of_freedom)
  if below == above:
    return _QUANTILES[below]
  place = (1 / below - 1 / degrees_of_freedom) / (1 / below - 1 / above)
  return _QUANTILES[below] + place * (_QUANTILES[above] - _QUANTILES[below])


def difference(
  row: Mapping[int, float | None], baseline: Mapping[int, float | None]
) -> Difference | None:
  """Returns how a row differs from the baseline; None if no seed has a number of both.

  Args:
    row: seed -> number; None where it was not measured.
    baseline: the same of the row that it is compared with.
  """
  values = [
    one - other
    for seed, one in sorted(row.items())
    if one is not None and (other := baseline.get(seed)) is not None
  ]
  if not values:
    return None
  if len(values) == 1:
    return Difference(values[0], None, tuple(values))
  error = statistics.stdev(values) / math.sqrt(len(values))
  half_width = quantile(len(values) - 1) * error
  return Difference(statistics.mean(values), half_width, tuple(values))


def first_step(curve: Sequence[Sequence[float | None]], level: float) -> float | None:
  """Returns at which step a curve first reaches a level; None if it never does.

  Between two evaluations, the curve is a line; it begins with 0 at step 0.

  Args:
    curve: (step, value) by ascending step; points whose value is None are left out.
    level: to be reached.
  """
  last_step, last_value = 0.0, 0.0
  for step, value in curve:
    if step is None or value is None:
      continue
    if value >= level:
      rise = value - last_value
      return last_step + (step - last_step) * ((level - last_value) / rise if rise > 0 else 1.0)
    last_step, last_value = step, value
  return None


def shown(found: Difference | None, digits: str = '.2f') -> str:
  """Returns a difference as text: '+1.20 ± 0.40', in bold where the interval leaves out 0."""
  if found is None:
    return 'not measured'
  text = f'{found.mean:+{digits}}'
  if found.half_width is None:
    return f'{text} (1 pair)'
  text = f'{text} ± {found.half_width:{digits}}'
  return f'**{text}**' if found.is_clear else text
