"""Images as Python programs hold them -> uint8 RGB arrays."""

import os
from typing import Protocol

import numpy as np
import PIL.Image

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import images


class SupportsArray(Protocol):
  """A NumPy array, a tf.Tensor, or what else NumPy takes for an array."""

  def __array__(self) -> np.ndarray: ...


# Arrays and tensors are uint8 RGB [H, W, 3].
ImageInput = str | os.PathLike[str] | PIL.Image.Image | np.ndarray | SupportsArray

_EXPECTED = 'give a path, a uint8 array [height, width, 3], a PIL image or a tf.Tensor'


def pixels(image: ImageInput, name: str = 'image') -> np.ndarray:
  """Returns the pixels of an image, uint8 RGB [H, W, 3].

  Files are read as everywhere (data/images.py): turned upright as EXIF says, over white where they
  are transparent. So is a PIL image, but not turned, as its owner sees its size.

  Args:
    image: a path, a PIL image, or an array or tensor, which must be uint8 [H, W, 3].
    name: what the image is called in messages.

  Raises:
    UserError: it is none of these, or cannot be read.
  """
  if isinstance(image, str | os.PathLike):
    return images.read(files.expand(os.fspath(image)))
  if isinstance(image, PIL.Image.Image):
    try:
      return images.rgb(image, background=255)
    except (OSError, ValueError) as error:
      raise errors.UserError(
        f'{name}: a PIL image of mode {image.mode} that cannot be read ({files.reason(error)}).'
      ) from error
  if not hasattr(image, '__array__'):
    raise errors.UserError(f'{name}: is of type {type(image).__name__}; {_EXPECTED}.')
  try:
    array = np.asarray(image)
  except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
    raise errors.UserError(
      f'{name}: a {type(image).__name__} without values (is it of a graph?); {_EXPECTED}.'
    ) from error
  problem = _problem(array)
  if problem:
    raise errors.UserError(f'{name}: an array {list(array.shape)} of {array.dtype} {problem}.')
  return array


def _problem(array):
  """Returns what is wrong with an array, and what would be right; '' if nothing is."""
  shape = array.shape
  if array.ndim == 4:
    return 'is a batch; give list(images)'
  if array.ndim == 2:
    return 'is grey; give np.repeat(image[..., np.newaxis], 3, axis=-1)'
  if array.ndim != 3:
    return 'is no image; must be uint8 [height, width, 3]'
  if shape[2] != 3:
    if shape[2] == 4:
      return 'has four channels; give image[..., :3]'
    if shape[2] == 1:
      return 'is grey; give np.repeat(image, 3, axis=-1)'
    if shape[0] == 3:
      return 'has its channels first; give image.transpose(1, 2, 0)'
    return 'is no RGB image; must be uint8 [height, width, 3]'
  if 0 in shape:
    return 'has no pixels'
  if array.dtype != np.uint8:
    return 'must be uint8 in 0..255; of values in 0..1, give (255 * image).round().astype(np.uint8)'
  return ''
