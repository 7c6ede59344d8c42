"""The window of steps that is profiled."""

import tensorflow as tf

from deeplab2.trainer import profile


def test_groups_of_steps_end_at_the_borders_of_the_window():
  window = profile.Window('unused', (4, 6))
  # (steps wanted, steps done) -> steps at once; steps 4, 5 and 6 are in the window.
  found = [window.at_most(10, after=after) for after in (0, 2, 3, 5, 6, 7)]
  assert found == [3, 1, 3, 1, 10, 10]
  assert window.at_most(2, after=3) == 2
  assert profile.Window('unused', ()).at_most(10, after=0) == 10


def test_only_steps_of_the_window_are_profiled(tmp_path):
  window = profile.Window(str(tmp_path), (2, 3))
  with window.running(after=0):
    tf.reduce_sum(tf.ones([3]))
  assert not list(tmp_path.rglob('*.xplane.pb'))
  with window.running(after=1):
    tf.reduce_sum(tf.ones([3]))
  assert len(list(tmp_path.rglob('*.xplane.pb'))) == 1
