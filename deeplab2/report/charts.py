"""Charts as inline SVG: lines over steps, and reliability of scores. No library, no script needed.

The page's script adds a reading of the values under the pointer, from `data-chart`.
"""

from collections.abc import Sequence
import json
import math
from typing import NamedTuple

from deeplab2.metrics import segment_numbers
from deeplab2.report import markup

_WIDTH, _HEIGHT = 600, 268
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 36
_MOST_POINTS = 400  # Of a line; more are averaged.


class Line(NamedTuple):
  """A line of a chart."""

  label: str
  points: Sequence[tuple[float, float]]
  color: str
  dash: str = ''  # SVG's stroke-dasharray.


def lines(
  title: str, curves: Sequence[Line], *, unit: str = '', log: bool = False, zero: bool = False
) -> str:
  """Draws lines over steps; '' if none has a point.

  Args:
    title: of the chart.
    curves: values that are not finite (or not positive, where `log`) are left out.
    unit: of the values, shown with the title.
    log: whether the axis of the values is logarithmic.
    zero: whether that axis begins at 0.
  """
  kept = [line._replace(points=_averaged(_drawable(line.points, log))) for line in curves]
  kept = [line for line in kept if line.points]
  if not kept:
    return ''
  steps = [step for line in kept for step, _ in line.points]
  values = [value for line in kept for _, value in line.points]
  low_x, high_x = min(steps), max(steps)
  if low_x == high_x:  # One evaluation stands at the end.
    low_x, high_x = 0, max(high_x, 1)
  ticks = _log_ticks(min(values), max(values)) if log else _ticks(min(values), max(values), zero)
  low, high = min(ticks[0], min(values)), max(ticks[-1], max(values))
  scale = math.log10 if log else float
  span = scale(high) - scale(low) or 1.0

  def x(step):
    return _LEFT + (step - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)

  def y(value):
    return _HEIGHT - _BOTTOM - (scale(value) - scale(low)) / span * (_HEIGHT - _TOP - _BOTTOM)

  parts = [_grid(y(tick), _number(tick)) for tick in ticks]
  parts += [
    _label(x(tick), _HEIGHT - _BOTTOM + 17, _number(tick))
    for tick in _ticks(low_x, high_x, False)
    if low_x <= tick <= high_x and tick == int(tick)
  ]
  parts.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, 'step'))
  for line in kept:
    path = ' '.join(f'{x(step):.1f},{y(value):.1f}' for step, value in line.points)
    dash = {'stroke_dasharray': line.dash} if line.dash else {}
    parts.append(markup.element('polyline', points=path, class_='line', stroke=line.color, **dash))
    if len(line.points) <= 40:
      parts += [
        markup.element('circle', cx=f'{x(s):.1f}', cy=f'{y(v):.1f}', r=2.6, fill=line.color)
        for s, v in line.points
      ]
  data = {
    'x': [_LEFT, _WIDTH - _RIGHT, low_x, high_x],
    'series': [
      {
        'label': line.label,
        'color': line.color,
        'points': [[step, float(f'{value:.5g}')] for step, value in line.points],
      }
      for line in kept
    ],
  }
  last = '; '.join(f'{line.label} {line.points[-1][1]:.4g}' for line in kept)
  svg = _svg(title, unit, parts, f'{title}, steps {low_x} to {high_x}. At the end: {last}.', data)
  return markup.element('figure', svg + _legend(kept), class_='chart')


