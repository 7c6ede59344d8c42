"""Ways to spoil PNG and JPEG files, and images of rare types."""

import io
import struct
import zlib

import PIL.Image

from campaign import mutations
from campaign.mutations import Mutation

_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_BOMB = 300 * 2**20  # Bytes that a bomb unpacks to.


def chunk(name: bytes, content: bytes) -> bytes:
  """Returns a chunk of a PNG with the right checksum."""
  return (
    struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
  )


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
  """Returns the chunks (name, content) of a good PNG."""
  found = []
  position = len(_SIGNATURE)
  while position < len(data):
    [length] = struct.unpack_from('>I', data, position)
    found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
    position += 12 + length
  return found


def _joined(parts):
  return _SIGNATURE + b''.join(chunk(*part) for part in parts)


def header(**fields) -> mutations.Spoil:
  """Returns a mutation of fields of a PNG's header: width, height, depth, color, packing, ..."""

  def spoil(data, rng):
    names = ('width', 'height', 'depth', 'color', 'compression', 'filter', 'interlace')
    first, *others = chunks(data)
    values = dict(zip(names, struct.unpack('>IIBBBBB', first[1]), strict=True)) | fields
    return _joined([(first[0], struct.pack('>IIBBBBB', *values.values())), *others])

  return spoil


def with_chunk(name: bytes, content: bytes) -> mutations.Spoil:
  """Returns a mutation that puts one more chunk behind the header."""

  def spoil(data, rng):
    first, *others = chunks(data)
    return _joined([first, (name, content), *others])

  return spoil


def _with_wrong_checksum(name):
  def spoil(data, rng):
    first, *others = chunks(data)
    bad = bytearray(chunk(name, b'Comment\0text'))
    bad[-1] ^= 1
    return _SIGNATURE + chunk(*first) + bytes(bad) + b''.join(chunk(*part) for part in others)

  return spoil


def _zeros(count):
  """Returns `count` zero bytes, compressed without holding them all."""
  packer, parts = zlib.compressobj(9), []
  for _ in range(count // 2**20):
    parts.append(packer.compress(bytes(2**20)))
  parts.append(packer.compress(bytes(count % 2**20)))
  return b''.join([*parts, packer.flush()])


def png_of_zeros(width: int, height: int, depth: int = 8, color: int = 2) -> mutations.Spoil:
  """Returns a mutation to a black PNG of any size."""

  def spoil(data, rng):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    line = (width * channels * depth + 7) // 8 + 1
    head = struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0)
    return _joined([(b'IHDR', head), (b'IDAT', _zeros(line * height)), (b'IEND', b'')])

  return spoil


def _without(name):
  return lambda data, rng: _joined([part for part in chunks(data) if part[0] != name])


def _too_much_data(data, rng):
  return _joined(
    [
      (name, _zeros(_BOMB)) if name == b'IDAT' else (name, content)
      for name, content in chunks(data)
    ]
  )


def saved_as(image_format: str, mode: str = 'RGB', **settings) -> mutations.Spoil:
  """Returns a mutation to the same image in another format or mode."""

  def spoil(data, rng):
    image = PIL.Image.open(io.BytesIO(data)).convert('RGB')
    if mode == 'I;16':
      image = image.convert('L').point(lambda value: value * 257, 'I').convert('I;16')
    buffer = io.BytesIO()
    (image if mode == 'I;16' else image.convert(mode)).save(buffer, image_format, **settings)
    return buffer.getvalue()

  return spoil


def _animated(image_format):
  def spoil(data, rng):
    image = PIL.Image.open(io.BytesIO(data)).convert('RGB')
    return saved_as(image_format, save_all=True, append_images=[image.rotate(90)])(data, rng)

  return spoil


def _turned(orientation, image_format):
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  return saved_as(image_format, exif=exif.tobytes())


_EXIFS = {
  'text': b'no TIFF at all',
  'of noise': bytes(range(256)),
  'empty': b'',
  'cut': b'Exif\0\0MM\0*\0\0\0\x08\0\x10',
  'with an endless chain': b'Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\x08',
  'with a huge count': b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\0\0\0\0\0',
}

