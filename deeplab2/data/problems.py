"""Problems that checks of annotations, label maps and records find, worded once for all callers.

Checks yield every `Problem`. Inspection lists them all; converters stop at the first (`refuse`).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from deeplab2 import errors


class Problem(NamedTuple):
  """Something that is wrong."""

  category: str
  file: str  # With the number of the record or the image, where it is of one.
  message: str
  segment: Any = None  # Segment id of an annotation, panoptic id of a record.
  pixel: tuple[int, int] | None = None  # (row, column) of the segment, its first row by row.

  def __str__(self):
    return f'{self.place()}: {self.category}: {self.message}'

  def place(self) -> str:
    """Returns where it is."""
    parts = [self.file] if self.file else []
    if self.segment is not None:
      parts.append(f'segment {self.segment}')
    if self.pixel is not None:
      parts.append(f'pixel ({self.pixel[0]}, {self.pixel[1]})')
    return ', '.join(parts)


def summary(problems: Iterable[Problem]) -> str:
  """Returns the first problem of each category and the number of those like it, '' for none."""
  found: dict[str, list[Problem]] = {}
  for problem in problems:
    found.setdefault(problem.category, []).append(problem)
  texts: list[str] = []
  file = ''
  for first, *others in found.values():
    place = first._replace(file='' if first.file == file else first.file).place()
    count = f' (the first of {len(others) + 1})' if others else ''
    texts.append(f'{place}: {first.message}{count}' if place else f'{first.message}{count}')
    file = first.file
  return '; '.join(texts)


def refuse(problems: Iterable[Problem]) -> None:
  """Raises UserError with the summary of the problems, if there are any."""
  text = summary(problems)
  if text:
    raise errors.UserError(f'{text}.')


def of_error(category: str, place: str, error: errors.UserError) -> Problem:
  """Returns the problem that an error states, which begins with the place."""
  return Problem(category, place, str(error).removeprefix(f'{place}: ').rstrip('.'))
