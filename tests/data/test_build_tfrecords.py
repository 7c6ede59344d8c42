"""Tests for deeplab2-data: whole runs on small roots."""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import locks
from deeplab2.commands import build_tfrecords
from deeplab2.data import datasets
from deeplab2.data import labels
from deeplab2.data import shapes
from deeplab2.data import tfrecord
from tests import hostile_names
from tests.data import panoptic_files

_ROOT = pathlib.Path(__file__).parents[2]
_ANNOTATIONS = pathlib.Path(__file__).parents[1] / 'goldens' / 'coco_sample_annotations'
_SIZES = {'000000142238': (427, 640), '000000439180': (360, 640)}


@pytest.fixture(name='build', scope='module')
def _build():
  """Returns main() of the script, with flags as keywords, one process unless said otherwise."""

  def build(**options):
    options = {'num_workers': 1, **options}
    return build_tfrecords.main([f'--{key}={value}' for key, value in options.items()])

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


def _records(directory):
  files = sorted(str(path) for path in pathlib.Path(directory).glob('*.tfrecord'))
  return [tfrecord.parse_example(serialized, True) for serialized in tf.data.TFRecordDataset(files)]


@pytest.mark.parametrize(
  'options, key',
  [
    ({}, 'label_keep_crowd'),
    ({'treat_crowd_as_ignore': 'true'}, 'label'),
    ({'treat_crowd_as_ignore': 'false', 'label_format': 'zlib'}, 'label_keep_crowd'),
  ],
)
def test_coco_records_hold_deeplab2s_label_maps(
  build, root, golden, tmp_path, capsys, options, key
):
  out = tmp_path / 'out'
  assert build(dataset='coco', root=root, split='val', output_dir=out, num_shards=2, **options) == 0
  assert sorted(os.listdir(out)) == [
    'manifest-val.json',
    'val-00000-of-00002.tfrecord',
    'val-00001-of-00002.tfrecord',
  ]
  assert 'Wrote 2 records' in capsys.readouterr().out
  records = _records(out)
  assert [record.name.numpy().decode() for record in records] == sorted(_SIZES)
  for record in records:
    stem = record.name.numpy().decode()
    np.testing.assert_array_equal(
      record.label[..., 0], golden('data_coco_labels')[f'{key}_{int(stem)}']
    )
    data = (root / 'val2017' / f'{stem}.jpg').read_bytes()
    np.testing.assert_array_equal(record.image, tf.io.decode_image(data))
  # The files' bytes went into the records as they are.
  assert (root / 'val2017' / '000000142238.jpg').read_bytes() in (
    out / 'val-00000-of-00002.tfrecord'
  ).read_bytes()


def test_crowd_is_void_in_other_splits_by_default(build, root, golden, tmp_path):
  (root / 'val2017').rename(root / 'train2017')
  directory = root / 'annotations'
  (directory / 'panoptic_val2017').rename(directory / 'panoptic_train2017')
  (directory / 'panoptic_val2017.json').rename(directory / 'panoptic_train2017.json')
  assert build(dataset='coco', root=root, split='train', output_dir=tmp_path / 'out') == 0
  np.testing.assert_array_equal(
    _records(tmp_path / 'out')[0].label[..., 0], golden('data_coco_labels')['label_142238']
  )


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


@pytest.mark.parametrize(
  'harm, words',
  [
    (lambda root: shutil.rmtree(root), ['--root', 'no such directory']),
    (lambda root: shutil.rmtree(root / 'val2017'), ['--split=val', 'no such directory', 'val2017']),
    (lambda root: shutil.rmtree(root / 'annotations'), ['panoptic_val2017.json', 'no such file']),
    (
      lambda root: shutil.rmtree(root / 'annotations' / 'panoptic_val2017'),
      ['no such directory', 'panoptic_val2017'],
    ),
    (
      lambda root: (root / 'val2017' / '000000142238.jpg').unlink(),
      ['missing', 'first 000000142238;'],
    ),
    (
      lambda root: (root / 'val2017' / '000000142238.jpg').rename(root / 'val2017' / '1.jpg'),
      ['no annotation', 'first 1'],
    ),
    (
      lambda root: (root / 'annotations' / 'panoptic_val2017' / '000000439180.png').unlink(),
      ['000000439180.png', 'no such annotation PNG'],
    ),
    (
      lambda root: _truncate(root / 'val2017' / '000000439180.jpg'),
      ['000000439180.jpg', 'cannot be decoded'],
    ),
    (
      lambda root: PIL.Image.new('RGB', (30, 20)).save(root / 'val2017' / '000000439180.jpg'),
      ['000000439180.png: is 360x640', '000000439180.jpg is 20x30'],
    ),
    (
      lambda root: _edit_json(root, _wrong_category),
      ['panoptic_val2017.json, image 142238, segment', 'category_id 12 is not a class of coco'],
    ),
    (
      lambda root: _edit_json(root, _wrong_area),
      ['000000142238.png, image 142238, segment', 'annotated area'],
    ),
  ],
)
def test_mistakes_in_a_root_are_one_line_and_leave_nothing(
  build, root, tmp_path, capsys, harm, words
):
  harm(root)
  out = tmp_path / 'out'
  assert build(dataset='coco', root=root, split='val', output_dir=out, num_shards=1) == 2
  message = capsys.readouterr().err
  assert message.startswith('error: ') and message.count('\n') == 1
  for word in words:
    assert word in message
  assert not out.exists() or not os.listdir(out)


