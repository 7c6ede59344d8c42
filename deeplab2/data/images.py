"""Image files -> upright RGB pixels, and what a record holds of them: a JPEG or PNG.

One decoder decides: `decode`, which training uses. JPEG and PNG files go through it here as they
will from the record, so what is accepted here can be trained on. Pillow decodes the other formats,
which a record holds as PNG. Metadata that is damaged never matters.
"""

from collections.abc import Sequence
import io
import os
import stat
import struct
from typing import NamedTuple
import warnings

from absl import logging
import numpy as np
import PIL.Image
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import orientation as orientations

ENDINGS = tuple('.jpg .jpeg .jpe .jfif .mpo .png .apng .webp .bmp .dib .gif .tif .tiff'.split())
_OTHER_ENDINGS = tuple(
  '.heic .heif .hif .avif .jp2 .j2k .jpx .jxl .ppm .pgm .pbm .pnm .tga .psd .svg .ico .exr .hdr '
  '.dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .pcx .dds .xcf'.split()
)
FORMATS = 'JPEG, PNG, WebP, BMP, TIFF or GIF'

# The first bytes of the formats that Pillow decodes.
_BEGINNINGS = {
  b'GIF87a': 'GIF',
  b'GIF89a': 'GIF',
  b'BM': 'BMP',
  b'II*\0': 'TIFF',
  b'MM\0*': 'TIFF',
  b'II+\0': 'TIFF',
  b'MM\0+': 'TIFF',
}
_PNG_BEGINNING = b'\x89PNG\r\n\x1a\n'
_PNG_COLORS = {0: 'L', 2: 'RGB', 3: 'P', 4: 'LA', 6: 'RGBA'}
# TensorFlow decodes no JPEG of more bytes in RGB.
_MOST_PIXELS = 2**29 // 3
_MOST_FILE_BYTES = 2**30
# Each scan of a progressive JPEG goes over all pixels, at about 10**9 a second.
_MOST_SCANNED_PIXELS = 2**34


class Encoded(NamedTuple):
  """An encoded image."""

  data: bytes
  format: str  # 'jpeg' or 'png'
  height: int
  width: int


class Image(NamedTuple):
  """A decoded image file."""

  pixels: np.ndarray  # uint8 [H, W, 3], RGB, upright
  orientation: int  # By EXIF, 1 to 8; `pixels` have been turned by it.
  format: str  # Of the record, 'jpeg' or 'png'.
  kept: bytes | None  # The content of the file if a record may hold it as it is.


def decode(data: bytes | tf.Tensor) -> tf.Tensor:
  """Decodes what a record holds: the first image, RGB. [h, w, 3] uint8; eager or in a graph."""
  # TensorFlow's generic decoder: fast integer DCT for JPEG, as DeepLab2.
  image = tf.io.decode_image(data, channels=3, expand_animations=False)
  image.set_shape([None, None, 3])
  return image


def read(path: str) -> np.ndarray:
  """Returns the pixels of an image file as a viewer shows them: uint8 [H, W, 3].

  They are those that training gets from a record of it, but for transparency: a record holds the
  colour that is stored below it, and here a white page shows through.

  Raises:
    UserError: as `load`.
  """
  image = load(path, background=255)
  if image.kept is None and image.format == 'jpeg':
    return decode(encode_image(image).data).numpy()
  return image.pixels


def encode_image(image: Image) -> Encoded:
  """Returns an image as it is stored in a record.

  Its bytes stay as they are if they hold an upright RGB image with 8 bits a channel. Others are
  encoded anew: JPEG as JPEG, quality 95 without chroma subsampling, all other formats as PNG.
  """
  if image.kept is not None:
    return Encoded(image.kept, image.format, *image.pixels.shape[:2])
  return encode(image.pixels, image.format)


def encode(pixels: np.ndarray, image_format: str = 'jpeg') -> Encoded:
  """Encodes uint8 pixels, RGB [H, W, 3] or grey [H, W].

  Args:
    pixels: the image.
    image_format: 'jpeg', of quality 95 without chroma subsampling, or 'png'.
  """
  buffer = io.BytesIO()
  settings = {'quality': 95, 'subsampling': 0} if image_format == 'jpeg' else {}
  PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, image_format, **settings)
  return Encoded(buffer.getvalue(), image_format, *pixels.shape[:2])


