"""EXIF orientation of image files, and the pixels (stored or upright) that a mask belongs to.

Cameras store pixels as the sensor lies and note how to turn them: orientation 1 is upright, 2 to 8
are mirrored or turned, 5 to 8 exchange height and width. Metadata that is damaged says nothing:
the image counts as upright.
"""

from collections.abc import Iterator
import re
import struct
import zlib

import numpy as np

from deeplab2 import errors

MASK_ORIENTATIONS = ('upright', 'stored')

_ORIENTATION_TAG = 0x0112
# Types of a TIFF field that may hold a small integer: BYTE, SHORT, LONG.
_INTEGERS = {1: 'B', 3: 'H', 4: 'I'}
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
# Compressed metadata beyond this is no EXIF.
_MOST_METADATA_BYTES = 2**20
# Markers of a JPEG without content: SOI, TEM, and restarts.
_BARE_MARKERS = {0xD8, 0x01, *range(0xD0, 0xD8)}


def of_jpeg(data: bytes) -> int:
  """Returns the orientation, 1 to 8, that a JPEG asks for."""
  return _first(
    of_tiff(content[6:]) if content.startswith(b'Exif\0\0') else _of_xmp(content)
    for marker, content in _segments(data)
    if marker == 0xE1
  )


def of_png(data: bytes) -> int:
  """Returns the orientation, 1 to 8, that a PNG asks for."""
  return _first(_of_chunk(chunk, content) for chunk, content in chunks(data))


def of_tiff(data: bytes) -> int | None:
  """Returns the orientation by the first directory of a TIFF file, which EXIF data is as well."""
  order = {b'II': '<', b'MM': '>'}.get(data[:2])
  try:
    if order is None:
      return None
    (start,) = struct.unpack_from(f'{order}I', data, 4)
    (count,) = struct.unpack_from(f'{order}H', data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
      tag, value_type = struct.unpack_from(f'{order}HH', data, entry)
      if tag == _ORIENTATION_TAG and value_type in _INTEGERS:
        (value,) = struct.unpack_from(f'{order}{_INTEGERS[value_type]}', data, entry + 8)
        return value if 1 <= value <= 8 else None
  except struct.error:  # The data ends before: damaged.
    pass
  return None


def _first(orientations):
  return next((value for value in orientations if value is not None), 1)


def _of_xmp(content):
  found = _XMP_ORIENTATION.search(content)
  return int(found[1]) if found else None


def _of_chunk(chunk, content):
  """Returns the orientation by a chunk of a PNG, None if it says nothing about it."""
  if chunk == b'eXIf':
    return of_tiff(content.removeprefix(b'Exif\0\0'))
  keyword, _, rest = content.partition(b'\0')
  if chunk == b'iTXt' and keyword == b'XML:com.adobe.xmp':
    return _of_xmp(rest)
  # ImageMagick wrote EXIF as text, in hexadecimal after three lines, before PNG had a chunk for it.
  if chunk in (b'tEXt', b'zTXt') and keyword == b'Raw profile type exif':
    try:
      if chunk == b'zTXt':
        rest = zlib.decompressobj().decompress(rest[1:], _MOST_METADATA_BYTES)
      profile = bytes.fromhex(b''.join(rest.split(b'\n')[3:]).decode('ascii'))
    except (ValueError, zlib.error):
      return None
    return of_tiff(profile.removeprefix(b'Exif\0\0'))
  return None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
  """Yields (marker, content) of a JPEG up to its pixels."""
  at = 0
  while (at := data.find(b'\xff', at)) >= 0 and at + 4 <= len(data):
    marker = data[at + 1]
    if marker in (0xDA, 0xD9):  # SOS and EOI.
      return
    if marker in _BARE_MARKERS:
      at += 2
    elif marker in (0x00, 0xFF):  # Padding.
      at += 1
    else:
      (length,) = struct.unpack_from('>H', data, at + 2)
      yield marker, data[at + 4 : at + 2 + length]
      at += 2 + max(2, length)


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Yields (type, content) of the undamaged ancillary chunks of a PNG."""
  at = 8
  while at + 12 <= len(data):
    length, chunk = struct.unpack_from('>I4s', data, at)
    if chunk[0] & 0x20:  # A small letter: pixels do not depend on it.
      content = data[at + 8 : at + 8 + length]
      checksum = struct.pack('>I', zlib.crc32(content, zlib.crc32(chunk)))
      if data[at + 8 + length : at + 12 + length] == checksum:
        yield chunk, content
    at += 12 + length


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Returns stored pixels [H, W, ...] upright; a view, with H and W exchanged for 5 to 8."""
  if orientation >= 5:
    pixels = pixels.swapaxes(0, 1)
  # The steps by which rows and columns are then read, -1 from the end.
  rows = -1 if orientation in (3, 4, 7, 8) else 1
  columns = -1 if orientation in (2, 3, 6, 7) else 1
  return pixels[::rows, ::columns]


def align(
  mask: np.ndarray,
  image_size: tuple[int, int],
  orientation: int,
  drawn_on: str | None,
  *,
  mask_path: str,
  image_path: str,
) -> np.ndarray:
  """Returns a mask as it lies on the upright image.

  Args:
    mask: [h, w].
    image_size: (height, width) of the upright image.
    orientation: of the stored image, 1 to 8.
    drawn_on: one of MASK_ORIENTATIONS, or None to tell it by the mask's size.
    mask_path: for error messages.
    image_path: for error messages.

  Raises:
    UserError: the sizes disagree, or `drawn_on` is None and they cannot tell.
  """
  stored_size = image_size if orientation < 5 else image_size[::-1]
  fits = {'upright': mask.shape == image_size, 'stored': mask.shape == stored_size}
  if not (fits[drawn_on] if drawn_on else any(fits.values())):
    stored = ''
    if orientation != 1:
      flag = f', --mask_orientation={drawn_on}' if drawn_on else ''
      stored = f' upright and {_text(stored_size)} as stored (EXIF orientation {orientation}{flag})'
    raise errors.UserError(
      f'{mask_path}: is {_text(mask.shape)} (height x width), but its image {image_path} is '
      f'{_text(image_size)}{stored}; must be equal.'
    )
  if orientation != 1 and drawn_on is None and all(fits.values()):
    raise errors.UserError(
      f'{mask_path}: its image {image_path} is turned by EXIF (orientation {orientation}), and '
      'sizes cannot tell whether the mask is drawn on the upright or on the stored pixels; give '
      '--mask_orientation=upright or --mask_orientation=stored.'
    )
  is_stored = drawn_on == 'stored' if drawn_on else not fits['upright']
  return turn(mask, orientation) if is_stored and orientation != 1 else mask


def _text(size):
  return f'{size[0]}x{size[1]}'