@pytest.mark.parametrize(
  'options, words',
  [
    ({'dataset': 'koko'}, ['--dataset=koko', 'coco', 'shapes']),
    ({'split': 'vall'}, ["'vall'", 'train', 'val', 'test']),
    ({'num_shards': 0}, ['--num_shards', "'0' must be an integer from 1"]),
    ({'num_images': 'many'}, ['--num_images', "'many'"]),
    ({'treat_crowd_as_ignore': 'maybe'}, ['--treat_crowd_as_ignore', "'maybe'"]),
    ({'root': '/data'}, ['--root=/data', 'leave --root out']),
    ({'num_image': 3}, ['--num_image=3']),
  ],
)
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
  return subprocess.run(
    [sys.executable, _ROOT / 'scripts' / 'build_tfrecords.py', *flags],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
    env={**os.environ, 'PYTHONPATH': str(_ROOT)},
  )


def test_shapes_by_several_processes(tmp_path):
  space = datasets.get('shapes').label_space
  (tmp_path / 'images').mkdir()
  (tmp_path / 'images' / '.writing-77-train_000002.jpg').touch()  # Of a process that was killed.
  result = _run(
    dataset='shapes',
    split='train',
    num_images=9,
    seed=3,
    num_shards=2,
    output_dir=tmp_path / 'out',
    images_dir=tmp_path / 'images',
  )
  assert result.returncode == 0, result.stderr
  assert 'Wrote 9 records' in result.stdout and 'in 2 shards' in result.stdout
  records = _records(tmp_path / 'out')
  assert len(records) == len(os.listdir(tmp_path / 'images')) == 9
  for index, record in enumerate(records):
    image, label = shapes.generate(3, 'train', index, space)
    name = f'train_{index:06d}'
    assert record.name.numpy().decode() == name
    # The split train: crowd is void.
    np.testing.assert_array_equal(record.label[..., 0], labels.ignore_crowd(label, space))
    assert np.abs(record.image.numpy().astype(int) - image).mean() < 4
    data = (tmp_path / 'images' / f'{name}.jpg').read_bytes()
    np.testing.assert_array_equal(tf.io.decode_image(data), record.image)


def test_an_error_in_a_worker_is_the_users_to_see(root, tmp_path):
  _truncate(root / 'val2017' / '000000439180.jpg')
  result = _run(dataset='coco', root=root, split='val', output_dir=tmp_path / 'out')
  assert result.returncode == 2
  last = result.stderr.splitlines()[-1]
  assert last.startswith('error: ')
  assert '000000439180.jpg: the image cannot be decoded' in last
  assert not os.listdir(tmp_path / 'out')


