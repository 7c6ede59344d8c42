"""The page: its files, and what it shows in a real browser for images and videos."""

import functools
import http.server
import json
import os
import threading

import numpy as np
import PIL.Image
import pytest

import deeplab2
from deeplab2.data import datasets
from deeplab2.inference import export
from deeplab2.inference import litert
from deeplab2.inference import litert_file
from deeplab2.inference import web
from tests import browser
from tests.inference import color_model
from tests.inference import test_loading

pytest.importorskip('ai_edge_litert', reason='the extra litert is not installed')


@pytest.fixture(name='site', scope='module')
def _site(tmp_path_factory):
  """A site, and the same model as a file."""
  directory = tmp_path_factory.mktemp('web')
  segmenter, info = color_model.create(), datasets.get('shapes')
  settings = litert_file.Settings(
    'crop', 'none', segmenter.crop_size, segmenter.resize, segmenter.merging
  )
  model = litert.convert(segmenter, 'crop')
  litert_file.write(str(directory / 'model.tflite'), model, settings, info)
  web.write(str(directory / 'site'), model, settings, info, 'colours')
  return directory


class _Quiet(http.server.SimpleHTTPRequestHandler):
  """Serves files; with `isolated`, with the headers that threads need."""

  isolated = False

  def log_message(self, *arguments):
    del arguments

  def end_headers(self):
    if self.isolated:
      self.send_header('Cross-Origin-Opener-Policy', 'same-origin')
      self.send_header('Cross-Origin-Embedder-Policy', 'require-corp')
    super().end_headers()


@pytest.fixture(name='address')
def _address(site, request):
  isolated = getattr(request, 'param', False)
  handler = type('Handler', (_Quiet,), {'isolated': isolated})
  server = http.server.ThreadingHTTPServer(
    ('127.0.0.1', 0), functools.partial(handler, directory=str(site / 'site'))
  )
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  yield f'http://127.0.0.1:{server.server_address[1]}/'
  server.shutdown()
  server.server_close()


def _state(page, state):
  page.wait_for_selector(f'body[data-state="{state}"]', timeout=120_000)


def test_a_site_is_complete_and_names_what_it_is_made_of(site):
  about = json.loads((site / 'site' / 'model' / 'model.json').read_text())
  assert about['title'] == 'colours' and about['crop_size'] == [65, 65]
  assert {package['name']: package['version'] for package in about['dependencies']} == {
    '@litertjs/core': '2.5.3',
    '@litertjs/wasm-utils': '2.5.3',
  }
  for package in (site / 'site' / 'vendor').iterdir():
    assert 'Apache License' in (package / 'LICENSE').read_text()
    assert not list(package.glob('*.xz'))
  runtime = site / 'site' / 'vendor' / 'litertjs-core-2.5.3' / 'litert_wasm_compat_internal.wasm'
  assert runtime.read_bytes()[:4] == b'\0asm'


@pytest.mark.parametrize('address', [False, True], indirect=True, ids=['plain', 'isolated'])
def test_the_page_finds_in_images_what_python_finds(site, address, tmp_path):
  model = deeplab2.load(site / 'model.tflite')
  with browser.open_page() as page:
    page.goto(address)
    _state(page, 'ready')
    for number, size in enumerate([(65, 65), (131, 77), (40, 300)]):
      image = color_model.image(*size, seed=number)
      PIL.Image.fromarray(image).save(tmp_path / f'{number}.png')
      page.set_input_files('#file', tmp_path / f'{number}.png')
      _state(page, 'done')
      found = page.evaluate('panopticMap()')
      page.evaluate('document.body.dataset.state = "ready"')
      expected = model(image)
      assert (found['height'], found['width']) == size
      np.testing.assert_array_equal(np.reshape(found['ids'], size), expected.panoptic)
      listed = page.locator('#legend li').all_inner_texts()
      assert len(listed) == len(expected.segments) >= 3
      for text, segment in zip(listed, expected.segments, strict=True):
        assert segment['class_name'] in text and f'{segment["score"]:.2f}' in text
    assert ' ms a frame' in page.inner_text('#status')
    assert '@litertjs/core 2.5.3 (Apache-2.0)' in page.inner_text('#dependencies')
    screenshot = os.environ.get('DEEPLAB2_SCREENSHOTS')
    page.screenshot(path=f'{screenshot or tmp_path}/page.png', full_page=True)
    (tmp_path / 'text.txt').write_text('no image')
    page.set_input_files('#file', tmp_path / 'text.txt')
    _state(page, 'error')
    assert page.inner_text('#status').startswith('text.txt: is no image or video')


def test_the_page_plays_videos_and_stops(address, tmp_path):
  av = pytest.importorskip('av', reason='the extra video is not installed')
  image = color_model.image(64, 96)
  with av.open(str(tmp_path / 'moving.webm'), 'w') as video:
    stream = video.add_stream('libvpx', rate=10)
    stream.width, stream.height, stream.pix_fmt = 96, 64, 'yuv420p'
    for number in range(5):
      moved = np.ascontiguousarray(np.roll(image, 4 * number, axis=1))
      video.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format='rgb24')))
    video.mux(stream.encode())
  with browser.open_page() as page:
    page.goto(address)
    _state(page, 'ready')
    assert not page.is_visible('#stop')
    page.set_input_files('#file', tmp_path / 'moving.webm')
    _state(page, 'done')
    found = page.evaluate('panopticMap()')
    assert (found['width'], found['height']) == (96, 64) and len(set(found['ids'])) >= 3
    page.click('#stop')
    assert not page.is_visible('#stop')


@pytest.mark.parametrize(
  'flags,words',
  [
    (['--export_path=mine'], 'mine: holds something else than a site, which would be lost'),
    (['--output=file'], 'file: is a file; must be a directory.'),
    (['--outputs=logits'], 'the page needs panoptic maps; leave it out for --format=web.'),
    (['--quantize=int8'], '--calibration is missing'),
  ],
)
def test_wrong_flags_are_one_line(tmp_path, monkeypatch, capsys, flags, words):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('SHAPES_TFRECORDS', 'nowhere')
  (tmp_path / 'file').write_text('x')
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'thesis.txt').write_text('x')
  arguments = [f'--config_file={test_loading.CONFIG}', '--checkpoint_path=none', '--format=web']
  assert export.main([*arguments, '--output=site', *flags]) == 2
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1 and words in said[0], said
  assert sorted(os.listdir(tmp_path)) == ['file', 'mine']
