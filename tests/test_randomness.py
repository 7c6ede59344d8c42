"""What a training step draws depends on its key, and on nothing that ran before."""

import numpy as np
import tensorflow as tf

from deeplab2 import randomness


def _draw(key):
  with randomness.keyed(tf.constant(key)):
    return [randomness.uniform([1000]).numpy() for _ in range(2)]


def test_the_same_key_draws_the_same():
  first, again, other = _draw([1, 2]), _draw([1, 2]), _draw([1, 3])
  np.testing.assert_array_equal(first, again)
  assert not np.any(np.equal(first, other).all(axis=1))


def test_calls_of_one_key_are_independent_and_uniform():
  first, second = _draw([1, 2])
  assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
  assert abs(first.mean() - 0.5) < 0.05 and first.min() >= 0.0 and first.max() < 1.0


def test_contexts_nest():
  with randomness.keyed(tf.constant([1, 2])):
    first = randomness.uniform([3])
    _draw([5, 5])
    second = randomness.uniform([3])
  with randomness.keyed(tf.constant([1, 2])):
    np.testing.assert_array_equal([first, second], [randomness.uniform([3]) for _ in range(2)])


def test_a_named_part_draws_for_itself():
  def draw(*names):
    with randomness.keyed(tf.constant([1, 2])):
      before = randomness.uniform([1000])
      inside = []
      for name in names:
        with randomness.apart(name):
          inside.append(randomness.uniform([1000]).numpy())
      return np.stack([before, randomness.uniform([1000])]), inside

  outside, (first, again, other) = draw('a', 'a', 'b')
  np.testing.assert_array_equal(outside, draw()[0])
  np.testing.assert_array_equal(first, again)
  correlations = np.corrcoef([*outside, first, other]) - np.eye(4)
  assert np.abs(correlations).max() < 0.15
  with randomness.apart('a'):  # Without a key, there is nothing to draw apart from.
    tf.random.set_seed(1)
    first = randomness.uniform([3])
    tf.random.set_seed(1)
    np.testing.assert_array_equal(first, tf.random.uniform([3]))


def test_without_a_key_numbers_come_from_the_global_generator():
  tf.random.set_seed(1)
  first = randomness.uniform([3])
  tf.random.set_seed(1)
  np.testing.assert_array_equal(first, tf.random.uniform([3]))


def test_streams_are_independent_of_those_of_other_names_and_of_the_next_seeds():
  drawn = [
    tf.random.stateless_uniform([1000], randomness.stream(name, seed, number)).numpy()
    for name in ('order', 'augmentation')
    for seed in (0, 1, tf.constant(2, tf.int64))
    for number in (0, tf.constant(1, tf.int64))
  ]
  correlations = np.corrcoef(drawn) - np.eye(12)
  assert np.abs(correlations).max() < 0.15
  again = tf.random.stateless_uniform([1000], randomness.stream('order', 2, 1))
  np.testing.assert_array_equal(drawn[5], again)
