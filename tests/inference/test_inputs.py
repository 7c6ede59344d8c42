"""Tests for images as Python programs hold them."""

import pathlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.inference import inputs

PIXELS = np.random.RandomState(0).randint(0, 256, (6, 9, 3), np.uint8)


def test_every_form_gives_the_same_pixels(tmp_path, monkeypatch):
  path = tmp_path / 'image.png'
  PIL.Image.fromarray(PIXELS).save(path)
  monkeypatch.setenv('HOME', str(tmp_path))
  for image in (
    str(path),
    path,
    pathlib.Path('~/image.png'),
    PIXELS,
    PIL.Image.fromarray(PIXELS),
    tf.constant(PIXELS),
  ):
    np.testing.assert_array_equal(inputs.pixels(image), PIXELS)


def test_pil_images_of_other_modes():
  palette = PIL.Image.fromarray(PIXELS).convert('P')
  np.testing.assert_array_equal(inputs.pixels(palette), np.asarray(palette.convert('RGB')))
  deep = PIL.Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256)
  np.testing.assert_array_equal(inputs.pixels(deep), PIXELS[..., [0, 0, 0]])
  with pytest.raises(errors.UserError, match='mode F that cannot be read .32 bits'):
    inputs.pixels(PIL.Image.fromarray(PIXELS[..., 0].astype(np.float32)))
  clear = PIL.Image.fromarray(np.dstack([PIXELS, np.full(PIXELS.shape[:2], 51, np.uint8)]))
  over_white = np.round(0.2 * PIXELS + 0.8 * 255)
  np.testing.assert_array_equal(inputs.pixels(clear), over_white)


@pytest.mark.parametrize(
  'image,words',
  [
    (None, 'image: is of type NoneType; give a path, a uint8 array'),
    (b'\xff\xd8', 'is of type bytes; give a path'),
    ([PIXELS], 'is of type list; give a path'),
    (PIXELS[np.newaxis], r'\[1, 6, 9, 3\] of uint8 is a batch; give list\(images\)'),
    (PIXELS[..., 0], 'is grey; give np.repeat'),
    (PIXELS[..., :1], 'is grey; give np.repeat'),
    (np.zeros((6, 9, 4), np.uint8), r'four channels; give image\[..., :3\]'),
    (PIXELS.transpose(2, 0, 1), r'channels first; give image.transpose\(1, 2, 0\)'),
    (PIXELS[:0], r'\[0, 9, 3\] of uint8 has no pixels'),
    (PIXELS / 255, 'of float64 must be uint8 in 0..255; of values in 0..1, give'),
    (PIXELS.astype(np.int64), 'of int64 must be uint8'),
    (np.uint8(3), 'is no image; must be uint8'),
    ('none.jpg', 'none.jpg: no such image'),
    ('', 'an empty path'),
  ],
)
def test_what_is_no_image_is_told_what_would_be(image, words):
  with pytest.raises(errors.UserError, match=words) as caught:
    inputs.pixels(image)
  assert '\n' not in str(caught.value)


def test_the_advice_about_arrays_works():
  image = PIXELS[..., 0]
  inputs.pixels(np.repeat(image[..., np.newaxis], 3, axis=-1))
  inputs.pixels(np.repeat(PIXELS[..., :1], 3, axis=-1))
  scaled = PIXELS / 255
  pixels = inputs.pixels((255 * scaled).round().astype(np.uint8))
  np.testing.assert_array_equal(pixels, PIXELS)


def test_a_tensor_of_a_graph_is_refused():
  @tf.function
  def traced(image):
    inputs.pixels(image)
    return image

  with pytest.raises(errors.UserError, match='without values .is it of a graph'):
    traced(tf.constant(PIXELS))