# Metadata, broken or not, does not stop an image whose pixels are fine.
_PNG_METADATA = (
  *(
    Mutation(f'EXIF {what}', with_chunk(b'eXIf', content), 'accepted')
    for what, content in _EXIFS.items()
  ),
  Mutation('ICC profile of noise', with_chunk(b'iCCP', b'name\0\0' + bytes(range(99))), 'accepted'),
  Mutation('ICC profile without a name', with_chunk(b'iCCP', b'x' * 200), 'accepted'),
  Mutation(
    'ICC profile that is a bomb', with_chunk(b'iCCP', b'name\0\0' + _zeros(_BOMB)), 'accepted'
  ),
  Mutation('compressed text of noise', with_chunk(b'zTXt', b'key\0\0noise noise'), 'accepted'),
  Mutation(
    'compressed text that is a bomb', with_chunk(b'zTXt', b'key\0\0' + _zeros(_BOMB)), 'accepted'
  ),
  Mutation(
    'text that is not Latin',
    with_chunk(b'iTXt', b'key\0\1\0\xff\0\xff\0' + b'\xff' * 9),
    'accepted',
  ),
  Mutation('text of 5 MB', with_chunk(b'tEXt', b'key\0' + b'x' * (5 * 2**20)), 'accepted'),
  Mutation('a resolution of zeros', with_chunk(b'pHYs', bytes(9)), 'accepted'),
  Mutation('a resolution cut', with_chunk(b'pHYs', b'\0'), 'accepted'),
  Mutation('a gamma of nothing', with_chunk(b'gAMA', bytes(4)), 'accepted'),
  Mutation('a time of nonsense', with_chunk(b'tIME', b'\xff' * 7), 'accepted'),
  Mutation('an unknown chunk', with_chunk(b'prVt', b'x' * 99), 'accepted'),
  Mutation('an unknown critical chunk', with_chunk(b'PRVT', b'x' * 99)),
  Mutation('text with a wrong checksum', _with_wrong_checksum(b'tEXt')),
  Mutation('transparency of wrong length', with_chunk(b'tRNS', b'x' * 5)),
)
_RARE = (
  *(
    Mutation(f'really {what}', saved_as(what))
    for what in ('WEBP', 'BMP', 'TIFF', 'GIF', 'PPM', 'ICO')
  ),
  *(Mutation(f'mode {mode}', saved_as('PNG', mode)) for mode in ('L', 'LA', 'RGBA', 'P', '1')),
  Mutation('16 bits', saved_as('PNG', 'I;16')),
  Mutation('animated PNG', _animated('PNG')),
  Mutation('animated GIF', _animated('GIF')),
  Mutation('an MPO', _animated('MPO')),
  *(Mutation(f'PNG with orientation {n}', _turned(n, 'PNG')) for n in (0, 3, 6, 9)),
)
# Each is refused, whatever the data behind it.
_HEADERS: tuple[dict[str, int], ...] = (
  {'width': 0},
  {'height': 0},
  {'width': 2**31 - 1},
  {'height': 2**31 - 1},
  {'width': 2**32 - 1, 'height': 2**32 - 1},
  {'width': 60000, 'height': 60000},
  {'depth': 3},
  {'depth': 0},
  {'color': 7},
  {'color': 3},
  {'interlace': 9},
  {'filter': 1},
  {'compression': 255},
)
PNGS = (
  *_PNG_METADATA,
  *_RARE,
  *mutations.PLACES,
  *(
    Mutation(
      f'header: {", ".join(f"{key} {value}" for key, value in fields.items())}',
      header(**fields),
      'refused',
    )
    for fields in _HEADERS
  ),
  Mutation('header: depth 16', header(depth=16)),
  Mutation('header: color 6', header(color=6)),
  Mutation('no header', _without(b'IHDR'), 'refused'),
  Mutation('no data', _without(b'IDAT'), 'refused'),
  Mutation('no end', _without(b'IEND')),
  Mutation('more data than pixels: a bomb', _too_much_data),
  Mutation('a black image of 1 x 50,000,000', png_of_zeros(50_000_000, 1, color=0)),
  Mutation('a black image of 11,000 x 11,000', png_of_zeros(11000, 11000)),
  Mutation('a black image of 30,000 x 30,000, 1 bit', png_of_zeros(30000, 30000, 1, 0)),
  Mutation('an image of 1 x 1', png_of_zeros(1, 1)),
  Mutation(
    'a chunk of 2**31 bytes',
    lambda data, rng: data[:33] + b'\x7f\xff\xff\xffIDAT' + data[41:],
    'refused',
  ),
)
PNGS_RANDOM = (*mutations.RANDOM, Mutation('cut', mutations.cut))


