"""Which files are images, and which ids they get."""

import json
import os

import pytest

from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.inference import image_list

_COCO, _CITYSCAPES = datasets.get('coco_panoptic'), datasets.get('cityscapes_panoptic')


def _touch(root, *paths):
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(b'x')
  return str(root)


def _json(path, images, encoding='utf-8'):
  path.write_text(json.dumps({'images': images}), encoding=encoding)
  return str(path)


def test_directories_in_directories_and_every_ending(tmp_path):
  names = [
    'a.jpg',
    'b.JPEG',
    'city/c.PNG',
    'city/deep/d.webp',
    'e.bmp',
    'f.tif',
    'g.TIFF',
    'h.gif',
    'i.mpo',
    'j.jfif',
  ]
  root = _touch(
    tmp_path / 'in', *names, 'notes.txt', 'city/labels.TXT', 'README', 'city/.DS_Store', '._a.jpg'
  )
  os.mkfifo(tmp_path / 'in' / 'pipe.png')
  os.symlink('nowhere', tmp_path / 'in' / 'link.png')
  found = image_list.find([root])
  assert found.paths == sorted([*names, 'link.png'])
  assert found.others == {'.txt': 2, 'README': 1, '.DS_Store': 1, '.jpg': 1, '.png': 1}


def test_links_are_followed_once(tmp_path):
  _touch(tmp_path / 'disk', 'val/a.png')
  root = tmp_path / 'in'
  root.mkdir()
  os.symlink(tmp_path / 'disk' / 'val', root / 'val')
  os.symlink(root, tmp_path / 'disk' / 'val' / 'loop')
  assert image_list.find([str(root)]).paths == ['val/a.png']


def test_results_are_no_input(tmp_path):
  root = _touch(
    tmp_path,
    'a.png',
    'out/panoptic/a.png',
    'out/overlay/a.png',
    'overlay/b.png',
    'earlier/panoptic.index.jsonl',
    'earlier/panoptic/a.png',
    'earlier/overlay/a.png',
    'earlier/c.png',
  )
  found = image_list.find([root], [str(tmp_path / 'out')])
  assert found.paths == ['a.png', 'earlier/c.png', 'overlay/b.png']


def test_places_without_images(tmp_path):
  with pytest.raises(errors.UserError, match='--input=.*none: no such image, directory or video'):
    image_list.find([str(tmp_path / 'none')])
  root = _touch(tmp_path, 'a.txt')
  with pytest.raises(errors.UserError, match=r'no image \(\.jpg, .*\.tiff\) in this directory'):
    image_list.find([root])
  (tmp_path / 'a.bin').touch()
  found = image_list.find([str(tmp_path / 'a.bin')])
  assert found.paths == ['a.bin'], 'a file counts as it is'


def test_a_directory_alone(tmp_path):
  root = _touch(tmp_path, 'b.png', 'a.jpg', 'more/c.png', 'notes.md')
  found = image_list.find([root], is_recursive=False)
  assert found.paths == ['a.jpg', 'b.png'] and found.others == {'.md': 1}
  with pytest.raises(errors.UserError, match='no image .* in this directory; --recursive searches'):
    image_list.find([_touch(tmp_path / 'in', 'more/c.png')], is_recursive=False)
  assert image_list.find([str(tmp_path / 'in')]).paths == ['more/c.png']


def test_several_images(tmp_path):
  root = _touch(tmp_path, 'b.png', 'deep/a.jpg', 'c.bin')
  paths = [f'{root}/b.png', f'{root}/deep/a.jpg', f'{root}/c.bin', f'{root}/deep/../b.png']
  found = image_list.find(paths)
  assert (found.root, found.paths) == (root, ['b.png', 'deep/a.jpg', 'c.bin'])
  with pytest.raises(errors.UserError, match='deep is a directory; give several images, or one'):
    image_list.find([f'{root}/b.png', f'{root}/deep'])


