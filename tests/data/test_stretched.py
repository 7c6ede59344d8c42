"""Maps in strips against the same maps in one piece."""

import numpy as np
import PIL.Image
import pytest

from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import stretched


def _random(seed, size, values, new_size):
  rng = np.random.RandomState(seed)
  ids = np.array([0, *(256 * np.arange(1, 10))])[:values] + 1
  small = ids[rng.randint(0, values, size)].astype(np.int32)
  rows, columns = (
    np.sort(rng.randint(0, old, new)) for old, new in zip(size, new_size, strict=True)
  )
  return small, rows, columns


@pytest.mark.parametrize(
  'seed, size, new_size',
  [(0, (5, 7), (13, 29)), (1, (9, 4), (3, 3)), (2, (1, 1), (17, 1)), (3, (33, 65), (101, 64))],
)
def test_strips_and_measures_are_those_of_the_whole(monkeypatch, seed, size, new_size):
  monkeypatch.setattr(stretched, '_STRIP_PIXELS', 4 * new_size[1] - 1)
  small, rows, columns = _random(seed, size, 6, new_size)
  panoptic = stretched.StretchedMap(small, rows, columns)
  whole = small[rows][:, columns]
  assert panoptic.shape == new_size
  np.testing.assert_array_equal(panoptic.whole(), whole)
  strips = list(panoptic.strips())
  assert [top for top, _ in strips] == list(range(0, new_size[0], 3))
  np.testing.assert_array_equal(np.concatenate([strip for _, strip in strips]), whole)
  ids = panoptic.ids()
  np.testing.assert_array_equal(ids, np.unique(whole))
  areas, boxes = panoptic.measure(ids)
  for value, area, (x, y, width, height) in zip(ids, areas, boxes, strict=True):
    i, j = np.nonzero(whole == value)
    assert area == i.size
    assert (x, y, width, height) == (j.min(), i.min(), np.ptp(j) + 1, np.ptp(i) + 1)


def test_a_png_written_in_strips_is_that_of_the_whole_map(monkeypatch, tmp_path):
  monkeypatch.setattr(stretched, '_STRIP_PIXELS', 100)
  info = datasets.get('shapes')
  small = np.array([[0, 257, 258], [6 * 256, 257, 7 * 256]], np.int32)
  panoptic = stretched.StretchedMap(small, np.repeat([0, 1], [20, 13]), np.repeat([0, 1, 2], 9))
  encoded = coco_panoptic.encoding(panoptic, info)
  coco_panoptic.write_png(str(tmp_path / 'map.png'), panoptic, encoded)
  rgb, segments = coco_panoptic.encode(panoptic.whole(), info)
  np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / 'map.png')), rgb)
  assert encoded.segments_info == segments
  assert segments[0] == {
    'id': 258,
    'category_id': 1,
    'area': 9 * 33,
    'bbox': [9, 0, 9, 33],
    'iscrowd': 0,
  }


def test_reduced_maps_keep_their_corners_and_their_proportions():
  panoptic = stretched.unstretched(np.arange(40 * 100).reshape(40, 100))
  small = panoptic.reduced(10)
  assert small.shape == (4, 10) and small[0, 0] == 505 and small[-1, -1] == 3595
  np.testing.assert_array_equal(panoptic.reduced(100), panoptic.whole())
