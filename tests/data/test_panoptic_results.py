"""Results that grow: what is there at any moment, after a stop, and in a place of other results."""

import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import panoptic_results
from deeplab2.data import stretched
from tests import hostile_names

_ANNOTATIONS = (
  pathlib.Path(__file__).parents[1] / 'goldens' / 'coco_sample_annotations' / 'annotations'
)
_IMAGES = {
  name: {'id': number, 'file_name': f'{name}.jpg'} for number, name in enumerate(['c', 'a', 'b'])
}


def _open(place, **changes):
  arguments = {'of': {'model': 'm1'}, 'images': _IMAGES, **changes}
  return panoptic_results.open_results(
    str(place / 'panoptic.json'), datasets.get('shapes'), **arguments
  )


def _map(value=257):
  return stretched.unstretched(np.array([[value, 0, value], [6 * 256] * 3], np.int32))


def _read(place):
  """Returns the JSON, and checks that the PNGs that it lists have its segments."""
  content = json.loads((place / 'panoptic.json').read_text())
  assert [image['id'] for image in content['images']] == [
    annotation['image_id'] for annotation in content['annotations']
  ]
  for annotation in content['annotations']:
    ids = coco_panoptic.read_segment_ids(str(place / 'panoptic' / annotation['file_name']))
    assert set(np.unique(ids)) - {0} == {s['id'] for s in annotation['segments_info']}
  return content


@pytest.mark.parametrize('image_id', [142238, 439180])
def test_written_map_has_the_segments_of_the_original(golden, tmp_path, image_id):
  """Areas, boxes, categories and crowd flags come back as COCO annotated them."""
  coco, name = datasets.get('coco_panoptic'), f'{image_id:012d}'
  label = golden('data_coco_labels')[f'label_keep_crowd_{image_id}'].astype(np.int32)
  with panoptic_results.open_results(
    str(tmp_path / 'out.json'), coco, of={}, images={name: {'id': image_id, 'file_name': 'x'}}
  ) as results:
    results.add(name, stretched.unstretched(label), None)
  written = json.loads((tmp_path / 'out.json').read_text())
  original = json.loads((_ANNOTATIONS / 'panoptic_val2017.json').read_text())
  (expected,) = (a for a in original['annotations'] if a['image_id'] == image_id)
  (actual,) = written['annotations']
  assert actual['image_id'] == image_id

  def facts(segments):
    return sorted((s['category_id'], s['area'], tuple(s['bbox']), s['iscrowd']) for s in segments)

  assert facts(actual['segments_info']) == facts(expected['segments_info'])
  ids = [s['id'] for s in actual['segments_info']]
  assert len(set(ids)) == len(ids) and 0 not in ids
  assert {c['id'] for c in written['categories']} == {c['id'] for c in original['categories']}

  # And the file is one that the reader takes; pixels of each segment coincide.
  again = coco_panoptic.read_annotations(str(tmp_path / 'out.json'), coco)[name]
  read = coco_panoptic.read_label(
    str(tmp_path / 'out' / again.file_name), again, coco, treat_crowd_as_ignore=False
  )
  np.testing.assert_array_equal(read, label)


def test_the_json_is_valid_from_the_start_and_in_the_order_of_the_images(tmp_path, monkeypatch):
  with _open(tmp_path) as results:
    assert _read(tmp_path)['images'] == [] and len(_read(tmp_path)['categories']) == 9
    results.add('b', _map(), 1)
    assert _read(tmp_path)['images'] == [], 'not every image writes the JSON anew'
    monkeypatch.setattr(panoptic_results, '_SECONDS_BETWEEN', 0)
    monkeypatch.setattr(panoptic_results, '_FRACTION_OF_TIME', 1e9)
    results.add('c', _map(), 1)
    assert [image['id'] for image in _read(tmp_path)['images']] == [0, 2]
    results.add('a', _map(), 1)
  content = _read(tmp_path)
  assert content['images'] == [
    {'id': 0, 'file_name': 'c.jpg', 'height': 2, 'width': 3},
    {'id': 1, 'file_name': 'a.jpg', 'height': 2, 'width': 3},
    {'id': 2, 'file_name': 'b.jpg', 'height': 2, 'width': 3},
  ]
  assert content['annotations'][0]['segments_info'][0] == {
    'id': 258,
    'category_id': 1,
    'area': 2,
    'bbox': [0, 0, 3, 1],
    'iscrowd': 0,
  }
  assert sorted(os.listdir(tmp_path)) == ['panoptic', 'panoptic.index.jsonl', 'panoptic.json']


