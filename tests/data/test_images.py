"""Tests for deeplab2.data.images: whatever is accepted, training decodes to the right pixels."""

import io
import os
import pathlib
import struct
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import images
from tests import hostile_names

_PIXELS = images._MOST_PIXELS


@pytest.fixture(name='image')
def _image():
  """A smooth uint8 image [20, 30, 3], so that JPEG stays close to it."""
  y, x = np.mgrid[:20, :30]
  return np.stack([8 * y, 8 * x, 100 + 2 * (x + y)], -1).astype(np.uint8)


def _decode(encoded):
  """Decodes as training does."""
  return tf.io.decode_image(encoded.data, channels=3, expand_animations=False).numpy()


def _save(path, image, **settings):
  image = PIL.Image.fromarray(image) if isinstance(image, np.ndarray) else image
  image.save(path, **settings)
  return str(path)


def _chunk(kind, content, crc=None):
  crc = zlib.crc32(kind + content) if crc is None else crc
  return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', crc)


def _png(height, width, color, bits, rows, *chunks):
  return b''.join(
    [
      b'\x89PNG\r\n\x1a\n',
      _chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, color, 0, 0, 0)),
      *chunks,
      _chunk(b'IDAT', zlib.compress(rows)),
      _chunk(b'IEND', b''),
    ]
  )


