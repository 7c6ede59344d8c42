"""Means of losses and diagnostics over images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplab2.trainer import evaluator

LOSSES = 'losses/eval_'
DIAGNOSTICS = 'diagnostics/'


def diagnostics(ratios: Mapping[str, Any]) -> dict[str, float]:
  """Returns the quotients of (numerator, denominator) by tag; without a denominator, no tag."""
  return {
    DIAGNOSTICS + name: float(numerator / denominator)
    for name, (numerator, denominator) in ratios.items()
    if denominator
  }


class LossMeans:
  """The mean losses and the diagnostics of the images of an evaluation."""

  def __init__(self):
    self._count = 0
    self._losses: dict[str, np.ndarray] = {}
    self._ratios: dict[str, np.ndarray] = {}

  def update(self, image: evaluator.EvaluatedImage) -> None:
    """Adds one image."""
    self._count += 1
    for sums, values in ((self._losses, image.losses), (self._ratios, image.diagnostics)):
      for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value

  def result(self) -> dict[str, float]:
    """Returns the means by tag."""
    means = {LOSSES + name: float(total) / self._count for name, total in self._losses.items()}
    return {**means, **diagnostics(self._ratios)}

  def state(self) -> dict[str, np.ndarray]:
    """Returns the state that `set_state` takes."""
    return {
      'count': np.array(self._count),
      **{f'losses/{name}': np.asarray(total) for name, total in self._losses.items()},
      **{f'ratios/{name}': np.asarray(total) for name, total in self._ratios.items()},
    }

  def set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Goes on from what `state` returned."""
    self._count = int(arrays['count'])
    for prefix, sums in (('losses/', self._losses), ('ratios/', self._ratios)):
      for key, total in arrays.items():
        if key.startswith(prefix):
          # A scalar again, or it would be added up with another precision.
          sums[key.removeprefix(prefix)] = total[()]
