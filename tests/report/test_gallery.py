"""Which images are shown."""

import numpy as np

from deeplab2.report import gallery


def _filled(order, shares, per_class=1):
  """Returns the reasons of a gallery of images with quality number / 20, added in `order`."""
  chosen = gallery.Gallery(shares, per_class)
  shown = {
    number: chosen.add(number, f'image {number}', number / 20, {number % 2 + 1: number})
    for number in order
  }
  return chosen.reasons(), shown


def test_worst_best_random_and_those_of_a_class():
  shares = {'worst': 2, 'best': 3, 'random': 4}
  reasons, shown = _filled(range(20), shares)
  by_reason = {}
  for number, of in reasons.items():
    for reason in of:
      by_reason.setdefault(reason, set()).add(number)
  assert by_reason['worst'] == {0, 1}
  assert by_reason['best'] == {17, 18, 19}
  assert len(by_reason['random']) == 4
  assert by_reason['class 1'] == {18} and by_reason['class 2'] == {19}
  assert all(shown[number] for number in reasons)
  # The order of images changes nothing.
  mixed = np.random.default_rng(0).permutation(20).tolist()
  again, _ = _filled(mixed, shares)
  assert {n: set(of) for n, of in again.items()} == {n: set(of) for n, of in reasons.items()}


def test_random_images_do_not_depend_on_the_quality():
  """So that two runs show the same ones."""
  chosen = []
  for sign in (1, -1):
    of = gallery.Gallery({'worst': 0, 'best': 0, 'random': 5})
    for number in range(50):
      of.add(number, f'image {number}', sign * number, {})
    chosen.append(set(of.reasons()))
  assert chosen[0] == chosen[1] and len(chosen[0]) == 5


def test_few_are_drawn_of_many():
  random = np.random.default_rng(0)
  chosen = gallery.Gallery()
  drawn = sum(
    chosen.add(number, f'image {number}', random.random(), {int(random.integers(133)): 1})
    for number in range(5000)
  )
  # At most the shares and one of each class stay; on the way they are replaced now and then.
  assert len(chosen.reasons()) <= sum(gallery.SHARES.values()) + 133
  assert drawn < 1500
