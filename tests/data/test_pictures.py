"""Tests for deeplab2.data.pictures."""
import os

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import pictures


@pytest.fixture(name='image')
def _image():
  """A smooth uint8 picture [20, 30, 3], so that JPEG stays close to it."""
  y, x = np.mgrid[:20, :30]
  return np.stack([8 * y, 8 * x, 100 + 2 * (x + y)], -1).astype(np.uint8)


def _decode(encoded):
  return tf.io.decode_image(encoded.data, channels=3, expand_animations=False).numpy()


@pytest.mark.parametrize('ending, image_format', [('jpg', 'jpeg'), ('png', 'png')])
def test_good_files_keep_their_bytes(tmp_path, image, ending, image_format):
  path = tmp_path / f'a.{ending}'
  PIL.Image.fromarray(image).save(path)
  encoded = pictures.encode_for_record(str(path))
  assert encoded == (path.read_bytes(), image_format, 20, 30)


@pytest.mark.parametrize('orientation, turn', [
    (2, lambda a: a[:, ::-1]), (3, lambda a: a[::-1, ::-1]), (4, lambda a: a[::-1]),
    (5, lambda a: a.transpose(1, 0, 2)), (6, lambda a: np.rot90(a, -1)),
    (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)), (8, lambda a: np.rot90(a))])
@pytest.mark.parametrize('ending', ['jpg', 'png'])
def test_exif_orientation_is_baked_in(tmp_path, image, ending, orientation, turn):
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  PIL.Image.fromarray(image).save(tmp_path / f'a.{ending}', exif=exif, quality=95, subsampling=0)
  encoded = pictures.encode_for_record(str(tmp_path / f'a.{ending}'))
  expected = turn(image)
  assert (encoded.height, encoded.width) == expected.shape[:2]
  np.testing.assert_allclose(_decode(encoded).astype(int), expected, atol=8)
  # Written again, the picture asks for no further turn.
  (tmp_path / 'again').write_bytes(encoded.data)
  assert pictures.encode_for_record(str(tmp_path / 'again')) == encoded


@pytest.mark.parametrize('mode, ending, tolerance', [
    ('L', 'jpg', 4), ('CMYK', 'jpg', 12), ('L', 'png', 0), ('P', 'png', 0), ('RGBA', 'png', 0),
    ('LA', 'png', 0), ('1', 'png', 0)])
def test_other_modes_become_rgb(tmp_path, image, mode, ending, tolerance):
  converted = PIL.Image.fromarray(image).convert(mode)
  converted.save(tmp_path / f'a.{ending}')
  encoded = pictures.encode_for_record(str(tmp_path / f'a.{ending}'))
  (tmp_path / 'b').write_bytes(encoded.data)
  with PIL.Image.open(tmp_path / 'b') as again:
    assert again.mode == 'RGB'
  np.testing.assert_allclose(
      _decode(encoded).astype(int), np.asarray(converted.convert('RGB')).astype(int),
      atol=tolerance)


def test_encode_is_near_lossless(image):
  encoded = pictures.encode(image)
  assert encoded.format == 'jpeg' and (encoded.height, encoded.width) == (20, 30)
  np.testing.assert_allclose(_decode(encoded).astype(int), image, atol=6)


def test_bad_files_are_named(tmp_path, image):
  with pytest.raises(errors.UserError, match='none.jpg: no such picture'):
    pictures.encode_for_record(str(tmp_path / 'none.jpg'))
  (tmp_path / 'text.jpg').write_text('no picture')
  with pytest.raises(errors.UserError, match='text.jpg: the picture cannot be decoded'):
    pictures.encode_for_record(str(tmp_path / 'text.jpg'))
  PIL.Image.fromarray(image).save(tmp_path / 'cut.jpg')
  os.truncate(tmp_path / 'cut.jpg', os.path.getsize(tmp_path / 'cut.jpg') - 100)
  with pytest.raises(errors.UserError, match='cut.jpg: the picture cannot be decoded'):
    pictures.encode_for_record(str(tmp_path / 'cut.jpg'))
  PIL.Image.fromarray(image).save(tmp_path / 'a.gif')
  with pytest.raises(errors.UserError, match='a.gif: format GIF; must be JPEG or PNG'):
    pictures.encode_for_record(str(tmp_path / 'a.gif'))
  PIL.Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / 'deep.png')
  with pytest.raises(errors.UserError, match="deep.png: pixels of mode 'I;16'"):
    pictures.encode_for_record(str(tmp_path / 'deep.png'))
