"""Videos as OpenCV, another program around its own FFmpeg, sees them, and what is written."""

from fractions import Fraction
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from deeplab2 import errors
from deeplab2.inference import video
from deeplab2.inference import video_writer
from tests import disk
from tests.inference import videos

av = pytest.importorskip('av', reason='videos need PyAV: pip install deeplab2-remax[video]')
limited_files = disk.limited_files


def _read(path):
  """Returns (frames, times in seconds, problem, the video)."""
  with video.open_video(str(path)) as source:
    frames = list(source.frames())
    pixels = [frame.pixels() for frame in frames]
    times = [frame.time for frame in frames]
    return pixels, times, source.problem(len(frames), times[-1] if times else None), source


def _of_opencv(path):
  capture = cv2.VideoCapture(str(path))
  return [frame[..., ::-1] for _, frame in iter(capture.read, (False, None))]


@pytest.mark.parametrize('rotation', [0, 90, 180, 270])
def test_frames_are_those_of_another_program(tmp_path, rotation):
  path = videos.write(tmp_path / 'a.mp4', videos.frames(5), rotation=rotation)
  pixels, times, problem, source = _read(path)
  np.testing.assert_allclose(pixels, _of_opencv(path), atol=2)
  assert pixels[0].shape == ((64, 96, 3) if rotation % 180 == 0 else (96, 64, 3))
  assert times == [n / videos.RATE for n in range(5)]
  assert not problem and source.num_frames == 5 and source.rate == videos.RATE


@pytest.mark.parametrize(
  'matrix, turned',
  [
    # (x, y) -> (x, y), and the seven other ways to lay down a sheet.
    ([[1, 0], [0, 1]], [[1, 2, 3], [4, 5, 6]]),
    ([[-1, 0], [0, 1]], [[3, 2, 1], [6, 5, 4]]),
    ([[1, 0], [0, -1]], [[4, 5, 6], [1, 2, 3]]),
    ([[-1, 0], [0, -1]], [[6, 5, 4], [3, 2, 1]]),
    ([[0, 1], [1, 0]], [[1, 4], [2, 5], [3, 6]]),
    ([[0, -1], [1, 0]], [[4, 1], [5, 2], [6, 3]]),
    ([[0, 1], [-1, 0]], [[3, 6], [2, 5], [1, 4]]),
    ([[0, -1], [-1, 0]], [[6, 3], [5, 2], [4, 1]]),
  ],
)
def test_display_matrices(matrix, turned):
  pixels = np.array([[1, 2, 3], [4, 5, 6]])
  assert video._turn(pixels, np.array(matrix) * 2**16).tolist() == turned


def _write(target, source_path, drawn, times, encoders=video_writer.ENCODERS):
  with video.open_video(str(source_path)) as source:
    list(source.frames())
    writer = video_writer.Writer(str(target), source, encoders)
    for pixels, time in zip(drawn, times, strict=True):
      writer.add(pixels, time)
    writer.close()
  return writer


@pytest.mark.parametrize(
  'encoders, codec', [(video_writer.ENCODERS, 'h264'), (('no_such_encoder', 'mpeg4'), 'mpeg4')]
)
def test_what_is_written_has_the_times_colours_and_sound_of_its_source(tmp_path, encoders, codec):
  # Not at a constant rate, in pixels that are not square, turned, and with an odd width.
  frames = videos.frames(8)
  stated = [0, 0.033, 0.067, 0.2, 0.233, 0.5, 0.533, 0.567]
  source = videos.write(
    tmp_path / 'a.mp4',
    frames,
    times=stated,
    rotation=90,
    pixel_aspect=Fraction(4, 3),
    sound='aac',
  )
  _, times, _, _ = _read(source)
  drawn = [np.full((96, 63, 3), (200, 30, 60), np.uint8) for _ in frames]
  writer = _write(tmp_path / 'b.mp4', source, drawn, times, encoders)
  assert not writer.lost_sound
  pixels, written_times, problem, written = _read(tmp_path / 'b.mp4')
  assert not problem and pixels[0].shape == (96, 64, 3)
  np.testing.assert_allclose(pixels, 8 * [np.full((96, 64, 3), (200, 30, 60))], atol=3)
  np.testing.assert_allclose(np.array(written_times, float), stated, atol=1e-4)
  assert written.pixel_aspect == Fraction(3, 4), 'turned by a quarter'
  with av.open(source) as before, av.open(str(tmp_path / 'b.mp4')) as after:
    assert after.streams.video[0].codec_context.name == codec
    assert after.streams.video[0].codec_context.pix_fmt == 'yuv420p'
    sounds = [
      [bytes(packet) for packet in each.demux(audio=0) if packet.size] for each in (before, after)
    ]
  assert sounds[0] and sounds[0] == sounds[1]


def test_sound_that_an_mp4_cannot_hold_is_named(tmp_path):
  source = videos.write(tmp_path / 'a.avi', videos.frames(3), codec='mpeg4', sound='pcm_mulaw')
  frames, times, _, _ = _read(source)
  assert _write(tmp_path / 'b.mp4', source, frames, times).lost_sound == 'pcm_mulaw'
  with av.open(str(tmp_path / 'b.mp4')) as written:
    assert [stream.type for stream in written.streams] == ['video']