def test_patterns(tmp_path, monkeypatch):
  root = _touch(
    tmp_path, 'a1.png', 'a2.jpg', 'a3.txt', 'b.png', 'in/a.png', 'in/deep/c.PNG', 'a*.gif'
  )
  found = image_list.find([f'{root}/a[12].*'])
  assert (found.root, found.paths) == (root, ['a1.png', 'a2.jpg'])
  assert image_list.find([f'{root}/a*']).others == {'.txt': 1}
  found = image_list.find([f'{root}/**/*.[pP][nN][gG]'])
  assert found.paths == ['a1.png', 'b.png', 'in/a.png', 'in/deep/c.PNG']
  assert image_list.find([f'{root}/a*.gif']).paths == ['a*.gif'], 'a file of this very name'
  found = image_list.find([f'{root}/**/*.[pP][nN][gG]'], [f'{root}/in'])
  assert found.paths == ['a1.png', 'b.png'], 'results are no input'
  monkeypatch.chdir(tmp_path)
  found = image_list.find(['*.png'])
  assert (found.root, found.paths) == ('', ['a1.png', 'b.png'])
  with pytest.raises(errors.UserError, match=r'no image .* matches; write \*\* for directories'):
    image_list.find(['*/c.*'])
  assert image_list.find(['**/c.*']).paths == ['c.PNG']


def test_a_pattern_in_a_directory_with_a_hostile_name(tmp_path):
  root = _touch(tmp_path / 'run[1]', 'a.png', 'b.jpg')
  assert image_list.find([f'{root}/*.png']).paths == ['a.png']


