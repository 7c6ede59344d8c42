"""The command that segments images: what is there after every way that it can end."""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.inference import predict
from deeplab2.inference import saved_model
from deeplab2.metrics import panoptic_quality
from tests import hostile_names
from tests.inference import color_model


@pytest.fixture(name='model', scope='module')
def _model(tmp_path_factory):
  return color_model.export(str(tmp_path_factory.mktemp('export') / 'model'))


def _save(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(image).save(path)


@pytest.fixture(name='images')
def _images(tmp_path):
  """A directory of four images, and one that is none."""
  root = tmp_path / 'images'
  for number, name in enumerate(['7.png', 'b.png', 'more/c.png', 'more/d.png']):
    _save(root / name, color_model.image(40 + number, 60, number))
  (root / 'notes.txt').write_text('no image')
  return root


def _run(model, images, out, *flags):
  return predict.main([f'--model={model}', f'--input={images}', f'--output_dir={out}', *flags])


def _read(out):
  """Returns (image ids, content) of the results, and checks that files and JSON agree."""
  content = json.loads((out / 'panoptic.json').read_text())
  assert [image['id'] for image in content['images']] == [
    annotation['image_id'] for annotation in content['annotations']
  ]
  for image, annotation in zip(content['images'], content['annotations'], strict=True):
    ids = coco_panoptic.read_segment_ids(str(out / 'panoptic' / annotation['file_name']))
    assert ids.shape == (image['height'], image['width'])
    present, areas = np.unique(ids[ids > 0], return_counts=True)
    assert {segment['id']: segment['area'] for segment in annotation['segments_info']} == dict(
      zip(present.tolist(), areas.tolist(), strict=True)
    )
    assert (out / 'overlay' / annotation['file_name']).exists()
  return [image['id'] for image in content['images']], content


def _files(root):
  return {
    str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()
  }


def _times(root):
  return {path.name: path.stat().st_mtime_ns for path in root.glob('*/*.png')}


def _error(capsys):
  """Returns what was said, and checks that the error is one line."""
  captured = capsys.readouterr()
  said = captured.out + captured.err
  assert 'Traceback' not in said
  assert len([line for line in said.splitlines() if line.startswith('error: ')]) == 1
  return said


def test_results_of_directories_in_directories(model, images, tmp_path, capsys):
  out = images / 'out'  # In the input: results are no images.
  for _ in range(2):
    assert _run(model, images, out) == 0
    ids, content = _read(out)
    assert ids == [7, 'b', 'c', 'd']
  assert content['images'][0] == {'id': 7, 'file_name': '7.png', 'height': 40, 'width': 60}
  assert content['annotations'][2]['file_name'] == 'c.png'
  said = capsys.readouterr()
  assert 'Left out 1 files that are no images by their names (.txt 1).' in said.out
  assert '4 of 4 images are finished' in said.out and 'Segmented 4 of 4 images' in said.out
  assert not said.err
  # What the colours say: the white ground is water, the last square a circle.
  label = coco_panoptic.read_annotations(str(out / 'panoptic.json'), datasets.get('shapes'))['7']
  assert {segment.class_id for segment in label.segments} >= {1, 7}


def test_other_inputs_batches_and_threads_give_the_same(model, images, tmp_path, monkeypatch):
  assert _run(model, images, tmp_path / 'one') == 0
  expected = _files(tmp_path / 'one' / 'panoptic')
  names = [path.relative_to(images) for path in sorted(images.rglob('*.png'))]
  (images / 'list.txt').write_text('\n'.join(map(str, names)))
  for number, (place, *flags) in enumerate(
    (
      ('images/**/*.png', '--batch_size=3', '--num_workers=2'),
      ('images/list.txt', '--batch_size=9', '--num_workers=0'),
      ('images/more', '--no-recursive', '--no-overlay', '--num_workers=5'),
    )
  ):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / f'out{number}'
    assert _run(model, place, out, *flags) == 0
    written = _files(out / 'panoptic')
    assert written == {name: expected[name] for name in written}
    assert len(written) == (2 if 'more' in place else 4)
    assert (out / 'overlay').exists() == ('--no-overlay' not in flags)
  several = ['--input', f'{images}/b.png', f'{images}/7.png']
  assert predict.main([f'--model={model}', f'--output_dir={tmp_path}/few', *several]) == 0
  assert _read(tmp_path / 'few')[0] == ['b', 7]


def test_results_that_exist(model, images, tmp_path, capsys):
  out = tmp_path / 'out'
  assert _run(model, images / 'b.png', out, '--no-resume') == 0
  before = _times(out)
  assert _run(model, images / 'b.png', out, '--no-resume') == 2
  said = _error(capsys)
  assert f'{out}/panoptic.json: there are results already.' in said
  assert 'Write elsewhere, or give --overwrite to start over.' in said
  assert _run(model, images / 'b.png', out, '--resume') == 0 and _times(out) == before
  assert _run(model, images / 'b.png', out, '--overwrite') == 0
  after = _times(out)
  assert after.keys() == before.keys() and after != before
  capsys.readouterr()
  assert _run(model, images / '7.png', out, '--restart') == 0
  assert 'warning: --restart is called --overwrite now' in capsys.readouterr().err
  assert list(_files(out / 'panoptic')) == ['7.png']
  assert _run(model, images, out, '--resume', '--overwrite') == 2
  assert 'argument --overwrite: not allowed with argument --resume' in _error(capsys)


def test_a_model_without_batches(model, images, tmp_path, capsys, monkeypatch):
  """As exported by earlier versions."""
  loaded = saved_model.load(model)._replace(functions=None)
  monkeypatch.setattr(saved_model, 'load', lambda path: loaded)
  assert _run(model, images, tmp_path / 'out', '--batch_size=2') == 2
  assert 'without batches; export it again, or take --batch_size=1' in _error(capsys)
  assert _run(model, images, tmp_path / 'out', '--batch_size=1') == 0


def test_images_that_cannot_be_read_are_named_and_made_later(model, images, tmp_path, capsys):
  out = tmp_path / 'out'
  whole = (images / 'b.png').read_bytes()
  (images / 'b.png').write_bytes(whole[:60])
  (images / b'no\xff.png'.decode(errors='surrogateescape')).write_bytes(whole)
  assert _run(model, images, out) == 1
  said = _error(capsys)
  assert f'left out: {images}/b.png' in said and 'error: 2 of 5 images were left out' in said
  assert 'Segmented 3 of 5 images' in said and 'not UTF-8' in said
  assert _read(out)[0] == [7, 'c', 'd']
  before = _times(out)
  (images / 'b.png').write_bytes(whole)
  (images / b'no\xff.png'.decode(errors='surrogateescape')).unlink()
  # An image that was replaced is made again, all others stay.
  _save(images / 'more' / 'c.png', color_model.image(50, 50, 9))
  assert _run(model, images, out) == 0
  ids, content = _read(out)
  assert ids == [7, 'b', 'c', 'd'] and content['images'][2]['height'] == 50
  after = _times(out)
  assert [name for name in before if before[name] != after[name]] == ['c.png']
  # An image that was replaced by garbage is not in the results any more.
  (images / 'b.png').write_bytes(b'garbage')
  assert _run(model, images, out) == 1
  assert _read(out)[0] == [7, 'c', 'd'] and not (out / 'panoptic' / 'b.png').exists()


def test_another_model_is_refused_with_advice_that_works(model, images, tmp_path, capsys):
  other = color_model.export(str(tmp_path / 'other'), classes=(1, 0, 5, 6))
  out = tmp_path / 'out'
  assert _run(model, images, out) == 0
  before = _files(out)
  assert _run(other, images, out) == 2
  said = _error(capsys)
  assert 'results of something else (model ' in said
  assert 'Write elsewhere, or give --overwrite to start over.' in said
  assert _files(out) == before
  assert _run(other, images, tmp_path / 'elsewhere') == 0
  assert _run(other, images, out, '--overwrite') == 0
  assert _files(out / 'panoptic') == _files(tmp_path / 'elsewhere' / 'panoptic')
  assert _files(out / 'panoptic') != {
    name.removeprefix('panoptic/'): data
    for name, data in before.items()
    if name.startswith('panoptic/')
  }


def test_ids_of_the_ground_truth(model, images, tmp_path, capsys):
  out, ground_truth = tmp_path / 'out', tmp_path / 'gt.json'
  entries = [
    {'id': 100 + number, 'file_name': f'{name}.jpg', 'height': 40 + number, 'width': 60}
    for number, name in enumerate(['7', 'b', 'c'])
  ]
  entries[1]['height'] = 60
  entries.append({'id': 5, 'file_name': 'elsewhere.jpg'})
  ground_truth.write_text(json.dumps({'images': entries}), encoding='utf-8-sig')
  flag = f'--images_json={ground_truth}'
  assert _run(model, images, out, flag) == 2
  said = _error(capsys)
  assert 'does not list 1 of 4 images of --input: more/d.png. Give --on_unlisted=skip' in said
  assert not out.exists(), 'refused before anything is made'
  assert _run(model, images, out, flag, '--on_unlisted=skip') == 1
  said = _error(capsys)
  assert 'Left out 1 images that' in said
  assert 'lists 1 images that are not in' in said and 'elsewhere.jpg' in said
  assert 'b.png: is 41x60 (height x width), but its ground truth is 60x60' in said
  ids, content = _read(out)
  assert ids == [100, 102] and content['images'][0] == entries[0]
  entries[1]['height'] = 41
  ground_truth.write_text(json.dumps({'images': entries}))
  assert _run(model, images, out, flag, '--on_unlisted=skip') == 0
  assert _read(out)[0] == [100, 101, 102]


def test_hostile_names_and_home(model, images, tmp_path, monkeypatch):
  home = pathlib.Path(tmp_path, *hostile_names.HOSTILE_NAMES)
  home.mkdir(parents=True)
  shutil.copytree(model, home / '[model]')
  shutil.copytree(images, home / 'in*')
  for name in hostile_names.HOSTILE_NAMES:
    shutil.copy(images / 'b.png', home / 'in*' / f'{name}.png')
  entries = [
    {'id': number, 'file_name': path.name}
    for number, path in enumerate(sorted((home / 'in*').rglob('*.png')))
  ]
  (home / '[gt].json').write_text(json.dumps({'images': entries}))
  monkeypatch.setenv('HOME', str(home))
  assert _run('~/[model]/', '~/in*/', '~/out?/', '--images_json=~/[gt].json') == 0
  assert sorted(_read(home / 'out?')[0]) == list(range(4 + len(hostile_names.HOSTILE_NAMES)))
  monkeypatch.chdir(home)
  assert _run('[model]', 'in*/b.png', './one') == 0
  assert _read(home / 'one')[0] == ['b']


def test_places_that_cannot_be_written(model, images, tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  for out in (tmp_path / 'file', '/proc/nowhere', tmp_path / 'file' / 'below'):
    assert _run(model, images, out) == 2
    assert str(out) in _error(capsys)


def test_a_full_disk_keeps_what_is_finished(model, images, tmp_path, capsys):
  out = tmp_path / 'out'
  rng = np.random.RandomState(0)
  _save(images / 'c0.png', rng.randint(0, 255, (300, 300, 3)).astype(np.uint8))
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
  try:
    assert _run(model, images, out) == 2
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert 'c0.png: cannot be written' in _error(capsys)
  assert _read(out)[0] == [7, 'b']
  assert sorted(path.name for path in out.rglob('.*')) == [], 'no half files'
  before = _times(out)
  assert _run(model, images, out) == 0
  assert _read(out)[0] == [7, 'b', 'c0', 'c', 'd']
  after = _times(out)
  assert all(before[name] == after[name] for name in ('7.png', 'b.png'))


def test_a_damaged_model_is_one_line(model, images, tmp_path, capsys):
  copy = shutil.copytree(model, tmp_path / 'copy')
  with open(copy / 'variables' / 'variables.data-00000-of-00001', 'r+b') as file:
    file.seek(20)
    file.write(b'\x55')
  assert _run(copy, images, tmp_path / 'out') == 2
  assert 'variables.data-00000-of-00001: is damaged' in _error(capsys)
  assert not (tmp_path / 'out').exists()


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_a_prediction_that_is_killed_goes_on(model, images, tmp_path, number):
  for index in range(60):
    _save(images / f'x{index:02d}.png', color_model.image(300, 400, index))
  assert _run(model, images, tmp_path / 'whole') == 0
  out = tmp_path / 'out'
  process = subprocess.Popen(
    [
      sys.executable,
      '-m',
      'deeplab2.inference.predict',
      f'--model={model}',
      f'--input={images}',
      f'--output_dir={out}',
    ],
    stderr=subprocess.PIPE,
    text=True,
  )
  while process.poll() is None and len(list(out.glob('panoptic/*.png'))) < 10:
    time.sleep(0.02)
  process.send_signal(number)
  assert 'Traceback' not in process.communicate(timeout=60)[1]
  assert process.returncode != 0
  finished = len(_read(out)[0])
  assert finished >= (9 if number == signal.SIGTERM else 0)
  assert _run(model, images, out) == 0
  ours, theirs = _files(out), _files(tmp_path / 'whole')
  assert sorted(ours) == sorted(theirs)
  for name in ours:
    if not name.endswith('.jsonl'):
      assert ours[name] == theirs[name], name


@pytest.mark.slow
def test_an_image_of_100_million_pixels_takes_less_than_3_gb(model, tmp_path):
  PIL.Image.fromarray(color_model.image(60, 60)).resize(
    (10_000, 10_000), PIL.Image.Resampling.BICUBIC
  ).save(tmp_path / 'big.jpg')
  code = (
    'import resource, sys\n'
    'from deeplab2.inference import predict\n'
    'code = predict.main(sys.argv[1:])\n'
    'print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)'
  )
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      code,
      f'--model={model}',
      f'--input={tmp_path / "big.jpg"}',
      f'--output_dir={tmp_path / "out"}',
    ],
    capture_output=True,
    text=True,
    check=True,
  )
  code, kilobytes = map(int, done.stdout.splitlines()[-1].split())
  assert code == 0
  assert kilobytes < 3e6
  with PIL.Image.open(tmp_path / 'out' / 'panoptic' / 'big.png') as image:
    assert image.size == (10_000, 10_000)
  content = json.loads((tmp_path / 'out' / 'panoptic.json').read_text())
  assert sum(s['area'] for s in content['annotations'][0]['segments_info']) > 9e7