def load(path: str, background: int | None = None) -> Image:
  """Reads an image file: upright, RGB, 8 bits a channel, the first of several images.

  Grey becomes RGB, of 16 bits the upper 8 are taken.

  Args:
    path: of the file.
    background: the grey, 0 to 255, that shows through where the image is transparent. None leaves
      transparency out: every pixel has the colour that is stored for it.

  Raises:
    UserError: the file is missing, is of no format that is read, is too large, or cannot be
      decoded.
  """
  data = _read_file(path)
  try:
    if data.startswith(b'\xff\xd8\xff'):
      return _load_jpeg(data, path)
    if data.startswith(_PNG_BEGINNING):
      return _load_png(data, path, background)
    return _load_other(data, path, background)
  except (tf.errors.OpError, struct.error) as error:
    raise _undecodable(path, error) from error


def _read_file(path):
  """Returns the content of an image file."""
  try:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # Reading a pipe would never end.
      raise errors.UserError(f'{path}: is no file; must be an image.')
    if status.st_size > _MOST_FILE_BYTES:
      raise errors.UserError(
        f'{path}: has {status.st_size} bytes; an image may have at most {_MOST_FILE_BYTES}.'
      )
    with open(path, 'rb') as file:
      data = file.read()
  except FileNotFoundError as error:
    raise errors.UserError(f'{path}: no such image.') from error
  except OSError as error:
    raise errors.UserError(f'{path}: cannot be read ({files.reason(error)}).') from error
  if not data:
    raise errors.UserError(f'{path}: the image cannot be decoded (the file is empty).')
  return data


def _undecodable(path, error):
  return errors.UserError(f'{path}: the image cannot be decoded ({files.reason(error)}).')


def _check_size(path, height, width):
  """Bounds memory before anything is decoded: a few bytes may claim to be any size."""
  if height * width > _MOST_PIXELS:
    raise errors.UserError(
      f'{path}: is {height}x{width} (height x width), {height * width / 1e6:.0f} million pixels; '
      f'at most {_MOST_PIXELS / 1e6:.0f} million are read.'
    )


def _load_jpeg(data, path):
  height, width, channels = tf.io.extract_jpeg_shape(data).numpy().tolist()
  _check_size(path, height, width)
  scans = data.count(b'\xff\xda')
  if scans * height * width > _MOST_SCANNED_PIXELS:
    raise errors.UserError(
      f'{path}: the JPEG goes over its {height}x{width} pixels {scans} times, '
      'which no camera or program writes; it would take minutes to decode.'
    )
  orientation = orientations.of_jpeg(data)
  pixels = orientations.turn(decode(data).numpy(), orientation)
  is_kept = orientation == 1 and channels == 3
  return Image(pixels, orientation, 'jpeg', data if is_kept else None)


def _load_png(data, path, background):
  height, width, color = _png_header(data)
  _check_size(path, height, width)
  orientation = orientations.of_png(data)
  shows_background = background is not None and color.startswith(('LA', 'RGBA'))
  for chunk, content in orientations.chunks(data):
    if chunk == b'acTL' and len(content) == 8:
      _warn_of_frames(path, struct.unpack_from('>I', content)[0])
    elif chunk == b'tRNS' and background is not None:
      shows_background = True
  if shows_background:
    pixels = _over(background, tf.io.decode_png(data, channels=4).numpy())
  else:
    pixels = decode(data).numpy()
  is_kept = orientation == 1 and color == 'RGB' and not shows_background
  return Image(
    orientations.turn(pixels, orientation), orientation, 'png', data if is_kept else None
  )


