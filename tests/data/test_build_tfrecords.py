"""Tests for scripts/build_tfrecords.py: whole runs on small roots."""
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2.data import datasets
from deeplab2.data import labels
from deeplab2.data import shapes
from deeplab2.data import tfrecord
from tests.data import panoptic_files

_SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts' / 'build_tfrecords.py'
_ANNOTATIONS = pathlib.Path(__file__).parents[1] / 'goldens' / 'coco_sample_annotations'
_SIZES = {'000000142238': (427, 640), '000000439180': (360, 640)}


@pytest.fixture(name='build', scope='module')
def _build():
  """Returns main() of the script, with flags as keywords, one process unless said otherwise."""
  spec = importlib.util.spec_from_file_location('build_tfrecords', _SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)

  def build(**options):
    options = {'num_workers': 1, **options}
    return module.main([f'--{key}={value}' for key, value in options.items()])
  return build


@pytest.fixture(name='root')
def _root(tmp_path):
  """A COCO root: the two real annotations, with grey noise in place of the photographs."""
  root = tmp_path / 'coco'
  shutil.copytree(_ANNOTATIONS, root)
  os.makedirs(root / 'val2017')
  for stem, size in _SIZES.items():
    noise = np.random.randint(0, 255, (*size, 3), np.uint8)
    PIL.Image.fromarray(noise).save(root / 'val2017' / f'{stem}.jpg', quality=50)
  return root


def _records(folder):
  files = sorted(str(path) for path in pathlib.Path(folder).glob('*.tfrecord'))
  return [tfrecord.parse_example(serialized, True) for serialized in tf.data.TFRecordDataset(files)]


@pytest.mark.parametrize('options, key', [
    ({}, 'label_keep_crowd'), ({'treat_crowd_as_ignore': 'true'}, 'label'),
    ({'treat_crowd_as_ignore': 'false', 'label_format': 'zlib'}, 'label_keep_crowd')])
def test_coco_records_hold_deeplab2s_label_maps(build, root, golden, tmp_path, capsys, options,
                                                key):
  out = tmp_path / 'out'
  assert build(dataset='coco', root=root, split='val', output_dir=out, num_shards=2, **options) == 0
  assert sorted(os.listdir(out)) == [
      'manifest-val.json', 'val-00000-of-00002.tfrecord', 'val-00001-of-00002.tfrecord']
  assert 'Wrote 2 records' in capsys.readouterr().out
  records = _records(out)
  assert [record.name.numpy().decode() for record in records] == sorted(_SIZES)
  for record in records:
    stem = record.name.numpy().decode()
    np.testing.assert_array_equal(
        record.label[..., 0], golden('data_coco_labels')[f'{key}_{int(stem)}'])
    data = (root / 'val2017' / f'{stem}.jpg').read_bytes()
    np.testing.assert_array_equal(record.image, tf.io.decode_image(data))
  # The files' bytes went into the records as they are.
  assert (root / 'val2017' / '000000142238.jpg').read_bytes() in (
      out / 'val-00000-of-00002.tfrecord').read_bytes()


def test_crowd_is_void_in_other_splits_by_default(build, root, golden, tmp_path):
  (root / 'val2017').rename(root / 'train2017')
  folder = root / 'annotations'
  (folder / 'panoptic_val2017').rename(folder / 'panoptic_train2017')
  (folder / 'panoptic_val2017.json').rename(folder / 'panoptic_train2017.json')
  assert build(dataset='coco', root=root, split='train', output_dir=tmp_path / 'out') == 0
  np.testing.assert_array_equal(
      _records(tmp_path / 'out')[0].label[..., 0], golden('data_coco_labels')['label_142238'])


def test_test_split_has_no_labels(build, root, tmp_path):
  (root / 'val2017').rename(root / 'test2017')
  shutil.rmtree(root / 'annotations')
  assert build(dataset='coco', root=root, split='test', output_dir=tmp_path / 'out') == 0
  (file,) = (tmp_path / 'out').glob('*.tfrecord')
  assert file.name == 'test-00000-of-00001.tfrecord'
  example = tf.train.Example.FromString(next(iter(tf.data.TFRecordDataset(str(file)))).numpy())
  assert 'image/segmentation/class/encoded' not in example.features.feature


