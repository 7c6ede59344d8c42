"""What becomes of segments, and the numbers of many, against counts by hand."""

import numpy as np
import pytest

from deeplab2 import structures
from deeplab2.metrics import panoptic_quality
from deeplab2.metrics import segment_numbers
from deeplab2.metrics import segments

SPACE = structures.LabelSpace(num_classes=5, ignore_label=0, label_divisor=10, thing_ids=(1, 2))
NOTHING = segments.NOTHING


def _compare(ground_truth, prediction, semantic_scores=None, instance_scores=None):
  maps = [np.array(panoptic) for panoptic in (ground_truth, prediction)]
  ones = np.ones(maps[0].shape, np.float32)
  scores = [
    ones if given is None else np.array(given) for given in (semantic_scores, instance_scores)
  ]
  return segments.compare(*maps, *scores, SPACE)


def test_segments_of_an_image_by_hand():
  """Stuff 3 is found; thing 11 is called class 2; thing 12 is missed under stuff 3."""
  found = _compare(
    [[30, 30, 30, 30, 11, 11], [30, 30, 30, 12, 11, 0]],
    [[30, 30, 30, 30, 21, 21], [30, 30, 30, 30, 21, 21]],
    semantic_scores=[[0.5, 0.5, 0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.5, 0.5, 0.9, 0.9]],
    instance_scores=[[0.8, 0.8, 0.8, 0.8, 1.0, 1.0], [0.4, 0.4, 0.4, 0.4, 1.0, 0.6]],
  )
  assert found.matched_class.tolist() == [3]
  assert found.matched_area.tolist() == [7]
  assert found.matched_iou.tolist() == [7 / 8]
  assert found.matched_score == pytest.approx([0.5 * 0.6])
  assert list(zip(found.missed_class, found.missed_area, found.missed_as, strict=True)) == [
    (1, 3, 2),
    (1, 1, 3),
  ]
  assert found.extra_class.tolist() == [2] and found.extra_area.tolist() == [4]
  assert found.extra_score == pytest.approx([0.9 * 0.9])
  assert found.extra_on.tolist() == [1]
  # Stuff 3: 7/8; thing 1: two missed, 0; thing 2: a false positive, 0.
  assert found.quality() == pytest.approx(7 / 8 / 3)


def test_nothing_stands_for_void_and_crowd():
  """A false positive on crowd of another class and void; a missed one where nothing is said."""
  found = _compare([[20, 20, 0, 11, 11]], [[12, 12, 12, 0, 0]])
  assert found.extra_on.tolist() == [NOTHING] and found.missed_as.tolist() == [NOTHING]
  # On crowd of its own class, a prediction is neither right nor wrong.
  found = _compare([[10, 10, 0, 30]], [[12, 12, 0, 30]])
  assert found.extra_class.size == found.missed_class.size == 0
  assert np.isnan(_compare([[0, 0]], [[0, 0]]).quality())


def test_most_of_a_segment_counts_together():
  """Two segments of class 2 cover more of it than the one of class 3."""
  found = _compare([[11] * 5], [[21, 22, 30, 30, 21]])
  assert found.missed_as.tolist() == [2]