def _over(background, pixels):
  """Returns uint8 [H, W, 3] of RGBA pixels [H, W, 4] over a grey."""
  alpha = pixels[..., 3:].astype(np.uint16)
  mixed = pixels[..., :3] * alpha
  mixed += background * (255 - alpha) + 127  # At most 255**2 + 127.
  return (mixed // 255).astype(np.uint8)


def _png_header(data):
  """Returns (height, width, mode) of a PNG; struct.error if it ends before."""
  width, height, bits, color = struct.unpack_from('>IIBB', data, 16)
  mode = _PNG_COLORS.get(color, '?')
  return height, width, mode if bits == 8 else f'{mode};{bits}'


def _load_other(data, path, background):
  """Decodes an image by Pillow."""
  image_format = next(
    (name for beginning, name in _BEGINNINGS.items() if data.startswith(beginning)), None
  )
  if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
    image_format = 'WEBP'
  if image_format is None:
    raise errors.UserError(f'{path}: the image cannot be decoded (it is not {FORMATS}).')
  with warnings.catch_warnings():
    # Of damaged metadata, and of sizes that are checked here.
    warnings.simplefilter('ignore')
    try:
      with PIL.Image.open(io.BytesIO(data), formats=[image_format]) as image:
        _check_size(path, image.height, image.width)
        frames = _num_frames(image)
        image.load()
        pixels, orientation = rgb(image, background), 1
        if image_format == 'TIFF':  # Pillow has turned it.
          orientation = orientations.of_tiff(data) or 1
        elif image_format == 'WEBP':
          exif = image.info.get('exif') or b''
          orientation = orientations.of_tiff(exif.removeprefix(b'Exif\0\0')) or 1
          pixels = orientations.turn(pixels, orientation)
    except PIL.Image.DecompressionBombError as error:
      raise errors.UserError(
        f'{path}: has more pixels than the {_MOST_PIXELS / 1e6:.0f} million that are read.'
      ) from error
    except errors.UserError:
      raise
    except Exception as error:  # What Pillow raises on damaged files is not documented.
      raise _undecodable(path, error) from error
  _warn_of_frames(path, frames)
  return Image(pixels, orientation, 'png', None)


def _num_frames(image):
  try:
    return getattr(image, 'n_frames', 1)
  except Exception:  # As above: later frames may be damaged, the first is all that is used.
    return 1


def rgb(image: PIL.Image.Image, background: int | None = None) -> np.ndarray:
  """Returns uint8 RGB [H, W, 3] of an image of Pillow; ValueError if it has 32 bits a channel.

  Args:
    image: of any other mode.
    background: as of `load`.
  """
  if image.mode.startswith('I;16'):
    grey = (np.asarray(image) >> 8).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=-1)
  if image.mode in ('I', 'F'):
    raise ValueError('32 bits a channel; must be 8 or 16')
  if background is not None and ('A' in image.mode or 'transparency' in image.info):
    return _over(background, np.asarray(image.convert('RGBA')))
  return np.asarray(image.convert('RGB'))


def _warn_of_frames(path, frames):
  if frames > 1:
    logging.warning('%s: holds %d images (frames or pages); the first is used.', path, frames)


def read_label_png(path: str, mode: str, says: str, *, as_integers: bool = False) -> np.ndarray:
  """Reads a PNG whose values are labels, by the same decoder.

  Args:
    path: of the file.
    mode: 'RGB' or 'L', with 8 bits a channel; no other is converted to it, as labels would change.
    says: what must be, for error messages.
    as_integers: whether RGB is returned as R + 256 G + 65536 B.

  Returns:
    uint8 [H, W, 3] or [H, W]; int32 [H, W] of integers.

  Raises:
    UserError: the file is missing, cannot be decoded, is too large, or is of another mode.
  """
  if not os.path.lexists(path):
    raise errors.UserError(f'{path}: no such annotation PNG.')
  data = _read_file(path)
  if not data.startswith(_PNG_BEGINNING):
    raise errors.UserError(f'{path}: is no PNG; {says}.')
  try:
    height, width, found = _png_header(data)
    _check_size(path, height, width)
    if found != mode:
      raise errors.UserError(f'{path}: mode {found!r}; {says}.')
    pixels = tf.io.decode_png(data, channels=4 if as_integers else len(mode)).numpy()
  except (tf.errors.OpError, struct.error) as error:
    raise errors.UserError(f'{path}: the PNG cannot be decoded ({files.reason(error)}).') from error
  if as_integers:  # In one pass: the decoder makes the fourth byte.
    return pixels.view('<i4')[..., 0] & 0xFFFFFF
  return pixels if mode == 'RGB' else pixels[..., 0]


def list_directory(directory: str) -> list[str]:
  """Returns the names of the image files in a directory, sorted, by their endings in any case.

  Image files of formats that are not read, and hidden ones, are left out with a warning.

  Raises:
    UserError: the directory cannot be read, or a name is not UTF-8.
  """
  with files.explained(f'{directory}: cannot be read'):
    names = sorted(os.listdir(directory))
  listed = [name for name in names if is_image(name)]
  for name in listed:
    if name != name.encode(errors='replace').decode():
      raise errors.UserError(f'{directory}: the file name {name!r} is not UTF-8; rename the image.')
  warn_of_left_out(directory, [name for name in names if is_left_out(name)])
  return listed


def is_image(name: str) -> bool:
  """Returns whether a file of this name is an image that is read."""
  return name.lower().endswith(ENDINGS) and not name.startswith('.')


def is_left_out(name: str) -> bool:
  """Returns whether a file of this name is an image that is not read: of its format, or hidden."""
  return name.lower().endswith(ENDINGS + _OTHER_ENDINGS) and not is_image(name)


def warn_of_left_out(directory: str, names: Sequence[str]) -> None:
  """Names the image files of a directory that are not read."""
  if names:
    more = f', ... ({len(names)} files)' if len(names) > 10 else ''
    logging.warning(
      '%s: left out, as only %s are read, and no hidden files: %s%s.',
      directory,
      FORMATS.replace(' or ', ' and '),
      ', '.join(map(repr, names[:10])),
      more,
    )
