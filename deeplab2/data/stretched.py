"""Label maps of large images, kept at the size that they were made at and read strip by strip.

A map that is brought from the crop to the size of its image only repeats rows and columns. For an
image of 100 million pixels, the map of the crop and the lists of which row and column stands where
take a thousandth of what the map itself takes.
"""

from collections.abc import Iterator

import numpy as np

_STRIP_PIXELS = 2**21


class StretchedMap:
  """A label map [H, W], where map[i, j] = values[rows[i], columns[j]]."""

  def __init__(self, values: np.ndarray, rows: np.ndarray, columns: np.ndarray):
    """Creates a map.

    Args:
      values: [h, w] integers.
      rows: [H] integers, ascending.
      columns: [W] integers, ascending.
    """
    # Rows and columns that stand nowhere (the image is smaller than its crop) are left out.
    used_rows, self._rows = np.unique(rows, return_inverse=True)
    used_columns, self._columns = np.unique(columns, return_inverse=True)
    if (used_rows.size, used_columns.size) != values.shape:
      values = values[used_rows][:, used_columns]
    self._values = values

  @property
  def shape(self) -> tuple[int, int]:
    """(H, W)."""
    return self._rows.size, self._columns.size

  def strip(self, top: int, bottom: int) -> np.ndarray:
    """Returns rows `top` to `bottom` (not included) of the map."""
    return self._values[self._rows[top:bottom]][:, self._columns]

  def strips(self) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (top, strip) from top to bottom, each of about two million pixels."""
    step = _rows_of_a_strip(self._columns.size)
    for top in range(0, self._rows.size, step):
      yield top, self.strip(top, top + step)

  def whole(self) -> np.ndarray:
    """Returns the map itself, [H, W]."""
    return self.strip(0, self._rows.size)

  def reduced(self, largest_side: int) -> np.ndarray:
    """Returns the map by nearest pixels so that no side exceeds `largest_side`, [H', W']."""
    scale = min(1.0, largest_side / max(self.shape))

    def nearest(part):
      count = max(1, round(part.size * scale))
      return part[((np.arange(count) + 0.5) * part.size / count).astype(int)]

    return self._values[nearest(self._rows)][:, nearest(self._columns)]

  def replaced(self, ids: np.ndarray, others: np.ndarray) -> 'StretchedMap':
    """Returns the map with `others[i]`, [n], where this has `ids[i]`, [n] of `ids()`."""
    return StretchedMap(others[np.searchsorted(ids, self._values)], self._rows, self._columns)

  def ids(self) -> np.ndarray:
    """Returns the distinct values of the map, ascending."""
    found: np.ndarray = np.unique(self._values[:1])
    for _, values in self._value_strips():
      found = np.union1d(found, values)
    return found

  def measure(self, ids: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """Returns the number of pixels, and [x, y, width, height], of each of `ids`.

    Args:
      ids: [n], what `ids()` returns.

    Returns:
      [n] int64, and n boxes.
    """
    heights, widths = np.bincount(self._rows), np.bincount(self._columns)
    areas = np.zeros(ids.size, np.int64)
    in_row = np.zeros((ids.size, heights.size), bool)
    in_column = np.zeros((ids.size, widths.size), bool)
    for top, values in self._value_strips():
      index = np.searchsorted(ids, values)
      here = slice(top, top + values.shape[0])
      pixels = heights[here, np.newaxis] * widths
      areas += np.bincount(index.ravel(), pixels.ravel(), ids.size).astype(np.int64)
      in_row[index, np.arange(here.start, here.stop)[:, np.newaxis]] = True
      in_column[index, np.arange(widths.size)] = True
    x, width = _extent(in_column, widths)
    y, height = _extent(in_row, heights)
    return areas, np.stack([x, y, width, height], -1).tolist()

  def _value_strips(self):
    step = _rows_of_a_strip(self._values.shape[1])
    for top in range(0, self._values.shape[0], step):
      yield top, self._values[top : top + step]


def unstretched(panoptic: np.ndarray) -> StretchedMap:
  """Returns a map [H, W] that is at its image's size already."""
  return StretchedMap(panoptic, *(np.arange(size) for size in panoptic.shape))


def _rows_of_a_strip(width):
  return max(1, _STRIP_PIXELS // max(1, width))


def _extent(present, sizes):
  """Returns first place and length, each [n], of where values occur along one axis.

  Args:
    present: [n, m] bool, whether a value occurs in line m.
    sizes: [m], how many lines of the map line m stands for.
  """
  ends = np.cumsum(sizes)
  first = present.argmax(1)
  last = present.shape[1] - 1 - present[:, ::-1].argmax(1)
  start = ends[first] - sizes[first]
  return start, ends[last] - start