def _marker(data, codes):
  """Returns the position of the first marker of a JPEG whose code is one of `codes`."""
  position = 2
  while data[position + 1] not in codes:
    position += 2 + struct.unpack_from('>H', data, position + 2)[0]
  return position


def frame(offset: int, content: bytes) -> mutations.Spoil:
  """Returns a mutation of a JPEG's frame header: `content` from byte `offset` of it on."""

  def spoil(data, rng):
    start = _marker(data, range(0xC0, 0xC3)) + 4 + offset
    return data[:start] + content + data[start + len(content) :]

  return spoil


def segment(code: int, content: bytes) -> mutations.Spoil:
  """Returns a mutation that puts one more segment at the start of a JPEG."""
  return lambda data, rng: (
    data[:2] + bytes([0xFF, code]) + struct.pack('>H', len(content) + 2) + content + data[2:]
  )


def _no_tables(data, rng):
  start = _marker(data, (0xC4,))
  return data[:start] + data[start + 2 + struct.unpack_from('>H', data, start + 2)[0] :]


JPEGS = (
  *(
    Mutation(f'EXIF {what}', segment(0xE1, b'Exif\0\0' + content), 'accepted')
    for what, content in _EXIFS.items()
  ),
  Mutation(
    'ICC profile of noise', segment(0xE2, b'ICC_PROFILE\0\1\1' + bytes(range(99))), 'accepted'
  ),
  Mutation('ICC profile in a part of none', segment(0xE2, b'ICC_PROFILE\0\0\0'), 'accepted'),
  Mutation('a comment that is not UTF-8', segment(0xFE, b'\xff' * 99), 'accepted'),
  Mutation('a segment of Photoshop, cut', segment(0xED, b'Photoshop 3.0\08BIM\4\4'), 'accepted'),
  Mutation('MPF of noise', segment(0xE2, b'MPF\0' + bytes(range(99))), 'accepted'),
  Mutation(
    'XMP without end', segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta'), 'accepted'
  ),
  Mutation('JFIF cut', segment(0xE0, b'JFIF\0'), 'accepted'),
  Mutation('Adobe cut', segment(0xEE, b'Adobe')),
  Mutation('mode CMYK', saved_as('JPEG', 'CMYK')),
  Mutation('mode L', saved_as('JPEG', 'L')),
  Mutation('progressive', saved_as('JPEG', progressive=True), 'accepted'),
  Mutation(
    'progressive and cut',
    lambda data, rng: mutations.cut(saved_as('JPEG', progressive=True)(data, rng), rng),
  ),
  *(Mutation(f'JPEG with orientation {n}', _turned(n, 'JPEG')) for n in (0, 3, 6, 9)),
  Mutation('frame of 65,535 x 65,535', frame(1, b'\xff' * 4)),
  Mutation('frame of height 0', frame(1, b'\0\0')),
  Mutation('frame of width 0', frame(3, b'\0\0'), 'refused'),
  Mutation('frame of 255 components', frame(5, b'\xff'), 'refused'),
  Mutation('frame of 0 components', frame(5, b'\0'), 'refused'),
  Mutation('frame of 12 bits', frame(0, b'\x0c'), 'refused'),
  Mutation('sampling of 0', frame(7, b'\0'), 'refused'),
  Mutation('sampling of 15', frame(7, b'\xff'), 'refused'),
  Mutation('no Huffman table', _no_tables),
  Mutation('no end', lambda data, rng: data[:-2]),
  Mutation('really a PNG', saved_as('PNG')),
  *mutations.ANY_FILE,
  *mutations.PLACES,
)