def test_an_error_writes_what_is_finished_and_the_next_goes_on(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    with _open(tmp_path) as results:
      results.add('a', _map(), [1, 2], notes={'n': 5})
      raise KeyboardInterrupt
  assert [image['id'] for image in _read(tmp_path)['images']] == [1]
  with _open(tmp_path) as results:
    assert results.notes('a', [1, 2]) == {'n': 5}
    assert results.notes('a', [1, 3]) is None, 'its input changed'
    assert results.notes('b', [1, 2]) is None
    results.add('b', _map(513), 1)
    os.remove(tmp_path / 'panoptic' / 'a.png')
    assert results.notes('a', [1, 2]) is None, 'its PNG is gone'
    results.add('a', _map(), [1, 2])
    os.truncate(tmp_path / 'panoptic' / 'a.png', 10)
    assert results.notes('a', [1, 2]) is None, 'its PNG is cut'
    results.add('a', _map(514), [1, 3])
  segments = [annotation['segments_info'][0]['id'] for annotation in _read(tmp_path)['annotations']]
  assert segments == [515, 514]


@pytest.mark.parametrize('bytes_left', [1, 30, -1])
def test_a_torn_last_line_is_ignored(tmp_path, bytes_left):
  with _open(tmp_path) as results:
    results.add('a', _map(), 1)
    results.add('b', _map(), 1)
  index = tmp_path / 'panoptic.index.jsonl'
  lines = index.read_bytes().splitlines(keepends=True)
  index.write_bytes(b''.join(lines[:2]) + lines[2][:bytes_left])
  with _open(tmp_path) as results:
    assert results.notes('a', 1) == {} and results.notes('b', 1) is None
    results.add('c', _map(), 1)
  with _open(tmp_path) as results:
    assert results.notes('a', 1) == {} and results.notes('c', 1) == {}
  assert [image['id'] for image in _read(tmp_path)['images']] == [0, 1]


@pytest.mark.parametrize(
  'damage',
  [
    b'{"name": 3}',
    b'[]',
    b'\xff\xfe',
    b'{"name": "a", "stamp": 1, "size": [1], "files": {}, "notes": {}, "segments_info": []}',
    b'{"name": "a", "stamp": 1, "size": [2, 3], "files": '
    b'{"../precious": 5}, "notes": {}, "segments_info": []}',
    b'[' * 100_000,
  ],
)
def test_damaged_lines_are_images_to_be_made_again(tmp_path, damage):
  place = tmp_path / 'out'
  (tmp_path / 'precious').write_text('12345')
  with _open(place) as results:
    results.add('b', _map(), 1)
  index = place / 'panoptic.index.jsonl'
  lines = index.read_bytes().splitlines()
  index.write_bytes(b'\n'.join([lines[0], damage, lines[1], b'']))
  with _open(place) as results:
    assert results.notes('a', 1) is None and results.notes('b', 1) == {}
  with _open(place, overwrite=True) as results:
    assert results.notes('b', 1) is None
  assert (tmp_path / 'precious').read_text() == '12345'


def _refused(place, words, **changes):
  """Checks that results are refused untouched, and that both ways out that are named work."""
  before = {path: path.read_bytes() for path in place.rglob('*') if path.is_file()}
  with pytest.raises(errors.UserError, match=words) as caught:
    with _open(place, **changes):
      pass
  assert 'Write elsewhere, or give --overwrite to start over.' in str(caught.value)
  after = {path: path.read_bytes() for path in place.rglob('*') if path.is_file()}
  assert after == before
  with _open(place / 'elsewhere', **changes):
    pass
  with _open(place, overwrite=True, **changes) as results:
    assert results.notes('a', 1) is None
  assert _read(place)['images'] == []


@pytest.mark.parametrize(
  'words, changes',
  [
    (r'results of something else \(model m1, now m2\)', {'of': {'model': 'm2'}}),
    (r'something else \(classes None, now k\)', {'of': {'model': 'm1', 'classes': 'k'}}),
    ('results of 1 images that are not in the input, first a', {'images': {'b': _IMAGES['b']}}),
  ],
)
def test_results_of_something_else_are_refused(tmp_path, words, changes):
  with _open(tmp_path) as results:
    results.add('a', _map(), 1)
  _refused(tmp_path, words, **changes)
  assert not (tmp_path / 'panoptic' / 'a.png').exists(), 'started over'


def test_results_of_another_program_are_refused(tmp_path):
  (tmp_path / 'panoptic.json').write_text('{"images": "mine"}')
  _refused(tmp_path, 'holds results without .*index.jsonl')


def test_pngs_without_json_are_refused(tmp_path):
  (tmp_path / 'panoptic').mkdir()
  PIL.Image.new('RGB', (3, 2)).save(tmp_path / 'panoptic' / 'x.png')
  _refused(tmp_path, 'holds results without .*index.jsonl')
  assert (tmp_path / 'panoptic' / 'x.png').exists(), 'nobody knows what it is'


@pytest.mark.parametrize('content', [b'', b'{"ver', b'\x00\x01\n'])
def test_an_index_with_a_damaged_first_line_is_refused(tmp_path, content):
  with _open(tmp_path):
    pass
  (tmp_path / 'panoptic.index.jsonl').write_bytes(content)
  _refused(tmp_path, 'index of these results is damaged')


def test_a_discarded_image_leaves_nothing(tmp_path):
  with _open(tmp_path) as results:
    results.add('a', _map(), 1)
    (tmp_path / 'overlay.png').write_bytes(b'12')
    results.add('b', _map(), 1, other_files=[str(tmp_path / 'overlay.png')])
    results.discard('b')
    results.discard('never there')
  assert os.listdir(tmp_path / 'panoptic') == ['a.png'] and not (tmp_path / 'overlay.png').exists()
  assert [image['id'] for image in _read(tmp_path)['images']] == [1]


def test_half_files_of_killed_processes_are_removed(tmp_path):
  (tmp_path / 'panoptic').mkdir()
  (tmp_path / 'overlay').mkdir()
  half = [
    'panoptic/.writing-77-a.png',
    '.writing-77-panoptic.json',
    'overlay/.writing-7-a.png',
    '.writing-77-panoptic.index.jsonl',
  ]
  for name in [*half, '.writing-77-mine', 'overlay/a.png']:
    (tmp_path / name).write_bytes(b'x')
  with _open(tmp_path) as results:
    assert [(tmp_path / name).exists() for name in half] == [False, False, True, False]
    results.add('a', _map(), 1, other_files=[str(tmp_path / 'overlay' / 'a.png')])
  assert not any((tmp_path / name).exists() for name in half)
  assert (tmp_path / '.writing-77-mine').exists() and (tmp_path / 'overlay' / 'a.png').exists()


def test_two_writers(tmp_path):
  with _open(tmp_path):
    with pytest.raises(errors.UserError, match='the results .*panoptic.json is in use by process'):
      with _open(tmp_path):
        pass
  with _open(tmp_path):
    pass


def test_a_full_disk_keeps_what_is_finished(tmp_path):
  """The limit on the size of files ends writes in the middle, as a full disk does."""
  noise = np.random.RandomState(0).randint(0, 10, (300, 300)).astype(np.int32)
  big = stretched.unstretched(np.where(noise < 6, 256 * noise + (noise > 0), 256 * noise))
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  with pytest.raises(errors.UserError, match='b.png: cannot be written') as caught:
    with _open(tmp_path) as results:
      results.add('a', _map(), 1)
      resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
      try:
        results.add('b', big, 1)
      finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert '\n' not in str(caught.value)
  assert os.listdir(tmp_path / 'panoptic') == ['a.png']
  assert [image['id'] for image in _read(tmp_path)['images']] == [1]
  # The index is full instead: the line that does not fit is not there by half.
  index = tmp_path / 'panoptic.index.jsonl'
  before = index.read_bytes()
  with pytest.raises(errors.UserError, match='index.jsonl: cannot be written'):
    with _open(tmp_path) as results:
      resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
      try:
        results.add('b', _map(), 1)
      finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert index.read_bytes() == before
  with _open(tmp_path) as results:
    assert results.notes('a', 1) == {}
    results.add('b', big, 1)
  assert [image['id'] for image in _read(tmp_path)['images']] == [1, 2]


def test_hostile_names(tmp_path):
  place = pathlib.Path(tmp_path, *hostile_names.HOSTILE_NAMES)
  images = {name: {'id': name, 'file_name': f'{name}.jpg'} for name in hostile_names.HOSTILE_NAMES}
  for _ in range(2):
    with _open(place, images=images) as results:
      for name in images:
        if results.notes(name, 1) is None:
          results.add(name, _map(), 1)
  assert [image['id'] for image in _read(place)['images']] == list(images)


def test_places_that_cannot_be_written_are_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  for path, words in (
    ('gs://bucket/panoptic.json', 'must be on a local disk'),
    (str(tmp_path / 'file' / 'panoptic.json'), 'directory'),
    ('/proc/nowhere/panoptic.json', '/proc/nowhere'),
  ):
    with pytest.raises(errors.UserError, match=re.escape(words)) as caught:
      with panoptic_results.open_results(path, datasets.get('shapes'), of={}, images={}):
        pass
    assert '\n' not in str(caught.value)


_LOOP = """
import sys, time
import numpy as np
from deeplab2.data import datasets, panoptic_results, stretched
names = [str(number) for number in range(100000)]
with panoptic_results.open_results(
    sys.argv[1], datasets.get('shapes'), of={},
    images={name: {'id': int(name), 'file_name': name} for name in names}) as results:
  for name in names:
    results.add(name, stretched.unstretched(np.full((50, 50), 257 + int(name) % 9)), 1)
    print(name, flush=True)
"""


def _heed_signals():
  """Undoes what `nohup` and shells do to commands in the background: ignore these signals."""
  for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
  'number',
  [
    signal.SIGTERM,
    signal.SIGKILL,
    pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, marks=pytest.mark.slow),
  ],
)
def test_signals(tmp_path, number):
  process = subprocess.Popen(
    [sys.executable, '-c', _LOOP, str(tmp_path / 'panoptic.json')],
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    preexec_fn=_heed_signals,
  )
  for _ in range(20):
    last = process.stdout.readline()
  process.send_signal(number)
  last = [last] + process.stdout.read().split('\n')
  last = int([line for line in last if line.strip()][-1])
  code = process.wait(timeout=60)
  process.stdout.close()
  listed = len(_read(tmp_path)['images'])
  index = (tmp_path / 'panoptic.index.jsonl').read_text().splitlines()
  assert last + 1 <= len(index) - 1 <= last + 2
  if number == signal.SIGKILL:
    assert (tmp_path / 'panoptic.lock').exists()
  else:
    assert listed == len(index) - 1, 'the JSON was written on the way out'
    assert code in (128 + number, 1, -number) and not (tmp_path / 'panoptic.lock').exists()
  images = {str(number): {'id': number, 'file_name': 'x'} for number in range(100_000)}
  with _open(tmp_path, of={}, images=images) as results:
    assert all(results.notes(str(done), 1) == {} for done in range(last + 1))
  assert len(_read(tmp_path)['images']) == len(index) - 1
