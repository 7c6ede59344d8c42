"""Pictures on disk -> what a record holds: JPEG or PNG, RGB, upright."""
import io
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps

from deeplab2 import errors

# MPO is what cameras write that append further pictures to a JPEG; decoders read the first.
_FORMATS = {'JPEG': 'jpeg', 'MPO': 'jpeg', 'PNG': 'png'}
_MODES = {'RGB', 'RGBA', 'L', 'LA', 'P', 'PA', '1', 'CMYK', 'YCbCr'}  # At most 8 bits a channel.
_EXIF_ORIENTATION = 0x0112


class Encoded(NamedTuple):
  """An encoded RGB picture."""
  data: bytes
  format: str  # 'jpeg' or 'png'
  height: int
  width: int


def encode_for_record(path: str) -> Encoded:
  """Reads a picture file; its bytes stay as they are if they hold an upright RGB picture.

  Grey, palette, transparent and CMYK pictures become RGB, EXIF rotation is applied; these are
  encoded anew in their format, JPEG at quality 95 without chroma subsampling.

  Raises:
    errors.UserError: the file is missing, cannot be decoded, is neither JPEG nor PNG, or has more
      than 8 bits a channel.
  """
  try:
    with open(path, 'rb') as file:
      data = file.read()
    with PIL.Image.open(io.BytesIO(data)) as image:
      image.load()
  except FileNotFoundError as error:
    raise errors.UserError(f'{path}: no such picture.') from error
  except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
    raise errors.UserError(f'{path}: the picture cannot be decoded ({error}).') from error
  if image.format not in _FORMATS:
    raise errors.UserError(f'{path}: format {image.format}; must be JPEG or PNG.')
  if image.mode not in _MODES:
    raise errors.UserError(f'{path}: pixels of mode {image.mode!r}; must have 8 bits a channel.')
  image_format = _FORMATS[image.format]
  upright = image.getexif().get(_EXIF_ORIENTATION, 1) in (0, 1)
  if upright and image.mode == 'RGB':
    return Encoded(data, image_format, image.height, image.width)
  return _encode(PIL.ImageOps.exif_transpose(image).convert('RGB'), image_format)


def encode(image: np.ndarray) -> Encoded:
  """Encodes a uint8 RGB picture [H, W, 3] as JPEG, quality 95 without chroma subsampling."""
  return _encode(PIL.Image.fromarray(image), 'jpeg')


def _encode(image, image_format):
  buffer = io.BytesIO()
  settings = {'quality': 95, 'subsampling': 0} if image_format == 'jpeg' else {}
  image.save(buffer, image_format, **settings)
  return Encoded(buffer.getvalue(), image_format, image.height, image.width)
