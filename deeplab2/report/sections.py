"""The sections of a report that are numbers: headline, curves, classes, sizes and the like."""

from collections.abc import Sequence
import itertools

import numpy as np

from deeplab2.metrics import segment_numbers
from deeplab2.report import charts
from deeplab2.report import markup
from deeplab2.report.runs import Run

_HEADLINE = {
  'PQ': 'panoptic quality, mean over classes',
  'SQ': 'segmentation quality: mean IoU of matches',
  'RQ': 'recognition quality: F1 of segments',
  'PQ_things': 'PQ of countable classes',
  'PQ_stuff': 'PQ of stuff classes',
  'mIoU': 'mean IoU of pixels, of the semantic pass',
  'AP': 'average precision of masks of things',
}
_DASHES = {'all': '', 'things': '7 4', 'stuff': '2 3'}
_LINE_COLORS = ('#0072b2', '#c24e00', '#00785a', '#9b4f7d', '#8a6d00', '#4d5a68', '#56a0d3')
_MATRIX_CLASSES = 16  # Of a confusion matrix: more cannot be read.
_PAIRS = 25


def headline(runs: Sequence[Run]) -> str:
  """Returns the numbers of the newest evaluations: tiles of one run, a table of several."""
  if len(runs) == 1:
    tiles = [
      markup.element(
        'div',
        markup.element('dt', markup.text(name.replace('_', ' ')), title=said)
        + markup.element('dd', f'{value:.1f}'),
        class_='tile main' if name == 'PQ' else 'tile',
      )
      for name, said in _HEADLINE.items()
      if (value := _value(runs[0], name)) is not None
    ]
    body = markup.element('dl', ''.join(tiles), class_='tiles')
  else:
    columns = ['%', *_in_turns(runs, lambda run: [run.label])]
    rows = []
    for name, said in _HEADLINE.items():
      values = [_value(run, name) for run in runs]
      if any(value is not None for value in values):
        label = markup.element('span', markup.text(name.replace('_', ' ')), title=said)
        rows.append([markup.Cell(label), *_compared(values, 2)])
    body = markup.table(
      columns, rows, caption='Numbers of the newest evaluations; differences to the first run.',
      sortable=False,
    )  # fmt: skip
  return markup.section('numbers', 'Numbers', body, _of_what(runs))


def _value(run, name):
  value = run.metrics.get(name)
  if name == 'AP':
    value = (value or {}).get('AP_Mask')
  return value if isinstance(value, (int, float)) else None


def _named(run, runs):
  """Returns the name of a run as HTML, with its label where there are several."""
  name = markup.text(run.name)
  return name if len(runs) == 1 else f'{markup.element("b", run.label)} {name}'


def _of_what(runs):
  rows = []
  for run in runs:
    evaluated = run.metrics.get('evaluated', {})
    rows.append(
      [
        markup.Cell(_named(run, runs)),
        markup.Cell(markup.text(run.step), run.step, 'number'),
        markup.Cell(markup.text(evaluated.get('dataset', 'unknown'))),
        markup.Cell(markup.text(run.metrics.get('num_images', '–')), None, 'number'),
        markup.Cell(markup.text(', '.join(evaluated.get('file_pattern', ())) or 'unknown')),
        markup.Cell(markup.text(run.metrics.get('protocol', 'unknown'))),
      ]
    )
  return markup.table(
    ['run', 'step', 'dataset', 'images', 'records', 'counting'],
    rows,
    caption='What was evaluated.',
    sortable=False,
  )