def _cityscapes(root):
  """Writes two images as the official archives and csCreatePanopticImgs lay them out."""
  annotations, images = {True: [], False: []}, []
  # Original id and dataset id of the colours: person, car, road, sky.
  originals, train_ids, things = [24, 26, 7, 23], [11, 13, 0, 10], [True, True, False, False]
  for number in range(2):
    name = f'frankfurt_000000_{number:06d}'
    pixels = color_model.image(65, 129, number)
    _save(root / f'leftImg8bit/val/frankfurt/{name}_leftImg8bit.png', pixels)
    for use_train_ids in (True, False):
      ids, segments = np.zeros(pixels.shape[:2], np.int64), []
      for color, original, train_id, is_thing in zip(
        color_model.COLORS, originals, train_ids, things, strict=True
      ):
        mask = (pixels == color).all(-1)
        segment_id = original * 1000 if is_thing else original
        ids[mask] = segment_id
        rows, columns = np.nonzero(mask)
        segments.append(
          {
            'id': segment_id,
            'category_id': train_id if use_train_ids else original,
            'area': int(mask.sum()),
            'iscrowd': 0,
            'bbox': [
              int(columns.min()),
              int(rows.min()),
              int(np.ptp(columns) + 1),
              int(np.ptp(rows) + 1),
            ],
          }
        )
      ending = '_trainId' if use_train_ids else ''
      _save(
        root / f'gtFine/cityscapes_panoptic_val{ending}/{name}_gtFine_panoptic.png',
        np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8),
      )
      annotations[use_train_ids].append(
        {'image_id': name, 'file_name': f'{name}_gtFine_panoptic.png', 'segments_info': segments}
      )
    images.append(
      {'id': name, 'width': 129, 'height': 65, 'file_name': f'{name}_gtFine_leftImg8bit.png'}
    )
  for use_train_ids, listed in annotations.items():
    path = root / f'gtFine/cityscapes_panoptic_val{"_trainId" if use_train_ids else ""}.json'
    path.write_text(json.dumps({'images': images, 'annotations': listed, 'categories': []}))
  return root / 'gtFine/cityscapes_panoptic_val.json'


