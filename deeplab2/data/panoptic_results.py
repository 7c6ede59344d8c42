"""A directory of panoptic maps that is complete and valid at any moment, and goes on after a stop.

For `OUT/NAME.json`, which lists all maps in COCO's panoptic format:

  OUT/NAME/<image>.png     the maps
  OUT/NAME.index.jsonl     first line: what the maps are of; then one line for each finished image
  OUT/NAME.lock            while a process writes here

Every image adds its PNG, whole or not at all, and then its line of the index. The JSON is written
from the index, as a whole, every few seconds and at the end, however the process ends. A process
that is killed loses the image that it was working on.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
import signal
import threading
import time
from typing import Any, NamedTuple

from absl import logging

from deeplab2 import errors
from deeplab2 import files
from deeplab2 import locks
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import stretched

# Of the index, after the name of the JSON without its ending.
INDEX_ENDING = '.index.jsonl'
_VERSION = 1
_ENTRY = 'image'  # Among the notes: the entry of the list `images`.
# The JSON is written no more often than this, and takes at most this fraction of the time.
_SECONDS_BETWEEN = 5.0
_FRACTION_OF_TIME = 1 / 20
_ADVICE = 'Write elsewhere, or give --overwrite to start over.'


class _Line(NamedTuple):
  """A line of the index, about one image."""

  stamp: Any  # Of the input: the image is made again if it is another.
  size: tuple[int, int]  # (height, width)
  segments_info: str  # JSON.
  files: dict[str, int]  # Size in bytes by path, relative to the directory of the JSON.
  notes: dict[str, Any]  # The caller's.


class Written(NamedTuple):
  """The PNG of an image that is not listed yet."""

  name: str
  png: str  # Path.
  size: tuple[int, int]  # (height, width)
  segments_info: list[dict[str, Any]]


class Results:
  """The maps of a directory; made by `open_results`."""

  def __init__(
    self,
    path: str,
    info: datasets.DatasetInfo,
    of: Mapping[str, str],
    images: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    resume: bool = True,
  ):
    """Reads the index, or starts one; see `open_results`.

    Without `images`, which ones there will be is not known: `add` is given the entry of each.
    """
    self._path = path
    self._directory = os.path.dirname(path)
    self._stem = path.removesuffix('.json')
    self._index_path = index_path(path)
    self._info = info
    self._images = images
    self._of = {'version': _VERSION, **of}
    self._written = (-float('inf'), 0.0)  # When, and how many seconds it took.
    self._lines: dict[str, _Line] = {}
    exists = os.path.lexists(self._index_path) or os.path.lexists(path) or _holds_png(self._stem)
    if exists and not (overwrite or resume):
      raise errors.UserError(f'{path}: there are results already. {_ADVICE}')
    if os.path.lexists(self._index_path):
      self._lines = self._read_index(overwrite)
    elif exists and not overwrite:
      raise errors.UserError(
        f'{path}: holds results without {self._index_path}, which says what they are of. {_ADVICE}'
      )
    if overwrite:
      for line in self._lines.values():
        self._remove_files(line)
      self._lines = {}
    self._start_index()
    self.remove_half_written()

  def all_notes(self) -> list[dict[str, Any]]:
    """Returns the notes of all images that are finished."""
    return [line.notes for line in self._lines.values()]

  def notes(self, name: str, stamp: Any) -> dict[str, Any] | None:
    """Returns the notes of an image that is finished, None if it is to be made (again).

    Args:
      name: of the image.
      stamp: of the input as it is now.
    """
    line = self._lines.get(name)
    if line is None or line.stamp != stamp:
      return None
    sizes = {file: _size_of(os.path.join(self._directory, file)) for file in line.files}
    return line.notes if sizes == line.files else None

  def discard(self, name: str) -> None:
    """Forgets an image, and removes its files: its input changed and cannot be used any more."""
    line = self._lines.pop(name, None)
    if line is not None:
      self._remove_files(line)
      self._start_index()

  def add(
    self,
    name: str,
    panoptic: stretched.StretchedMap,
    stamp: Any,
    *,
    other_files: Sequence[str] = (),
    notes: Mapping[str, Any] | None = None,
    entry: Mapping[str, Any] | None = None,
    scores: Mapping[int, float] | None = None,
  ) -> list[dict[str, Any]]:
    """Writes and keeps the map of an image.

    Args:
      name: of the image, one of those that the results were opened with.
      panoptic: ids of the dataset.
      stamp: JSON that identifies the inputs of the map.
      other_files: further files of this image, which exist already, in the directory of the JSON.
      notes: kept with it.
      entry: of the JSON's list `images`, if the results were opened without.
      scores: by panoptic id, for the field `score` of the segments.

    Returns:
      The `segments_info` of its annotation.

    Raises:
      UserError: it cannot be written; what was added before stays as it is.
      ValueError: as `coco_panoptic.encoding`.
    """
    written = self.write(name, panoptic, scores)
    if entry is not None:
      notes = {**(notes or {}), _ENTRY: dict(entry)}
    self.keep(written, stamp, other_files=other_files, notes=notes)
    return written.segments_info

  def write(
    self, name: str, panoptic: stretched.StretchedMap, scores: Mapping[int, float] | None = None
  ) -> Written:
    """Writes the PNG of an image, without listing it yet; in any thread. As `add`."""
    encoded = coco_panoptic.encoding(panoptic, self._info)
    for segment in encoded.segments_info:
      # Other ids are one more than the panoptic ones, see coco_panoptic.encoding.
      score = (scores or {}).get(segment['id'] - 1)
      if score is not None:
        segment['score'] = score
    png = self.png_path(name)
    files.write_whole(png, lambda place: coco_panoptic.write_png(place, panoptic, encoded))
    return Written(name, png, panoptic.shape, encoded.segments_info)

  def keep(
    self,
    written: Written,
    stamp: Any,
    *,
    other_files: Sequence[str] = (),
    notes: Mapping[str, Any] | None = None,
  ) -> None:
    """Lists an image whose PNG has been written; in the thread of the results. As `add`."""
    sizes = {
      os.path.relpath(file, self._directory or '.'): os.stat(file).st_size
      for file in (written.png, *other_files)
    }
    line = _Line(stamp, written.size, json.dumps(written.segments_info), sizes, dict(notes or {}))
    self._append(_to_text(written.name, line))
    self._lines[written.name] = line
    when, seconds = self._written
    if time.monotonic() - when >= max(_SECONDS_BETWEEN, seconds / _FRACTION_OF_TIME):
      self.write_json()

  def png_path(self, name: str) -> str:
    """Returns where the PNG of an image is, or will be."""
    return os.path.join(self._stem, f'{name}.png')

  def write_json(self) -> None:
    """Writes the JSON of all images that are finished, in the order that they were listed in."""
    started = time.monotonic()
    files.write_whole(self._path, self._write_json_to)
    self._written = (time.monotonic(), time.monotonic() - started)

  def remove_half_written(self) -> None:
    """Removes the half files of processes that were killed."""
    for path in (self._path, self._index_path):
      files.remove_half_written(self._directory or '.', os.path.basename(path))
    written = {file for line in self._lines.values() for file in line.files}
    parts = {os.path.dirname(os.path.join(self._directory, file)) for file in written}
    for directory in {self._stem, *parts}:
      files.remove_half_written(directory)

  def __len__(self):
    """Returns how many images are finished."""
    return len(self._lines)

  def _write_json_to(self, place):
    """Writes the JSON to a path, image by image, as it can be larger than its index is here."""
    listed = self._lines if self._images is None else self._images
    finished = [name for name in listed if name in self._lines]

    def images():
      for name in finished:
        height, width = self._lines[name].size
        yield json.dumps({**self._entry(name), 'height': height, 'width': width})

    def annotations():
      for name in finished:
        content = {'image_id': self._entry(name)['id'], 'file_name': f'{name}.png'}
        yield _with_segments(content, self._lines[name].segments_info)

    with open(place, 'w', encoding='utf-8') as file:
      categories = map(json.dumps, _categories(self._info))
      for start, entries in (
        ('{"images"', images()),
        (',"annotations"', annotations()),
        (',"categories"', categories),
      ):
        file.write(f'{start}: [')
        for number, entry in enumerate(entries):
          file.write(f'{"," if number else ""}\n{entry}')
        file.write(']')
      file.write('}\n')

  def _entry(self, name):
    return self._lines[name].notes[_ENTRY] if self._images is None else self._images[name]

  def _read_index(self, overwrite):
    """Returns the lines of the index by name; UserError if it is of something else."""
    with (
      files.explained(f'{self._index_path}: cannot be read'),
      open(self._index_path, encoding='utf-8', errors='replace') as file,
    ):
      texts = file.read().split('\n')
    # The last is empty, or torn: the process was killed while it wrote.
    head, lines = _parsed(texts[0]), [_from_text(text) for text in texts[1:-1]]
    found = {name: line for name, line in filter(None, lines)}
    if overwrite:
      return found
    if head is None or len(texts) == 1:
      raise errors.UserError(
        f'{self._index_path}: the index of these results is damaged. {_ADVICE}'
      )
    for key in [*self._of, *head]:
      if head.get(key) != self._of.get(key):
        raise errors.UserError(
          f'{self._path}: holds results of something else ({key} '
          f'{head.get(key)}, now {self._of.get(key)}). {_ADVICE}'
        )
    foreign = [name for name in found if name not in (self._images or found)]
    if foreign:
      raise errors.UserError(
        f'{self._path}: holds results of {len(foreign)} images that are not '
        f'in the input, first {foreign[0]}. {_ADVICE}'
      )
    return found

  def _start_index(self):
    """Writes the index whole: without torn lines, and without those of images that are gone."""
    texts = [json.dumps(self._of), *(_to_text(*item) for item in self._lines.items())]
    files.write_whole(self._index_path, ''.join(f'{text}\n' for text in texts).encode())

  def _append(self, text):
    """Adds a line to the index, or leaves it as it was."""
    with (
      files.explained(f'{self._index_path}: cannot be written'),
      open(self._index_path, 'r+b', buffering=0) as file,
    ):
      end = file.seek(0, os.SEEK_END)
      data = f'{text}\n'.encode()
      try:
        if file.write(data) != len(data):
          raise OSError(0, 'no space left')
      except OSError:
        file.truncate(end)
        raise

  def _remove_files(self, line):
    for file in line.files:
      files.remove_if_exists(os.path.join(self._directory, file))


@contextlib.contextmanager
def open_results(
  path: str,
  info: datasets.DatasetInfo,
  *,
  of: Mapping[str, str],
  images: Mapping[str, Mapping[str, Any]],
  overwrite: bool = False,
  resume: bool = True,
) -> Iterator[Results]:
  """Opens the results of a command, to go on with them, for as long as the context lasts.

  Whatever ends it (an error, Ctrl-C, being told to terminate), the JSON is written last.

  Args:
    path: of the JSON, which ends in .json.
    info: the dataset of the maps.
    of: what all maps depend on, by what it is called in messages ('model': its fingerprint). Maps
      of something else are not mixed with these.
    images: entry of the JSON's list `images` for each image that will be, or has been, made, by
      the name of its PNG without ending; at least 'id' and 'file_name'.
    overwrite: start over; the files of images that are finished are removed first.
    resume: go on with results of the same that are there; else they are refused.

  Raises:
    UserError: another process writes there, or it cannot be written; the place holds results of
      something else, of other images, or none that are known.
  """
  if '://' in path:
    raise errors.UserError(f'{path}: must be on a local disk; copy the results from there.')
  files.make_directory(os.path.dirname(path) or '.')
  lock = locks.hold(f'{path.removesuffix(".json")}.lock', f'the results {path}')
  with lock, _terminated_like_interrupted():
    results = Results(path, info, of, images, overwrite, resume)
    results.write_json()
    try:
      yield results
    except BaseException:
      # What stopped it is what there is to say.
      try:
        results.write_json()
      except errors.UserError as error:
        logging.warning(
          '%s The same command, once it can write again, adds the images that are '
          'finished but missing there.',
          error,
        )
      raise
    results.write_json()
    results.remove_half_written()


@contextlib.contextmanager
def _terminated_like_interrupted():
  """Ends the process by an exception, as Ctrl-C does, when it is told to terminate."""

  def leave(number, _):
    raise SystemExit(128 + number)

  if threading.current_thread() is not threading.main_thread():
    yield
    return
  signals = [signal.SIGTERM, signal.SIGHUP]
  # nohup has SIGHUP ignored, which is to stay.
  signals = [number for number in signals if signal.getsignal(number) is signal.SIG_DFL]
  for number in signals:
    signal.signal(number, leave)
  try:
    yield
  finally:
    for number in signals:
      signal.signal(number, signal.SIG_DFL)


def index_path(path: str) -> str:
  """Returns where the index of the results with the JSON `path` is."""
  return f'{path.removesuffix(".json")}{INDEX_ENDING}'


def file_stamp(path: str) -> list[int]:
  """Returns size in bytes and time of change in ns, by which a changed file is noticed.

  Raises:
    UserError: it cannot be looked up.
  """
  with files.explained(f'{path}: cannot be read'):
    found = os.stat(path)
  return [found.st_size, found.st_mtime_ns]


def _categories(info):
  """Returns the categories of a dataset as a panoptic JSON lists them."""
  used = sorted(info.dataset_ids.items(), key=lambda item: item[1])
  return [
    {
      'id': original,
      'name': info.class_names[index],
      'isthing': int(index in info.label_space.thing_ids),
      'color': list(info.colors[index]),
    }
    for original, index in used
    if index != info.label_space.ignore_label
  ]


def _to_text(name, line):
  content = {'name': name, **line._asdict()}
  return _with_segments(content, content.pop('segments_info'))


def _with_segments(content, segments_info):
  """Returns the JSON of an object, with the JSON of its segments as the last field."""
  return f'{json.dumps(content)[:-1]}, "segments_info": {segments_info}}}'


def _parsed(text):
  """Returns the object that a line holds, None if it holds none."""
  try:
    content = json.loads(text)
  except (ValueError, RecursionError):
    return None
  return content if isinstance(content, dict) else None


def _from_text(text):
  """Returns (name, line), None if the line is damaged: that image is made again."""
  content = _parsed(text)
  try:
    height, width = content['size']
    sizes = {os.path.normpath(file): int(size) for file, size in content['files'].items()}
    # They are removed when the image is made again.
    if any(os.path.isabs(file) or file.split(os.sep)[0] == os.pardir for file in sizes):
      return None
    line = _Line(
      content['stamp'],
      (int(height), int(width)),
      json.dumps(list(content['segments_info'])),
      sizes,
      dict(content['notes']),
    )
    return str(content['name']), line
  except (AttributeError, KeyError, TypeError, ValueError):
    return None


def _size_of(path):
  """Returns the size of a file in bytes, None if there is none."""
  try:
    return os.stat(path).st_size
  except OSError:
    return None


def _holds_png(directory):
  try:
    return any(name.endswith('.png') and not name.startswith('.') for name in os.listdir(directory))
  except OSError:
    return False
