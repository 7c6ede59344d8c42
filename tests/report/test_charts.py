"""Charts: where points are drawn, against positions by hand."""

from xml.etree import ElementTree

import numpy as np
import pytest

from deeplab2.metrics import segment_numbers
from deeplab2.report import charts


def _parsed(figure):
  """Returns the drawing of a figure, which must be well-formed."""
  start, end = figure.index('<svg'), figure.index('</svg>') + len('</svg>')
  return ElementTree.fromstring(figure[start:end])


def _points(line):
  return [tuple(map(float, pair.split(','))) for pair in line.get('points').split()]


def test_lines_lie_where_their_values_are():
  curves = [charts.Line('a', [(0, 0.0), (50, 25.0), (100, 100.0)], '#123456')]
  svg = _parsed(charts.lines('Quality', curves, zero=True))
  (line,) = svg.iter('polyline')
  (x0, y0), (x1, y1), (x2, y2) = _points(line)
  assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
  assert (y0 - y1) / (y0 - y2) == pytest.approx(0.25, abs=0.002)
  assert line.get('stroke') == '#123456'
  said = [text.text for text in svg.iter('text')]
  assert {'0', '20', '40', '60', '80', '100'} <= set(said)
  assert svg.find('title').text == 'Quality, steps 0 to 100. At the end: a 100.'


def test_logarithmic_axis():
  curves = [charts.Line('a', [(0, 1.0), (1, 10.0), (2, 100.0), (3, 0.0)], 'red')]
  (line,) = _parsed(charts.lines('Loss', curves, log=True)).iter('polyline')
  ys = [y for _, y in _points(line)]  # What is not positive is left out.
  assert len(ys) == 3 and ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11)


def test_nothing_to_draw():
  assert charts.lines('Loss', []) == ''
  nothing = [charts.Line('a', [(0, float('nan'))], 'red'), charts.Line('b', [], 'red')]
  assert charts.lines('Loss', nothing) == ''


@pytest.mark.parametrize('value', [0.0, 3.5, -2.0, 1e-12, 1e9])
def test_one_value_has_an_axis(value):
  for points in ([(5, value)], [(5, value), (9, value)]):
    _parsed(charts.lines('x', [charts.Line('a', points, 'red')]))


def test_long_curves_are_averaged():
  points = [(step, float(step % 2)) for step in range(800)]
  (line,) = _parsed(charts.lines('x', [charts.Line('a', points, 'red')])).iter('polyline')
  assert len(_points(line)) == 400
  # Neighbours 0 and 1 become 1/2; the last point stays.
  assert len({y for _, y in _points(line)[:-1]}) == 1
  assert _points(line)[-1][1] < _points(line)[-2][1]


def test_names_are_text():
  figure = charts.lines('<b>', [charts.Line('"&<i>', [(0, 1.0)], 'red')])
  assert '<b>' not in figure and '<i>' not in figure
  _parsed(figure)


def test_reliability_by_hand():
  counts = np.array([0] * 9 + [4])
  nan = np.array([np.nan] * 9)
  found = segment_numbers.Calibration(counts, np.append(nan, 0.95), np.append(nan, 0.5), 0.45)
  svg = _parsed(charts.reliability('Scores', found, '#0072b2'))
  bars = [bar for bar in svg.iter('rect') if bar.get('fill') == '#0072b2']
  (bar,) = bars  # Bins without a segment have none.
  grid = [float(line.get('y1')) for line in svg.iter('line') if line.get('class') == 'grid']
  assert float(bar.get('height')) == pytest.approx(0.5 * (max(grid) - min(grid)), abs=0.11)
  assert bar.find('title').text.endswith('4 segments, mean score 0.95, 50 % of them match')
