"""A model that is ready for images. Every kind of model that can be loaded is one of these."""

import abc
from collections.abc import Sequence
from typing import overload

import numpy as np

from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.inference import inputs
from deeplab2.inference import result as result_lib


class Model(abc.ABC):
  """Segments images: `result = model('street.jpg')`."""

  def __init__(self, info: datasets.DatasetInfo):
    """Creates a model whose maps speak of the classes of `info`."""
    self.info = info

  @property
  def classes(self) -> tuple[str, ...]:
    """Names of the classes, by class id."""
    return self.info.class_names

  @overload
  def __call__(
    self, images: list[inputs.ImageInput] | tuple[inputs.ImageInput, ...], *, batch_size: int = ...
  ) -> list[result_lib.Result]: ...

  @overload
  def __call__(self, images: inputs.ImageInput, *, batch_size: int = ...) -> result_lib.Result: ...

  def __call__(self, images, *, batch_size=4):
    """Segments one image, or several.

    Args:
      images: an image: a path, a uint8 RGB array [H, W, 3], a PIL image or a tf.Tensor; or a list
        or tuple of them, of any sizes.
      batch_size: how many images the network takes at once. Memory grows with it; on a CPU it
        gains little.

    Returns:
      The Result of the image; a list of Results, if several were given.

    Raises:
      UserError: an image cannot be read or is none, naming it and what would be right.
    """
    if not isinstance(images, list | tuple):
      return self.segment([inputs.pixels(images)])[0]
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
      raise errors.UserError(f'batch_size={batch_size!r}: must be an integer from 1.')
    found: list[result_lib.Result] = []
    for start in range(0, len(images), batch_size):
      batch = images[start : start + batch_size]
      numbered = enumerate(batch, start)
      found += self.segment([inputs.pixels(image, f'images[{n}]') for n, image in numbered])
    return found

  @abc.abstractmethod
  def segment(self, images: Sequence[np.ndarray]) -> list[result_lib.Result]:
    """Segments a batch.

    Args:
      images: at least one, uint8 RGB [H, W, 3] each, of any sizes.

    Returns:
      A Result for each.
    """
