"""Reports of the checks of annotations and records, and statistics per class.

`inspect_annotations` and `inspect_records` look at everything; each image becomes a `Report`, and
`Statistics` adds them up.
"""

from typing import Any, NamedTuple

import numpy as np

from deeplab2.data import datasets
from deeplab2.data import labels
from deeplab2.data.problems import Problem


class Report(NamedTuple):
  """The problems and counts of one image."""

  problems: list[Problem]
  size: tuple[int, int] | None = None  # (height, width); None if there is no label map.
  segments: tuple[labels.Segment, ...] = ()  # Of known classes, with the areas that were counted.
  name: str = ''


class Statistics:
  """Sums of many reports.

  Attributes:
    problems: number of problems by category.
    images: number of images with a label map.
    sizes: [(smallest, largest)] of heights and of widths; None before there is one.
    most_instances: the most instances of things in one image, crowds not counted.
    most_segments: the same of things and stuff.
    void_pixels: pixels of no class.
    counts: [num_classes, 4] int64, by dataset id: see COLUMNS.
  """

  COLUMNS = ('images', 'segments', 'crowd', 'pixels')  # Segments include crowd.

  def __init__(self, info: datasets.DatasetInfo):
    """Starts from nothing for the classes of `info`."""
    self._info = info
    self.problems: dict[str, int] = {}
    self.images = 0
    self.sizes: list[tuple[int, int]] | None = None
    self.most_instances = 0
    self.most_segments = 0
    self.void_pixels = 0
    self.counts = np.zeros((info.label_space.num_classes, len(self.COLUMNS)), np.int64)

  def add(self, report: Report) -> None:
    """Adds what is known of one image."""
    for problem in report.problems:
      self.problems[problem.category] = self.problems.get(problem.category, 0) + 1
    if report.size is None:
      return
    self.images += 1
    before = self.sizes or [(side, side) for side in report.size]
    self.sizes = [
      (min(low, side), max(high, side))
      for (low, high), side in zip(before, report.size, strict=True)
    ]
    segments = [segment for segment in report.segments if segment.area]
    self.void_pixels += int(np.prod(report.size)) - sum(segment.area or 0 for segment in segments)
    for class_id in {segment.class_id for segment in segments}:
      self.counts[class_id, 0] += 1
    for segment in segments:
      self.counts[segment.class_id, 1:] += (1, segment.is_crowd, segment.area or 0)
    things = self._info.label_space.thing_ids
    self.most_instances = max(
      self.most_instances,
      sum(segment.class_id in things and not segment.is_crowd for segment in segments),
    )
    self.most_segments = max(
      self.most_segments,
      len(
        {
          segment.id if segment.class_id in things else -segment.class_id
          for segment in segments
          if not segment.is_crowd
        }
      ),
    )

  def as_json(self) -> dict[str, Any]:
    """Returns everything as what the json module writes."""
    heights, widths = self.sizes or (None, None)
    return {
      'dataset': self._info.name,
      'images': self.images,
      'height': heights,
      'width': widths,
      'most_instances': self.most_instances,
      'most_segments': self.most_segments,
      'void_pixels': self.void_pixels,
      'problems': self.problems,
      'classes': [
        {
          'id': index,
          'name': self._info.class_names[index],
          'isthing': int(index in self._info.label_space.thing_ids),
          **dict(zip(self.COLUMNS, self.counts[index].tolist(), strict=True)),
        }
        for index in self._listed()
      ],
    }

  def table(self) -> str:
    """Returns the statistics as lines for people."""
    total = max(1, self.void_pixels + int(self.counts[:, -1].sum()))
    rows: list[tuple[Any, ...]] = [('id', 'class', 'type', *self.COLUMNS, '% of pixels')]
    for index in self._listed():
      thing_or_stuff = 'thing' if index in self._info.label_space.thing_ids else 'stuff'
      rows.append(
        (
          index,
          self._info.class_names[index],
          thing_or_stuff,
          *self.counts[index].tolist(),
          f'{100 * self.counts[index, -1] / total:.2f}',
        )
      )
    rows.append(
      ('', '(no class)', '', '', '', '', self.void_pixels, f'{100 * self.void_pixels / total:.2f}')
    )
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
      '  '.join(
        f'{cell:<{width}}' if place in (1, 2) else f'{cell:>{width}}'
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
      )
      for row in rows
    ]
    if self.sizes:
      (low, high), (left, right) = self.sizes
      lines.append(
        f'{self.images} images, heights {low} to {high}, widths {left} to {right}, '
        f'at most {self.most_instances} instances and {self.most_segments} segments in '
        'an image'
      )
    return '\n'.join(lines)

  def _listed(self):
    space = self._info.label_space
    return [index for index in range(space.num_classes) if index != space.ignore_label]
