"""Tests for deeplab2-inspect: whole runs, and what the contact sheet shows together."""

import json
import pathlib
import resource
import signal

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2.commands import inspect_data
from deeplab2.config import load
from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.data import shapes
from deeplab2.data import tfrecord
from tests import hostile_names
from tests.data import panoptic_files

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIG = str(_ROOT / 'configs' / 'shapes' / 'kmax_mobilenet_v3_small.textproto')


@pytest.fixture(name='script', scope='module')
def _script():
  return inspect_data


@pytest.fixture(name='annotated')
def _annotated(tmp_path):
  """Returns the flags that name three annotated images."""
  info = datasets.get('shapes')
  writer = panoptic_files.Writer(str(tmp_path / 'set'), info)
  (tmp_path / 'images').mkdir()
  for index in range(3):
    image, label = shapes.generate(0, 'train', index, info.label_space)
    writer.add(str(index), label)
    PIL.Image.fromarray(image).save(tmp_path / 'images' / f'{index}.jpg')
  writer.save(str(tmp_path / 'set.json'))
  return [
    'annotations',
    '--dataset=shapes',
    f'--annotations={tmp_path}/set.json',
    f'--images={tmp_path}/images',
    f'--json={tmp_path}/out.json',
    '--num_workers=1',
  ]


def test_right_annotations(script, annotated, tmp_path, capsys):
  assert script.main(annotated) == 0
  assert 'No problems.' in capsys.readouterr().out
  content = json.loads((tmp_path / 'out.json').read_text())
  _, label = shapes.generate(0, 'train', 0, datasets.get('shapes').label_space)
  assert content['images'] == 3 and content['problems'] == {}
  assert sum(entry['pixels'] for entry in content['classes']) + content['void_pixels'] == sum(
    PIL.Image.open(path).size[0] * PIL.Image.open(path).size[1]
    for path in (tmp_path / 'images').iterdir()
  )
  assert label.size


def test_problems_are_lines_and_exit_code_2(script, annotated, tmp_path, capsys):
  path = tmp_path / 'set.json'
  content = json.loads(path.read_text())
  for annotation in content['annotations'][1:]:
    annotation['segments_info'][0]['area'] += 1
  path.write_text(json.dumps(content))
  assert script.main(annotated) == 2
  out, err = capsys.readouterr()
  lines = [line for line in out.splitlines() if ': area: ' in line]
  assert [line.partition(',')[0] for line in lines] == [
    str(tmp_path / 'set' / f'{index}.png') for index in (1, 2)
  ]
  assert 'error: 2 problems: area 2.' in err
  assert json.loads((tmp_path / 'out.json').read_text())['problems'] == {'area': 2}
  assert script.main([*annotated, '--ignore=area']) == 0


@pytest.mark.parametrize(
  'flag, words',
  [
    ('--annotations={}', 'is a directory'),
    ('--annotations={}/other.json', 'captions'),
    ('--images={}/no', 'no such directory'),
    ('--dataset=no', "dataset 'no' is unknown"),
    ('--json={}', 'is a directory'),
    ('--json={}/set.json', 'the result would overwrite it'),
    ('--json={}/set.json/x.json', 'cannot be made'),
    ('--flag', 'see --help'),
  ],
)
def test_mistakes_are_one_line(script, annotated, tmp_path, capsys, flag, words):
  (tmp_path / 'other.json').write_text('{"annotations": [{"caption": "a dog"}]}')
  assert script.main([*annotated, flag.format(tmp_path)]) == 2
  err = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert len(err) == 1 and words in err[0]


@pytest.mark.parametrize('name', hostile_names.HOSTILE_NAMES)
def test_paths_of_any_name(script, annotated, tmp_path, monkeypatch, name):
  directory = tmp_path / name
  directory.mkdir()
  for part in ('set.json', 'set', 'images'):
    (tmp_path / part).rename(directory / part)
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(directory)
  for base, end in ((str(directory), '/'), ('.', ''), (f'~/{name}', '//')):
    out = directory / 'new' / name / 'out.json'
    assert (
      script.main(
        [
          'annotations',
          '--dataset=shapes',
          f'--annotations={base}/set.json',
          f'--masks={base}/set{end}',
          f'--images={base}/images{end}',
          '--num_workers=1',
          f'--json={base}/new/{name}/out.json',
        ]
      )
      == 0
    )
    assert json.loads(out.read_text())['images'] == 3
    out.unlink()


def test_statistics_are_written_whole(script, annotated, tmp_path, capsys):
  """A limit on file sizes fails the write like a full disk does: the file before stays."""
  (tmp_path / 'out.json').write_text('before')
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
  try:
    assert script.main(annotated) == 2
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
  assert f'error: {tmp_path}/out.json: cannot be written' in capsys.readouterr().err
  assert (tmp_path / 'out.json').read_text() == 'before'


def test_orientation_of_masks_as_advised(script, annotated, tmp_path, capsys):
  exif = PIL.Image.Exif()
  exif[0x0112] = 3
  path = tmp_path / 'images' / '1.jpg'
  PIL.Image.open(path).save(path, exif=exif)
  assert script.main(annotated) == 2
  out, err = capsys.readouterr()
  assert 'error: 1 problems: orientation 1.' in err
  assert f'{tmp_path}/set/1.png: orientation: its image {path} is turned' in out
  assert script.main([*annotated, '--mask_orientation=stored']) == 0


