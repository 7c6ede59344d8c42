"""Ways to spoil PNG and JPEG files, and images of rare types."""

import io
import struct
import zlib

import PIL.Image

from campaign import mutations

_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_BOMB = 300 * 2**20  # Bytes that a bomb unpacks to.


def chunk(name: bytes, content: bytes) -> bytes:
  """Returns a chunk of a PNG with the right checksum."""
  checksum = zlib.crc32(name + content)
  return struct.pack('>I4s', len(content), name) + content + struct.pack('>I', checksum)


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
  """Returns the chunks (name, content) of a good PNG."""
  found = []
  position = len(_SIGNATURE)
  while position < len(data):
    length, name = struct.unpack_from('>I4s', data, position)
    found.append((name, data[position + 8 : position + 8 + length]))
    position += 12 + length
  return found


def _joined(parts):
  return _SIGNATURE + b''.join(chunk(*part) for part in parts)


def _changed(change) -> mutations.Spoil:
  """Returns a mutation of chunks: change(first, *others) returns what they become."""
  return lambda data, rng: _joined(change(*chunks(data)))


def header(**fields) -> mutations.Spoil:
  """Returns a mutation of fields of a PNG's header: width, height, depth, color, packing, ..."""

  def change(first, *others):
    names = ('width', 'height', 'depth', 'color', 'compression', 'filter', 'interlace')
    values = dict(zip(names, struct.unpack('>IIBBBBB', first[1]), strict=True)) | fields
    return [(first[0], struct.pack('>IIBBBBB', *values.values())), *others]

  return _changed(change)


def with_chunk(name: bytes, content: bytes) -> mutations.Spoil:
  """Returns a mutation that puts one more chunk behind the header."""
  return _changed(lambda first, *others: [first, (name, content), *others])


def _with_wrong_checksum(data, rng):
  text = (b'tEXt', b'Comment\0text')
  good = chunk(*text)
  return with_chunk(*text)(data, rng).replace(good, good[:-1] + bytes([good[-1] ^ 1]))


def zeros(count: int) -> bytes:
  """Returns `count` zero bytes, compressed without holding them all."""
  packer = zlib.compressobj(9)
  blocks = [packer.compress(bytes(min(2**20, count - at))) for at in range(0, count, 2**20)]
  return b''.join([*blocks, packer.flush()])


def png_of_zeros(width: int, height: int, depth: int = 8, color: int = 2) -> mutations.Spoil:
  """Returns a mutation to a black PNG of any size."""

  def spoil(data, rng):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    line = (width * channels * depth + 7) // 8 + 1
    head = struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0)
    return _joined([(b'IHDR', head), (b'IDAT', zeros(line * height)), (b'IEND', b'')])

  return spoil


def _without(name):
  return _changed(lambda *parts: [part for part in parts if part[0] != name])


def _too_much_data(first, *others):
  return [first, *((name, zeros(_BOMB) if name == b'IDAT' else old) for name, old in others)]


def saved_as(image_format: str, mode: str = 'RGB', **settings) -> mutations.Spoil:
  """Returns a mutation to the same image in another format or mode."""

  def spoil(data, rng):
    image = PIL.Image.open(io.BytesIO(data)).convert('RGB')
    if mode == 'I;16':
      image = image.convert('L').point(lambda value: value * 257, 'I').convert('I;16')
    else:
      image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **settings)
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