def test_a_dataset_of_ones_own_and_a_second_run(build, tmp_path, capsys):
  info = datasets.get('shapes')
  (tmp_path / 'mine.json').write_text(datasets.to_json(info))
  (tmp_path / 'images').mkdir()
  writer = panoptic_files.Writer(str(tmp_path / 'masks'), info)
  expected = []
  for index in range(3):
    image, label = shapes.generate(1, 'val', index, info.label_space)
    expected.append(label)
    PIL.Image.fromarray(image).save(tmp_path / 'images' / f'{index}.png')
    writer.add(str(index), label)
  writer.save(str(tmp_path / 'annotations.json'))
  flags = dict(
    dataset=tmp_path / 'mine.json',
    split='val',
    output_dir=tmp_path / 'out',
    images=tmp_path / 'images',
    annotations=tmp_path / 'annotations.json',
    masks=tmp_path / 'masks',
    num_shards=3,
  )
  (tmp_path / 'images' / '2.png').rename(tmp_path / 'kept.png')
  (tmp_path / 'images' / '2.png').write_bytes(b'no image')
  assert build(**flags) == 2
  assert '2.png: the image cannot be decoded' in capsys.readouterr().err
  (tmp_path / 'kept.png').replace(tmp_path / 'images' / '2.png')
  assert build(**flags) == 0
  assert 'Wrote 3 records (2 by an earlier run)' in capsys.readouterr().out
  for record, label in zip(_records(tmp_path / 'out'), expected, strict=True):
    # Instances are numbered anew, in the order of the annotations.
    np.testing.assert_array_equal(record.label[..., 0] // 256, label // 256)
  manifest = json.loads((tmp_path / 'out' / 'manifest-val.json').read_text())
  assert manifest['records'] == 3 and manifest['crowd'] == 'kept'


@pytest.mark.parametrize(
  'options, words',
  [
    ({'dataset': 'shapes', 'images': '/p'}, ['--images=/p', 'dataset of your own']),
    ({'dataset': '/none/x.json', 'images': '/p'}, ['/none/x.json: no such file']),
  ],
)
def test_mistakes_in_flags_of_ones_own(build, tmp_path, capsys, options, words):
  assert build(split='val', output_dir=tmp_path / 'out', **options) == 2
  message = capsys.readouterr().err
  assert message.count('\n') == 1 and all(word in message for word in words)


@pytest.fixture(name='own')
def _own(tmp_path):
  """Returns a function that makes a set of one's own in a directory; it returns the flags."""

  def make(directory, count=4, split='val'):
    info = datasets.get('shapes')
    (directory / 'images').mkdir(parents=True, exist_ok=True)
    (directory / 'mine.json').write_text(datasets.to_json(info))
    writer = panoptic_files.Writer(str(directory / 'masks'), info)
    for index in range(count):
      image, label = shapes.generate(1, 'val', index, info.label_space)
      PIL.Image.fromarray(image).save(directory / 'images' / f'{index}.png')
      writer.add(str(index), label)
    writer.save(str(directory / 'masks.json'))
    return dict(
      dataset=directory / 'mine.json',
      split=split,
      output_dir=directory / 'out',
      images=directory / 'images',
      annotations=directory / 'masks.json',
      num_shards=2,
    )

  return make


def _manifest(directory, split='val'):
  return json.loads((directory / f'manifest-{split}.json').read_text())


def _error(capsys):
  """Returns the only line of an error."""
  lines = capsys.readouterr().err.splitlines()
  assert lines and lines[-1].startswith('error: ')
  assert not any('Traceback' in line for line in lines)
  return lines[-1]


def test_images_left_out_are_named_and_listed(build, own, tmp_path, capsys):
  flags = own(tmp_path)
  (tmp_path / 'images' / '1.png').write_bytes(b'no image')
  (tmp_path / 'images' / '3.png').unlink()
  assert build(**flags) == 2
  # The advice is followed, twice: a build that stopped goes on with --on_error=skip.
  assert '1 images that ' in (message := _error(capsys)) and '--on_error=skip' in message
  assert build(**flags, on_error='skip') == 0
  out, err = capsys.readouterr()
  assert 'left out: 1: ' in err and '1.png: the image cannot be decoded' in err
  assert 'left out: 3: ' in err and 'there is no image 3' in err
  assert out.splitlines()[-1] == (
    f'Left out 2 of 4 images; {tmp_path}/out/manifest-val.json lists them.'
  )
  assert [record.name.numpy() for record in _records(tmp_path / 'out')] == [b'0', b'2']
  manifest = _manifest(tmp_path / 'out')
  assert [entry['name'] for entry in manifest['left_out']] == ['1', '3']
  assert manifest['records'] == 2 and all(entry['reason'] for entry in manifest['left_out'])
  most = max(len(np.unique(record.label)) for record in _records(tmp_path / 'out'))
  assert most - 1 <= manifest['most_segments'] <= most
  for path in (tmp_path / 'images').iterdir():
    path.write_bytes(b'no image')
  assert build(**flags, on_error='skip') == 2
  assert 'all 4 images are left out, nothing is written' in _error(capsys)
  assert len(_records(tmp_path / 'out')) == 2


def test_broken_exif_is_no_matter(build, own, tmp_path):
  flags = own(tmp_path, 1)
  path = tmp_path / 'images' / '0.png'
  data = path.read_bytes()
  chunk = b'\0\0\0\x04eXIf' + b'oops' + zlib.crc32(b'eXIfoops').to_bytes(4, 'big')
  path.write_bytes(data[:33] + chunk + data[33:])
  assert build(**flags) == 0
  (record,) = _records(tmp_path / 'out')
  np.testing.assert_array_equal(
    record.image, shapes.generate(1, 'val', 0, datasets.get('shapes').label_space)[0]
  )


def test_masks_with_red_and_blue_exchanged(build, own, tmp_path, capsys):
  flags = own(tmp_path)
  for path in (tmp_path / 'masks').iterdir():
    PIL.Image.fromarray(np.asarray(PIL.Image.open(path))[..., ::-1]).save(path)
  assert build(**flags) == 2
  message = _error(capsys)
  assert str(tmp_path / 'masks' / '0.png') in message and 'is not listed' in message
  assert 'exchange the channels before cv2.imwrite, or in the PNGs' in message
  assert not os.listdir(tmp_path / 'out')
  # The advice, followed.
  for path in (tmp_path / 'masks').iterdir():
    PIL.Image.fromarray(np.asarray(PIL.Image.open(path))[..., ::-1]).save(path)
  assert build(**flags) == 0


def test_orientation_of_masks_as_advised(build, own, tmp_path, capsys):
  flags = own(tmp_path, 1)
  exif = PIL.Image.Exif()
  exif[0x0112] = 3
  path = tmp_path / 'images' / '0.png'
  PIL.Image.open(path).save(path, exif=exif)
  assert build(**flags) == 2
  assert 'give --mask_orientation=upright or --mask_orientation=stored' in _error(capsys)
  _, label = shapes.generate(1, 'val', 0, datasets.get('shapes').label_space)
  for word, expected in (('upright', label), ('stored', label[::-1, ::-1])):
    assert build(**{**flags, 'mask_orientation': word, 'output_dir': tmp_path / word}) == 0
    (record,) = _records(tmp_path / word)
    np.testing.assert_array_equal(record.label[..., 0] // 256, expected // 256)


@pytest.mark.parametrize('name', hostile_names.HOSTILE_NAMES)
def test_directories_of_any_name(build, own, tmp_path, monkeypatch, name):
  directory = tmp_path / name / name
  flags = own(directory)
  flags |= {'output_dir': directory / f'out {name}', 'images_dir': directory / f'copy {name}'}
  assert build(**flags) == 0
  assert len(_records(flags['output_dir'])) == len(os.listdir(flags['images_dir'])) == 4
  # Again over it, relative, with trailing slashes, and below the home directory.
  monkeypatch.chdir(directory)
  monkeypatch.setenv('HOME', str(tmp_path))
  for base, end in (('.', '/'), (f'~/{name}/{name}', '//')):
    assert (
      build(
        dataset=f'{base}/mine.json',
        split='val',
        num_shards=2,
        output_dir=f'{base}/again{end}',
        images=f'{base}/images{end}',
        annotations=f'{base}/masks.json',
        masks=f'{base}/masks{end}',
        images_dir=f'{base}/copies{end}',
      )
      == 0
    )
    assert len(_records(directory / 'again')) == 4


@pytest.mark.parametrize('name', hostile_names.HOSTILE_NAMES)
def test_roots_of_any_name(build, tmp_path, name):
  root = tmp_path / name
  shutil.copytree(_ANNOTATIONS, root)
  os.makedirs(root / 'val2017')
  for stem, size in _SIZES.items():
    PIL.Image.new('RGB', size[::-1]).save(root / 'val2017' / f'{stem}.jpg')
  assert build(dataset='coco', root=f'{root}/', split='val', output_dir=root) == 0
  assert len(_records(root)) == 2


def test_two_builds_of_one_split_refuse_each_other(build, own, tmp_path, capsys):
  flags = own(tmp_path)
  with locks.hold(str(tmp_path / 'out' / 'build-val.lock'), 'it'):
    assert build(**flags) == 2
    message = _error(capsys)
    assert '--split=val is in use by process' in message and str(os.getpid()) in message
    assert build(**{**flags, 'split': 'train'}) == 0
  assert build(**flags) == 0
  assert 'build-val.lock' not in os.listdir(tmp_path / 'out')


def test_another_number_of_shards_as_advised(build, own, tmp_path, capsys):
  flags = own(tmp_path)
  assert build(**flags) == 0
  flags['num_shards'] = 3
  assert build(**flags) == 2
  assert 'delete those or choose another directory' in _error(capsys)
  assert build(**{**flags, 'output_dir': tmp_path / 'other'}) == 0
  for path in (tmp_path / 'out').glob('*.tfrecord'):
    path.unlink()
  assert build(**flags) == 0


def test_other_settings_as_advised(build, own, tmp_path, capsys):
  flags = own(tmp_path)
  assert build(**flags) == 0
  flags['label_format'] = 'zlib'
  assert build(**flags) == 2
  assert 'of label_format raw, not zlib; delete them or choose another directory' in _error(capsys)
  assert build(**{**flags, 'output_dir': tmp_path / 'other'}) == 0
  for path in (tmp_path / 'out').glob('*.tfrecord'):
    path.unlink()
  assert build(**flags) == 0


@pytest.mark.parametrize(
  'change, words, follow',
  [
    ({'root': '/data'}, 'leave --root out', {'root': None}),
    ({'annotations': None}, '--annotations is missing', {}),
    ({'images': None}, '--images is missing', {}),
  ],
)
def test_advice_on_flags(build, own, tmp_path, capsys, change, words, follow):
  flags = own(tmp_path)
  given = {key: value for key, value in {**flags, **change}.items() if value is not None}
  assert build(**given) == 2
  assert words in _error(capsys)
  followed = {
    key: value for key, value in {**given, **flags, **follow}.items() if value is not None
  }
  assert build(**followed) == 0


def test_flags_of_own_sets_are_left_out_as_advised(build, tmp_path, capsys):
  flags = dict(dataset='shapes', split='val', num_images=2, output_dir=tmp_path / 'out')
  assert build(**flags, masks=tmp_path) == 2
  assert 'only for a dataset of your own' in _error(capsys)
  assert build(**flags) == 0


@pytest.mark.parametrize('flag', ['output_dir', 'images_dir'])
@pytest.mark.parametrize('below', ['', '/x/y'])
def test_directories_that_cannot_be_made(build, own, tmp_path, capsys, flag, below):
  flags = own(tmp_path)
  (tmp_path / 'file').touch()
  assert build(**{**flags, flag: f'{tmp_path}/file{below}'}) == 2
  assert f'--{flag}={tmp_path}/file{below}: ' in _error(capsys)


def test_a_full_disk_and_the_same_command_again(build, own, tmp_path, capsys):
  """A limit on file sizes fails the write like a full disk does."""
  flags = own(tmp_path)
  (tmp_path / 'images' / '0.png').write_bytes(b'')
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
  try:
    assert build(**flags, on_error='skip') == 2
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
  assert 'the same command goes on from there' in _error(capsys)
  assert sorted(os.listdir(tmp_path / 'out')) == [
    'unfinished-val.json',
    'val-00000-of-00002.tfrecord.part',
  ]
  assert build(**flags, on_error='skip') == 0
  out, err = capsys.readouterr()
  assert 'Wrote 3 records (1 by an earlier run)' in out and 'left out' not in err
  assert [entry['name'] for entry in _manifest(tmp_path / 'out')['left_out']] == ['0']
  assert 'Left out 1 of 4 images' in out


def test_images_that_cannot_be_written_are_no_bad_images(build, own, tmp_path, capsys):
  flags = own(tmp_path)
  (tmp_path / 'copies' / '1.png').mkdir(parents=True)
  assert build(**flags, images_dir=tmp_path / 'copies', on_error='skip') == 2
  assert '1.png: is a directory; must be a file.' in _error(capsys)


def test_what_becomes_void_is_said_with_numbers(build, own, tmp_path, caplog):
  flags = own(tmp_path, 2, 'train')
  content = json.loads((tmp_path / 'masks.json').read_text())
  things = 0
  for segment in content['annotations'][0]['segments_info']:
    segment['iscrowd'] = int(segment['category_id'] <= 5)
    things += segment['iscrowd']
  (tmp_path / 'masks.json').write_text(json.dumps(content))
  assert things and build(**flags) == 0
  assert f'{things} segments of things became void, as all things of their image are crowd ' in (
    caplog.text
  )
  assert '(1 images, first 0).' in caplog.text