def _tiff(orientation, order='<'):
  """EXIF data of one field."""
  return (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(
    f'{order}IHHHIHH', 8, 1, 0x0112, 3, 1, orientation, 0
  )


def _loads(path, expected, tolerance=0, shown=True):
  """Asserts that a file is read as `expected`, and that a record of it holds the same.

  Args:
    path: of the file.
    expected: its pixels.
    tolerance: on them.
    shown: whether a viewer shows the same; not so where it is transparent.
  """
  encoded = images.encode_image(images.load(str(path)))
  decoded = _decode(encoded)
  assert (encoded.height, encoded.width) == decoded.shape[:2]
  if shown:
    np.testing.assert_array_equal(images.read(str(path)), decoded)
  np.testing.assert_allclose(decoded.astype(int), expected, atol=tolerance)
  (pathlib.Path(path).parent / 'again').write_bytes(encoded.data)
  # A record's content is upright, RGB, and stays as it is.
  assert images.encode_image(images.load(str(pathlib.Path(path).parent / 'again'))) == encoded
  return encoded


@pytest.mark.parametrize(
  'ending, image_format', [('jpg', 'jpeg'), ('png', 'png'), ('JFIF', 'jpeg')]
)
def test_good_files_keep_their_bytes(tmp_path, image, ending, image_format):
  path = tmp_path / f'a.{ending}'
  _save(path, image, format=image_format)
  assert images.encode_image(images.load(str(path))) == (path.read_bytes(), image_format, 20, 30)


_TURNS = [
  (1, lambda a: a),
  (2, lambda a: a[:, ::-1]),
  (3, lambda a: a[::-1, ::-1]),
  (4, lambda a: a[::-1]),
  (5, lambda a: a.transpose(1, 0, 2)),
  (6, lambda a: np.rot90(a, -1)),
  (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
  (8, lambda a: np.rot90(a)),
]


@pytest.mark.parametrize('orientation, turn', _TURNS)
@pytest.mark.parametrize(
  'ending, settings',
  [
    ('jpg', {'quality': 95, 'subsampling': 0}),
    ('png', {}),
    ('webp', {'lossless': True}),
    ('tif', {}),
    ('tif', {'compression': 'tiff_lzw'}),
  ],
)
def test_exif_orientation_is_baked_in(tmp_path, image, ending, settings, orientation, turn):
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  path = _save(tmp_path / f'a.{ending}', image, exif=exif, **settings)
  assert images.load(path).orientation == orientation
  encoded = _loads(path, turn(image), tolerance=10 if ending == 'jpg' else 0)
  assert encoded.format == ('jpeg' if ending == 'jpg' else 'png')


def _as_text(exif):
  """The chunk in which ImageMagick keeps EXIF data."""
  text = f'\nexif\n{len(exif) + 6:8}\n{(b"Exif" + bytes(2) + exif).hex()}\n'.encode()
  return b'Raw profile type exif\0\0' + zlib.compress(text)


@pytest.mark.parametrize(
  'kind, content',
  [
    (b'eXIf', _tiff(3)),
    (b'eXIf', _tiff(3, '>')),
    (b'eXIf', b'Exif\0\0' + _tiff(3)),
    (b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'),
    (b'zTXt', _as_text(_tiff(3))),
  ],
)
@pytest.mark.parametrize('after', [False, True])
def test_orientation_of_a_png_wherever_it_stands(tmp_path, image, kind, content, after):
  data = io.BytesIO()
  PIL.Image.fromarray(image).save(data, 'PNG')
  at = data.getvalue().index(b'IEND' if after else b'IDAT') - 4
  path = tmp_path / 'a.png'
  path.write_bytes(data.getvalue()[:at] + _chunk(kind, content) + data.getvalue()[at:])
  _loads(path, image[::-1, ::-1])


def test_orientation_of_xmp_in_a_jpeg(tmp_path, image):
  data = io.BytesIO()
  PIL.Image.fromarray(image).save(data, 'JPEG', quality=95, subsampling=0)
  xmp = b'http://ns.adobe.com/xap/1.0/\0<x><tiff:Orientation>4</tiff:Orientation></x>'
  path = tmp_path / 'a.jpg'
  path.write_bytes(
    data.getvalue()[:2] + b'\xff\xe1' + struct.pack('>H', len(xmp) + 2) + xmp + data.getvalue()[2:]
  )
  _loads(path, image[::-1], tolerance=10)


_BROKEN = [b'', b'II', b'garbage', b'II*\0' + b'\xff' * 8, _tiff(6)[:-6], _tiff(9), _tiff(0)]


@pytest.mark.parametrize('exif', _BROKEN)
def test_broken_metadata_of_a_png_stops_nothing(tmp_path, image, exif):
  data = io.BytesIO()
  PIL.Image.fromarray(image).save(data, 'PNG')
  at = data.getvalue().index(b'IDAT') - 4
  bomb = zlib.compress(bytes(30_000_000))
  path = tmp_path / 'a.png'
  for chunk in (
    _chunk(b'eXIf', exif),
    _chunk(b'eXIf', _tiff(6), crc=7),
    _chunk(b'iCCP', b'x'),
    _chunk(b'tEXt', b'no separator', crc=1),
    _chunk(b'zTXt', b'a\0\0' + bomb),
    _chunk(b'zTXt', b'Raw profile type exif\0\0' + bomb),
    _chunk(b'zTXt', b'Raw profile type exif\0\0garbage'),
    _chunk(b'tIME', b'1'),
  ):
    path.write_bytes(data.getvalue()[:at] + chunk + data.getvalue()[at:])
    encoded = _loads(path, image)
    assert encoded.data == path.read_bytes()


@pytest.mark.parametrize('exif', _BROKEN)
@pytest.mark.parametrize('ending', ['jpg', 'webp'])
def test_broken_metadata_of_other_formats_stops_nothing(tmp_path, image, ending, exif):
  settings = {'jpg': {'quality': 95, 'subsampling': 0}, 'webp': {'lossless': True}}[ending]
  path = _save(
    tmp_path / f'a.{ending}', image, exif=b'Exif\0\0' + exif, icc_profile=b'garbage', **settings
  )
  _loads(path, image, tolerance=10 if ending == 'jpg' else 0)


@pytest.mark.parametrize(
  'mode, ending, tolerance',
  [
    ('L', 'jpg', 6),
    ('CMYK', 'jpg', 12),
    ('1', 'jpg', 40),
    *[(mode, 'png', 0) for mode in ('L', 'P', 'RGBA', 'LA', '1')],
    *[(mode, 'bmp', 0) for mode in ('L', 'P', 'RGB', 'RGBA', '1')],
    *[(mode, 'tiff', 0) for mode in ('L', 'P', 'RGB', 'RGBA', 'LA', '1', 'CMYK')],
    *[(mode, 'gif', 0) for mode in ('L', 'P', '1')],
    *[(mode, 'webp', 0) for mode in ('L', 'RGB', 'RGBA')],
  ],
)
def test_other_modes_become_rgb(tmp_path, image, mode, ending, tolerance):
  converted = PIL.Image.fromarray(image).convert(mode)
  settings = {'lossless': True} if ending == 'webp' else {}
  path = _save(tmp_path / f'a.{ending}', converted, **settings)
  encoded = _loads(path, np.asarray(converted.convert('RGB')).astype(int), tolerance)
  with PIL.Image.open(io.BytesIO(encoded.data)) as again:
    assert again.mode == 'RGB'


def test_transparent_pixels_keep_their_colour(tmp_path, image):
  alpha = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
  for ending in ('png', 'tif'):
    path = _save(tmp_path / f'a.{ending}', alpha)
    np.testing.assert_array_equal(images.load(path).pixels, image)
    np.testing.assert_array_equal(_decode(images.encode_image(images.load(path))), image)
    assert (images.read(path) == 255).all(), 'a viewer shows the page'


@pytest.mark.parametrize(
  'ending, mode, settings',
  [
    *[('png', mode, {}) for mode in ('RGBA', 'LA')],
    ('png', 'P', {'transparency': 187}),
    ('png', 'P', {'transparency': bytes(range(256))}),
    ('png', 'RGB', {'transparency': (8, 16, 106)}),
    ('png', 'L', {'transparency': 40}),
    ('gif', 'P', {'transparency': 187}),
    ('webp', 'RGBA', {'lossless': True}),
    ('webp', 'RGBA', {'quality': 80}),
    ('tif', 'RGBA', {}),
    ('tif', 'LA', {}),
  ],
)
@pytest.mark.parametrize('orientation', [1, 6])
def test_transparency_is_shown_over_white(tmp_path, image, ending, mode, settings, orientation):
  """As Pillow mixes the image with a white one."""
  alpha = np.dstack([image, np.mgrid[:20, :30][1].astype(np.uint8) * 8])
  source = PIL.Image.fromarray(alpha if mode.endswith('A') else image).convert(mode)
  # A GIF has no orientation, and Pillow turns a TIFF as it is read and then again.
  if orientation > 1 and ending not in ('gif', 'tif'):
    settings = {**settings, 'exif': PIL.Image.Exif()}
    settings['exif'][0x0112] = orientation
  path = _save(tmp_path / f'a.{ending}', source, **settings)
  with PIL.Image.open(path) as opened:
    shown = PIL.ImageOps.exif_transpose(opened).convert('RGBA')
  page = PIL.Image.new('RGBA', shown.size, 'white')
  page.alpha_composite(shown)
  expected = np.asarray(page.convert('RGB'))
  assert (expected != np.asarray(shown.convert('RGB'))).any()
  np.testing.assert_allclose(images.read(path).astype(int), expected, atol=1)


def test_half_transparent_black_over_white_and_over_grey(tmp_path):
  """By hand: 255 * (255 - 51) / 255 = 204; 100 * 0.8 = 80."""
  path = _save(tmp_path / 'a.png', np.array([[[0, 0, 0, 51], [9, 8, 7, 255]]], np.uint8))
  assert images.read(path).tolist() == [[[204] * 3, [9, 8, 7]]]
  assert images.load(path, background=100).pixels.tolist() == [[[80] * 3, [9, 8, 7]]]


def test_inverted_cmyk(tmp_path, image):
  """Photoshop writes YCCK with inverted values; without an Adobe marker they are as they are."""
  cmyk = PIL.Image.fromarray(image).convert('CMYK')
  path = _save(tmp_path / 'a.jpg', cmyk, quality=95)
  data = pathlib.Path(path).read_bytes()
  assert b'Adobe' in data
  _loads(path, np.asarray(cmyk.convert('RGB')).astype(int), 12)


_DEEP = np.array([[0x1234, 0x56FF, 0xFF00], [0x00FF, 0x8080, 0x0100]], np.uint16)


@pytest.mark.parametrize('ending', ['png', 'tif'])
def test_sixteen_bits_of_grey(tmp_path, ending):
  path = _save(tmp_path / f'a.{ending}', _DEEP)
  _loads(path, np.repeat((_DEEP >> 8)[..., np.newaxis], 3, -1))


@pytest.mark.parametrize('color, channels', [(2, 3), (6, 4), (4, 2)])
def test_sixteen_bits_of_colour_in_a_png(tmp_path, color, channels):
  values = np.arange(2 * 3 * channels, dtype=np.uint16).reshape(2, 3, channels) * 2500 + 77
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in values)
  (tmp_path / 'a.png').write_bytes(_png(2, 3, color, 16, rows))
  expected = (values >> 8)[..., :3] if channels > 2 else np.repeat((values >> 8)[..., :1], 3, -1)
  encoded = _loads(tmp_path / 'a.png', expected, shown=color == 2)
  assert encoded.data != (tmp_path / 'a.png').read_bytes()
  if color != 2:
    alpha = (values >> 8)[..., -1:] / 255
    shown = np.round(expected * alpha + 255 * (1 - alpha))
    np.testing.assert_array_equal(images.read(str(tmp_path / 'a.png')), shown)


@pytest.mark.parametrize('order', ['<', '>'])
def test_sixteen_bits_of_colour_in_a_tiff(tmp_path, order):
  values = np.arange(18, dtype=np.uint16).reshape(2, 3, 3) * 2500 + 77
  pixels = values.astype(f'{order}u2').tobytes()
  fields = [
    (256, 3, 1, 3),
    (257, 3, 1, 2),
    (258, 3, 3, 0),
    (259, 3, 1, 1),
    (262, 3, 1, 2),
    (273, 4, 1, 0),
    (277, 3, 1, 3),
    (278, 3, 1, 2),
    (279, 4, 1, len(pixels)),
  ]
  end = 8 + 2 + 12 * len(fields) + 4
  data = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}IH', 8, len(fields))
  for tag, kind, count, value in fields:
    value = {258: end, 273: end + 6}.get(tag, value)
    is_short = kind == 3 and count == 1
    data += struct.pack(f'{order}HHI', tag, kind, count) + struct.pack(
      f'{order}HH' if is_short else f'{order}I', *((value, 0) if is_short else (value,))
    )
  data += struct.pack(f'{order}I3H', 0, 16, 16, 16) + pixels
  (tmp_path / 'a.tif').write_bytes(data)
  _loads(tmp_path / 'a.tif', values >> 8)


@pytest.mark.parametrize(
  'ending, settings', [('gif', {}), ('webp', {'lossless': True}), ('png', {}), ('tif', {})]
)
def test_of_several_images_the_first_is_used_and_the_file_named(
  tmp_path, image, caplog, ending, settings
):
  path = tmp_path / f'a.{ending}'
  first = PIL.Image.fromarray(image[..., 0] // 4 * 4)
  others = [PIL.Image.fromarray(image[::-1, :, 0]), PIL.Image.fromarray(image[..., 2])]
  first.save(path, save_all=True, append_images=others, **settings)
  _loads(path, np.asarray(first.convert('RGB')))
  assert f'{path}: holds 3 images (frames or pages); the first is used.' in caplog.text


def test_mpo_is_a_jpeg(tmp_path, image, caplog):
  path = tmp_path / 'a.mpo'
  PIL.Image.fromarray(image).save(
    path,
    'MPO',
    save_all=True,
    quality=95,
    subsampling=0,
    append_images=[PIL.Image.new('RGB', (9, 9))],
  )
  assert _loads(path, image, 8).data == path.read_bytes()
  assert not caplog.text


def test_encode_is_near_lossless(image):
  encoded = images.encode(image)
  assert encoded.format == 'jpeg' and (encoded.height, encoded.width) == (20, 30)
  np.testing.assert_allclose(_decode(encoded).astype(int), image, atol=6)


def _refused(path, words):
  with pytest.raises(errors.UserError) as caught:
    images.load(str(path))
  assert str(caught.value).startswith(f'{path}: ') and words in str(caught.value)
  assert '\n' not in str(caught.value) and 'function_node' not in str(caught.value)


def test_bad_files_are_named(tmp_path, image):
  _refused(tmp_path / 'none.jpg', 'no such image')
  (tmp_path / 'text.jpg').write_text('no image')
  _refused(tmp_path / 'text.jpg', 'cannot be decoded (it is not JPEG, PNG, WebP, BMP, TIFF or GIF)')
  (tmp_path / 'empty.png').touch()
  _refused(tmp_path / 'empty.png', 'the file is empty')
  os.mkfifo(tmp_path / 'pipe.png')
  _refused(tmp_path / 'pipe.png', 'is no file')
  _refused(tmp_path, 'is no file')
  for ending in ('jpg', 'png', 'webp', 'bmp', 'tif', 'gif'):
    path = tmp_path / f'cut.{ending}'
    _save(path, np.random.default_rng(0).integers(0, 255, image.shape, np.uint8))
    os.truncate(path, os.path.getsize(path) * 2 // 3)
    _refused(path, 'the image cannot be decoded')
  for ending in ('jpg', 'png', 'webp', 'bmp', 'tif', 'gif'):
    path = tmp_path / f'cut.{ending}'
    os.truncate(path, 13)
    _refused(path, 'the image cannot be decoded')
  _save(tmp_path / 'float.tif', PIL.Image.new('F', (3, 2)))
  _refused(tmp_path / 'float.tif', '32 bits a channel; must be 8 or 16')


def test_what_pillow_alone_decodes_is_refused(tmp_path, image):
  """TensorFlow takes no PNG without its end; records of it could not be trained on."""
  path = tmp_path / 'a.png'
  _save(path, image)
  os.truncate(path, os.path.getsize(path) - 12)
  with PIL.Image.open(path) as opened:
    opened.load()
  _refused(path, 'the image cannot be decoded')


@pytest.mark.parametrize(
  'height, width', [(100_000, 100_000), (2**31 - 1, 1), (_PIXELS + 1, 1), (2, _PIXELS)]
)
def test_hostile_sizes_of_a_png(tmp_path, height, width):
  (tmp_path / 'a.png').write_bytes(_png(height, width, 2, 8, bytes(1000)))
  _refused(tmp_path / 'a.png', f'is {height}x{width} (height x width), ')


def test_hostile_sizes_of_other_formats(tmp_path, image):
  for ending, at, form in (('bmp', 18, '<II'), ('gif', 6, '<HH')):
    path = tmp_path / f'a.{ending}'
    _save(path, image)
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, 60_000, 60_000)
    path.write_bytes(data)
    _refused(path, 'million')
  path = tmp_path / 'a.jpg'
  _save(path, image)
  data = bytearray(path.read_bytes())
  struct.pack_into('>HH', data, data.index(b'\xff\xc0') + 5, 60_000, 60_000)
  path.write_bytes(data)
  _refused(path, 'is 60000x60000 (height x width), 3600 million pixels; at most 179 million')


def test_a_jpeg_of_very_many_scans(tmp_path):
  path = tmp_path / 'a.jpg'
  _save(path, PIL.Image.new('RGB', (4000, 4000)), progressive=True)
  data = path.read_bytes()
  scan = data[data.rindex(b'\xff\xda') : -2]
  path.write_bytes(data[:-2] + 2000 * scan + data[-2:])
  _refused(path, 'goes over its 4000x4000 pixels 2010 times')


def test_label_pngs(tmp_path):
  colours = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  path = _save(tmp_path / 'a.png', colours)
  np.testing.assert_array_equal(images.read_label_png(path, 'RGB', 'must be RGB'), colours)
  for mode, message in (('P', "mode 'P'; must be RGB"), ('L', "mode 'L'"), ('RGBA', "'RGBA'")):
    path = _save(tmp_path / 'a.png', PIL.Image.fromarray(colours).convert(mode))
    with pytest.raises(errors.UserError, match=message):
      images.read_label_png(path, 'RGB', 'must be RGB')
  path = _save(tmp_path / 'a.png', colours[..., 0])
  np.testing.assert_array_equal(images.read_label_png(path, 'L', ''), colours[..., 0])
  # 16 bits would lose their lower half; Pillow calls this RGB.
  (tmp_path / 'a.png').write_bytes(_png(1, 1, 2, 16, bytes(7)))
  with pytest.raises(errors.UserError, match="a.png: mode 'RGB;16'; must be RGB"):
    images.read_label_png(path, 'RGB', 'must be RGB')
  PIL.Image.fromarray(colours).save(path, 'JPEG')
  with pytest.raises(errors.UserError, match='a.png: is no PNG; must be RGB'):
    images.read_label_png(path, 'RGB', 'must be RGB')


@pytest.mark.parametrize('ending', images.ENDINGS)
def test_every_ending_is_listed_in_any_case(tmp_path, ending):
  names = sorted(f'{name}{ending}' for name in ('a', 'B', 'ü', *hostile_names.HOSTILE_NAMES))
  upper = f'z{ending.upper()}'
  for name in (*names, upper, 'notes.txt', ending.strip('.')):
    (tmp_path / name).touch()
  assert images.list_directory(str(tmp_path)) == sorted([*names, upper])


def test_image_files_that_are_not_read_are_named(tmp_path, caplog):
  for name in ('a.HEIC', 'b.avif', '._c.jpg', 'd.jpg', 'e.json'):
    (tmp_path / name).touch()
  assert images.list_directory(str(tmp_path)) == ['d.jpg']
  assert f'{tmp_path}: left out' in caplog.text
  assert "'._c.jpg', 'a.HEIC', 'b.avif'." in caplog.text and 'e.json' not in caplog.text


def test_names_that_are_not_utf8_are_refused(tmp_path):
  (tmp_path / os.fsdecode(b'caf\xe9.jpg')).touch()
  with pytest.raises(errors.UserError, match='is not UTF-8; rename the image'):
    images.list_directory(str(tmp_path))