_ICC_OF_NOISE = bytes(range(99))
# Metadata, broken or not, does not stop an image whose pixels are fine.
_PNG_METADATA = {
  **{f'EXIF {what}': (b'eXIf', content) for what, content in _EXIFS.items()},
  'ICC profile of noise': (b'iCCP', b'name\0\0' + _ICC_OF_NOISE),
  'ICC profile without a name': (b'iCCP', b'x' * 200),
  'ICC profile that is a bomb': (b'iCCP', b'name\0\0' + zeros(_BOMB)),
  'compressed text of noise': (b'zTXt', b'key\0\0noise noise'),
  'compressed text that is a bomb': (b'zTXt', b'key\0\0' + zeros(_BOMB)),
  'text that is not Latin': (b'iTXt', b'key\0\1\0\xff\0\xff\0' + b'\xff' * 9),
  'text of 5 MB': (b'tEXt', b'key\0' + b'x' * (5 * 2**20)),
  'a resolution of zeros': (b'pHYs', bytes(9)),
  'a resolution cut': (b'pHYs', b'\0'),
  'a gamma of nothing': (b'gAMA', bytes(4)),
  'a time of nonsense': (b'tIME', b'\xff' * 7),
  'an unknown chunk': (b'prVt', b'x' * 99),
}
# Each is refused, whatever the data behind it.
_HEADERS: tuple[dict[str, int], ...] = (
  {'width': 0},
  {'height': 0},
  {'width': 2**31 - 1},
  {'height': 2**31 - 1},
  {'width': 2**32 - 1, 'height': 2**32 - 1},
  {'width': 60000, 'height': 60000},
  *({'depth': depth} for depth in (3, 0)),
  *({'color': color} for color in (7, 3)),
  {'interlace': 9},
  {'filter': 1},
  {'compression': 255},
)
_PNGS_REFUSED = {
  **{
    f'header: {", ".join(f"{key} {value}" for key, value in fields.items())}': header(**fields)
    for fields in _HEADERS
  },
  'no header': _without(b'IHDR'),
  'no data': _without(b'IDAT'),
  'a chunk of 2**31 bytes': lambda data, rng: data[:33] + b'\x7f\xff\xff\xffIDAT' + data[41:],
}
_PNGS_OF_KINDS = {
  'an unknown critical chunk': with_chunk(b'PRVT', b'x' * 99),
  'text with a wrong checksum': _with_wrong_checksum,
  'transparency of wrong length': with_chunk(b'tRNS', b'x' * 5),
  **{f'really {what}': saved_as(what) for what in 'WEBP BMP TIFF GIF PPM ICO'.split()},
  **{f'mode {mode}': saved_as('PNG', mode) for mode in ('L', 'LA', 'RGBA', 'P', '1')},
  '16 bits': saved_as('PNG', 'I;16'),
  'animated PNG': _animated('PNG'),
  'animated GIF': _animated('GIF'),
  'an MPO': _animated('MPO'),
  **{f'PNG with orientation {n}': _turned(n, 'PNG') for n in (0, 3, 6, 9)},
}
_PNGS_OF_SIZES = {
  'header: depth 16': header(depth=16),
  'header: color 6': header(color=6),
  'no end': _without(b'IEND'),
  'more data than pixels: a bomb': _changed(_too_much_data),
  'a black image of 1 x 50,000,000': png_of_zeros(50_000_000, 1, color=0),
  'a black image of 11,000 x 11,000': png_of_zeros(11000, 11000),
  'a black image of 30,000 x 30,000, 1 bit': png_of_zeros(30000, 30000, 1, 0),
  'an image of 1 x 1': png_of_zeros(1, 1),
}
PNGS = (
  *mutations.named({what: with_chunk(*parts) for what, parts in _PNG_METADATA.items()}, 'accepted'),
  *mutations.named(_PNGS_OF_KINDS),
  *mutations.PLACES,
  *mutations.named(_PNGS_REFUSED, 'refused'),
  *mutations.named(_PNGS_OF_SIZES),
)
PNGS_RANDOM = (*mutations.RANDOM, mutations.Mutation('cut', mutations.cut))


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


_PROGRESSIVE = saved_as('JPEG', progressive=True)
_JPEG_METADATA = {
  **{f'EXIF {what}': (0xE1, b'Exif\0\0' + content) for what, content in _EXIFS.items()},
  'ICC profile of noise': (0xE2, b'ICC_PROFILE\0\1\1' + _ICC_OF_NOISE),
  'ICC profile in a part of none': (0xE2, b'ICC_PROFILE\0\0\0'),
  'a comment that is not UTF-8': (0xFE, b'\xff' * 99),
  'a segment of Photoshop, cut': (0xED, b'Photoshop 3.0\08BIM\4\4'),
  'MPF of noise': (0xE2, b'MPF\0' + _ICC_OF_NOISE),
  'XMP without end': (0xE1, b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta'),
  'JFIF cut': (0xE0, b'JFIF\0'),
}
_JPEGS_ACCEPTED = {
  **{what: segment(*parts) for what, parts in _JPEG_METADATA.items()},
  'progressive': _PROGRESSIVE,
}
_JPEGS_ANY = {
  'Adobe cut': segment(0xEE, b'Adobe'),
  'mode CMYK': saved_as('JPEG', 'CMYK'),
  'mode L': saved_as('JPEG', 'L'),
  'progressive and cut': lambda data, rng: mutations.cut(_PROGRESSIVE(data, rng), rng),
  **{f'JPEG with orientation {n}': _turned(n, 'JPEG') for n in (0, 3, 6, 9)},
  'frame of 65,535 x 65,535': frame(1, b'\xff' * 4),
  'frame of height 0': frame(1, b'\0\0'),
  'no Huffman table': _no_tables,
  'no end': lambda data, rng: data[:-2],
  'really a PNG': saved_as('PNG'),
}
_JPEGS_REFUSED = {
  'frame of width 0': frame(3, b'\0\0'),
  'frame of 255 components': frame(5, b'\xff'),
  'frame of 0 components': frame(5, b'\0'),
  'frame of 12 bits': frame(0, b'\x0c'),
  'sampling of 0': frame(7, b'\0'),
  'sampling of 15': frame(7, b'\xff'),
}
JPEGS = (
  *mutations.named(_JPEGS_ACCEPTED, 'accepted'),
  *mutations.named(_JPEGS_ANY),
  *mutations.named(_JPEGS_REFUSED, 'refused'),
  *mutations.ANY_FILE,
  *mutations.PLACES,
)
