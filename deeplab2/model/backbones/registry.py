"""Backbones by name."""

from collections.abc import Callable
from typing import Any

import tf_keras

from deeplab2.model.backbones import convnext
from deeplab2.model.backbones import moat
from deeplab2.model.backbones import mobilenet_v3
from deeplab2.model.backbones import resnet
from deeplab2.model.layers import norm as norm_lib

BACKBONES: dict[str, Callable[..., tf_keras.layers.Layer]] = {
  **convnext.CONVNEXTS,
  'axial_resnet50': resnet.axial_resnet50,
  **moat.MOATS,
  **mobilenet_v3.MOBILENETS,
  'resnet50': resnet.resnet50,
}
WITHOUT_DROP_PATH = frozenset(mobilenet_v3.MOBILENETS)
WITH_MAX_POOL = frozenset({'resnet50'})  # Those whose stem can end in one.
WITH_WIDTHS = frozenset(mobilenet_v3.MOBILENETS)  # Those that have a width multiplier,
WITH_GATES = frozenset({'mobilenet_v3_large', 'mobilenet_v3_small'})  # and a choice of gates.
_WITHOUT_BATCH_NORM = frozenset(convnext.CONVNEXTS)


def create(
  name: str,
  *,
  norm: norm_lib.NormSettings,
  drop_path_keep_prob: float = 1.0,
  stem_max_pool: bool = False,
  width_multiplier: float = 1.0,
  squeeze_excite_gate: str = 'SIGMOID',
) -> tf_keras.layers.Layer:
  """Creates a backbone: `backbone(images in -1..1, training=...)` -> structures.Pyramid.

  Args:
    name: a key of BACKBONES.
    norm: settings of its batch norms.
    drop_path_keep_prob: probability that training keeps the residual of the last block.
    stem_max_pool: whether its stem ends in a max-pooling.
    width_multiplier: of its widths.
    squeeze_excite_gate: what squeeze-and-excite ends in, a key of squeeze_excite.GATES.

  Raises:
    ValueError: if there is no backbone of that name, or it has no such choice (see
      WITHOUT_DROP_PATH, WITH_MAX_POOL, WITH_WIDTHS, WITH_GATES) and the value is not the default.
  """
  if name not in BACKBONES:
    raise ValueError(f'{name!r} is no backbone; choose from {sorted(BACKBONES)}.')
  settings: dict[str, Any] = {} if name in _WITHOUT_BATCH_NORM else {'norm': norm}
  if name not in WITHOUT_DROP_PATH:
    settings['drop_path_keep_prob'] = drop_path_keep_prob
  elif drop_path_keep_prob != 1.0:
    raise ValueError(
      f'drop_path_keep_prob is {drop_path_keep_prob}; {name} has no drop path: it must be 1.0.'
    )
  for having, setting, value, default in (
    (WITH_MAX_POOL, 'stem_max_pool', stem_max_pool, False),
    (WITH_WIDTHS, 'width_multiplier', width_multiplier, 1.0),
    (WITH_GATES, 'squeeze_excite_gate', squeeze_excite_gate, 'SIGMOID'),
  ):
    if name in having:
      settings[setting] = value
    elif value != default:
      raise ValueError(f'{setting} is {value}; {name} has no choice: it must be {default}.')
  return BACKBONES[name](**settings)
