"""Images of a comparison: differences with their intervals, and the curves of a row's runs."""

from collections.abc import Mapping, Sequence
import io
import statistics

import matplotlib

from comparison import paired

matplotlib.use('Agg')
from matplotlib import figure as figure_lib  # noqa: E402  The backend is chosen first.
from matplotlib import pyplot  # noqa: E402

_CLEAR, _UNCLEAR = 'tab:blue', 'tab:gray'


def differences(
  measures: Mapping[str, Mapping[str, paired.Difference | None]], baseline: str
) -> figure_lib.Figure:
  """Draws each row's mean difference to the baseline with its 95 % interval, a panel a measure.

  Pale dots are the pairs. Intervals that leave out 0 are blue, others grey.

  Args:
    measures: title of a panel -> name of a row -> difference; rows in their order, from the top.
    baseline: name of the row at 0.
  """
  names = list(dict.fromkeys(name for rows in measures.values() for name in rows))
  figure, panels = pyplot.subplots(
    *(1, len(measures)),
    figsize=(4.0 + 3.6 * len(measures), 1.6 + 0.34 * len(names)),
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  for axes, (title, rows) in zip(panels[0], measures.items(), strict=True):
    axes.axvline(0.0, color='black', linewidth=1)
    for place, name in enumerate(names):
      found = rows.get(name)
      if found is None:
        continue
      color = _CLEAR if found.is_clear else _UNCLEAR
      axes.plot(found.values, [place] * len(found.values), '.', color=color, alpha=0.35)
      bar = None if found.half_width is None else [found.half_width]
      axes.errorbar([found.mean], [place], xerr=bar, fmt='o', color=color, capsize=3)
    axes.set(title=title, ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.grid(axis='x', alpha=0.3)
  figure.supxlabel(f'difference to {_plain(baseline)}; bars: 95 % intervals', fontsize='medium')
  return figure


def curves(
  panels: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]],
) -> figure_lib.Figure:
  """Draws one row's runs: a panel for each quantity, a line for each run.

  Args:
    panels: title -> label of a line -> its (step, value); values None are gaps. Lines of gates on
      pixels of other classes are dashed, in the colour of those on the same class before them.
  """
  figure, all_axes = pyplot.subplots(
    1, len(panels), figsize=(3.4 * len(panels), 2.6), squeeze=False, layout='constrained'
  )
  for axes, (title, lines) in zip(all_axes[0], panels.items(), strict=True):
    color = -1
    for label, points in lines.items():
      drawn = [(step, value) for step, value in points if value is not None]
      is_other = label.endswith('other_class')
      color += not is_other
      style = {'color': f'C{max(color, 0)}', 'linestyle': '--' if is_other else '-'}
      if drawn:
        axes.plot(*zip(*drawn, strict=True), marker='.', label=_plain(label), **style)
    axes.set_title(title, fontsize='small')
    axes.tick_params(labelsize='x-small')
    axes.grid(alpha=0.3)
    if axes.has_data():
      axes.legend(fontsize='xx-small')
  return figure


def means(found: Sequence[dict], measures: Sequence[str]) -> figure_lib.Figure:
  """Draws the curves of every row: mean over seeds, and a band from the least to the most.

  Args:
    found: finished runs, as of summary.results.
    measures: the curves to draw, a panel each.
  """
  figure, panels = pyplot.subplots(1, len(measures), figsize=(16, 6), layout='constrained')
  names = list(dict.fromkeys(result['row'] for result in found))
  for axes, curve in zip(panels, measures, strict=True):
    for index, name in enumerate(names):
      curves = [result['curves'][curve] for result in found if result['row'] == name]
      points = [(step, value) for step, value in sum(curves, []) if value is not None]
      steps = sorted({step for step, _ in points})
      values = [[value for at, value in points if at == step] for step in steps]
      color = pyplot.get_cmap('tab20')(2 * index % 20 + index // 10)
      style = {'marker': 'o', 'markersize': 3, 'linestyle': '--' if '-sigmoid' in name else '-'}
      axes.plot(steps, list(map(statistics.mean, values)), color=color, label=name, **style)
      low, high = list(map(min, values)), list(map(max, values))
      axes.fill_between(steps, low, high, color=color, alpha=0.12)
    axes.set(
      xlabel='step',
      title=f'{curve} of evaluation' + (' [%]' if curve == 'PQ' else ''),
      yscale='linear' if curve == 'PQ' else 'log',
    )
    axes.grid(alpha=0.3)
  # Outside the panels: inside, a grid's many rows would hide the curves.
  figure.legend(
    *panels[0].get_legend_handles_labels(), fontsize='small', ncols=4, loc='outside lower center'
  )
  return figure


def png(figure: figure_lib.Figure, dpi: int = 100) -> bytes:
  """Returns a figure as a PNG file, and frees it."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=dpi)
  pyplot.close(figure)
  return buffer.getvalue()


def _plain(text):
  # A dollar sign would begin a formula.
  return text.replace('$', r'\$')
