"""Parts of a comparison: intervals against published quantiles and by hand, steps to a level."""

import math
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'scripts'))

from comparison import paired  # noqa: E402
from comparison import variants  # noqa: E402

from deeplab2 import errors  # noqa: E402


@pytest.mark.parametrize(
  'degrees, wanted',
  # Of 1 and 2 degrees, the closed forms; the others from published tables.
  [
    (1, math.tan(0.475 * math.pi)),
    (2, 0.95 * math.sqrt(2 / (1 - 0.95**2))),
    (3, 3.182446),
    (9, 2.262157),
    (24, 2.063899),
    (35, 2.030108),
    (50, 2.008559),
    (100, 1.983972),
    (1000, 1.962339),
  ],
)
def test_quantiles(degrees, wanted):
  assert paired.quantile(degrees) == pytest.approx(wanted, abs=1e-3)


def _density(t, degrees):
  log = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
  return (
    math.exp(log) / math.sqrt(degrees * math.pi) * (1 + t * t / degrees) ** (-(degrees + 1) / 2)
  )


@pytest.mark.parametrize('degrees', [1, 2, 5, 7, 13, 21, 30, 45, 80, 500])
def test_95_percent_lie_within(degrees):
  """By Simpson's rule over the density."""
  limit, count = paired.quantile(degrees), 2000
  width = 2 * limit / count
  total = sum(
    (1 if i in (0, count) else 4 if i % 2 else 2) * _density(-limit + i * width, degrees)
    for i in range(count + 1)
  )
  assert total * width / 3 == pytest.approx(0.95, abs=2e-4)


def test_no_degree_of_freedom():
  with pytest.raises(ValueError, match='0 degrees'):
    paired.quantile(0)


def test_difference_by_hand():
  # Pairs of seeds 0, 2, 3: 1, 2, 6. Mean 3, deviation sqrt(7), t of 2 degrees 4.3027.
  row = {3: 16.0, 0: 11.0, 1: None, 2: 12.0, 7: 5.0}
  found = paired.difference(row, {0: 10.0, 1: 10.0, 2: 10.0, 3: 10.0, 8: 1.0})
  assert found.values == (1.0, 2.0, 6.0) and found.mean == 3.0
  assert found.half_width == pytest.approx(4.3027 * math.sqrt(7 / 3))
  assert not found.is_clear and paired.shown(found) == '+3.00 ± 6.57'
  assert paired.shown(found._replace(half_width=2.5), '.1f') == '**+3.0 ± 2.5**'


def test_too_few_pairs():
  assert paired.difference({0: 1.0}, {1: 1.0}) is None
  found = paired.difference({0: 1.0}, {0: 3.0})
  assert found.half_width is None and paired.shown(found) == '-2.00 (1 pair)'
  assert paired.shown(None) == 'not measured'


@pytest.mark.parametrize(
  'level, wanted', [(5.0, 50.0), (10.0, 100.0), (15.0, 150.0), (20.0, 200.0), (30.0, None)]
)
def test_first_step(level, wanted):
  assert paired.first_step([[100, 10.0], [150, None], [200, 20.0], [300, 12.0]], level) == wanted


def test_variants_that_cannot_be_read(tmp_path):
  path = tmp_path / 'plan.json'
  for text, message in (
    ('[]', 'must be'),
    ('{"a/b": []}', "'a/b' names a directory"),
    ('{"a": "x=1"}', 'a: must be a list of overrides'),
  ):
    path.write_text(text)
    with pytest.raises(errors.UserError, match=message):
      variants.read(str(path))
  path.write_text('{"b": ["x=1"], "a": []}')
  assert variants.read(str(path)) == [variants.Variant('b', ('x=1',)), variants.Variant('a', ())]