def curves(runs: Sequence[Run]) -> str:
  """Returns panoptic quality, losses and learning rate over steps."""
  many = len(runs) > 1

  def line(run_index, label, points, of_line, dash=''):
    name = f'{runs[run_index].label} {label}' if many else label
    color = markup.RUN_COLORS[run_index % len(markup.RUN_COLORS)] if many else of_line
    return charts.Line(name, points, color, dash)

  quality, losses, rates, totals = [], [], [], []
  for i, run in enumerate(runs):
    for of_line, (label, points) in zip(_LINE_COLORS, run.qualities.items(), strict=False):
      quality.append(line(i, label, points, of_line, _DASHES[label] if many else ''))
    if 'total_loss' in run.losses:
      totals.append(line(i, 'training', run.losses['total_loss'], _LINE_COLORS[0]))
    totals.append(line(i, 'evaluation', run.eval_losses, _LINE_COLORS[1], '6 4' if many else ''))
    terms = {name: of for name, of in run.losses.items() if name != 'total_loss'}
    for number, (name, points) in enumerate(terms.items()):
      dash = ('', '7 4', '2 3', '9 3 2 3', '12 4')[number % 5] if many else ''
      losses.append(line(i, name, points, _LINE_COLORS[number % len(_LINE_COLORS)], dash))
    for number, (name, points) in enumerate(run.rates.items()):
      label = name.replace('_', ' ')
      rates.append(line(i, label, points, _LINE_COLORS[number], '6 4' if number and many else ''))
  drawn = [
    charts.lines('Panoptic quality', quality, unit='%', zero=True),
    charts.lines('Total loss', totals, unit='log', log=True),
    charts.lines('Terms of the training loss, last output', losses, unit='weighted, log', log=True),
    charts.lines('Learning rate', rates, zero=True),
  ]
  figures = ''.join(filter(None, drawn))
  parts = [markup.element('div', figures, class_='charts')]
  for run in runs:
    if not run.losses:
      parts.append(
        markup.note(f'{run.name}: train/ holds no logs, so there are no losses to draw.')
      )
    if len(run.qualities['all']) == 1:
      parts.append(
        markup.note(
          f'{run.name} was evaluated once; --mode=train_and_eval with '
          'evaluator_options.eval_interval evaluates on the way.'
        )
      )
  return markup.section('curves', 'Curves', *parts)


def classes(runs: Sequence[Run]) -> str:
  """Returns the table of classes, the best first; of several runs, the greatest losses first."""
  of_runs = [{row['id']: row for row in run.metrics['per_class']} for run in runs]
  first = of_runs[0]
  if not first:
    return markup.section('classes', 'Classes', markup.note('The metrics hold no classes.'))
  rows, orders = [], []
  for index, row in first.items():
    found = [of.get(index) for of in of_runs]
    if not any(of and of['TP'] + of['FN'] + of['FP'] for of in found):
      continue
    kind = markup.Cell('thing' if row['isthing'] else 'stuff')
    cells = [markup.Cell(markup.text(row['name']), str(row['name'])), kind]
    cells.append(markup.count(row['TP'] + row['FN']))
    qualities = [of['PQ'] if of else None for of in found]
    if len(runs) == 1:
      cells.append(markup.bar(row['PQ'], markup.percent(row['PQ'])))
      cells += [markup.percent(row[name]) for name in ('SQ', 'RQ', 'IoU')]
      cells += [markup.count(row[name]) for name in ('TP', 'FN', 'FP')]
      orders.append(-row['PQ'])
    else:
      cells += _compared(qualities, 1)
      for of in found:
        cells += [markup.count(of[name] if of else 0) for name in ('TP', 'FN', 'FP')]
      orders.append((qualities[1] or 0) - (qualities[0] or 0))
    rows.append(cells)
  rows = [rows[i] for i in np.argsort(orders, kind='stable')]
  columns = ['class', 'kind', 'segments']
  if len(runs) == 1:
    columns += ['PQ', 'SQ', 'RQ', 'IoU', 'TP', 'FN', 'FP']
  else:
    columns += _in_turns(runs, lambda run: [f'PQ {run.label}'])
    columns += [f'{name} {run.label}' for run in runs for name in ('TP', 'FN', 'FP')]
  hints = {
    'segments': 'true segments: TP + FN',
    'TP': 'matches: same class, IoU above 0.5',
    'FN': 'true segments without a match',
    'FP': 'predicted segments without a match',
    'IoU': 'of pixels, of the semantic pass',
  }
  left_out = len(first) - len(rows)
  said = 'Quality by class in percent. Press a title to sort.'
  if left_out:
    said += f' {left_out} classes occur neither in the labels nor in the predictions.'
  search = (
    '<p class="tools"><label>Filter classes <input type="search" data-filters="class-table" '
    'placeholder="name, thing or stuff"></label></p>'
  )
  body = markup.table(columns, rows, caption=said, name='class-table', hints=hints)
  return markup.section('classes', 'Classes', search, body)


