"""Segments a video: its frames as panoptic PNGs with their JSON, and an overlay video."""

import argparse
from collections.abc import Iterable, Iterator
from fractions import Fraction
import os
import time
from typing import Any, NamedTuple

import numpy as np

from deeplab2 import errors
from deeplab2 import files
from deeplab2 import structures
from deeplab2.data import coco_panoptic
from deeplab2.data import panoptic_results
from deeplab2.data import parallel
from deeplab2.data import stretched
from deeplab2.inference import association
from deeplab2.inference import batches
from deeplab2.inference import drawing
from deeplab2.inference import image_prediction
from deeplab2.inference import saved_model
from deeplab2.inference import video
from deeplab2.inference import video_writer


class _Task(NamedTuple):
  """A frame on its way, and what has become of it."""

  name: str
  stamp: Any
  time: Fraction  # Seconds.
  is_finished: bool  # By an earlier start of the command.
  png: panoptic_results.Written | None = None  # None if it is finished.
  drawn: np.ndarray | None = None  # uint8 [H', W', 3]


class _Ended(NamedTuple):
  """What is known when all frames have been segmented."""

  last: _Task
  num_frames: int
  problem: str  # What is wrong with the video, '' for nothing.


def predict(model: saved_model.Exported, path: str, options: argparse.Namespace) -> None:
  """Segments a video; see `predict` for what is written.

  Args:
    model: the model.
    path: of the video.
    options: the flags of `predict`.

  Raises:
    UserError: the video cannot be read at all, or the output cannot be written or holds something
      else.
    LeftOut: the video ends early or is damaged; what can be read is segmented all the same.
  """
  with video.open_video(path) as source:
    images = {}
    for number in range(1, source.num_frames + 1):
      name = _name(source, number)
      images[name] = {'id': name, 'file_name': f'{name}.png'}
    with image_prediction.open_results(model, images, options) as results:
      problem = _Prediction(model, source, results, options).run()
  if problem:
    raise errors.LeftOut(f'{path}: {problem}.')


def _name(source, number):
  return f'{source.name}_{number:06d}'


class _Prediction:
  """One start of the command for one video.

  Frames that are finished are not segmented again, but read. The last one is finished only when
  the overlay video is there, which is written whole or not at all.
  """

  def __init__(self, model, source, results, options):
    self._model = model
    self._source = source
    self._results = results
    self._options = options
    self._stamp = panoptic_results.file_stamp(source.path)
    self._overlay = ''
    if options.overlay:
      self._overlay = os.path.join(options.output_dir, 'overlay', f'{source.name}.mp4')
    self._finished = self._find_finished()

  def run(self) -> str:
    """Segments and writes; returns what is wrong with the video, '' for nothing."""
    for note in self._finished.values():
      if 'problem' in note and note['frames'] == len(self._finished):
        print(f'{note["frames"]} frames are finished in {self._options.output_dir}: nothing to do.')
        return note['problem']
    if self._finished:
      print(
        f'{len(self._finished)} frames are finished in {self._options.output_dir}; going on with '
        'the others.'
      )
    started = time.monotonic()
    if self._overlay:
      ended = self._segment_with_overlay()
    else:
      ended = self._segment(None)
    seconds = time.monotonic() - started
    if ended.last.png is not None:
      notes = {'frames': ended.num_frames, 'problem': ended.problem}
      self._keep(ended.last, [self._overlay] if self._overlay else [], notes)
    print(
      f'Segmented {ended.num_frames} frames into {self._options.output_dir} '
      f'({(ended.num_frames - len(self._finished)) / seconds:.1f} frames/s)'
    )
    return ended.problem

  def _find_finished(self):
    """Returns the notes of the frames that are finished, by name."""
    found = {}
    for number in range(1, self._source.num_frames + 1):
      name = _name(self._source, number)
      notes = self._results.notes(name, [*self._stamp, number])
      # The last frame is made again where it lacks the overlay video.
      if notes is not None and not ('problem' in notes and self._overlay and not notes['overlay']):
        found[name] = notes
    return found

  def _keep(self, task, other_files=(), notes=None):
    notes = notes and {**notes, 'overlay': bool(self._overlay)}
    self._results.keep(task.png, task.stamp, other_files=other_files, notes=notes)

  def _segment_with_overlay(self) -> _Ended:
    """Segments all frames and writes the overlay video."""
    ended: list[_Ended] = []
    files.remove_half_written(os.path.dirname(self._overlay))

    def write(place):
      writer = video_writer.Writer(place, self._source)
      try:
        ended.append(self._segment(writer))
        writer.close()
      except BaseException:
        writer.abandon()
        raise
      if writer.lost_sound:
        print(f'The overlay video is silent: an MP4 cannot hold sound in {writer.lost_sound}.')
      if writer.encoder == 'mpeg4':
        print('The overlay video is in MPEG-4: FFmpeg has no encoder of H.264 here.')

    files.write_whole(self._overlay, write)
    return ended[0]

  def _segment(self, writer) -> _Ended:
    """Segments all frames; keeps all but the last."""
    options = self._options
    read = parallel.ahead(
      self._read, self._source.frames(), options.num_workers, batches.Item.num_bytes
    )
    segmented = batches.segmented(self._model, read, options.batch_size)
    written = parallel.ahead(
      self._write,
      self._followed(segmented),
      options.num_workers,
      lambda task: 0 if task.drawn is None else 2 * task.drawn.nbytes,
    )
    last, number = None, 0
    for task in parallel.with_progress(written, self._source.num_frames, 'segmenting', 'frame'):
      number += 1
      if last is not None and last.png is not None:
        self._keep(last)
      if writer is not None:
        writer.add(task.drawn, task.time)
      last = task._replace(drawn=None)
    problem = self._source.problem(number, last and last.time)
    if last is None:
      raise errors.UserError(f'{self._source.path}: {problem}.')
    return _Ended(last, number, problem)

  def _read(self, frame: video.Frame) -> batches.Item:
    """Returns a frame with its pixels, and its map if it is finished; in any thread."""
    name = _name(self._source, frame.number)
    is_finished = name in self._finished
    task = _Task(name, [*self._stamp, frame.number], frame.time, is_finished)
    item = batches.Item(task, f'{self._source.path}, frame {frame.number}')
    if self._overlay or not is_finished:
      item = item._replace(pixels=frame.pixels())
    if is_finished:
      space = self._model.info.label_space
      item = item._replace(panoptic=_read_map(self._results.png_path(name), space))
    return item

  def _followed(self, items: Iterable[batches.Item]) -> Iterator[batches.Item]:
    """Yields frames with the numbers that their things have in this video."""
    numbers = association.Association(self._model.info.label_space)
    for item in items:
      if item.error is not None:
        raise item.error
      if item.source.is_finished:
        numbers.remember(item.panoptic)
        yield item
      else:
        yield item._replace(panoptic=numbers.follow(item.panoptic))

  def _write(self, item: batches.Item) -> _Task:
    """Writes the PNG of a frame and draws it, in any thread."""
    task = item.source
    if not task.is_finished:
      task = task._replace(png=self._results.write(task.name, item.panoptic))
    if self._overlay:
      reduced = item.panoptic.reduced(drawing.LARGEST_SIDE)
      task = task._replace(drawn=drawing.video_frame(item.pixels, reduced, self._model.info))
    return task


def _read_map(path: str, space: structures.LabelSpace) -> stretched.StretchedMap:
  """Reads a map as `coco_panoptic.encoding` wrote it."""
  segment_ids = coco_panoptic.read_segment_ids(path)
  return stretched.unstretched(np.where(segment_ids == 0, space.void_id, segment_ids - 1))
