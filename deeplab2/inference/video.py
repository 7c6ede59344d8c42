"""Frames of a video as a player shows them, through PyAV (FFmpeg).

A frame is turned upright by the video's display matrix, and its colours are brought to RGB by the
matrix that the video names; where it names none, by that of its size, as players do.
"""

from collections.abc import Iterator
import contextlib
from fractions import Fraction
import os
from typing import Any, NamedTuple

import numpy as np

from deeplab2 import errors
from deeplab2 import files

ENDINGS = tuple(
  '.mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .mts .m2ts .ts .wmv .flv .3gp .ogv'.split()
)
_UNSPECIFIED = 2  # FFmpeg's number of a colour matrix that is not named.
# Videos of more lines are taken to be in the colours of HDTV.
_MOST_SD_LINES = 576
# A video ends early if it lacks more than this of what its header states.
_MISSING_FRACTION, _MISSING_SECONDS = 0.02, 0.25


class Frame(NamedTuple):
  """A frame as it was decoded."""

  number: int  # From 1.
  time: Fraction  # Seconds, ascending.
  decoded: Any  # av.VideoFrame

  def pixels(self) -> np.ndarray:
    """Returns the frame upright, uint8 RGB [H, W, 3]; may be called in any thread."""
    frame, matrix = self.decoded, None
    if frame.colorspace == _UNSPECIFIED and frame.height > _MOST_SD_LINES:
      matrix = 'ITU709'
    rgb = frame.reformat(format='rgb24', src_colorspace=matrix).to_ndarray()
    return np.ascontiguousarray(_turn(rgb, _display_matrix(frame)))


class Video:
  """A video file that is read once, from its beginning; made by `open_video`."""

  def __init__(self, path: str, container, num_packets: int):
    """Wraps a container whose video stream has been found to have `num_packets` packets."""
    self.path = path
    self.name = os.path.splitext(os.path.basename(path))[0]
    self.num_frames = num_packets  # At most so many.
    self.is_damaged = False  # Whether some frames could not be decoded, as far as it was read.
    self._container = container
    self._stream = video_stream(container)
    # Width to height of a pixel as it is shown.
    self.pixel_aspect: Fraction = self._stream.sample_aspect_ratio or Fraction(1)
    self.time_base: Fraction = self._stream.time_base
    self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)

  def frames(self) -> Iterator[Frame]:
    """Yields the frames; those that cannot be decoded are left out."""
    self._stream.thread_type = 'AUTO'
    time = None
    for number, frame in enumerate(self._decoded(), 1):
      at = None if frame.pts is None else frame.pts * frame.time_base
      # Raw streams have no times, and damaged ones go back in time.
      if at is None or (time is not None and at <= time):
        at = Fraction(0) if time is None else time + 1 / self.rate
      if time is None and _is_transposed(_display_matrix(frame)):
        self.pixel_aspect = 1 / self.pixel_aspect
      time = at
      self.is_damaged |= bool(frame.is_corrupt)
      yield Frame(number, time, frame)

  def _decoded(self):
    """Yields what the decoder makes of the packets, and at last what it has kept back."""
    import av

    packets = self._container.demux(self._stream)
    is_open = True
    while is_open:
      frames = []
      try:
        packet = next(packets, None)
      except (av.error.FFmpegError, OSError):
        packet, self.is_damaged = None, True
      try:
        frames = self._stream.decode(packet)  # None: what it has kept back.
      except av.error.EOFError:  # That was asked for already.
        pass
      except (av.error.FFmpegError, OSError):
        self.is_damaged = True
      yield from frames
      is_open = packet is not None

  def problem(self, num_decoded: int, end: Fraction | None) -> str:
    """Returns what is wrong with the video now that it has been read, '' for nothing.

    Args:
      num_decoded: number of frames that it had.
      end: time of the last one in seconds, None without frames.
    """
    if end is None:
      return 'no frame of it can be decoded'
    stated = self._duration()
    start = Fraction(self._container.start_time or 0, 10**6)
    missing = stated - (end - start + 1 / self.rate)
    if missing > max(stated * Fraction(_MISSING_FRACTION), Fraction(_MISSING_SECONDS)):
      return (
        f'it ends early, after {num_decoded} frames or {float(stated - missing):.1f} of '
        f'{float(stated):.1f} s'
      )
    return 'some of its frames are damaged' if self.is_damaged else ''

  def _duration(self):
    """Returns how long the pictures last in seconds by the header, 0 if it does not say."""
    stream = self._stream
    if stream.duration:
      return stream.duration * stream.time_base
    stated = stream.metadata.get('DURATION', '')  # Matroska.
    with contextlib.suppress(ValueError):
      hours, minutes, seconds = stated.split(':')
      return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    if self._container.duration and len(self._container.streams) == 1:
      return Fraction(self._container.duration, 10**6)
    return Fraction(0)