def sizes(runs: Sequence[Run]) -> str:
  """Returns the quality by COCO's sizes."""
  kept = [run for run in runs if run.segments is not None]
  if not kept:
    return ''
  of_runs = [segment_numbers.by_size(*_joined(run)) for run in kept]
  rows = []
  for name, (low, high) in segment_numbers.SIZES.items():
    sides = [f'{round(area**0.5)}² px' for area in (low, high) if area and np.isfinite(area)]
    said = f'from {" to ".join(sides)}' if low else f'below {sides[0]}'
    label = markup.Cell(f'{name} {markup.element("small", said)}', low)
    found = [of[name] for of in of_runs]
    values = [100 * of.pq if of.num_classes else None for of in found]
    if len(kept) == 1:
      (of,) = found
      shown = markup.percent(values[0])
      cells = [shown if values[0] is None else markup.bar(values[0], shown)]
      cells += [markup.percent(100 * r if of.num_classes else None) for r in (of.sq, of.rq)]
      cells += [markup.count(n) for n in (of.tp, of.fn, of.fp, of.num_classes)]
    else:
      cells = _compared(values, 1)
      cells += [markup.count(n) for of in found for n in (of.tp, of.fn, of.fp)]
    rows.append([label, *cells])
  if len(kept) == 1:
    columns = ['size', 'PQ', 'SQ', 'RQ', 'TP', 'FN', 'FP', 'classes']
  else:
    columns = ['size', *_in_turns(kept, lambda run: [f'PQ {run.label}'])]
    columns += [f'{name} {run.label}' for run in kept for name in ('TP', 'FN', 'FP')]
  said = (
    'Quality by size of the segment, areas as in COCO. Matches and missed segments count by the '
    'area of the true segment, false positives by their own.'
  )
  return markup.section('sizes', 'Sizes', markup.table(columns, rows, caption=said))


def scores(runs: Sequence[Run]) -> str:
  """Returns how far the scores of segments can be trusted."""
  kept = [(i, run) for i, run in enumerate(runs) if run.segments is not None]
  if not kept:
    return ''
  figures, rows = [], []
  for i, run in kept:
    segments, _ = _joined(run)
    found = segment_numbers.calibration(segments)
    color = markup.RUN_COLORS[i % len(markup.RUN_COLORS)]
    title = 'Precision by score' if len(runs) == 1 else f'Precision by score: {run.label}'
    figures.append(charts.reliability(title, found, color))
    total = int(found.counts.sum())
    right = len(segments.matched_score)
    mean = float(np.nansum(found.counts * np.nan_to_num(found.score)) / total) if total else None
    rows.append(
      [
        markup.Cell(_named(run, runs)),
        markup.percent(100 * found.expected_error, 1),
        markup.percent(None if mean is None else 100 * mean),
        markup.percent(100 * right / total if total else None),
        markup.count(total),
      ]
    )
  said = (
    'A segment scores mean class confidence times mean mask confidence of its pixels. Calibrated '
    'scores are as high as the part of such segments that match: bars end at their black lines. '
    'The expected error is the mean distance of the two over segments.'
  )
  body = markup.table(
    ['run', 'expected calibration error %', 'mean score %', 'matched %', 'segments'],
    rows,
    caption=said,
    sortable=False,
  )
  charts_ = markup.element('div', ''.join(figures), class_='charts')
  return markup.section('scores', 'Scores', charts_, body)


def confusion(runs: Sequence[Run]) -> str:
  """Returns what stands where segments have no match."""
  kept = [run for run in runs if run.segments is not None]
  if not kept:
    return ''
  names = _class_names(kept[0])
  joined = [_joined(run) for run in kept]
  halves, details = [], []
  for title, caption, pairs, titles in (
    (
      'Missed segments',
      'Missed true segments, by what is predicted on most of their pixels.',
      segment_numbers.missed_as,
      ('true class', 'predicted there'),
    ),
    (
      'False positives',
      'Predicted segments without a match, by what most of their pixels truly are.',
      segment_numbers.extra_on,
      ('predicted class', 'truly there'),
    ),
  ):
    matrices = [pairs(*of) for of in joined]
    table = _pair_table(kept, matrices, names, caption, titles)
    halves.append(markup.element('div', f'<h3>{title}</h3>{table}', class_='half'))
    for run, matrix in zip(kept, matrices, strict=True):
      summary = f'{title} as a matrix' if len(kept) == 1 else f'{title} as a matrix: {run.label}'
      summary = markup.element('summary', markup.text(summary))
      details.append(markup.element('details', summary + _matrix(matrix, names, titles)))
  body = markup.element('div', '\n'.join(halves), class_='halves') + '\n'.join(details)
  said = markup.note(
    'The own class there: a segment of it covers the place, but none with an IoU above 0.5. '
    'Nothing: no class is predicted there; no label, or crowd, is truly there.'
  )
  return markup.section('confusion', 'Confusion', said, body)


