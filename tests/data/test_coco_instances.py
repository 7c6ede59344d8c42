"""Limits of drawing instances: the label divisor, and the size of the image."""

import numpy as np
from pycocotools import mask as coco_mask
import pytest

from deeplab2 import errors
from deeplab2.data import coco_instances
from deeplab2.data import datasets

_SQUARE = {'category_id': 1, 'segmentation': [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0]]}


def test_more_instances_than_the_divisor_can_number():
  info = datasets.get('coco_panoptic')
  info = info._replace(label_space=info.label_space._replace(label_divisor=3))
  coco_instances.label_of_instances([_SQUARE] * 2, (8, 8), info, 'here')
  with pytest.raises(errors.UserError, match='here: 3 instances of class 1; the label divisor 3'):
    coco_instances.label_of_instances([_SQUARE] * 3, (8, 8), info, 'here')


def _label(segmentation, size=(8, 8), **flags):
  annotation = {'id': 5, 'category_id': 1, 'segmentation': segmentation}
  return coco_instances.label_of_instances(
    [annotation], size, datasets.get('coco_panoptic'), 'here', **flags
  )


_NAN, _INF = float('nan'), float('inf')


# Some of these had pycocotools read beyond its memory, or run for ever.
@pytest.mark.parametrize(
  'segmentation, words',
  [
    ({'counts': [2, 4], 'size': [2, 3]}, r'of size \[2, 3\], its image \[8, 8\]'),
    ({'counts': [2, 4], 'size': [8, 8]}, 'its runs cover 6 pixels, the image has 64'),
    ({'counts': [2, 400], 'size': [8, 8]}, 'its runs cover 402 pixels'),
    ({'counts': [10, -6, 60], 'size': [8, 8]}, 'a run length is not an integer from 0'),
    ({'counts': [2.0, 62], 'size': [8, 8]}, 'a run length is not an integer'),
    ({'counts': [True, 63], 'size': [8, 8]}, 'a run length is not an integer'),
    ({'counts': [2**80], 'size': [8, 8]}, 'its runs cover 1208925819614629174706176 pixels'),
    ({'counts': '0P0', 'size': [8, 8]}, 'ends within a number|cover'),
    ({'counts': 'zzzz', 'size': [8, 8]}, "holds 'z'"),
    ({'counts': 'PPPP', 'size': [8, 8]}, 'ends within a number'),
    ({'counts': '\u00fc', 'size': [8, 8]}, 'no character of compressed runs'),
    ({'size': [8, 8]}, 'counts is None'),
    ({'counts': [64]}, 'it is of size None'),
    ('x', "'x'; must be polygons"),
    ([], r'\[\]; must be polygons'),
    (None, 'None; must be'),
    ([[]], 'at least three points'),
    ([[1, 1, 5, 5]], 'at least three points'),
    ([1, 1, 5, 5], 'at least three points'),
    ([[1, 1, 5, 1, 5, 5, 3]], 'at least three points'),
    ([[1, 1, 5, 1, 5, '5']], "coordinate is '5'"),
    ([[1, 1, 5, 1, 5, None]], 'coordinate is None'),
    ([[1, 1, 5, 1, 5, _NAN]], 'coordinate is nan'),
    ([[1, 1, 5, 1, 5, _INF]], 'coordinate is inf'),
    ([[1, 1, 5, 1, 5, 1e9]], r'coordinate is 1e\+09, far outside of the image of 8x8'),
    ([[1, 1, 5, 1, 5, -1e300]], 'far outside'),
    ([[1, 1, 5, 1, 5, 10**400]], 'neither'),
    ([[1, 1, 5, 1, 5, 5], 3], 'a polygon is 3'),
  ],
)
def test_segmentations_of_no_use_are_named(segmentation, words):
  with pytest.raises(errors.UserError, match=f'^here, annotation 5: .*({words})'):
    _label(segmentation)
  drawn = _label(segmentation, skip=True)
  assert len(drawn.left_out) == 1 and not drawn.label.any()


def test_compressed_run_lengths_are_those_of_pycocotools():
  rng = np.random.RandomState(0)
  for size in ((8, 8), (37, 211), (400, 3), (1, 1)):
    mask = rng.rand(*size) < rng.rand()
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    text = encoded['counts'].decode()
    drawn = _label({'size': list(size), 'counts': text}, size)
    np.testing.assert_array_equal(drawn.label > 0, mask)
    runs = coco_instances._runs(text)
    assert sum(runs) == mask.size and sum(runs[1::2]) == mask.sum()


def test_polygons_may_reach_beyond_the_image():
  inside = _label([[2, 2, 8, 2, 8, 8, 2, 8]]).label
  np.testing.assert_array_equal(_label([[2, 2, 9.5, 2, 9.5, 12, 2, 12]]).label, inside)
  np.testing.assert_array_equal(_label([2, 2, 8, 2, 8, 8, 2, 8]).label, inside)
  assert (inside > 0).sum() == 36


def test_what_vanishes_is_told():
  info = datasets.get('coco_panoptic')

  def box(number, left, right, **changes):
    return {
      'id': number,
      'category_id': 1,
      **changes,
      'segmentation': [[left, 0, right, 0, right, 4, left, 4]],
    }

  drawn = coco_instances.label_of_instances(
    [box(1, 0, 4), box(2, 0, 2), box(3, 2, 4), box(4, 6, 6), box(5, 0, 2, iscrowd=1)],
    (4, 8),
    info,
    'here',
  )
  assert drawn.empty == ['here, annotation 4']
  assert drawn.covered == ['here, annotation 5', 'here, annotation 1']
  assert set(np.unique(drawn.label)) == {0, 258, 259}
  assert not drawn.left_out
