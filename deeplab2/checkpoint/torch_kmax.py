"""Whole models of PyTorch kMaX-DeepLab (bytedance/kmax-deeplab), read as released checkpoints."""

from collections.abc import Collection

import numpy as np

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.checkpoint import torch_file
from deeplab2.checkpoint import torch_keys

_KMAX = 'model_options.kmax'
_LOW_LEVELS = 'model_options.max_deeplab.auxiliary_low_level'


class Reader:
  """The tensors of a file by their released keys; has the methods of reading.Reader."""

  def __init__(self, path: str, conventions: structures.Conventions):
    """Reads a file.

    Args:
      path: of a state dict, see torch_file.
      conventions: of the model that will be filled.

    Raises:
      UserError: it cannot be read, or is of another model.
    """
    self.prefix = path
    state_dict = torch_file.read(path)
    if not torch_keys.is_kmax(state_dict):
      raise errors.UserError(
        f'{path}: holds no kMaX-DeepLab of PyTorch; it has {errors.listed(state_dict)}.'
      )
    self.counters = tuple(filter(torch_keys.is_counter, state_dict))
    self._conventions = conventions
    self._computed = _conventions(state_dict, conventions.label_space)
    self._tensors: dict[str, np.ndarray] = {}
    for key, tensor in state_dict.items():
      if torch_keys.is_counter(key):
        continue
      released_key = torch_keys.of_key(key)
      if released_key is None or released_key in self._tensors:
        self._tensors[key] = tensor  # Found to be too many, under its own name.
        continue
      try:
        layout = torch_keys.in_our_layout(released_key, tensor, conventions.label_space)
      except ValueError as error:
        raise errors.UserError(
          f'{path}: does not fit the model: {key} has the shape {list(tensor.shape)}.'
        ) from error
      self._tensors[released_key] = layout

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all tensors by released key, the counters left out."""
    return {key: tensor.shape for key, tensor in sorted(self._tensors.items())}

  stripped_shapes = shapes

  def has(self, key: str) -> bool:
    """Returns whether there is a tensor of this key."""
    return key in self._tensors

  def get(self, key: str) -> np.ndarray:
    """Returns a tensor in DeepLab2's layout."""
    return self._tensors[key]

  def check_conventions(self, keys: Collection[str]) -> None:
    """Checks that the model computes what PyTorch's does.

    Args:
      keys: released keys of the model's variables. If it has another backbone, nothing is said here
        about the rest; if it is a backbone, there is no rest.

    Raises:
      UserError: naming the options that have to be set.
    """
    theirs, ours = (
      {key for key in of if key.startswith('encoder/')} for of in (self._tensors, keys)
    )
    if theirs != ours:
      return
    computed, configured = self._computed, self._conventions
    settings = []
    if computed.stem_max_pool != configured.stem_max_pool:
      settings.append('model_options.backbone.stem_max_pool=true')
    if set(keys) != ours:
      settings += _of_decoders(computed, configured)
    if settings:
      raise errors.UserError(
        f'{self.prefix}: the model of PyTorch computes otherwise than the configured one; set '
        f'{", ".join(settings)}, as configs/*/pytorch do.'
      )


def _of_decoders(computed, configured):
  """Yields the settings of what the decoders compute otherwise."""
  theirs, ours = computed.pixel_decoder_features, configured.pixel_decoder_features
  if theirs != ours and len(theirs) == len(ours):
    yield f'{_KMAX}.pixel_decoder_features={",".join(theirs)}'
  if computed.pixel_decoder_dilation != configured.pixel_decoder_dilation:
    yield f'{_KMAX}.pixel_decoder_dilation={computed.pixel_decoder_dilation}'
  # Another number of features shows in the variables.
  pairs = zip(computed.semantic_features, configured.semantic_features, strict=False)
  for index, (read, configured_one) in enumerate(pairs):
    if read != configured_one:
      field = f'{_LOW_LEVELS}[{index - 1}].feature_key' if index else f'{_KMAX}.semantic_feature'
      yield f'{field}={read}'


def _conventions(state_dict, label_space):
  """Returns what the model of a state dict computes."""
  of_resnet = any(key.startswith('backbone.res2.') for key in state_dict)
  num_stages = sum(
    key.startswith('sem_seg_head.pixel_decoder._in_norms.') and key.endswith('.weight')
    for key in state_dict
  )
  levels = [5, 4, 3, 2, 1][:num_stages]
  if of_resnet and num_stages == 5:
    # Stages are sorted by stride, and the stem, also at stride 4, comes first.
    levels = [5, 4, 3, 1, 2]
  semantic = [5, 3, 2] if any('_low_level_projection_' in key for key in state_dict) else [5]
  # Features leave a ResNet activated, and a ConvNeXt as they are.
  kind = 'res' if of_resnet else 'stage'
  return structures.Conventions(
    label_space=label_space,
    stem_max_pool=of_resnet,
    pixel_decoder_features=tuple(f'{kind}{level}' for level in levels),
    semantic_features=tuple(f'{kind}{level}' for level in semantic),
    pixel_decoder_dilation=1,
  )