def _pair_table(runs, matrices, names, caption, titles):
  total = sum(matrices)
  order = np.argsort(-total, axis=None, kind='stable')[:_PAIRS]
  rows = []
  for place in order.tolist():
    row, column = divmod(place, total.shape[1])
    counts = [int(matrix[row, column]) for matrix in matrices]
    if not any(counts):
      break
    cells = [
      markup.Cell(markup.text(names[row]), names[row]),
      markup.Cell(_there(row, column - 1, names)),
    ]
    cells.append(markup.count(counts[0]))
    for number in counts[1:]:
      change = number - counts[0]
      shown = markup.difference(float(-change), 0)  # Fewer are better.
      cells += [
        markup.count(number),
        shown._replace(text=f'{change:+d}'.replace('-', '−'), order=change),
      ]
    rows.append(cells)
  columns = [*titles, *_in_turns(runs, lambda run: [run.label])]
  if len(runs) == 1:
    columns = [*titles, 'segments']
  if not rows:
    return markup.note('There is none.')
  left = int(sum((matrix > 0) for matrix in matrices).astype(bool).sum()) - len(rows)
  more = f' The {len(rows)} most frequent pairs of {len(rows) + left}.' if left else ''
  return markup.table(columns, rows, caption=caption + more)


def _there(row, column, names):
  if column < 0:
    return markup.element('i', 'nothing')
  if column == row:
    return markup.element('i', 'own class, IoU ≤ 0.5')
  return markup.text(names[column])


def _matrix(matrix, names, titles):
  """Returns the classes with the most counts as a matrix whose cells are the darker the more."""
  involved = matrix.sum(1) + matrix[:, 1:].sum(0)
  chosen = np.argsort(-involved, kind='stable')[:_MATRIX_CLASSES]
  chosen = [index for index in sorted(chosen.tolist()) if involved[index]]
  left = int((involved > 0).sum()) - len(chosen)
  most = max(matrix.max(), 1)
  columns = [f'{titles[0]} ↓', *(names[index] for index in chosen), 'nothing']
  columns += ['others'] if left else []
  rows = []
  for row in chosen:
    counts = [int(matrix[row, column + 1]) for column in chosen]
    counts.append(int(matrix[row, 0]))
    counts += [int(matrix[row].sum()) - sum(counts)] if left else []
    cells = []
    for column, number in itertools.zip_longest(chosen, counts):
      share = (number / most) ** 0.5
      kind = 'heat own' if column == row else 'heat'
      content = markup.element('span', str(number) if number else '', style=f'--heat:{share:.2f}')
      cells.append(markup.Cell(content, number, f'{kind} dark' if share > 0.6 else kind))
    rows.append([markup.Cell(markup.text(names[row])), *cells])
  more = f' {left} classes with fewer are left out.' if left > 0 else ''
  return markup.table(
    columns, rows, caption=f'Number of segments; columns: {titles[1]}.{more}', sortable=False
  )


def _joined(run):
  """Returns the segments of all images of a run, and one more than its greatest class."""
  segments = segment_numbers.joined([image.segments for image in run.segments.images])
  return segments, max(one['id'] for one in run.segments.classes) + 1


def _class_names(run):
  names = {one['id']: one['name'] for one in run.segments.classes}
  return [names.get(index, f'class {index}') for index in range(max(names) + 1)]


def _in_turns(runs, titles):
  """Returns titles of the first run, then those of every other one and of its difference."""
  found = list(titles(runs[0]))
  for run in runs[1:]:
    found += [*titles(run), f'{run.label} − {runs[0].label}']
  return found


def _compared(values, digits):
  """Returns cells of the first value, then every other one with its difference to the first."""
  cells = [markup.percent(values[0], digits)]
  for value in values[1:]:
    missing = value is None or values[0] is None
    change = None if missing else value - values[0]
    cells += [markup.percent(value, digits), markup.difference(change, digits)]
  return cells
