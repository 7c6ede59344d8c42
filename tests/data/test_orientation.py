"""Tests for deeplab2.data.orientation. How files are read is in test_images.py."""

import numpy as np
import pytest

from deeplab2 import errors
from deeplab2.data import orientation

_STORED = np.arange(6).reshape(2, 3)
# Worked out by hand from the EXIF standard: which corner the first stored pixel (0) is shown in.
_UPRIGHT = {
  1: [[0, 1, 2], [3, 4, 5]],
  2: [[2, 1, 0], [5, 4, 3]],
  3: [[5, 4, 3], [2, 1, 0]],
  4: [[3, 4, 5], [0, 1, 2]],
  5: [[0, 3], [1, 4], [2, 5]],
  6: [[3, 0], [4, 1], [5, 2]],
  7: [[5, 2], [4, 1], [3, 0]],
  8: [[2, 5], [1, 4], [0, 3]],
}


def _align(mask, turned, drawn_on=None):
  upright = np.array(_UPRIGHT[turned])
  return orientation.align(
    np.asarray(mask), upright.shape, turned, drawn_on, mask_path='m.png', image_path='i.jpg'
  )


@pytest.mark.parametrize('turned', range(1, 9))
def test_turn(turned):
  np.testing.assert_array_equal(orientation.turn(_STORED, turned), _UPRIGHT[turned])
  deep = np.dstack([_STORED, 9 + _STORED])
  np.testing.assert_array_equal(
    orientation.turn(deep, turned)[..., 1], 9 + np.array(_UPRIGHT[turned])
  )


@pytest.mark.parametrize('turned', [5, 6, 7, 8])
def test_sizes_tell(turned):
  np.testing.assert_array_equal(_align(_UPRIGHT[turned], turned), _UPRIGHT[turned])
  np.testing.assert_array_equal(_align(_STORED, turned), _UPRIGHT[turned])


@pytest.mark.parametrize('turned', [2, 3, 4])
def test_sizes_cannot_tell_and_the_user_can(turned):
  for mask in (_STORED, _UPRIGHT[turned]):
    with pytest.raises(
      errors.UserError,
      match=rf'^m.png: its image i.jpg is turned by EXIF '
      rf'\(orientation {turned}\).*--mask_orientation=upright or '
      '--mask_orientation=stored',
    ):
      _align(mask, turned)
  np.testing.assert_array_equal(_align(_STORED, turned, 'stored'), _UPRIGHT[turned])
  np.testing.assert_array_equal(_align(_UPRIGHT[turned], turned, 'upright'), _UPRIGHT[turned])


@pytest.mark.parametrize('turned', [5, 6, 7, 8])
def test_square_images_cannot_be_told_either(turned):
  square = np.arange(4).reshape(2, 2)
  with pytest.raises(errors.UserError, match='--mask_orientation'):
    orientation.align(square, (2, 2), turned, None, mask_path='m', image_path='i')
  aligned = orientation.align(square, (2, 2), turned, 'stored', mask_path='m', image_path='i')
  np.testing.assert_array_equal(aligned, orientation.turn(square, turned))


@pytest.mark.parametrize('drawn_on', [None, 'upright', 'stored'])
def test_upright_images_need_no_word(drawn_on):
  assert _align(_STORED, 1, drawn_on) is not None
  np.testing.assert_array_equal(_align(_STORED, 1, drawn_on), _STORED)


@pytest.mark.parametrize(
  'mask, turned, drawn_on, words',
  [
    (np.zeros((4, 4)), 1, None, 'm.png: is 4x4 (height x width), but its image i.jpg is 2x3; '),
    (np.zeros((4, 4)), 6, None, 'is 3x2 upright and 2x3 as stored (EXIF orientation 6); must be'),
    (_STORED, 6, 'upright', '(EXIF orientation 6, --mask_orientation=upright); must be equal'),
    (np.zeros((3, 2)), 8, 'stored', '(EXIF orientation 8, --mask_orientation=stored); must be'),
  ],
)
def test_sizes_that_disagree(mask, turned, drawn_on, words):
  with pytest.raises(errors.UserError) as caught:
    _align(mask, turned, drawn_on)
  assert words in str(caught.value)


@pytest.mark.parametrize('length', range(40))
def test_cut_exif_is_upright(length):
  exif = b'II*\0\x08\0\0\0\x02\0' + bytes(12) + b'\x12\x01\x03\0\x01\0\0\0\x06\0\0\0'
  assert len(exif) == 34
  assert orientation.of_tiff(exif[:length]) == (6 if length >= 32 else None)
  assert orientation.of_jpeg(b'\xff\xd8\xff\xe1\xff\xffExif\0\0' + exif[:length]) == (
    6 if length >= 32 else 1
  )


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'\xff',
    b'\xff\xd8',
    b'\xff\xd8\xff',
    b'\xff\xd8\xff\xe1',
    b'\xff\xd8\xff\xe1\0\0' * 50,
    b'\xff' * 99,
    b'\x89PNG\r\n\x1a\n',
    b'\x89PNG\r\n\x1a\n\xff\xff\xff\xffeXIf' + bytes(30),
  ],
)
def test_damaged_files_are_upright(data):
  assert orientation.of_jpeg(data) == orientation.of_png(data) == 1
