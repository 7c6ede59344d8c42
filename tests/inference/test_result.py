"""Tests for Result: numbers of a map that is counted by hand."""

import io

import numpy as np
import PIL.Image
import pytest

from deeplab2.data import datasets
from deeplab2.data import stretched
from deeplab2.inference import result as result_lib

INFO = datasets.get('shapes')  # Divisor 256; 1 circle, 2 square, ... are things, 6 sky is stuff.
VOID = INFO.label_space.void_id
CIRCLE, SECOND, SKY = 1 * 256 + 1, 1 * 256 + 2, 6 * 256


def _map():
  """Returns [4, 5]: sky, two circles of 1 and 4 pixels, one pixel of void."""
  panoptic = np.full((4, 5), SKY)
  panoptic[0, 4] = CIRCLE
  panoptic[1:3, 1:3] = SECOND
  panoptic[3, 0] = VOID
  return panoptic


def _result(**arguments):
  image = np.full((4, 5, 3), 90, np.uint8)
  return result_lib.Result(image, _map(), INFO, **arguments)


def test_segments_are_counted_largest_first():
  result = _result(scores={CIRCLE: 0.5, SKY: 0.25})
  names = INFO.class_names
  assert result.segments == [
    dict(
      id=SKY,
      class_id=6,
      class_name=names[6],
      is_thing=False,
      score=0.25,
      area=20 - 1 - 4 - 1,
      bbox=[0, 0, 5, 4],
    ),
    dict(
      id=SECOND,
      class_id=1,
      class_name=names[1],
      is_thing=True,
      score=None,
      area=4,
      bbox=[1, 1, 2, 2],
    ),
    dict(
      id=CIRCLE,
      class_id=1,
      class_name=names[1],
      is_thing=True,
      score=0.5,
      area=1,
      bbox=[4, 0, 1, 1],
    ),
  ]
  assert repr(result) == f'<Result 4x5: {names[6]}, {names[1]} x2>'


def test_maps_are_int32_at_the_size_of_the_image():
  result = _result()
  np.testing.assert_array_equal(result.panoptic, _map())
  np.testing.assert_array_equal(result.semantic, _map() // 256)
  assert result.panoptic.dtype == result.semantic.dtype == np.int32
  ones = np.ones((4, 5), np.int64)
  np.testing.assert_array_equal(_result(semantic=ones).semantic, ones)
  rows, columns = np.array([0, 0, 1, 2, 3, 3, 3]), np.array([0, 1, 2, 3, 4, 4])
  larger = result_lib.Result(
    np.zeros((7, 6, 3), np.uint8), stretched.StretchedMap(_map(), rows, columns), INFO
  )
  np.testing.assert_array_equal(larger.panoptic, _map()[rows][:, columns])
  assert [segment['area'] for segment in larger.segments] == [42 - 3 - 4 - 4, 4, 4]


def test_coco():
  result = _result()
  entry = result.to_coco(17)
  assert (entry['image_id'], entry['file_name']) == (17, '17.png')
  rgb = np.asarray(result.coco_png()).astype(int)
  ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
  assert ids[3, 0] == 0
  listed = {segment['id']: segment for segment in entry['segments_info']}
  assert {i: (ids == i).sum() for i in listed} == {i: s['area'] for i, s in listed.items()}
  assert [s['category_id'] for s in listed.values()] == [INFO.original_ids[c] for c in (1, 1, 6)]
  assert result.to_coco('a')['file_name'] == 'a.png'


def test_images():
  result = _result()
  overlay = result.overlay()
  assert overlay.width == 5 * 96  # Enlarged to 480 pixels.
  shown = PIL.Image.open(io.BytesIO(result._repr_png_()))
  np.testing.assert_array_equal(np.asarray(shown), np.asarray(overlay))


def test_nothing_found():
  image = np.zeros((2, 2, 3), np.uint8)
  result = result_lib.Result(image, np.full((2, 2), VOID), INFO)
  assert result.segments == [] and repr(result) == '<Result 2x2: no segments>'
  assert result.overlay().size[0] == 480


def test_a_map_of_another_size_is_refused():
  with pytest.raises(ValueError, match=r'\(4, 5\) is not of the image, \(5, 4\)'):
    result_lib.Result(np.zeros((5, 4, 3), np.uint8), _map(), INFO)
