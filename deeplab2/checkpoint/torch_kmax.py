"""Whole models of PyTorch kMaX-DeepLab (bytedance/kmax-deeplab), read as released checkpoints."""

import numpy as np

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.checkpoint import conventions
from deeplab2.checkpoint import torch_file
from deeplab2.checkpoint import torch_keys


class Reader:
  """The tensors of a file by their released keys; has the methods of reading.Reader.

  `computed` is what its model computes, `counters` the names of the tensors that are left out.
  """

  def __init__(self, path: str, label_space: structures.LabelSpace):
    """Reads a file.

    Args:
      path: of a state dict, see torch_file.
      label_space: of the model that will be filled.

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
    self.computed = conventions.of_torch(state_dict, label_space)
    self._tensors: dict[str, np.ndarray] = {}
    for key, tensor in state_dict.items():
      if torch_keys.is_counter(key):
        continue
      released_key = torch_keys.of_key(key)
      if released_key is None or released_key in self._tensors:
        self._tensors[key] = tensor  # Found to be too many, under its own name.
        continue
      try:
        layout = torch_keys.in_our_layout(released_key, tensor, label_space)
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
