"""Videos through the command: frames, overlay, colours that stay, and every way that it can end."""

import json
import os

import numpy as np
import pytest

from deeplab2.data import coco_panoptic
from deeplab2.inference import predict
from deeplab2.inference import video
from deeplab2.inference import video_writer
from tests import disk
from tests.inference import color_model
from tests.inference import videos

pytest.importorskip('av', reason='videos need PyAV: pip install deeplab2-remax[video]')
limited_files = disk.limited_files
_DIVISOR = 256


@pytest.fixture(name='model', scope='module')
def _model(tmp_path_factory):
  """The red and the green squares are circles, the blue ones triangles."""
  return color_model.export(str(tmp_path_factory.mktemp('export') / 'model'), classes=(0, 0, 1, 6))


@pytest.fixture(name='clip', scope='module')
def _clip(tmp_path_factory):
  return videos.write(
    str(tmp_path_factory.mktemp('video') / 'my clip.mp4'), videos.frames(12), sound='aac'
  )


def _run(model, clip, out, *flags):
  return predict.main([f'--model={model}', f'--input={clip}', f'--output_dir={out}', *flags])


def _overlay(out):
  """Returns (frames, times) of the overlay video."""
  [path] = (out / 'overlay').iterdir()
  with video.open_video(str(path)) as source:
    frames = [(frame.pixels(), frame.time) for frame in source.frames()]
  return tuple(zip(*frames, strict=True))


def _maps(out):
  return {
    path.name: coco_panoptic.read_segment_ids(str(path))
    for path in sorted((out / 'panoptic').iterdir())
  }


def _content(out):
  return json.loads((out / 'panoptic.json').read_text())


def test_frames_and_overlay(model, clip, tmp_path, capsys):
  out = tmp_path / 'out'
  assert _run(model, clip, out) == 0
  maps, content = _maps(out), _content(out)
  names = [f'my clip_{number:06d}' for number in range(1, 13)]
  assert list(maps) == [f'{name}.png' for name in names]
  assert [image['id'] for image in content['images']] == names
  assert content['images'][0] == {
    'id': names[0],
    'file_name': f'{names[0]}.png',
    'height': 64,
    'width': 96,
  }
  # Every square is one segment of its class in all frames, where the model sees it.
  ids = {tuple(sorted({s['id'] for s in a['segments_info']})) for a in content['annotations']}
  assert len(ids) == 1 and len(*ids) == 4
  for number, ids in enumerate(maps.values()):
    red, blue = ids[16, 6 + 2 * number], ids[46, 96 - 30 - 2 * number]
    assert red == maps['my clip_000001.png'][16, 6]
    assert blue == maps['my clip_000001.png'][46, 66]
  # The overlay is drawn five times as large, with the times and the sound of the video.
  frames, times = _overlay(out)
  assert {frame.shape for frame in frames} == {(320, 480, 3)}
  assert list(times) == [n / videos.RATE for n in range(12)]
  inside = np.array([frame[5 * 16, 5 * (10 + 2 * n)] for n, frame in enumerate(frames)], int)
  assert np.abs(inside - inside[0]).max() <= 12
  assert 'Segmented 12 frames into' in capsys.readouterr().out
  # Once more: nothing is left to do.
  before = os.stat(out / 'overlay' / 'my clip.mp4').st_mtime_ns
  assert _run(model, clip, out, '--resume') == 0
  assert '12 frames are finished in' in capsys.readouterr().out
  assert os.stat(out / 'overlay' / 'my clip.mp4').st_mtime_ns == before


@pytest.mark.parametrize('flags', [('--batch_size=5', '--num_workers=3'), ('--num_workers=0',)])
def test_batches_and_threads_change_nothing(model, clip, tmp_path, flags):
  assert _run(model, clip, tmp_path / 'one') == 0
  assert _run(model, clip, tmp_path / 'other', *flags) == 0
  one, other = _maps(tmp_path / 'one'), _maps(tmp_path / 'other')
  assert list(one) == list(other)
  assert all((one[name] == other[name]).all() for name in one)
  assert _content(tmp_path / 'one') == _content(tmp_path / 'other')
  overlays = [_overlay(tmp_path / place) for place in ('one', 'other')]
  np.testing.assert_array_equal(overlays[0][0], overlays[1][0])


