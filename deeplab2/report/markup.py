"""Pieces of HTML: escaped text, elements, tables that the page's script can sort."""

from collections.abc import Sequence
import html
import math
from typing import NamedTuple

# Blue, vermilion, green, purple: told apart by people who do not tell red from green.
RUN_COLORS = ('#0072b2', '#c24e00', '#00785a', '#9b4f7d')


class Cell(NamedTuple):
  """A cell of a table."""

  text: str  # HTML
  order: float | str | None = None  # What rows are sorted by; None: by the text.
  kind: str = ''  # CSS classes.


def text(value: object) -> str:
  """Returns a value as text of HTML."""
  return html.escape(str(value), quote=True)


def element(name: str, content: str = '', **attributes: object) -> str:
  """Returns an element around HTML; `class_` and `data_x` become `class` and `data-x`."""
  listed = ''.join(
    f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items()
  )
  return f'<{name}{listed}>{content}</{name}>'


def percent(value: float | None, digits: int = 1) -> Cell:
  """Returns a cell of a number that is in percent already; empty if there is none."""
  if value is None or not math.isfinite(value):
    return Cell('–', -1.0, 'number none')
  return Cell(f'{value:.{digits}f}', value, 'number')


def count(value: int) -> Cell:
  """Returns a cell of a number of things."""
  return Cell(f'{value:,}'.replace(',', ' '), value, 'number')


def difference(value: float | None, digits: int = 1) -> Cell:
  """Returns a cell of a difference of percents, with its sign, coloured where it is not zero."""
  if value is None or not math.isfinite(value):
    return Cell('–', 0.0, 'number none')
  shown = f'{value:+.{digits}f}'.replace('-', '−')
  kind = 'better' if value >= 0.05 else 'worse' if value <= -0.05 else ''
  return Cell(shown, value, f'number {kind}'.rstrip())


def bar(value: float, cell: Cell, color: str = RUN_COLORS[0]) -> Cell:
  """Returns the cell with a bar of `value` percent behind its number."""
  width = max(0.0, min(100.0, value))
  style = f'--share:{width:.1f}%;--bar:{color}'
  return cell._replace(text=element('span', cell.text, class_='bar', style=style))


def table(
  columns: Sequence[str],
  rows: Sequence[Sequence[Cell]],
  *,
  caption: str,
  sortable: bool = True,
  name: str = '',
  hints: dict[str, str] | None = None,
) -> str:
  """Returns a table whose first column names the rows.

  Args:
    columns: titles, as text.
    rows: of as many cells.
    caption: what the table shows, for all readers.
    sortable: whether the titles are buttons that sort by their column.
    name: id of the table.
    hints: title -> what it means, shown on hover.
  """
  heads = []
  for i, title in enumerate(columns):
    hint = {'title': hints[title]} if hints and title in hints else {}
    content = text(title)
    if sortable:
      content = element('button', content, type='button', **hint)
      hint = {'aria_sort': 'none'}
    numeric = rows and 'number' in rows[0][i].kind
    heads.append(element('th', content, scope='col', class_='number' if numeric else '', **hint))
  lines = []
  for row in rows:
    cells = []
    for i, cell in enumerate(row):
      order = {} if cell.order is None else {'data_order': cell.order}
      if i == 0:
        cells.append(element('th', cell.text, scope='row', class_=cell.kind, **order))
      else:
        cells.append(element('td', cell.text, class_=cell.kind, **order))
    lines.append(element('tr', ''.join(cells)))
  whole = (
    element('caption', text(caption))
    + element('thead', element('tr', ''.join(heads)))
    + element('tbody', '\n'.join(lines))
  )
  settings = {'id': name} if name else {}
  kind = 'sortable' if sortable else 'plain'
  return element('div', element('table', whole, class_=kind, **settings), class_='scroll')


def section(name: str, title: str, *content: str) -> str:
  """Returns a section with its heading; `name` is what links to it give."""
  heading = element('h2', text(title), id=f'{name}-title')
  return element(
    'section', '\n'.join([heading, *content]), id=name, aria_labelledby=f'{name}-title'
  )


def note(content: str, kind: str = 'note') -> str:
  """Returns a paragraph of plain text."""
  return element('p', text(content), class_=kind)