@pytest.mark.parametrize(
  'ending, codec', [('mkv', 'libx264'), ('avi', 'mpeg4'), ('mpg', 'mpeg2video')]
)
def test_other_containers(tmp_path, ending, codec):
  path = videos.write(tmp_path / f'a.{ending}', videos.frames(6), codec=codec)
  pixels, times, problem, _ = _read(path)
  assert not problem and np.diff(times).astype(float) == pytest.approx(1001 / 30000, abs=1e-3)
  np.testing.assert_allclose(pixels, _of_opencv(path), atol=2)


def test_a_stream_without_times(tmp_path):
  videos.write(tmp_path / 'a.mkv', videos.frames(4), rate=Fraction(25))
  with av.open(str(tmp_path / 'b.h264'), 'w') as target, av.open(str(tmp_path / 'a.mkv')) as source:
    stream = target.add_stream_from_template(source.streams.video[0])
    for packet in source.demux(video=0):
      if packet.size:
        packet.stream = stream
        target.mux(packet)
  pixels, times, problem, _ = _read(tmp_path / 'b.h264')
  np.testing.assert_array_equal(pixels, _read(tmp_path / 'a.mkv')[0])
  assert not problem and times == [n / Fraction(25) for n in range(4)]


def test_a_video_that_ends_early(tmp_path):
  rng = np.random.default_rng(0)
  frames = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(40)]
  path = videos.write(tmp_path / 'a.mkv', frames)
  assert not _read(path)[2]
  os.truncate(path, os.path.getsize(path) // 2)
  pixels, _, problem, _ = _read(path)
  assert 15 <= len(pixels) <= 25
  assert problem.startswith(f'it ends early, after {len(pixels)} frames or 0.')
  assert problem.endswith(' of 1.3 s')
  # An MP4 has its index at its end.
  path = videos.write(tmp_path / 'a.mp4', frames)
  os.truncate(path, os.path.getsize(path) // 2)
  with pytest.raises(errors.UserError, match='a.mp4: cannot be read as a video \\(Invalid data'):
    _read(path)


def test_damaged_frames_are_left_out(tmp_path):
  path = videos.write(tmp_path / 'a.mkv', videos.frames(30))
  data = bytearray((tmp_path / 'a.mkv').read_bytes())
  with av.open(path) as container:
    packet = [p for p in container.demux(video=0) if p.size][10]
    data[packet.pos + 8 : packet.pos + 8 + packet.size // 2] = bytes(packet.size // 2)
  (tmp_path / 'a.mkv').write_bytes(data)
  pixels, _, problem, _ = _read(path)
  assert len(pixels) >= 20 and problem == 'some of its frames are damaged'


def test_what_is_no_video_is_one_line(tmp_path):
  for name, content, words in (
    ('none.mp4', None, 'no such video'),
    ('text.mp4', b'no video', 'cannot be read as a video'),
    ('empty.mp4', b'', 'cannot be read as a video'),
  ):
    if content is not None:
      (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.UserError, match=f'{name}: {words}') as caught:
      _read(tmp_path / name)
    assert '\n' not in str(caught.value)
  with av.open(str(tmp_path / 'sound.mp4'), 'w') as container:
    videos._write_tone(container, container.add_stream('aac', rate=44_100, layout='mono'), 0.2)
  with pytest.raises(errors.UserError, match='sound.mp4: has no moving pictures'):
    _read(tmp_path / 'sound.mp4')
  with av.open(str(tmp_path / 'still.avi'), 'w') as container:
    stream = container.add_stream('mpeg4', rate=25)
    stream.width = stream.height = 64
    container.start_encoding()
  with pytest.raises(errors.UserError, match='still.avi: is a video without frames'):
    _read(tmp_path / 'still.avi')


def test_a_full_disk_is_an_error(tmp_path, limited_files):
  rng = np.random.default_rng(0)
  noise = [rng.integers(0, 255, (240, 320, 3), np.uint8) for _ in range(12)]
  source = videos.write(tmp_path / 'a.mp4', videos.frames(12))
  times = _read(source)[1]
  limited_files(30_000)
  with pytest.raises(OSError, match='File too large'):
    _write(tmp_path / 'b.mp4', source, noise, times)
  limited_files()


def test_without_pyav_the_extra_is_named(tmp_path):
  code = (
    'import sys\n'
    "sys.modules['av'] = None\n"
    'from deeplab2.inference import predict\n'
    'sys.exit(predict.main(sys.argv[1:]))'
  )
  (tmp_path / 'a.mp4').touch()
  done = subprocess.run(
    [sys.executable, '-c', code, '--model=none', f'--input={tmp_path}/a.mp4', '--output_dir=out'],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  [line] = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
  assert 'a.mp4: videos are read by PyAV, which is not installed' in line
  assert line.endswith("pip install 'deeplab2-remax[video]'.")
