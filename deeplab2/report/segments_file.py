"""The file beside the numbers of an evaluation that a report is made from: `segments-<step>.jsonl`.

A line of JSON each, without pickle. The first one says what it is of:

  {"format": 1, "step", "evaluated": as in the metrics, "dataset": name,
   "classes": [{"id", "name", "isthing"}]}

Then one for every image, in order:

  {"image": name, "size": [height, width], "quality": PQ of the image alone in [0, 1] or null,
   "matched": [[class, area, IoU, score], ...],   area of the true segment, in pixels
   "missed": [[class, area, class predicted on most of its pixels, or -1], ...],
   "extra": [[class, area, score, true class of most of its pixels, or -1], ...],
   "shown": [reasons, ...], "panels": {name: WebP file in base64}}

`shown` and `panels` are there for the images of the gallery alone.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
import json
import os
from typing import Any, NamedTuple

import numpy as np

from deeplab2 import errors
from deeplab2 import files
from deeplab2.metrics import segments as segments_lib
from deeplab2.report import thumbnails

FORMAT = 1
_COLUMNS = {
  'matched': ('class', 'area', 'iou', 'score'),
  'missed': ('class', 'area', 'as'),
  'extra': ('class', 'area', 'score', 'on'),
}
_REAL = ('iou', 'score')
_DIGITS = 7  # What a float32 holds.


class Image(NamedTuple):
  """One image of an evaluation."""

  name: str
  size: tuple[int, int]  # Height and width in pixels.
  quality: float | None  # Of this image alone, in [0, 1]; None without segments.
  segments: segments_lib.Segments
  shown: tuple[str, ...] = ()  # Why it is in the gallery.
  panels: Mapping[str, bytes] = {}  # By thumbnails.NAMES.


class Content(NamedTuple):
  """An evaluation, image by image."""

  step: int
  evaluated: Mapping[str, Any]
  dataset: str
  classes: Sequence[Mapping[str, Any]]  # {"id", "name", "isthing"}
  images: Sequence[Image]


def beside(metrics_path: str) -> str:
  """Returns the path that belongs to `metrics-<step>.json` or `metrics-<step>-<digest>.json`."""
  directory, name = os.path.split(metrics_path)
  stem = name.removesuffix('.json').replace('metrics-', 'segments-', 1)
  return os.path.join(directory, f'{stem}.jsonl')


def as_line(image: Image) -> dict[str, Any]:
  """Returns an image as the content of its line."""
  columns = iter(image.segments)
  line: dict[str, Any] = {
    'image': image.name,
    'size': list(image.size),
    'quality': None if image.quality is None else _rounded(image.quality),
  }
  for name, fields in _COLUMNS.items():
    values = [
      list(map(_rounded, column.tolist())) for _, column in zip(fields, columns, strict=False)
    ]
    line[name] = [list(row) for row in zip(*values, strict=True)]
  if image.shown:
    line['shown'] = list(image.shown)
  if image.panels:
    line['panels'] = {
      name: base64.b64encode(content).decode() for name, content in image.panels.items()
    }
  return line


def _rounded(value):
  return float(f'{value:.{_DIGITS}g}') if isinstance(value, float) else value


def write(path: str, head: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> None:
  """Writes the file whole or not at all.

  Args:
    path: of the file.
    head: `step`, `evaluated`, `dataset` and `classes`.
    lines: of `as_line`.

  Raises:
    UserError: it cannot be written.
  """
  texts = [
    json.dumps(line, allow_nan=False, ensure_ascii=False, separators=(',', ':'))
    for line in ({'format': FORMAT, **head}, *lines)
  ]
  files.write_whole(path, ('\n'.join(texts) + '\n').encode())


def read(path: str) -> Content:
  """Reads the file, every field checked.

  Raises:
    UserError: it is missing, or a line is not of the form above, by its number.
  """
  lines = files.read_text(path).split('\n')
  head = _parsed(path, 1, lines[0])
  if head.get('format') != FORMAT:
    raise _error(f'{path}, line 1: format is {head.get("format")!r}, must be {FORMAT}')
  try:
    classes = [
      {'id': int(one['id']), 'name': str(one['name']), 'isthing': bool(one['isthing'])}
      for one in head['classes']
    ]
    step, dataset, evaluated = int(head['step']), str(head['dataset']), dict(head['evaluated'])
  except (KeyError, TypeError, ValueError) as error:
    raise _error(f'{path}, line 1: is not the head of such a file ({_named(error)})') from error
  known = {one['id'] for one in classes}
  images = []
  for number, text in enumerate(lines[1:], 2):
    if not text and number == len(lines):
      break
    content = _parsed(path, number, text)
    try:
      images.append(_image(content, known))
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
      raise _error(
        f'{path}, line {number}: is not the line of an image ({_named(error)})'
      ) from error
  if lines[-1]:
    raise _error(f'{path}: ends within a line, it was cut')
  return Content(step, evaluated, dataset, classes, images)


def _parsed(path, number, text):
  try:
    content = json.loads(text)
  except ValueError as error:
    raise _error(f'{path}, line {number}: is not JSON ({error})') from error
  if not isinstance(content, dict):
    raise _error(f'{path}, line {number}: must be an object of JSON')
  return content


def _error(message):
  return errors.UserError(f'{message}; evaluate again with --mode=eval --report.')


def _named(error):
  return f'{error} is missing' if isinstance(error, KeyError) else str(error)


def _image(content, known):
  """Returns an Image from its line; KeyError, TypeError or ValueError if it is none."""
  arrays = []
  others = known | {segments_lib.NOTHING}
  for name, fields in _COLUMNS.items():
    rows = content[name]
    if not all(len(row) == len(fields) for row in rows):
      raise ValueError(f'{name}: rows must be {", ".join(fields)}')
    for i, field in enumerate(fields):
      column = [row[i] for row in rows]
      values = np.array(column, np.float64 if field in _REAL else np.int64)
      allowed = {'class': known, 'as': others, 'on': others}.get(field)
      if allowed is not None and not allowed.issuperset(values.tolist()):
        raise ValueError(f'{name}: there is a class that the first line does not list')
      if allowed is None and not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f'{name}: {field} must not be negative')
      arrays.append(values)
  quality = content['quality']
  return Image(
    str(content['image']),
    tuple(int(side) for side in content['size']),
    None if quality is None else float(quality),
    segments_lib.Segments(*arrays),
    tuple(str(reason) for reason in content.get('shown', ())),
    {
      name: base64.b64decode(content['panels'][name], validate=True)
      for name in thumbnails.NAMES
      if name in content.get('panels', {})
    },
  )