@pytest.mark.parametrize('with_json', [True, False])
def test_official_scripts_find_every_prediction_of_cityscapes(tmp_path, with_json):
  model = color_model.export(str(tmp_path / 'model'), 'cityscapes_panoptic', (0, 2, 8, 18))
  json_path = _cityscapes(tmp_path)
  out = tmp_path / 'out'
  flags = [f'--images_json={json_path}'] if with_json else []
  assert _run(model, tmp_path / 'leftImg8bit/val', out, *flags) == 0
  _read(out)

  # As panopticapi and cityscapesscripts pair them.
  ground_truth = json.loads(json_path.read_text())
  predicted = json.loads((out / 'panoptic.json').read_text())
  by_id = {entry['image_id']: entry for entry in predicted['annotations']}
  assert len(by_id) == len(predicted['annotations']) == len(ground_truth['annotations'])
  known = {category['id'] for category in predicted['categories']}
  info = datasets.get('cityscapes_panoptic')
  quality = panoptic_quality.PanopticQuality(info.label_space)
  of_ground_truth, of_predictions = (
    {
      annotation.image_id: annotation
      for annotation in coco_panoptic.read_annotations(str(path), info).values()
    }
    for path in (json_path, out / 'panoptic.json')
  )
  for entry in ground_truth['annotations']:
    theirs = str(json_path.with_suffix('') / entry['file_name'])
    ours = str(out / 'panoptic' / by_id[entry['image_id']]['file_name'])
    ids = coco_panoptic.read_segment_ids(ours)
    assert ids.shape == coco_panoptic.read_segment_ids(theirs).shape
    segments = by_id[entry['image_id']]['segments_info']
    assert {segment['id'] for segment in segments} == set(np.unique(ids).tolist()) - {0}
    assert {segment['category_id'] for segment in segments} <= known
    quality.update(
      *(
        coco_panoptic.read_label(path, found[entry['image_id']], info, treat_crowd_as_ignore=False)
        for path, found in ((theirs, of_ground_truth), (ours, of_predictions))
      )
    )
  assert quality.result().official.all.pq > 0.6
  if with_json:
    assert predicted['images'] == ground_truth['images']
  else:
    assert [image['id'] for image in predicted['images']] == [
      image['id'] for image in ground_truth['images']
    ]


def test_converted_records_have_the_ids_of_the_predictions(tmp_path):
  """The other half of the way: what conversion calls an image is what prediction calls it."""
  json_path = _cityscapes(tmp_path)
  done = subprocess.run(
    [
      sys.executable,
      'scripts/build_tfrecords.py',
      '--dataset=cityscapes',
      f'--root={tmp_path}',
      '--split=val',
      f'--output_dir={tmp_path / "records"}',
      '--num_shards=1',
      '--num_workers=1',
    ],
    cwd=pathlib.Path(__file__).parents[2],
    env={**os.environ},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  records = b''.join(path.read_bytes() for path in (tmp_path / 'records').glob('*.tfrecord'))
  info = datasets.get('cityscapes_panoptic')
  for image in json.loads(json_path.read_text())['images']:
    assert image['id'].encode() in records
    assert datasets.image_id(info, f'{image["id"]}_leftImg8bit.png') == image['id']
