"""Diagnostics of the loss, summed over images, as scalars."""

from collections.abc import Sequence

PREFIX = 'diagnostics/'


def scalars(names: Sequence[str], numerators, denominators) -> dict[str, float]:
  """Returns quotients of sums by tag; where there was nothing to measure, there is no tag."""
  return {
    PREFIX + name: float(numerator / denominator)
    for name, numerator, denominator in zip(names, numerators, denominators, strict=True)
    if denominator
  }