def _edit_json(root, edit):
  path = root / 'annotations' / 'panoptic_val2017.json'
  content = json.loads(path.read_text())
  edit(content['annotations'][0])
  path.write_text(json.dumps(content))


def _truncate(path):
  os.truncate(path, 5000)


def _wrong_category(annotation):
  annotation['segments_info'][3]['category_id'] = 12


def _wrong_area(annotation):
  annotation['segments_info'][3]['area'] += 1


@pytest.mark.parametrize('harm, words', [
    (lambda root: shutil.rmtree(root), ['--root', 'no such folder']),
    (lambda root: shutil.rmtree(root / 'val2017'), ['--split=val', 'no such folder', 'val2017']),
    (lambda root: shutil.rmtree(root / 'annotations'), ['panoptic_val2017.json', 'No such file']),
    (lambda root: shutil.rmtree(root / 'annotations' / 'panoptic_val2017'),
     ['no such folder', 'panoptic_val2017']),
    (lambda root: (root / 'val2017' / '000000142238.jpg').unlink(),
     ['missing', 'first 000000142238.']),
    (lambda root: (root / 'val2017' / '000000142238.jpg').rename(root / 'val2017' / '1.jpg'),
     ['no annotation', 'first 1']),
    (lambda root: (root / 'annotations' / 'panoptic_val2017' / '000000439180.png').unlink(),
     ['000000439180.png', 'no such annotation PNG']),
    (lambda root: _truncate(root / 'val2017' / '000000439180.jpg'),
     ['000000439180.jpg', 'cannot be decoded']),
    (lambda root: PIL.Image.new('RGB', (30, 20)).save(root / 'val2017' / '000000439180.jpg'),
     ['000000439180.png: is 360x640', '000000439180.jpg is 20x30']),
    (lambda root: _edit_json(root, _wrong_category),
     ['panoptic_val2017.json, image 142238, segment', 'category_id 12 is not a class of coco']),
    (lambda root: _edit_json(root, _wrong_area),
     ['000000142238.png, image 142238, segment', 'annotated area']),
])
def test_mistakes_in_a_root_are_one_line_and_leave_nothing(build, root, tmp_path, capsys, harm,
                                                           words):
  harm(root)
  out = tmp_path / 'out'
  assert build(dataset='coco', root=root, split='val', output_dir=out, num_shards=1) == 2
  message = capsys.readouterr().err
  assert message.startswith('error: ') and message.count('\n') == 1
  for word in words:
    assert word in message
  assert not out.exists() or not os.listdir(out)


@pytest.mark.parametrize('options, words', [
    ({'dataset': 'koko'}, ['--dataset=koko', 'coco', 'shapes']),
    ({'split': 'vall'}, ["'vall'", 'train', 'val', 'test']),
    ({'num_shards': 0}, ['--num_shards', "'0' must be a whole number from 1"]),
    ({'num_images': 'many'}, ['--num_images', "'many'"]),
    ({'treat_crowd_as_ignore': 'maybe'}, ['--treat_crowd_as_ignore', "'maybe'"]),
    ({'root': '/data'}, ['--root=/data', 'leave --root out']),
    ({'num_image': 3}, ['--num_image=3']),
])
def test_mistakes_in_flags(build, tmp_path, capsys, options, words):
  options = {'dataset': 'shapes', 'split': 'val', 'output_dir': tmp_path / 'out', **options}
  assert build(**options) == 2
  message = capsys.readouterr().err
  assert message.startswith('error: ') and message.count('\n') == 1
  for word in words:
    assert word in message
  assert not (tmp_path / 'out').exists()


def test_coco_needs_a_root(build, tmp_path, capsys):
  assert build(dataset='coco', split='val', output_dir=tmp_path / 'out') == 2
  assert '--root is missing' in capsys.readouterr().err


