"""The grid of ReMaX variants: every combination of methods, losses, clipping and their settings."""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

_LOSSES = 'trainer_options.loss_options'
_SOLVER = 'trainer_options.solver_options'
_REMASK = {'plain': False, 'remask': True, 'reclass': False, 'remax': True}
_RECLASS = {'plain': False, 'remask': False, 'reclass': True, 'remax': True}
# What each flag of the grid takes; clippings are numbers or none.
CHOICES = {
  'methods': tuple(_REMASK),
  'mask_losses': ('softmax', 'sigmoid'),
  'gates': ('sigmoid', 'softmax'),
  'normalizations': ('class', 'mask'),
}
FLAGS = ('methods', 'mask_losses', 'clips', 'gates', 'normalizations')


class Row(NamedTuple):
  """One combination, a variant."""

  method: str
  mask_loss: str
  clip: str  # 'none' or a number.
  gate: str | None  # None without ReMask.
  normalization: str | None  # None without ReClass.

  @property
  def name(self) -> str:
    """A name for people and directories."""
    parts = [self.method, self.mask_loss]
    parts += [f'gate_{self.gate}'] if self.gate else []
    parts += [f'{self.normalization}_area'] if self.normalization else []
    parts += [f'clip_{self.clip}'] if self.clip != 'none' else []
    return '-'.join(parts)

  def overrides(self) -> list[str]:
    """Returns the overrides that make this variant of a config."""
    result = [
      f'{_LOSSES}.remask.enable={_REMASK[self.method]}'.lower(),
      f'{_LOSSES}.reclass.enable={_RECLASS[self.method]}'.lower(),
      f'{_LOSSES}.mask_loss_activation={self.mask_loss.upper()}',
      f'{_SOLVER}.use_gradient_clipping={self.clip != "none"}'.lower(),
    ]
    if self.clip != 'none':
      result.append(f'{_SOLVER}.clip_gradient_norm={self.clip}')
    if self.gate:
      result += [
        f'{_LOSSES}.remask.semantic_activation={self.gate.upper()}',
        f'{_LOSSES}.remask.class_activation={self.gate.upper()}',
        f'{_LOSSES}.remask.semantic_loss.name={self.gate}_cross_entropy',
      ]
    if self.normalization:
      result.append(f'{_LOSSES}.reclass.normalization={self.normalization.upper()}_AREA')
    return result


def rows(
  methods: Sequence[str],
  mask_losses: Sequence[str],
  clips: Sequence[str],
  gates: Sequence[str],
  normalizations: Sequence[str],
) -> list[Row]:
  """Returns every distinct variant, those of one mask loss and clipping together."""
  found = (
    Row(
      *(method, mask_loss, clip),
      gate if _REMASK[method] else None,
      normalization if _RECLASS[method] else None,
    )
    for mask_loss, clip, gate, normalization, method in itertools.product(
      mask_losses, clips, gates, normalizations, methods
    )
  )
  return list(dict.fromkeys(found))
