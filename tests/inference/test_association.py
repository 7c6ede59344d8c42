"""Things that keep their numbers in a video, against maps and IoUs by hand."""

import numpy as np
import pytest

from deeplab2 import structures
from deeplab2.data import stretched
from deeplab2.inference import association

# Classes 1 and 2 are things, 3 is stuff, 0 is void.
_SPACE = structures.LabelSpace(4, 0, 10, (1, 2))


def _map(*rows):
  return np.array(rows, np.int32)


def _follow(state, *rows):
  return state.follow(stretched.unstretched(_map(*rows))).whole().tolist()


def test_pairs_have_the_largest_iou_of_their_class():
  # 11 has 4 pixels, 12 has 3. Of `now`, 15 shares 2 with 11 and has 3: IoU 2 / (4 + 3 - 2) = 0.4;
  # it shares 1 with 12: 1 / (3 + 3 - 1) = 0.2. 16 shares 2 with 11 and has 2: 2 / 4 = 0.5.
  before = _map([11, 11, 11, 11, 12, 12, 12, 30])
  now = _map([16, 16, 15, 15, 15, 30, 30, 30])
  assert association.match(before, now, _SPACE) == {16: 11}
  # Without 16, 15 is 11.
  assert association.match(before, _map([30, 30, 15, 15, 15, 30, 30, 30]), _SPACE) == {15: 11}
  # Another class is another thing, however well it fits; stuff, crowd and nothing are none.
  assert association.match(before, before + 10 * (before < 20), _SPACE) == {}
  assert association.match(_map([30, 10, 0, -1]), _map([30, 10, 0, -1]), _SPACE) == {}


@pytest.mark.parametrize('shared, found', [(2, {17: 11}), (1, {})])
def test_the_least_iou(shared, found):
  # 2 / (5 + 5 - 2) = 0.25 is enough, 1 / 9 is not.
  before, now = np.full((1, 10), 30), np.full((1, 10), 30)
  before[0, :5] = 11
  now[0, 5 - shared : 10 - shared] = 17
  assert association.match(before, now, _SPACE) == found


def test_numbers_stay_while_things_move():
  state = association.Association(_SPACE)
  # The model's numbers are from 1 in each frame, in an order that means nothing.
  assert _follow(state, [30, 12, 12, 12, 30, 11, 11, 30]) == [[30, 11 + 1, 12, 12, 30, 11, 11, 30]]
  assert _follow(state, [30, 30, 11, 11, 11, 12, 12, 30]) == [[30, 30, 12, 12, 12, 11, 11, 30]]
  # A third one is new, and one of another class; the second is gone.
  assert _follow(state, [11, 30, 12, 12, 12, 30, 30, 21]) == [[13, 30, 12, 12, 12, 30, 30, 21]]
  # The second is found again where it was; 13 jumped, and counts as new.
  assert _follow(state, [30, 13, 12, 12, 12, 11, 11, 21]) == [[30, 14, 12, 12, 12, 11, 11, 21]]


def test_lost_things_are_forgotten_after_a_while():
  for frames, number in ((association.PATIENCE, 11), (association.PATIENCE + 1, 12)):
    state = association.Association(_SPACE)
    _follow(state, [11, 11, 30])
    for _ in range(frames):
      _follow(state, [30, 30, 30])
    assert _follow(state, [11, 11, 30]) == [[number, number, 30]]


def test_the_place_of_a_lost_thing_is_that_of_the_one_in_front():
  state = association.Association(_SPACE)
  _follow(state, [11, 11, 30, 30])
  # 2 / (2 + 4 - 2) = 0.5 with 11, so this is 11; nothing of the old place is left over.
  assert _follow(state, [15, 15, 15, 15]) == [[11] * 4]
  assert _follow(state, [15, 15, 17, 17]) == [[11, 11, 12, 12]]


def test_numbers_are_used_again_when_all_have_been():
  state = association.Association(_SPACE)
  for number in range(1, 10):
    row = [30] * 40
    row[4 * number : 4 * number + 1] = [11]
    assert _follow(state, row)[0][4 * number] == 10 + number
  row = [30] * 40
  row[2] = 11
  # All nine are remembered: the first is given up.
  assert _follow(state, row)[0][2] == 11


def test_going_on_after_frames_that_are_known():
  frames = [[11, 11, 30, 12, 12], [30, 11, 11, 12, 30], [12, 30, 11, 11, 30], [30, 12, 12, 11, 11]]
  whole, later = association.Association(_SPACE), association.Association(_SPACE)
  followed = [_follow(whole, frame) for frame in frames]
  for frame in followed[:2]:
    later.remember(stretched.unstretched(_map(*frame)))
  assert [_follow(later, frame) for frame in frames[2:]] == followed[2:]


def test_another_size_starts_anew():
  state = association.Association(_SPACE)
  _follow(state, [11, 11, 30])
  assert _follow(state, [11, 11, 30, 30]) == [[12, 12, 30, 30]]
  assert _follow(state, [11, 11, 30, 30]) == [[12, 12, 30, 30]]