def reliability(title: str, calibration: segment_numbers.Calibration, color: str) -> str:
  """Draws the precision of segments over their score, and how many there are of each."""
  bins, top, bottom = segment_numbers.BINS, _TOP, _HEIGHT - _BOTTOM
  split = top + 0.72 * (bottom - top)  # Above it precision, below it counts.
  width = (_WIDTH - _LEFT - _RIGHT) / bins

  def y(value):
    return split - value * (split - top)

  parts = [_grid(y(tick), f'{100 * tick:.0f} %') for tick in (0, 0.25, 0.5, 0.75, 1)]
  parts += [
    _label(_LEFT + i * width, bottom + 17, f'{i / bins:.1f}') for i in range(0, bins + 1, 2)
  ]
  parts.append(_label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, 'score'))
  most = max(calibration.counts.max(), 1)
  for i, (number, score, precision) in enumerate(
    zip(calibration.counts.tolist(), calibration.score, calibration.precision, strict=True)
  ):
    left = _LEFT + i * width
    height = (bottom - split - 12) * number / most
    said = f'scores {i / bins:.1f} to {(i + 1) / bins:.1f}: {number} segments'
    if number:
      said += f', mean score {score:.2f}, {100 * precision:.0f} % of them match'
    hover = markup.element('title', markup.text(said))
    if number:
      parts.append(
        _rectangle(left + 1, y(precision), width - 2, split - y(precision), color, hover)
      )
      parts.append(
        markup.element(
          'line', x1=f'{left + 1:.1f}', x2=f'{left + width - 1:.1f}', y1=f'{y(score):.1f}',
          y2=f'{y(score):.1f}', class_='expected',
        )
      )  # fmt: skip
    parts.append(_rectangle(left + 1, bottom - height, width - 2, height, '#8a93a0', hover))
  parts.append(
    markup.element(
      'line', x1=_LEFT, y1=f'{split:.1f}', x2=_WIDTH - _RIGHT, y2=f'{top:.1f}', class_='diagonal'
    )
  )
  parts.append(_label(_LEFT - 6, bottom - 4, 'count', 'end'))
  said = f'{title}: expected calibration error {calibration.expected_error:.3f}.'
  svg = _svg(title, '', parts, said, None)
  legend = (
    f'<li style="--c:{color}"><span></span>matched with IoU &gt; 0.5</li>'
    '<li style="--c:#1b1f24"><span></span>mean score of the bin</li>'
    '<li style="--c:#8a93a0"><span></span>segments in the bin</li>'
  )
  return markup.element('figure', f'{svg}<ul class="legend">{legend}</ul>', class_='chart')


def _svg(title, unit, parts, description, data):
  heading = markup.element('text', markup.text(title), x=_LEFT, y=16, class_='heading')
  if unit:
    heading += markup.element(
      'text', markup.text(unit), x=_WIDTH - _RIGHT, y=16, class_='unit', text_anchor='end'
    )
  settings = {'data_chart': json.dumps(data, separators=(',', ':'))} if data else {}
  return markup.element(
    'svg',
    markup.element('title', markup.text(description)) + heading + ''.join(parts),
    viewBox=f'0 0 {_WIDTH} {_HEIGHT}',
    role='img',
    **settings,
  )


def _grid(y, said):
  line = markup.element(
    'line', x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f'{y:.1f}', y2=f'{y:.1f}', class_='grid'
  )
  return line + _label(_LEFT - 6, y + 4, said, 'end')


def _label(x, y, said, anchor='middle'):
  return markup.element(
    'text', markup.text(said), x=f'{x:.1f}', y=f'{y:.1f}', text_anchor=anchor, class_='tick'
  )


def _rectangle(x, y, width, height, color, content):
  return markup.element(
    'rect',
    content,
    x=f'{x:.1f}',
    y=f'{y:.1f}',
    width=f'{width:.1f}',
    height=f'{max(height, 0):.1f}',
    fill=color,
  )


def _legend(curves):
  items = ''.join(
    markup.element(
      'li',
      f'<span{" class=dashed" if line.dash else ""}></span>{markup.text(line.label)}',
      style=f'--c:{line.color}',
    )
    for line in curves
  )
  return markup.element('ul', items, class_='legend')


def _drawable(points, log):
  return [
    (step, value)
    for step, value in points
    if isinstance(value, (int, float)) and math.isfinite(value) and (value > 0 or not log)
  ]


def _averaged(points):
  """Returns at most _MOST_POINTS points: means of neighbours, the last one as it is."""
  size = -(-len(points) // _MOST_POINTS)
  if size <= 1:
    return points
  groups = [points[i : i + size] for i in range(0, len(points), size)]
  means = [
    (round(sum(s for s, _ in group) / len(group)), sum(v for _, v in group) / len(group))
    for group in groups
  ]
  return [*means[:-1], points[-1]]


def _ticks(low, high, zero):
  """Returns about five round numbers that cover the range."""
  low = min(low, 0) if zero else low
  if high <= low:
    low, high = low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9
  raw = (high - low) / 5
  power = 10.0 ** math.floor(math.log10(raw))
  step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
  first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low, high):
  """Returns powers of ten, with 2 and 5 between them where there are few."""
  first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
  factors = (1, 2, 5) if last - first <= 3 else (1,)
  ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
  below = [tick for tick in ticks if tick <= low] or ticks[:1]
  above = [tick for tick in ticks if tick >= high] or ticks[-1:]
  return [tick for tick in ticks if below[-1] <= tick <= above[0]]


def _number(value):
  """Returns a number of an axis, short: 2k, 0.5, 1e-05."""
  if value >= 10000 and value % 1000 == 0:
    return f'{value / 1000:g}k'
  return f'{value:g}'
