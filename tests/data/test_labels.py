"""Tests for deeplab2.data.labels. Expected maps are worked out by hand."""

import re

import numpy as np
import pytest

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.data import datasets
from deeplab2.data import labels

# Things 1, 2; stuff 3; void 0; at most 3 instances.
_SPACE = structures.LabelSpace(4, 0, 4, (1, 2))
_OUTSIDE = structures.LabelSpace(3, 255, 1000, (1, 2))

_IDS = np.array([[7, 7, 8, 8, 9], [5, 5, 5, 0, 0]])
_SEGMENTS = (
  labels.Segment(8, 1, 2),
  labels.Segment(7, 1, 2),
  labels.Segment(5, 3, 3),
  labels.Segment(9, 2, 1, is_crowd=True),
)


def _info(space):
  names = tuple(f'name {index}' for index in range(space.num_classes))
  return datasets.get('shapes')._replace(label_space=space, class_names=names)


def _build(segments=_SEGMENTS, space=_SPACE, treat_crowd_as_ignore=True, ids=_IDS):
  return labels.from_segments(
    ids,
    segments,
    _info(space),
    treat_crowd_as_ignore=treat_crowd_as_ignore,
    where='a.json, image 3',
  )


def test_instances_are_numbered_in_the_order_of_the_list():
  label = _build()
  assert label.dtype == np.int32
  # Segment 8 comes first in the list: instance 1. 0 is void, crowd too.
  np.testing.assert_array_equal(label, [[6, 6, 5, 5, 0], [12, 12, 12, 0, 0]])


def test_kept_crowd_has_instance_0():
  label = _build(treat_crowd_as_ignore=False)
  np.testing.assert_array_equal(label, [[6, 6, 5, 5, 8], [12, 12, 12, 0, 0]])
  np.testing.assert_array_equal(labels.crowd_mask(label, _SPACE), label == 8)
  np.testing.assert_array_equal(labels.ignore_crowd(label, _SPACE), _build())


def test_void_beyond_the_classes():
  segments = (labels.Segment(7, 0, 2), labels.Segment(8, 1, 2))
  np.testing.assert_array_equal(
    _build(segments, _OUTSIDE, ids=np.where(_IDS > 6, _IDS, 0) * (_IDS < 9)),
    [[0, 0, 1001, 1001, 255000], [255000] * 5],
  )


@pytest.mark.parametrize(
  'changed, message',
  [
    (
      labels.Segment(9, 2, 2),
      r'segment 9, pixel \(0, 4\): covers 1 pixels, but its annotated area is 2',
    ),
    (
      labels.Segment(11, 2, 5),
      r'segment 9, pixel \(0, 4\): covers 1 pixels, but is not listed; '
      'segment 11: is listed, with area 5, but has no pixel',
    ),
    (labels.Segment(9, 3, 1, is_crowd=True), 'segment 9: is crowd of name 3, which is stuff'),
    (labels.Segment(8, 2, 2), 'segment 8: is listed twice'),
  ],
)
def test_wrong_segments_are_named(changed, message):
  with pytest.raises(errors.UserError, match=f'^a.json, image 3, {message}'):
    _build(_SEGMENTS[:3] + (changed,))


def test_area_none_is_not_checked():
  np.testing.assert_array_equal(_build(_SEGMENTS[:3] + (labels.Segment(9, 2, None),))[0, 4], 9)


def test_too_many_instances():
  segments = tuple(labels.Segment(i, 1, None) for i in range(1, 5))
  with pytest.raises(errors.UserError, match='segment 4: is instance 4 of name 1.*at most 3'):
    _build(segments, ids=np.arange(5)[np.newaxis])
  _build(segments[:3], ids=np.arange(4)[np.newaxis])