def test_kinds_are_ignored_as_advised(script, annotated, tmp_path, capsys):
  """What --help says of ADE20K, whose stuff is listed as it was before things covered it."""
  content = json.loads((tmp_path / 'set.json').read_text())
  segments = content['annotations'][0]['segments_info']
  segments.append({'id': 1, 'category_id': 7, 'area': 50, 'iscrowd': 0})
  segments[-2]['area'] += 1
  (tmp_path / 'set.json').write_text(json.dumps(content))
  assert script.main(annotated) == 2
  assert 'error: 2 problems: area 1, stuff not drawn 1.' in capsys.readouterr().err
  assert script.main([*annotated, '--ignore=area', '--ignore=stuff not drawn']) == 0


@pytest.fixture(name='records')
def _records(tmp_path, monkeypatch):
  """Six records in three files; the grey value and the class of image i tell i."""
  monkeypatch.setenv('SHAPES_TFRECORDS', str(tmp_path))
  for split in ('train', 'val'):
    for index in range(6):
      image = np.full((40, 50 + index, 3), 20 + 40 * index, np.uint8)
      label = np.full(image.shape[:2], (1 + index % 5) * 256 + 1, np.int32)
      label[:20] = (6 + index % 4) * 256
      with tf.io.TFRecordWriter(str(tmp_path / f'{split}-{index}.tfrecord')) as writer:
        writer.write(tfrecord.encode_example(images.encode(image), f'image_{index}', label))
  return ['records', f'--config_file={_CONFIG}', f'--json={tmp_path}/out.json']


def _is_of_its_record(record, sample):
  """Asserts that a sample is made of the record: its grey value, classes and instance."""
  index = int(record.name.numpy().decode().removeprefix('image_'))
  middle = sample.image[0].numpy()[sample.targets.semantic[0].numpy() > 0]
  assert np.median(middle) == pytest.approx(20 + 40 * index, abs=2)
  assert set(np.unique(sample.targets.semantic)) - {0} <= {1 + index % 5, 6 + index % 4}
  assert sample.image.shape == (1, 129, 129, 3)


@pytest.mark.parametrize('split', ['train', 'eval'])
def test_every_sample_stands_beside_its_record(script, records, split):
  drawn = script.pairs(load.load(_CONFIG), split, 6, seed=3)
  names = [record.name.numpy().decode() for record, _ in drawn]
  in_order = [f'image_{index}' for index in range(6)]
  assert len(names) == 6 and set(names) <= set(in_order)
  assert (names == in_order) == (split == 'eval')
  for record, sample in drawn:
    _is_of_its_record(record, sample)


def test_copy_paste_keeps_the_first_image_first(script, records):
  """With a paste of no size to speak of, most of the crop is still the record's."""
  config = load.load(
    _CONFIG,
    ['train_dataset_options.augmentations.panoptic_copy_paste.panoptic_copy_paste_scale=0.2'],
  )
  for record, sample in script.pairs(config, 'train', 6, seed=1):
    index = int(record.name.numpy().decode().removeprefix('image_'))
    values, counts = np.unique(np.round(sample.image), return_counts=True)
    is_padding = np.abs(values - 127.5) <= 1
    largest = values[~is_padding][counts[~is_padding].argmax()]
    assert largest == pytest.approx(20 + 40 * index, abs=2)


@pytest.mark.parametrize('split', ['train', 'eval'])
def test_sheet_and_statistics_of_records(script, records, tmp_path, capsys, split):
  assert (
    script.main(
      [
        *records,
        f'--split={split}',
        f'--contact_sheet={tmp_path}/new/[a]*/sheet.PNG',
        '--num_images=2',
      ]
    )
    == 0
  )
  content = json.loads((tmp_path / 'out.json').read_text())
  assert content['images'] == 6 and content['width'] == [50, 55]
  assert content['classes'][0] == {
    'id': 1,
    'name': 'circle',
    'isthing': 1,
    'images': 2,
    'segments': 2,
    'crowd': 0,
    'pixels': 20 * (50 + 55),
  }
  sheet = PIL.Image.open(tmp_path / 'new' / '[a]*' / 'sheet.PNG')
  assert sheet.width == 5 * 480 + 4 * 12


def test_broken_records_are_named_and_the_rest_is_counted(script, records, tmp_path, capsys):
  path = tmp_path / 'train-2.tfrecord'
  path.write_bytes(path.read_bytes()[:-20])
  image = images.encode(np.zeros((4, 4, 3), np.uint8))
  with tf.io.TFRecordWriter(str(tmp_path / 'train-4.tfrecord')) as writer:
    writer.write(tfrecord.encode_example(image, 'image_1', np.full((4, 4), 99 * 256, np.int32)))
  assert script.main([*records, '--split=train', f'--contact_sheet={tmp_path}/sheet.png']) == 2
  out, err = capsys.readouterr()
  assert f'{path}, record 0: unreadable: ' in out
  assert "train-4.tfrecord, record 0, image 'image_1', segment 25344, pixel (0, 0): " in out
  assert 'train-4.tfrecord, record 0: duplicate: ' in out and 'No contact sheet is drawn: ' in out
  assert 'error: 4 problems: class 1, duplicate 1, no segments 1, unreadable 1.' in err
  assert json.loads((tmp_path / 'out.json').read_text())['images'] == 5


@pytest.mark.parametrize(
  'flag, words',
  [
    ('--set=train_dataset_options.file_pattern={}', 'is a directory'),
    ('--set=train_dataset_options.file_pattern={}/no', 'No file matches'),
    ('--contact_sheet={}/sheet.jpg', 'must end in .png'),
    ('--contact_sheet={}/train-0.tfrecord/a.png', 'made'),
    ('--tile=9', 'from 480'),
  ],
)
def test_mistakes_about_records_are_one_line(script, records, tmp_path, capsys, flag, words):
  assert script.main([*records, '--split=train', flag.format(tmp_path)]) == 2
  err = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert len(err) == 1 and words in err[0]