def test_list_files(tmp_path, monkeypatch):
  root = _touch(tmp_path, 'b.png', 'deep/a b.jpg', 'lists/c.png')
  monkeypatch.setenv('HOME', root)
  (tmp_path / 'lists' / 'all.txt').write_text(
    f'../b.png\r\n\nc.png\n{root}/deep/a b.jpg\n~/b.png\nnone .png', encoding='utf-8-sig'
  )
  found = image_list.find([f'{root}/lists/all.txt'])
  assert found.root == root
  assert found.paths == ['b.png', 'lists/c.png', 'deep/a b.jpg', 'lists/none .png']
  for text, words in (
    ('\n \n', 'the list is empty; must hold a path a line'),
    ('b.png\ndeep\n', r'bad.txt:2: .*deep is a directory; must be an image'),
    ('b\0.png', r'bad.txt:1: .* NUL'),
    (b'\xff.png', 'is not UTF-8'),
  ):
    (tmp_path / 'bad.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(errors.UserError, match=words):
      image_list.find([f'{root}/bad.txt'])


def test_ids_by_the_rule(tmp_path):
  images = image_list.by_rule(str(tmp_path), ['0042.jpg', 'cat.png'], _COCO)
  assert [(image.name, image.entry['id'], image.entry['file_name']) for image in images] == [
    ('0042', 42, '0042.jpg'),
    ('cat', 'cat', 'cat.png'),
  ]
  [image] = image_list.by_rule(str(tmp_path), ['frankfurt/x_leftImg8bit.png'], _CITYSCAPES)
  assert image == image_list.Image(
    str(tmp_path / 'frankfurt/x_leftImg8bit.png'),
    'x_leftImg8bit',
    {'id': 'x', 'file_name': 'x_leftImg8bit.png'},
  )


def test_equal_ids_are_refused_with_advice_that_works(tmp_path):
  paths = ['cam1/1.jpg', 'cam2/001.jpg']
  with pytest.raises(
    errors.UserError,
    match='cam1/1.jpg and cam2/001.jpg would both have the image'
    ' id 1. Give the ids by --images_json, or segment each directory by itself',
  ):
    image_list.by_rule('in', paths, _COCO)
  for path in paths:
    image_list.by_rule('in', [path], _COCO)
  path = _json(
    tmp_path / 'gt.json',
    [{'id': 7, 'file_name': 'cam1/1.jpg'}, {'id': 8, 'file_name': 'cam2/001.jpg'}],
  )
  images, _, _ = image_list.by_ground_truth('in', paths, _COCO, path, skip_unlisted=False)
  assert [image.entry['id'] for image in images] == [7, 8]


def test_names_of_results_are_unique(tmp_path):
  paths = ['cam1/a.jpg', 'cam2/a.jpg']
  path = _json(tmp_path / 'gt.json', [{'id': i, 'file_name': name} for i, name in enumerate(paths)])
  images, _, _ = image_list.by_ground_truth('in', paths, _COCO, path, skip_unlisted=False)
  assert [(image.name, image.entry['id']) for image in images] == [('cam1_a', 0), ('cam2_a', 1)]
  paths = ['a.jpg', 'a.png']
  path = _json(tmp_path / 'gt.json', [{'id': i, 'file_name': name} for i, name in enumerate(paths)])
  with pytest.raises(
    errors.UserError,
    match='a.jpg and a.png would both have results of the name a. Rename one of them.',
  ):
    image_list.by_ground_truth('in', paths, _COCO, path, skip_unlisted=False)


@pytest.mark.parametrize(
  'info, path, file_name, image_id',
  [
    (_COCO, 'a.jpg', 'a.jpg', 5),
    (_COCO, 'deep/a.jpg', 'a.jpg', 5),
    (_COCO, 'a.jpg', 'val2017/a.jpg', 5),
    (_COCO, 'a.png', 'a.jpg', 5),
    (_COCO, 'a.jpg', './a.jpg', 'five'),
    # The official JSON of Cityscapes names files that do not exist.
    (
      _CITYSCAPES,
      'frankfurt/frankfurt_000000_000294_leftImg8bit.png',
      'frankfurt_000000_000294_gtFine_leftImg8bit.png',
      'frankfurt_000000_000294',
    ),
  ],
)
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_ids_of_the_ground_truth(tmp_path, info, path, file_name, image_id, encoding):
  entry = {'id': image_id, 'file_name': file_name, 'height': 3, 'width': 4, 'license': 2}
  json_path = _json(tmp_path / 'gt.json', [{'id': 99, 'file_name': 'z.jpg'}, entry], encoding)
  images, unlisted, missing = image_list.by_ground_truth(
    'in', [path], info, json_path, skip_unlisted=False
  )
  assert images[0].entry == entry and images[0].size == (3, 4)
  assert not unlisted and missing == ['z.jpg']


def test_an_id_is_no_name_without_the_suffix_of_the_dataset(tmp_path):
  path = _json(tmp_path / 'gt.json', [{'id': 1, 'file_name': 'cat.jpg'}])
  with pytest.raises(errors.UserError, match='does not list 1 of 1 images of --input: 1.jpg.$'):
    image_list.by_ground_truth('in', ['1.jpg'], _COCO, path, skip_unlisted=False)


def test_unlisted_images_are_refused_or_left_out(tmp_path):
  path = _json(tmp_path / 'gt.json', [{'id': 1, 'file_name': 'a.jpg'}])
  paths = ['a.jpg', *(f'{n}.jpg' for n in 'bcdef')]
  with pytest.raises(
    errors.UserError,
    match='does not list 5 of 6 images of --input: b.jpg, c.jpg,'
    ' d.jpg and 2 more. Give --on_unlisted=skip to leave them out.',
  ):
    image_list.by_ground_truth('in', paths, _COCO, path, skip_unlisted=False)
  images, unlisted, _ = image_list.by_ground_truth('in', paths, _COCO, path, skip_unlisted=True)
  assert [image.name for image in images] == ['a'] and unlisted == paths[1:]
  with pytest.raises(errors.UserError, match='does not list 1 of 1 images of --input: b.jpg.$'):
    image_list.by_ground_truth('in', ['b.jpg'], _COCO, path, skip_unlisted=True)


@pytest.mark.parametrize(
  'images, paths, words',
  [
    (
      [{'id': 1, 'file_name': 'x/a.jpg'}, {'id': 2, 'file_name': 'y/a.jpg'}],
      ['a.jpg'],
      'lists image a.jpg of --input 2 times, as x/a.jpg, y/a.jpg; must list it once',
    ),
    (
      [{'id': 1, 'file_name': 'a.jpg'}],
      ['x/a.jpg', 'y/a.jpg'],
      'x/a.jpg and y/a.jpg are both image 1 of',
    ),
    (
      [{'id': 1, 'file_name': 'a.jpg'}, {'id': 1, 'file_name': 'b.jpg'}],
      ['a.jpg'],
      r'images\[1\]: id 1 is also that of another image',
    ),
    ([{'id': 1}], ['a.jpg'], r"images\[0\]: field 'file_name' is missing"),
    ([{'id': 1.5, 'file_name': 'a.jpg'}], ['a.jpg'], "'id' is 1.5; must be an integer or text"),
    ([{'id': 1, 'file_name': 'a.jpg', 'height': '3'}], ['a.jpg'], '\'height\' is "3"'),
    ({'id': 1}, ['a.jpg'], "has no list 'images'"),
  ],
)
def test_mistakes_in_the_ground_truth(tmp_path, images, paths, words):
  path = _json(tmp_path / 'gt.json', images)
  with pytest.raises(errors.UserError, match=words):
    image_list.by_ground_truth('in', paths, _COCO, path, skip_unlisted=False)
