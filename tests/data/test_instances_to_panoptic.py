"""Instances to panoptic: overlaps, crowds, polygons and RLE, categories, mistakes."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from deeplab2.commands import build_tfrecords
from deeplab2.commands import instances_to_panoptic
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from tests import hostile_names


@pytest.fixture(scope='module')
def script():
  return instances_to_panoptic


def _box(left, top, right, bottom):
  return [[left, top, right, top, right, bottom, left, bottom]]


@pytest.fixture
def instances():
  """An image of 6x8: a car, a person on it, a crowd below both; and one without annotations."""
  # Column-major runs: nothing, then columns 2 to 7 whole.
  crowd = {'size': [6, 8], 'counts': [12, 36]}
  return {
    'images': [
      {'id': 3, 'file_name': 'a.jpg', 'height': 6, 'width': 8},
      {'id': 4, 'file_name': 'b.jpg', 'height': 2, 'width': 2},
    ],
    'annotations': [
      {'id': 1, 'image_id': 3, 'category_id': 1, 'segmentation': _box(2, 1, 4, 3)},
      {'id': 2, 'image_id': 3, 'category_id': 9, 'segmentation': _box(0, 0, 6, 4)},
      {'id': 5, 'image_id': 3, 'category_id': 1, 'segmentation': crowd, 'iscrowd': 1},
    ],
    'categories': [{'id': 1, 'name': 'person'}, {'id': 9, 'name': 'car', 'color': [9, 8, 7]}],
  }


def _run(script, tmp_path, content, **flags):
  (tmp_path / 'instances.json').write_text(json.dumps(content))
  flags = {
    'annotations': tmp_path / 'instances.json',
    'dataset': tmp_path / 'mine.json',
    'output': tmp_path / 'panoptic.json',
    **flags,
  }
  return script.main([f'--{key}={value}' for key, value in flags.items()])


def test_instances_become_panoptic_maps_that_are_read_back(script, tmp_path, instances):
  assert _run(script, tmp_path, instances) == 0
  info = datasets.get(str(tmp_path / 'mine.json'))
  assert info.class_names == ('void', 'person', 'car') and info.colors[2] == (9, 8, 7)
  assert info.label_space.thing_ids == (1, 2) and info.dataset_ids == {1: 1, 9: 2}
  annotations = coco_panoptic.read_annotations(str(tmp_path / 'panoptic.json'), info)
  label = coco_panoptic.read_label(
    str(tmp_path / 'panoptic/a.png'), annotations['a'], info, treat_crowd_as_ignore=False
  )
  expected = np.zeros((6, 8), np.int32)
  expected[:, 2:] = 1000  # The crowd, below all.
  expected[:4, :6] = 2001
  expected[1:3, 2:4] = 1001  # The smaller instance, on top.
  np.testing.assert_array_equal(label, expected)
  assert annotations['b'].segments == ()


@pytest.mark.parametrize(
  'edit, words',
  [
    (
      lambda content: content['annotations'][0].update(segmentation='x'),
      ['image 3, annotation 1', 'neither polygons nor RLE'],
    ),
    (
      lambda content: content['annotations'][0].update(category_id=2),
      ['annotation 1: category_id 2 is not a thing of mine'],
    ),
    (lambda content: content['annotations'][0].update(image_id=7), ['image 7', "list 'images'"]),
    (lambda content: content['annotations'][0].pop('segmentation'), ["'segmentation' is missing"]),
    (lambda content: content['images'][1].pop('width'), ['images[1]', "'width' is missing"]),
    (lambda content: content['images'][1].update(height=0), ['image 4', 'positive numbers']),
    (lambda content: content['images'][1].update(height=2**40), ['image 4', 'at most 178956970']),
    (lambda content: content['images'][1].update(file_name='a/'), ['cannot name a file']),
    (lambda content: content['images'][1].update(file_name='a\0b'), ['cannot name a file']),
    (lambda content: content['images'][1].update(file_name='\ud800'), ['cannot name a file']),
    (lambda content: content['images'][1].update(file_name='a' * 300), ['aaa', 'too long']),
    (
      lambda content: content['images'][1].update(file_name=3),
      ['images[1]', "'file_name' is 3; must be a text"],
    ),
    (
      lambda content: content['images'].append(content['images'][0]),
      ['id 3 is also that of another image'],
    ),
    (
      lambda content: content['images'].append(
        {
          **content['images'][0],
          'id': 9,
          'file_name': 'south/' + content['images'][0]['file_name'].rpartition('/')[2],
        }
      ),
      ['file name', 'would become one'],
    ),
    (lambda content: content['images'].append(3), ['images[2]', "'id' is missing"]),
    (
      lambda content: content['annotations'][0].update(image_id=[1]),
      ['annotations[0]', "'image_id' is [1]; must be an integer or text"],
    ),
    (
      lambda content: content['annotations'][0].update(iscrowd='no'),
      ['\'iscrowd\' is "no"', 'must be 0 or 1'],
    ),
    (lambda content: content.pop('categories'), ["no list 'categories'"]),
    (lambda content: content['categories'][0].pop('name'), ['categories[0]', "'name' is missing"]),
    (
      lambda content: content['annotations'][0].update(segments_info=[]),
      ['is a panoptic JSON already'],
    ),
  ],
)
def test_mistakes_are_one_line(script, tmp_path, instances, capsys, edit, words):
  edit(instances)
  assert _run(script, tmp_path, instances) == 2
  message = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
  assert len(message) == 1 and all(word in message[0] for word in words), message


def test_describing_alone(script, tmp_path, instances):
  (tmp_path / 'instances.json').write_text(json.dumps(instances))
  assert (
    script.main(
      [
        f'--annotations={tmp_path}/instances.json',
        '--describe_only',
        f'--dataset={tmp_path}/mine.json',
        '--label_divisor=256',
      ]
    )
    == 0
  )
  assert datasets.get(str(tmp_path / 'mine.json')).label_space.label_divisor == 256
  assert not (tmp_path / 'panoptic.json').exists()


def _said(capsys):
  captured = capsys.readouterr()
  assert 'Traceback' not in captured.out + captured.err
  return captured.out + captured.err


def test_image_ids_are_those_of_the_instances(script, tmp_path, instances):
  instances['images'][0].update(id=3, file_name='x/001.jpg', license=4)
  instances['images'][1].update(id='four', file_name='1.jpg')
  assert _run(script, tmp_path, instances) == 0
  content = json.loads((tmp_path / 'panoptic.json').read_text())
  assert content['images'] == instances['images']
  assert [(a['image_id'], a['file_name']) for a in content['annotations']] == [
    (3, '001.png'),
    ('four', '1.png'),
  ]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_wrong_annotations_are_left_out_named_and_counted(
  script, tmp_path, instances, capsys, encoding
):
  instances['annotations'] += [
    {'id': 7, 'image_id': 4, 'category_id': 1, 'segmentation': [[1, 1, 2, 2]]},
    {'id': 8, 'image_id': 4, 'category_id': 5, 'segmentation': _box(0, 0, 2, 2)},
    {'id': 9, 'image_id': 99, 'category_id': 1, 'segmentation': _box(0, 0, 2, 2)},
  ]
  assert _run(script, tmp_path, instances, on_error='stop') == 2
  assert 'annotations[5]: is of image 99' in _said(capsys)
  instances['annotations'].pop()
  assert _run(script, tmp_path, instances) == 2
  assert 'image 4, annotation 7: the segmentation is neither' in _said(capsys)
  assert [
    image['id'] for image in json.loads((tmp_path / 'panoptic.json').read_text())['images']
  ] == [3], 'what was finished is kept'
  (tmp_path / 'instances.json').write_text(json.dumps(instances), encoding=encoding)
  flags = [
    f'--annotations={tmp_path}/instances.json',
    f'--dataset={tmp_path}/mine.json',
    f'--output={tmp_path}/panoptic.json',
  ]
  for _ in range(2):  # What was left out is said again by a run that has nothing left to do.
    assert script.main([*flags, '--on_error=skip']) == 0
    said = _said(capsys)
    assert '2 of 5 annotations were left out' in said
    assert 'left out: ' in said and 'annotation 7' in said and 'annotation 8: category_id 5' in said
  content = json.loads((tmp_path / 'panoptic.json').read_text())
  assert [len(entry['segments_info']) for entry in content['annotations']] == [3, 0]
  assert script.main(flags) == 2, 'an image with less than all is made again'


def test_instances_that_vanish_are_counted(script, tmp_path, instances, capsys):
  instances['annotations'] += [
    {'id': 20, 'image_id': 4, 'category_id': 1, 'segmentation': _box(0, 0, 2, 2)},
    {'id': 21, 'image_id': 4, 'category_id': 9, 'segmentation': _box(0, 0, 2, 2)},
    {'id': 22, 'image_id': 4, 'category_id': 9, 'segmentation': [[0.1, 0.1, 0.2, 0.1, 0.2, 0.2]]},
  ]
  assert _run(script, tmp_path, instances) == 0
  said = _said(capsys)
  assert '1 of 6 instances have no pixel and are not in the result, first: ' in said
  assert 'image 4, annotation 22.' in said
  assert '1 of 6 instances are covered by others completely' in said
  assert 'image 4, annotation 20.' in said


def test_it_goes_on_with_what_changed(script, tmp_path, instances):
  assert _run(script, tmp_path, instances) == 0
  before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'panoptic').iterdir()}
  instances['annotations'].append(
    {'id': 20, 'image_id': 4, 'category_id': 1, 'segmentation': _box(0, 0, 2, 2)}
  )
  assert _run(script, tmp_path, instances) == 0
  after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'panoptic').iterdir()}
  assert before['a.png'] == after['a.png'] and before['b.png'] != after['b.png']


def test_results_of_other_classes_are_refused_with_advice_that_works(
  script, tmp_path, instances, capsys
):
  assert _run(script, tmp_path, instances) == 0
  instances['categories'][0]['name'] = 'human'
  (tmp_path / 'mine.json').unlink()
  assert _run(script, tmp_path, instances) == 2
  said = _said(capsys)
  assert 'results of something else (classes ' in said
  assert 'Write elsewhere, or give --overwrite to start over.' in said
  assert _run(script, tmp_path, instances, output=tmp_path / 'other.json') == 0
  flags = [
    f'--annotations={tmp_path}/instances.json',
    f'--dataset={tmp_path}/mine.json',
    f'--output={tmp_path}/panoptic.json',
    '--overwrite',
  ]
  assert script.main(flags) == 0
  assert json.loads((tmp_path / 'panoptic.json').read_text()) == json.loads(
    (tmp_path / 'other.json').read_text()
  )


def test_hostile_names_and_home(script, tmp_path, instances, monkeypatch):
  home = pathlib.Path(tmp_path, *hostile_names.HOSTILE_NAMES)
  home.mkdir(parents=True)
  for number, name in enumerate(hostile_names.HOSTILE_NAMES):
    instances['images'].append(
      {'id': 10 + number, 'file_name': f'{name}.jpg', 'height': 3, 'width': 3}
    )
  (home / '[in].json').write_text(json.dumps(instances))
  monkeypatch.setenv('HOME', str(home))
  assert (
    script.main(['--annotations=~/[in].json', '--dataset=~/[set].json', '--output=~/[out].json'])
    == 0
  )
  assert (home / '[out]' / 'runs[lr=0.1].png').exists()
  assert datasets.get(str(home / '[set].json')).name == '[set]'


@pytest.mark.parametrize('flag', ['annotations', 'dataset'])
def test_the_output_does_not_overwrite_the_input(script, tmp_path, instances, capsys, flag):
  (tmp_path / 'instances.json').write_text(json.dumps(instances))
  paths = {'annotations': tmp_path / 'instances.json', 'dataset': tmp_path / 'mine.json'}
  assert _run(script, tmp_path, instances, output=paths[flag]) == 2
  assert f'is --{flag}; would overwrite it' in _said(capsys)
  assert json.loads((tmp_path / 'instances.json').read_text()) == instances


def test_panoptic_annotations_go_to_the_command_that_is_named(script, tmp_path, instances, capsys):
  assert _run(script, tmp_path, instances) == 0
  for name in ('a', 'b'):
    height, width = (6, 8) if name == 'a' else (2, 2)
    (tmp_path / 'images').mkdir(exist_ok=True)
    PIL.Image.new('RGB', (width, height)).save(tmp_path / 'images' / f'{name}.png')
  assert (
    script.main(
      [
        f'--annotations={tmp_path}/panoptic.json',
        f'--dataset={tmp_path}/mine.json',
        f'--output={tmp_path}/again.json',
      ]
    )
    == 2
  )
  assert 'give it to deeplab2-data' in _said(capsys)
  assert (
    build_tfrecords.main(
      [
        f'--dataset={tmp_path}/mine.json',
        '--split=train',
        f'--output_dir={tmp_path}/records',
        f'--images={tmp_path}/images',
        f'--annotations={tmp_path}/panoptic.json',
        '--num_shards=1',
        '--num_workers=1',
      ]
    )
    == 0
  )
