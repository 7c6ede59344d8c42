"""Checks of single values. Each raises a UserError that names the field and what it must be.

Checks of numbers take the path of a field, or that of a message and names of its fields.
"""

from collections.abc import Callable, Collection
import math

from deeplab2.config import experiment


def require(
  config: experiment.Config, path: str, holds: Callable[[float], bool], what: str
) -> None:
  """Raises unless every number of a field is finite and `holds`."""
  value = config.value(path)
  for number in [value] if isinstance(value, (int, float)) else value:
    if not math.isfinite(number) or not holds(number):
      raise config.error(path, f'must be {what}.')


def positive(config: experiment.Config, path: str, *names: str) -> None:
  for field in _fields(path, names):
    require(config, field, lambda number: number > 0, 'greater than 0')


def not_negative(config: experiment.Config, path: str, *names: str) -> None:
  for field in _fields(path, names):
    require(config, field, lambda number: number >= 0, '0 or greater')


def probability(config: experiment.Config, path: str, *names: str) -> None:
  for field in _fields(path, names):
    require(config, field, lambda number: 0 <= number <= 1, 'between 0 and 1')


def positive_probability(config: experiment.Config, path: str, *names: str) -> None:
  for field in _fields(path, names):
    require(config, field, lambda number: 0 < number <= 1, 'greater than 0 and at most 1')


def _fields(path, names):
  return [f'{path}.{name}' for name in names] if names else [path]


def one_of(config: experiment.Config, path: str, choices: Collection[str]) -> None:
  if config.value(path) not in choices:
    raise config.error(path, f'must be one of {", ".join(choices)}.')
