"""Backbones by name."""

import tf_keras

from deeplab2.model.backbones import convnext
from deeplab2.model.backbones import moat
from deeplab2.model.backbones import mobilenet_v3
from deeplab2.model.backbones import resnet
from deeplab2.model.layers import norm as norm_lib


def _without_drop_path(make):
  """Wraps the maker of a backbone that has no drop path."""

  def create_backbone(*, norm, drop_path_keep_prob):
    if drop_path_keep_prob != 1.0:
      raise ValueError(
        f'drop_path_keep_prob is {drop_path_keep_prob}; without drop path it must be 1.0.'
      )
    return make(norm=norm)

  return create_backbone


def _without_batch_norm(make):
  """Wraps the maker of a backbone that has no batch norm."""

  def create_backbone(*, norm, drop_path_keep_prob):
    del norm  # Says how batch norms behave.
    return make(drop_path_keep_prob=drop_path_keep_prob)

  return create_backbone


BACKBONES = {
  **{name: _without_batch_norm(make) for name, make in convnext.CONVNEXTS.items()},
  'axial_resnet50': resnet.axial_resnet50,
  **moat.MOATS,
  **{name: _without_drop_path(make) for name, make in mobilenet_v3.MOBILENETS.items()},
  'resnet50': resnet.resnet50,
}
WITHOUT_DROP_PATH = frozenset(mobilenet_v3.MOBILENETS)


def create(
  name: str, *, norm: norm_lib.NormSettings, drop_path_keep_prob: float = 1.0
) -> tf_keras.layers.Layer:
  """Creates a backbone: `backbone(images in -1..1, training=...)` -> structures.Pyramid.

  Args:
    name: a key of BACKBONES.
    norm: settings of its batch norms.
    drop_path_keep_prob: probability that training keeps the residual of the last block.

  Raises:
    ValueError: if there is no backbone of that name, or it is one of WITHOUT_DROP_PATH and
      `drop_path_keep_prob` is not 1.
  """
  if name not in BACKBONES:
    raise ValueError(f'{name!r} is no backbone; choose from {sorted(BACKBONES)}.')
  return BACKBONES[name](norm=norm, drop_path_keep_prob=drop_path_keep_prob)
