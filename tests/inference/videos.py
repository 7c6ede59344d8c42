"""Small videos for tests, written by PyAV."""

from fractions import Fraction

import numpy as np

from tests.inference import color_model

RATE = Fraction(30000, 1001)  # Frames a second.


def frames(number: int = 12, height: int = 64, width: int = 96) -> list[np.ndarray]:
  """Returns uint8 RGB frames: two red squares that pass below each other, and a green one."""
  drawn = []
  for step in range(number):
    frame = np.full((height, width, 3), color_model.COLORS[3])
    for color, top, left in (
      (0, height // 8, 4 + 2 * step),
      (1, height // 8, width - 24),
      (2, height // 2 + 4, width - 40 - 2 * step),
    ):
      frame[top : top + 20, left : left + 20] = color_model.COLORS[color]
    drawn.append(frame)
  return drawn


def write(
  path: str,
  images,
  *,
  rate: Fraction = RATE,
  codec: str = 'libx264',
  times=None,
  rotation: int = 0,
  pixel_aspect: Fraction | None = None,
  sound: str = '',
) -> str:
  """Writes a video; returns its path.

  Args:
    path: of the file.
    images: frames, uint8 RGB of one size.
    rate: frames a second.
    codec: name of FFmpeg's encoder.
    times: of the frames in seconds, if they do not follow from the rate.
    rotation: degrees counterclockwise by which a player turns the frames.
    pixel_aspect: width to height of a pixel.
    sound: name of the encoder of a tone; '' for silence.
  """
  import av

  with av.open(str(path), 'w') as container:
    options = {'crf': '1', 'g': '4'} if codec == 'libx264' else {}
    stream = container.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width = images[0].shape[:2]
    stream.pix_fmt = 'yuv420p'
    if codec != 'libx264':
      stream.codec_context.bit_rate = 4_000_000
    if times is not None:
      stream.codec_context.time_base = Fraction(1, 1000)
    if pixel_aspect is not None:
      stream.codec_context.sample_aspect_ratio = pixel_aspect
    if rotation:
      stream.set_display_rotation(rotation)
    tone = container.add_stream(sound, rate=44_100, layout='mono') if sound else None
    for number, image in enumerate(images):
      frame = av.VideoFrame.from_ndarray(image, format='rgb24')
      if times is not None:
        frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
    if tone is not None:
      _write_tone(container, tone, len(images) / rate)
  return str(path)


def _write_tone(container, tone, seconds):
  import av

  wave = (8000 * np.sin(np.arange(int(seconds * 44_100)) / 16)).astype(np.int16)
  resampler = av.AudioResampler(tone.format, tone.layout, tone.rate)
  for start in range(0, wave.size - 1023, 1024):
    frame = av.AudioFrame.from_ndarray(wave[np.newaxis, start : start + 1024], 's16', 'mono')
    frame.sample_rate, frame.pts = 44_100, start
    for converted in resampler.resample(frame):
      container.mux(tone.encode(converted))
  container.mux(tone.encode())