def test_segments_add_up_to_panoptic_quality():
  """Of random maps with void and crowd, where the quality is that of panopticapi."""
  random = np.random.default_rng(0)
  quality, found = panoptic_quality.PanopticQuality(SPACE), []
  ids = np.array([0, 10, 20, 11, 12, 21, 30, 40])
  for _ in range(20):
    ground_truth = ids[random.integers(0, 8, [4, 6])].repeat(9, 0).repeat(9, 1)
    noise = ids[3:][random.integers(0, 5, [4, 6])].repeat(9, 0).repeat(9, 1)
    keep = (random.random([4, 6]) < 0.7).repeat(9, 0).repeat(9, 1) & ~np.isin(
      ground_truth, (10, 20)
    )
    prediction = np.where(keep, ground_truth, noise)
    scores = random.random(prediction.shape, np.float32)
    found.append(segments.compare(ground_truth, prediction, scores, scores, SPACE))
    one = panoptic_quality.PanopticQuality(SPACE)
    one.update(ground_truth, prediction)
    assert found[-1].quality() == pytest.approx(one.result().official.all.pq)
    quality.update(ground_truth, prediction)
  official, whole = quality.result().official, segment_numbers.joined(found)
  for counts, classes in (
    (official.tp, whole.matched_class),
    (official.fn, whole.missed_class),
    (official.fp, whole.extra_class),
  ):
    assert counts.sum() > 10
    np.testing.assert_array_equal(counts, np.bincount(classes, minlength=5))
  iou = np.bincount(whole.matched_class, whole.matched_iou, 5)
  np.testing.assert_allclose(official.iou, iou, rtol=1e-12)
  sizes = segment_numbers.by_size(whole, 5).values()
  assert [sum(getattr(size, name) for size in sizes) for name in ('tp', 'fn', 'fp')] == [
    official.tp.sum(),
    official.fn.sum(),
    official.fp.sum(),
  ]


def _segments(matched=(), missed=(), extra=()):
  """Returns segments from rows: class, area, then IoU and score, `as`, or score and `on`."""
  columns = [
    np.array([row[i] for row in rows], np.int64 if i < 2 else np.float64)
    for rows, width in ((matched, 4), (missed, 3), (extra, 4))
    for i in range(width)
  ]
  return segments.Segments(*columns)


def test_quality_by_size_by_hand():
  """The borders are COCO's: 1024 pixels are medium, 9216 are large."""
  sizes = segment_numbers.by_size(
    _segments(
      matched=[(1, 1023, 0.8, 1.0), (1, 1024, 0.6, 1.0), (3, 9216, 0.9, 1.0)],
      missed=[(1, 9215, NOTHING)],
      extra=[(2, 100, 0.5, 3)],
    ),
    5,
  )
  # Small: class 1 has 0.8, class 2 has a false positive alone.
  assert sizes['small'] == pytest.approx((0.4, 0.4, 0.5, 1, 0, 1, 2))
  # Medium: one of class 1 matched, one missed: SQ 0.6, RQ 1 / 1.5.
  assert sizes['medium'] == pytest.approx((0.4, 0.6, 2 / 3, 1, 1, 0, 1))
  assert sizes['large'] == pytest.approx((0.9, 0.9, 1.0, 1, 0, 0, 1))
  assert segment_numbers.by_size(_segments(), 5)['large'] == (0, 0, 0, 0, 0, 0, 0)


def test_calibration_by_hand():
  calibration = segment_numbers.calibration(
    _segments(
      matched=[(1, 9, 0.8, 0.95), (1, 9, 0.6, 1.0), (3, 9, 0.9, 0.35)],
      extra=[(2, 9, 0.9, 3), (2, 9, 0.31, 3)],
    )
  )
  assert calibration.counts.tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 3]
  assert calibration.score[[3, 9]] == pytest.approx([0.33, 0.95])
  assert calibration.precision[[3, 9]] == pytest.approx([1 / 2, 2 / 3])
  assert np.isnan(calibration.precision[0])
  expected = (2 * abs(0.5 - 0.33) + 3 * abs(2 / 3 - 0.95)) / 5
  assert calibration.expected_error == pytest.approx(expected)
  assert np.isnan(segment_numbers.calibration(_segments()).expected_error)


def test_confusion_by_hand():
  of = _segments(
    missed=[(1, 9, 2), (1, 9, 2), (1, 9, 1), (4, 9, NOTHING)],
    extra=[(2, 9, 0.5, 1), (2, 9, 0.5, NOTHING)],
  )
  missed, extra = segment_numbers.missed_as(of, 5), segment_numbers.extra_on(of, 5)
  assert missed.shape == extra.shape == (5, 6)
  assert missed[1].tolist() == [0, 0, 1, 2, 0, 0] and missed[4, 0] == 1 and missed.sum() == 4
  assert extra[2].tolist() == [1, 0, 1, 0, 0, 0] and extra.sum() == 2
