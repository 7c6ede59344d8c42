"""Backbones by name."""
import tf_keras

from deeplab2 import errors
from deeplab2.model.backbones import convnext
from deeplab2.model.backbones import moat
from deeplab2.model.backbones import mobilenet_v3
from deeplab2.model.backbones import resnet
from deeplab2.model.layers import norm as norm_lib


def _without_drop_path(make):
  """Wraps the maker of a backbone that has no drop path: asking for it is an error."""

  def create_backbone(*, norm, drop_path_keep_prob):
    if drop_path_keep_prob != 1.0:
      raise errors.UserError(
          f'drop_path_keep_prob is {drop_path_keep_prob}, but this backbone has no drop path; '
          '1.0 is the only value it takes.')
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
    'mobilenet_v3_large': _without_drop_path(mobilenet_v3.large),
    'mobilenet_v3_small': _without_drop_path(mobilenet_v3.small),
    'resnet50': resnet.resnet50,
}


def create(name: str, *, norm: norm_lib.NormSettings,
           drop_path_keep_prob: float = 1.0) -> tf_keras.layers.Layer:
  """Creates a backbone: `backbone(images in -1..1, training=...)` -> structures.Pyramid.

  Args:
    name: a key of BACKBONES.
    norm: settings of its batch norms.
    drop_path_keep_prob: probability that training keeps the residual of the last block.

  Raises:
    ValueError: if there is no backbone of that name.
    UserError: if the backbone has no drop path and `drop_path_keep_prob` is not 1.
  """
  if name not in BACKBONES:
    raise ValueError(f'{name!r} is no backbone; choose from {sorted(BACKBONES)}.')
  return BACKBONES[name](norm=norm, drop_path_keep_prob=drop_path_keep_prob)
