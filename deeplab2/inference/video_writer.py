"""Drawn frames of a video as an MP4 with the times and the sound of the video.

The shape of its pixels is kept too, and sound is copied as it is where an MP4 can hold it.
"""

from collections.abc import Iterator
import contextlib
from fractions import Fraction
from typing import Any

import numpy as np

from deeplab2.inference import video

# Encoders by preference; the last one is in every FFmpeg.
ENCODERS = ('libx264', 'libopenh264', 'mpeg4')
_X264_OPTIONS = {'preset': 'veryfast', 'crf': '20'}
_BITS_PER_PIXEL = 0.2  # Of the other encoders.
# MPEG-4 counts no finer than 1/65535 s; this is exact for almost all frame rates.
_COARSE_TIME_BASE = Fraction(1, 60_000)
_BT709 = 1  # FFmpeg's number of a colour matrix, and of its primaries and curve.
_LIMITED_RANGE = 1


class Writer:
  """Writes the frames of one video; made, fed and closed by one thread."""

  def __init__(self, path: str, source: video.Video, encoders=ENCODERS):
    """Starts a file.

    Args:
      path: of the file.
      source: the video that is drawn.
      encoders: names of FFmpeg's encoders; the first that is there is taken.

    Raises:
      OSError: it cannot be written. So do the methods.
    """
    self._av = av = video.import_av(path)
    self._source = source
    self.encoder = next(name for name in encoders if _has_encoder(av, name))
    self.lost_sound = ''  # Codec of a sound that an MP4 cannot hold.
    with _as_os_error(av):
      self._container = av.open(path, 'w', format='mp4', options={'movflags': '+faststart'})
    self._stream: Any = None  # From the first frame on.
    self._time_base = source.time_base if self.encoder == 'libx264' else _COARSE_TIME_BASE
    self._sound = _Sound(source.path)

  def add(self, pixels: np.ndarray, time: Fraction) -> None:
    """Adds a frame, uint8 RGB [H, W, 3], at a time in seconds, later than that of the one before.

    A frame that is not as large as the first one is brought to its size.
    """
    with _as_os_error(self._av):
      if self._stream is None:
        self._start(*pixels.shape[:2])
      frame = self._av.VideoFrame.from_ndarray(_even(pixels), format='rgb24').reformat(
        self._stream.width, self._stream.height, 'yuv420p', dst_colorspace='ITU709'
      )
      frame.pts, frame.time_base = round(time / self._time_base), self._time_base
      for packet in self._stream.encode(frame):
        self._container.mux(packet)
      for packet in self._sound.until(time):
        self._container.mux(packet)

  def close(self) -> None:
    """Ends the file."""
    with _as_os_error(self._av):
      if self._stream is not None:
        for packet in self._stream.encode():
          self._container.mux(packet)
        for packet in self._sound.until(None):
          self._container.mux(packet)
      self._sound.close()
      self._container.close()

  def abandon(self) -> None:
    """Closes the file as it is."""
    self._sound.close()
    with contextlib.suppress(self._av.error.FFmpegError, OSError):
      self._container.close()

  def _start(self, height, width):
    """Begins the streams, as the first frame is known."""
    rate = self._source.rate.limit_denominator(2**16)
    options = _X264_OPTIONS if self.encoder == 'libx264' else {}
    stream = self._container.add_stream(self.encoder, rate=rate, options=dict(options))
    stream.width, stream.height = width + width % 2, height + height % 2
    stream.pix_fmt = 'yuv420p'
    context = stream.codec_context
    context.time_base = self._time_base
    context.sample_aspect_ratio = self._source.pixel_aspect
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED_RANGE
    if self.encoder != 'libx264':
      context.bit_rate = int(_BITS_PER_PIXEL * stream.width * stream.height * rate)
    self._stream = stream
    self.lost_sound = self._sound.add_to(self._container)


class _Sound:
  """The sound of a video, copied packet by packet."""

  def __init__(self, path: str):
    self._av = video.import_av(path)
    self._container = self._av.open(path, metadata_errors='replace')
    self._streams: dict[int, Any] = {}  # Those that are copied, by index in the source.
    self._packets: Iterator = iter(())
    self._next = None

  def add_to(self, target) -> str:
    """Adds the sound to a container; returns the codec of one that it cannot hold, else ''."""
    lost = ''
    for stream in self._container.streams.audio:
      if stream.codec_context.name in target.supported_codecs:
        self._streams[stream.index] = target.add_stream_from_template(stream)
      else:
        lost = stream.codec_context.name
    if self._streams:
      self._packets = self._container.demux(
        [s for s in self._container.streams.audio if s.index in self._streams]
      )
    return lost

  def until(self, time: Fraction | None) -> Iterator:
    """Yields the packets up to a time in seconds, None for all, that were not yielded before."""
    while True:
      if self._next is None:
        try:
          self._next = next(self._packets, None)
        except (self._av.error.FFmpegError, OSError):  # The pictures say that the video is damaged.
          return
      packet = self._next
      if packet is None:
        return
      if packet.dts is not None:
        if time is not None and packet.dts * packet.time_base > time:
          return
        packet.stream = self._streams[packet.stream.index]
        yield packet
      self._next = None

  def close(self) -> None:
    """Closes the source."""
    self._container.close()


def _even(pixels):
  """Returns pixels with their last row or column once more where there is an odd number of them."""
  height, width = pixels.shape[:2]
  return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode='edge')


def _has_encoder(av, name):
  try:
    av.codec.Codec(name, 'w')
  except ValueError:
    return False
  return True


@contextlib.contextmanager
def _as_os_error(av):
  """Raises what FFmpeg fails with as OSError, which callers know how to tell."""
  try:
    yield
  except av.error.FFmpegError as error:
    raise OSError(error.errno, error.strerror) from error