@contextlib.contextmanager
def open_video(path: str) -> Iterator[Video]:
  """Opens a video for as long as the context lasts.

  Raises:
    UserError: PyAV is not installed; the file is missing, is no video, or has no frames.
  """
  import_av(path)
  with _opened(path) as container:
    stream = video_stream(container)
    if stream is None:
      raise errors.UserError(f'{path}: has no moving pictures; must be a video.')
    num_packets = _count_packets(container, stream)
  if not num_packets:
    raise errors.UserError(f'{path}: is a video without frames.')
  with _opened(path) as container:
    yield Video(path, container, num_packets)


def is_video(path: str) -> bool:
  """Returns whether a file is a video by its name."""
  return path.lower().endswith(ENDINGS)


def import_av(path: str) -> Any:
  """Returns PyAV; UserError if it is not installed, which reads the video `path`."""
  try:
    import av
  except ImportError as error:
    raise errors.UserError(
      f'{path}: videos are read by PyAV, which is not installed ({error}); '
      "pip install 'deeplab2-remax[video]'."
    ) from error
  return av


def video_stream(container) -> Any:
  """Returns the stream of a container with the moving pictures, None if it has none."""
  from av.stream import Disposition

  moving = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
  return next(moving, None)


@contextlib.contextmanager
def _opened(path):
  """Opens a container for reading."""
  import av

  try:
    container = av.open(path, metadata_errors='replace')
  except FileNotFoundError as error:
    raise errors.UserError(f'{path}: no such video.') from error
  except (av.error.FFmpegError, OSError) as error:
    raise errors.UserError(f'{path}: cannot be read as a video ({_reason(error)}).') from error
  with container:
    yield container


def _count_packets(container, stream):
  """Returns the number of packets of a stream, without decoding them; up to where it is damaged."""
  import av

  count = 0
  with contextlib.suppress(av.error.FFmpegError, OSError):
    for packet in container.demux(stream):
      count += packet.size > 0
  return count


def _reason(error):
  return getattr(error, 'strerror', None) or files.reason(error)


def _display_matrix(frame):
  """Returns [2, 2]: the columns and rows of the stored frame -> those of the upright one."""
  data = next((d for d in frame.side_data if d.type.name == 'DISPLAYMATRIX'), None)
  if data is None:
    return np.eye(2)
  # [a, b, u; c, d, v; x, y, w] takes (p, q) to (a p + c q + x, b p + d q + y).
  matrix = np.frombuffer(bytes(data), np.int32)[:9].reshape(3, 3)
  return matrix[:2, :2].T


def _is_transposed(matrix):
  return np.abs(matrix).trace() < np.abs(matrix[::-1]).trace()


def _turn(pixels, matrix):
  """Returns pixels [H, W, 3] turned and mirrored by a display matrix, by quarters of a circle."""
  if _is_transposed(matrix):
    pixels, matrix = pixels.swapaxes(0, 1), matrix[:, ::-1]
  (x, _), (_, y) = matrix.tolist()
  return pixels[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1]