def _run(**options):
  """Runs the command line in a process of its own, with two workers.

  Workers are forked, which is safe only before TensorFlow has run anything: not in this process.
  """
  flags = [f'--{key}={value}' for key, value in {'num_workers': 2, **options}.items()]
  return subprocess.run([sys.executable, _SCRIPT, *flags], capture_output=True, text=True,
                        timeout=120, check=False,
                        env={**os.environ, 'PYTHONPATH': str(_SCRIPT.parents[1])})


def test_shapes_by_several_processes(tmp_path):
  space = datasets.get('shapes').label_space
  result = _run(dataset='shapes', split='train', num_images=9, seed=3, num_shards=2,
                output_dir=tmp_path / 'out', pictures_dir=tmp_path / 'pictures')
  assert result.returncode == 0, result.stderr
  assert 'Wrote 9 records' in result.stdout and 'in 2 shards' in result.stdout
  records = _records(tmp_path / 'out')
  assert len(records) == 9
  for index, record in enumerate(records):
    image, label = shapes.generate(3, 'train', index, space)
    name = f'train_{index:06d}'
    assert record.name.numpy().decode() == name
    # The split train: crowd is void.
    np.testing.assert_array_equal(record.label[..., 0], labels.ignore_crowd(label, space))
    assert np.abs(record.image.numpy().astype(int) - image).mean() < 4
    data = (tmp_path / 'pictures' / f'{name}.jpg').read_bytes()
    np.testing.assert_array_equal(tf.io.decode_image(data), record.image)


def test_an_error_in_a_worker_is_the_users_to_see(root, tmp_path):
  _truncate(root / 'val2017' / '000000439180.jpg')
  result = _run(dataset='coco', root=root, split='val', output_dir=tmp_path / 'out')
  assert result.returncode == 2
  last = result.stderr.splitlines()[-1]
  assert last.startswith('error: ')
  assert '000000439180.jpg: the picture cannot be decoded' in last
  assert not os.listdir(tmp_path / 'out')


def test_a_dataset_of_ones_own_and_a_second_run(build, tmp_path, capsys):
  info = datasets.get('shapes')
  (tmp_path / 'mine.json').write_text(datasets.to_json(info))
  (tmp_path / 'pictures').mkdir()
  writer = panoptic_files.Writer(str(tmp_path / 'masks'), info)
  expected = []
  for index in range(3):
    image, label = shapes.generate(1, 'val', index, info.label_space)
    expected.append(label)
    PIL.Image.fromarray(image).save(tmp_path / 'pictures' / f'{index}.png')
    writer.add(str(index), label)
  writer.save(str(tmp_path / 'annotations.json'))
  flags = dict(dataset=tmp_path / 'mine.json', split='val', output_dir=tmp_path / 'out',
               pictures=tmp_path / 'pictures', annotations=tmp_path / 'annotations.json',
               masks=tmp_path / 'masks', num_shards=3)
  (tmp_path / 'pictures' / '2.png').rename(tmp_path / 'kept.png')
  (tmp_path / 'pictures' / '2.png').write_bytes(b'no picture')
  assert build(**flags) == 2
  assert '2.png: the picture cannot be decoded' in capsys.readouterr().err
  (tmp_path / 'kept.png').replace(tmp_path / 'pictures' / '2.png')
  assert build(**flags) == 0
  assert 'Wrote 3 records (2 by an earlier run)' in capsys.readouterr().out
  for record, label in zip(_records(tmp_path / 'out'), expected, strict=True):
    # Instances are numbered anew, in the order of the annotations.
    np.testing.assert_array_equal(record.label[..., 0] // 256, label // 256)
  manifest = json.loads((tmp_path / 'out' / 'manifest-val.json').read_text())
  assert manifest['records'] == 3 and manifest['crowd'] == 'kept'


@pytest.mark.parametrize('options, words', [
    ({'dataset': 'shapes', 'pictures': '/p'}, ['--pictures=/p', 'dataset of your own']),
    ({'dataset': '/none/x.json', 'pictures': '/p'}, ['/none/x.json: no such file']),
])
def test_mistakes_in_flags_of_ones_own(build, tmp_path, capsys, options, words):
  assert build(split='val', output_dir=tmp_path / 'out', **options) == 2
  message = capsys.readouterr().err
  assert message.count('\n') == 1 and all(word in message for word in words)