def test_ids_of_list_and_map_must_agree():
  with pytest.raises(
    errors.UserError,
    match=r'segment 5, pixel \(1, 0\): covers 3 pixels, but is not listed \(the first of 2\)\.$',
  ):
    _build(_SEGMENTS[:2])
  more = tuple(labels.Segment(i, 3, None) for i in (20, 21))
  with pytest.raises(
    errors.UserError,
    match=r'segment 20: is listed, but has no pixel \(the first of 2\)\.$',
  ):
    _build(_SEGMENTS + more)
  hidden = tuple(segment._replace(may_be_hidden=True) for segment in more)
  np.testing.assert_array_equal(_build(_SEGMENTS + hidden), _build())


def test_exchanged_channels_are_guessed():
  exchanged = np.array([[0, 7 << 16, 8 << 16, 9 << 16, (5 << 16) + (1 << 8)]])
  segments = (*_SEGMENTS[:2], labels.Segment(5 + (1 << 8), 3, None), *_SEGMENTS[3:])
  segments = [segment._replace(area=None) for segment in segments]
  with pytest.raises(errors.UserError, match='with red and blue exchanged all ids agree'):
    _build(segments, ids=exchanged)
  with pytest.raises(errors.UserError) as caught:
    _build(segments[1:], ids=exchanged)
  assert 'exchanged' not in str(caught.value)
  # Ids that are the same either way are no reason to guess.
  (problem,) = labels.map_problems(
    labels.regions(np.array([[0x050005]])),
    [labels.Segment(0x050005, 3, None), labels.Segment(3, 3, None)],
    _info(_SPACE),
    'here',
  )
  assert str(problem) == 'here, segment 3: stuff not drawn: is listed, but has no pixel'


def test_nothing_but_void_is_refused_where_segments_are_listed():
  hidden = labels.Segment(20, 3, None, may_be_hidden=True)
  empty = np.zeros((2, 3), np.int32)
  with pytest.raises(errors.UserError, match='the label map is all void, but 1 segments'):
    _build((hidden,), ids=empty)
  np.testing.assert_array_equal(_build((), ids=empty), empty)
  # Crowd that becomes void is no mistake.
  np.testing.assert_array_equal(_build(_SEGMENTS[3:], ids=np.full((1, 1), 9)), [[0]])


def test_noise_is_no_map_of_segments():
  with pytest.raises(errors.UserError, match='^a.json, image 3: more than 65536 different ids'):
    _build(ids=np.arange(2**17).reshape(2, -1))


@pytest.mark.parametrize('at_a_time', [1, 7, 40, 2**22])
def test_regions_by_brute_force(monkeypatch, at_a_time):
  monkeypatch.setattr(labels, '_PIXELS_AT_A_TIME', at_a_time)
  values = np.random.randint(-2, 5, (9, 7)) * (np.random.rand(9, 7) > 0.5)
  found = labels.regions(values)
  assert list(found) == np.unique(values).tolist()
  for value, (area, (x, y, width, height), pixel) in found.items():
    rows, columns = np.nonzero(values == value)
    assert (area, pixel) == (len(rows), (rows[0], columns[0]))
    assert (x, y, x + width - 1, y + height - 1) == (
      columns.min(),
      rows.min(),
      columns.max(),
      rows.max(),
    )


def test_split_and_join():
  class_ids, instance_ids = labels.split(np.array([[0, 6, 255003]]), _OUTSIDE)
  np.testing.assert_array_equal(class_ids, [[0, 0, 255]])
  np.testing.assert_array_equal(instance_ids, [[0, 6, 3]])
  np.testing.assert_array_equal(labels.join(class_ids, instance_ids, _OUTSIDE), [[0, 6, 255003]])


@pytest.mark.parametrize(
  'value, message',
  [
    (16, r'id 16 \(class 4, instance 0\); classes must be below 4 or the ignore label 0'),
    (-1, r'class -1'),
    (13, r'class 3 is stuff'),
  ],
)
def test_find_problem(value, message):
  assert labels.find_problem(np.array([[0, 4, 5, 12]]), _SPACE) is None
  problem = labels.find_problem(np.array([[0, 4, value, 12]]), _SPACE)
  assert problem is not None
  assert re.search(message, problem)


def test_find_problem_accepts_void_beyond_the_classes():
  assert labels.find_problem(np.array([255000, 2001]), _OUTSIDE) is None