class _StopError(Exception):
  pass


def test_going_on_after_a_stop(model, clip, tmp_path, capsys, monkeypatch):
  whole, out = tmp_path / 'whole', tmp_path / 'out'
  assert _run(model, clip, whole) == 0
  add, added = video_writer.Writer.add, []

  def stop(self, pixels, time):
    added.append(time)
    if len(added) == 8:
      raise _StopError
    add(self, pixels, time)

  with monkeypatch.context() as patch, pytest.raises(_StopError):
    patch.setattr(video_writer.Writer, 'add', stop)
    _run(model, clip, out)
  assert len(_content(out)['images']) == 7 and not list((out / 'overlay').iterdir())
  capsys.readouterr()
  assert _run(model, clip, out) == 0
  assert '7 frames are finished in' in capsys.readouterr().out
  assert _content(out) == _content(whole)
  assert all((ids == _maps(out)[name]).all() for name, ids in _maps(whole).items())
  np.testing.assert_array_equal(_overlay(out)[0], _overlay(whole)[0])


def test_without_overlay_and_then_with(model, clip, tmp_path, capsys):
  out = tmp_path / 'out'
  assert _run(model, clip, out, '--no-overlay') == 0
  assert not (out / 'overlay').exists() and len(_maps(out)) == 12
  assert _run(model, clip, out, '--no-overlay') == 0
  assert 'nothing to do' in capsys.readouterr().out
  assert _run(model, clip, out) == 0
  assert '11 frames are finished in' in capsys.readouterr().out
  assert len(_overlay(out)[0]) == 12
  # With the overlay lost, the last frame is made again, and the overlay with it.
  (out / 'overlay' / 'my clip.mp4').unlink()
  assert _run(model, clip, out) == 0 and len(_overlay(out)[0]) == 12


def test_a_video_that_ends_early_is_kept_as_far_as_it_goes(model, tmp_path, capsys):
  rng = np.random.default_rng(0)
  frames = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(20)]
  clip = videos.write(str(tmp_path / 'a.mkv'), frames)
  os.truncate(clip, os.path.getsize(clip) // 2)
  for _ in range(2):  # What is finished is still not all.
    assert _run(model, clip, tmp_path / 'out') == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert line.startswith(f'error: {clip}: it ends early, after ')
  assert len(_overlay(tmp_path / 'out')[0]) == len(_maps(tmp_path / 'out'))


def test_a_full_disk_is_one_line(model, clip, tmp_path, capsys, limited_files):
  limited_files(10_000)
  assert _run(model, clip, tmp_path / 'out') == 2
  limited_files()
  [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert 'my clip.mp4: cannot be written (File too large)' in line
  assert not list((tmp_path / 'out' / 'overlay').iterdir()), 'no half video'
  assert _run(model, clip, tmp_path / 'out') == 0


def test_mistakes_are_one_line(model, clip, tmp_path, capsys):
  (tmp_path / 'text.mp4').write_text('no video')
  for inputs, flags, words in (
    ([clip, clip], [], '--input: 2 files with a video; give one video at a time'),
    ([clip], ['--images_json=a.json'], '--images_json is for images; leave it out for a video'),
    ([tmp_path / 'text.mp4'], [], 'text.mp4: cannot be read as a video'),
    ([tmp_path / 'none.mp4'], [], 'none.mp4: no such image, directory or video'),
  ):
    arguments = [f'--model={model}', f'--output_dir={tmp_path}/out', '--input', *map(str, inputs)]
    assert predict.main([*arguments, *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and 'Traceback' not in error
  assert not (tmp_path / 'out').exists()
