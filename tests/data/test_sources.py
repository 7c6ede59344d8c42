"""Cityscapes, ADE20K and one's own data, from small roots made here."""

import io
import json
import os

import numpy as np
import PIL.Image
import pytest

from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.data import inspect_annotations
from deeplab2.data import orientation
from deeplab2.data import sources
from tests.data import panoptic_files

_SHAPE = (6, 8)
_KEEP = sources.Choices(ignore_crowd=False)


def _png(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(np.asarray(array, np.uint8)).save(path)


def _segment_png(path, segment_ids):
  ids = np.asarray(segment_ids)
  _png(path, np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1))


def _json(path, image_id, file_name, segments):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(
    json.dumps(
      {
        'annotations': [
          {
            'image_id': image_id,
            'file_name': file_name,
            'segments_info': [
              {'id': number, 'category_id': category, 'area': area, 'iscrowd': crowd}
              for number, category, area, crowd in segments
            ],
          }
        ]
      }
    )
  )


def _ids():
  """Columns 0-1: segment 1000 (stuff); 2-3: 70000; 4-5: 3 (crowd); 6: 9; 7: unlabelled."""
  ids = np.zeros(_SHAPE, np.int64)
  for value, columns in ((1000, (0, 2)), (70000, (2, 4)), (3, (4, 6)), (9, (6, 7))):
    ids[:, slice(*columns)] = value
  return ids


def _expected(values):
  """Returns the label map of five values for the columns of `_ids`."""
  return np.tile(np.repeat(np.asarray(values, np.int32), [2, 2, 2, 1, 1]), (_SHAPE[0], 1))


@pytest.fixture
def cityscapes(tmp_path):
  name = 'bonn_000001_000019'
  _png(tmp_path / 'leftImg8bit/train/bonn' / f'{name}_leftImg8bit.png', np.zeros((*_SHAPE, 3)))
  _segment_png(
    tmp_path / 'gtFine/cityscapes_panoptic_train_trainId' / f'{name}_gtFine_panoptic.png', _ids()
  )
  _json(
    tmp_path / 'gtFine/cityscapes_panoptic_train_trainId.json',
    name,
    f'{name}_gtFine_panoptic.png',
    [(1000, 0, 12, 0), (70000, 13, 12, 0), (3, 11, 12, 1), (9, 13, 6, 0)],
  )
  _png(tmp_path / 'gtFine/train/bonn' / f'{name}_gtFine_labelTrainIds.png', np.full(_SHAPE, 7))
  return tmp_path


@pytest.mark.parametrize('ignore_crowd, crowd', [(True, 255000), (False, 11000)])
def test_cityscapes(cityscapes, ignore_crowd, crowd):
  source = sources.cityscapes(str(cityscapes), 'train', sources.Choices(ignore_crowd))
  (item,) = map(source.convert, source.tasks)
  assert (item.name, item.image.format) == ('bonn_000001_000019', 'png')
  # Train ids stay: road 0, two cars 13; unlabelled pixels are 255.
  np.testing.assert_array_equal(item.label, _expected([0, 13001, crowd, 13002, 255000]))


def test_cityscapes_semantic(cityscapes):
  source = sources.cityscapes_semantic(str(cityscapes), 'train', _KEEP)
  (item,) = map(source.convert, source.tasks)
  path = cityscapes / 'gtFine/train/bonn/bonn_000001_000019_gtFine_labelTrainIds.png'
  assert item.label == path.read_bytes()
  _png(path, np.zeros((3, 3)))
  with pytest.raises(errors.UserError, match='labelTrainIds.png: is 3x3 .*is 6x8; must be equal'):
    source.convert(source.tasks[0])
  path.unlink()
  with pytest.raises(errors.UserError, match='no such annotation PNG'):
    source.convert(source.tasks[0])


def test_cityscapes_test_split_needs_no_labels(cityscapes):
  (cityscapes / 'leftImg8bit/train').rename(cityscapes / 'leftImg8bit/test')
  for make in (
    lambda: sources.cityscapes(str(cityscapes), 'test', sources.Choices(True)),
    lambda: sources.cityscapes_semantic(str(cityscapes), 'test', _KEEP),
  ):
    source = make()
    assert source.convert(source.tasks[0]).label is None


def test_ade20k(tmp_path):
  (tmp_path / 'images/validation').mkdir(parents=True)
  PIL.Image.new('RGB', _SHAPE[::-1]).save(tmp_path / 'images/validation/ADE_val_1.jpg')
  _segment_png(tmp_path / 'ade20k_panoptic_val/ADE_val_1.png', _ids())
  # Category = class - 1; 255 is void. Wrong areas are not looked at, as in DeepLab2.
  _json(
    tmp_path / 'ade20k_panoptic_val.json',
    'ADE_val_1',
    'ADE_val_1.png',
    [(1000, 0, 40, 0), (70000, 7, 12, 0), (3, 255, 12, 0), (9, 7, 6, 0)],
  )
  source = sources.ade20k(str(tmp_path), 'val', _KEEP)
  (item,) = map(source.convert, source.tasks)
  assert (item.name, item.image.format) == ('ADE_val_1', 'jpeg')
  # Class 1 is wall, stuff; class 8 is bed, a thing.
  np.testing.assert_array_equal(item.label, _expected([1000, 8001, 0, 8002, 0]))
  with pytest.raises(errors.UserError, match='no such split'):
    sources.ade20k(str(tmp_path), 'test', _KEEP)


@pytest.fixture
def own(tmp_path):
  """Returns (dataset.json, directory of images, panoptic JSON)."""
  categories = [(None, 'void', 0), (41, 'tree', 0), (17, 'apple', 1)]
  (tmp_path / 'dataset.json').write_text(
    json.dumps(
      {
        'dataset': 'orchard',
        'num_classes': 3,
        'ignore_label': 0,
        'panoptic_label_divisor': 100,
        'original_ignore_id': 0,
        'splits': {},
        'categories': [
          {
            'id': index,
            'original_id': original,
            'name': name,
            'isthing': isthing,
            'color': [index, 0, 0],
          }
          for index, (original, name, isthing) in enumerate(categories)
        ],
      }
    )
  )
  _png(tmp_path / 'images/a.png', np.zeros((*_SHAPE, 3)))
  _segment_png(tmp_path / 'train/a.png', _ids())
  _json(
    tmp_path / 'train.json',
    5,
    'a.png',
    [(1000, 41, 12, 0), (70000, 17, 12, 0), (3, 17, 12, 1), (9, 17, 6, 0)],
  )
  return tmp_path / 'dataset.json', tmp_path / 'images', tmp_path / 'train.json'


def test_own(own):
  dataset, directory, annotations = own
  source = sources.own(str(directory), str(annotations), datasets.get(str(dataset)), _KEEP)
  (item,) = map(source.convert, source.tasks)
  np.testing.assert_array_equal(item.label, _expected([100, 201, 200, 202, 0]))


def test_own_mistakes(own, tmp_path):
  dataset, directory, annotations = own
  info = datasets.get(str(dataset))

  def refused(match, json_path=annotations):
    with pytest.raises(errors.UserError, match=match):
      sources.own(str(directory), str(json_path), info, _KEEP)

  instances = tmp_path / 'instances.json'
  instances.write_text(json.dumps({'annotations': [{'image_id': 5, 'segmentation': []}]}))
  refused(
    'instances.json: is a COCO instances or stuff file; a COCO panoptic JSON is needed', instances
  )
  _json(annotations, 5, 'a.png', [(1000, 99, 12, 0)])
  refused('train.json, image 5, segment 1000: category_id 99 is not a class of orchard')
  _png(directory / 'b.png', np.zeros((2, 2, 3)))
  _json(annotations, 5, 'a.png', [])
  refused('1 images have no annotation in .*first b')
  (directory / 'a.jpg').write_bytes(b'')
  refused('a.jpg and a.png differ in their ending alone')


def test_panoptic_pngs_of_a_writer_are_read_back(tmp_path, own):
  """The way round: what coco_panoptic writes, own reads."""
  dataset, _, _ = own
  info = datasets.get(str(dataset))
  label = _expected([100, 201, 200, 202, 0])
  writer = panoptic_files.Writer(str(tmp_path / 'written'), info)
  writer.add('a', label)
  writer.save(str(tmp_path / 'written.json'))
  source = sources.own(str(tmp_path / 'images'), str(tmp_path / 'written.json'), info, _KEEP)
  np.testing.assert_array_equal(source.convert(source.tasks[0]).label, label)


def _entries(path, entries, listed=None):
  """Writes a JSON of images of stuff 1000 and things 70000 and 9; `entries`: (image id, PNG)."""
  segments = [(1000, 41, 12, 0), (70000, 17, 12, 0), (3, 17, 12, 1), (9, 17, 6, 0)]
  content = {
    'annotations': [
      {
        'image_id': image_id,
        'file_name': name,
        'segments_info': [
          {'id': number, 'category_id': category, 'area': area, 'iscrowd': crowd}
          for number, category, area, crowd in segments
        ],
      }
      for image_id, name in entries
    ]
  }
  if listed is not None:
    content['images'] = [{'id': image_id, 'file_name': name} for image_id, name in listed]
  path.write_text(json.dumps(content))


def _own(own, skip=False):
  dataset, directory, annotations = own
  return sources.own(
    str(directory), str(annotations), datasets.get(str(dataset)), _KEEP._replace(skip=skip)
  )


def test_images_are_paired_by_the_list_of_images(own, tmp_path):
  """The names of two PNGs are those of the other's image: only the list `images` tells."""
  dataset, directory, annotations = own
  for grey, name in enumerate('ab'):
    _png(directory / f'{name}.png', np.full((*_SHAPE, 3), grey))
  _segment_png(tmp_path / 'train/b.png', _ids())
  _entries(
    annotations, [(1, 'b.png'), (2, 'a.png')], [(1, 'deep/a.jpg'), (2, 'b.png'), (3, 'c.png')]
  )
  source = _own(own)
  assert [
    (task.name, os.path.basename(task.image), os.path.basename(task.label)) for task in source.tasks
  ] == [('a', 'a.png', 'b.png'), ('b', 'b.png', 'a.png')]
  # What inspection pairs is the same.
  tasks, problems = inspect_annotations.annotations(
    str(annotations), str(tmp_path / 'train'), str(directory), datasets.get(str(dataset))
  )
  assert not problems and {(task.image, task.png) for task in tasks} == {
    (task.image, task.label) for task in source.tasks
  }


def test_images_with_names_of_their_own(own, tmp_path, caplog):
  _, directory, annotations = own
  (directory / 'a.png').rename(directory / 'photo.png')
  _entries(annotations, [(5, 'a.png')], [(5, 'photo.jpg')])
  assert [task.name for task in _own(own).tasks] == ['photo']
  assert not caplog.text
  # Names that the list does not have right, next to one that it has: with numbers.
  _png(directory / 'b.png', np.zeros((*_SHAPE, 3)))
  _segment_png(tmp_path / 'train/b.png', _ids())
  _entries(annotations, [(5, 'a.png'), (6, 'b.png')], [(5, 'photo.jpg'), (6, 'other.jpg')])
  assert [task.name for task in _own(own).tasks] == ['b', 'photo']
  assert '1 images are not called as the list' in caplog.text
  assert 'first other.jpg, found as b.' in caplog.text
  _entries(annotations, [(5, 'a.png'), (6, 'b.png')], [(5, 'photo.jpg')])
  _own(own)
  assert "1 annotated images are not in the list 'images', first image 6" in caplog.text


@pytest.mark.parametrize(
  'entries, listed, message',
  [
    ([(5, 'a.png'), (6, 'b.png')], [(5, 'a.png'), (6, 'x/a.jpg')], 'image 6 and image 5 are both'),
    ([(5, 'a.png')], [(5, 'a.png'), (5, 'b.png')], "the list 'images' has image 5 twice"),
    ([(5, 'a.png')], [(5, 'a.png'), (6, 'a.png')], 'the file name a.png for image 5 and for image'),
    ([(5, 'a.png'), (5, 'b.png')], None, 'image_id 5 is also that of'),
  ],
)
def test_ambiguous_pairs_are_refused(own, entries, listed, message):
  for skip in (False, True):
    _entries(own[2], entries, listed)
    with pytest.raises(errors.UserError, match=message):
      _own(own, skip)


def test_what_cannot_be_used_is_left_out_by_name(own, tmp_path):
  _, directory, annotations = own
  for name in ('b', 'c', 'lonely'):
    _png(directory / f'{name}.png', np.zeros((*_SHAPE, 3)))
  _segment_png(tmp_path / 'train/b.png', _ids())
  (directory / 'gone.HEIC').touch()
  _entries(annotations, [(5, 'a.png'), (6, 'b.png'), (7, 'c.png'), (8, 'gone.png')])
  content = json.loads(annotations.read_text())
  content['annotations'][1]['segments_info'][0]['category_id'] = 99
  annotations.write_text(json.dumps(content))
  with pytest.raises(
    errors.UserError,
    match='category_id 99 .*; correct that, or leave such images out by --on_error=skip',
  ):
    _own(own)
  source = _own(own, skip=True)
  reasons = {}
  for task in source.tasks:
    try:
      source.convert(task)
    except errors.UserError as error:
      reasons[task.name] = str(error)
  assert sorted(reasons) == ['b', 'c', 'gone', 'lonely']
  assert 'category_id 99' in reasons['b'] and 'no such annotation PNG' in reasons['c']
  assert 'has no annotation in' in reasons['lonely']
  assert (
    'but gone.HEIC, which is not JPEG, PNG, WebP, BMP, TIFF or GIF; convert it' in (reasons['gone'])
  )


def test_a_missing_image_that_is_there_in_another_format(own, caplog):
  _, directory, _ = own
  (directory / 'a.png').rename(directory / 'a.heic')
  _png(directory / 'b.png', np.zeros((*_SHAPE, 3)))
  with pytest.raises(
    errors.UserError,
    match='1 images have no annotation .*first b .1 annotations have no image, first a.; correct',
  ):
    _own(own)
  assert 'left out, as only' in caplog.text and "'a.heic'" in caplog.text
  (directory / 'b.png').unlink()
  with pytest.raises(errors.UserError, match='holds no image'):
    _own(own)


def test_other_formats_and_byte_order_marks(own):
  _, directory, annotations = own
  values = np.random.randint(0, 255, (*_SHAPE, 3), np.uint8)
  (directory / 'a.png').unlink()
  PIL.Image.fromarray(values).save(directory / 'a.TIFF')
  annotations.write_bytes(b'\xef\xbb\xbf' + annotations.read_bytes())
  source = _own(own)
  (item,) = map(source.convert, source.tasks)
  assert item.image.format == 'png' and item.name == 'a' and item.segments == 3
  np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(item.image.data)), values)


@pytest.mark.parametrize('turned', range(1, 9))
@pytest.mark.parametrize('drawn_on', ['upright', 'stored'])
def test_masks_lie_on_turned_images(own, tmp_path, turned, drawn_on):
  """The image shows the segment ids that its mask holds, so that both can be compared."""
  dataset, directory, annotations = own
  ids = _ids()
  ids[0, :2] = ids[1, 3] = 9
  stored = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
  exif = PIL.Image.Exif()
  exif[0x0112] = turned
  PIL.Image.fromarray(stored).save(directory / 'a.png', exif=exif)
  _segment_png(
    tmp_path / 'train/a.png', ids if drawn_on == 'stored' else orientation.turn(ids, turned)
  )
  _json(
    annotations, 5, 'a.png', [(1000, 41, 10, 0), (70000, 17, 11, 0), (3, 17, 12, 1), (9, 17, 9, 0)]
  )
  choices = sources.Choices(ignore_crowd=True)
  if turned in (2, 3, 4):
    source = sources.own(str(directory), str(annotations), datasets.get(str(dataset)), choices)
    with pytest.raises(errors.UserError, match='a.png: its image .*a.png is turned by EXIF'):
      source.convert(source.tasks[0])
    choices = choices._replace(mask_orientation=drawn_on)
  source = sources.own(str(directory), str(annotations), datasets.get(str(dataset)), choices)
  item = source.convert(source.tasks[0])
  pixels = np.asarray(PIL.Image.open(io.BytesIO(item.image.data)), np.int64)
  shown = pixels @ [1, 256, 65536]
  assert item.label.shape == shown.shape == (item.image.height, item.image.width)
  for segment_id, value in ((1000, 100), (70000, 201), (9, 202), (3, 0), (0, 0)):
    assert set(item.label[shown == segment_id].tolist()) == {value}


def test_turned_semantic_maps(cityscapes):
  name = 'bonn_000001_000019'
  path = cityscapes / 'leftImg8bit/train/bonn' / f'{name}_leftImg8bit.png'
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  PIL.Image.fromarray(np.zeros((*_SHAPE, 3), np.uint8)).save(path, exif=exif)
  label = np.arange(48, dtype=np.uint8).reshape(_SHAPE)
  _png(cityscapes / 'gtFine/train/bonn' / f'{name}_gtFine_labelTrainIds.png', label)
  source = sources.cityscapes_semantic(str(cityscapes), 'train', _KEEP)
  (item,) = map(source.convert, source.tasks)
  np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(item.label)), np.rot90(label, -1))


def test_names_of_cityscapes(cityscapes, caplog):
  directory = cityscapes / 'leftImg8bit/train/bonn'
  (directory / 'other.png').touch()
  (directory / 'bonn_1_leftImg8bit.HEIC').touch()
  sources.cityscapes(str(cityscapes), 'train', _KEEP)
  assert '1 images are left out, as their names do not end in _leftImg8bit, first other.png' in (
    caplog.text
  )
  assert "'bonn_1_leftImg8bit.HEIC'" in caplog.text
  (cityscapes / 'leftImg8bit/train/ulm').mkdir()
  (cityscapes / 'leftImg8bit/train/ulm/bonn_000001_000019_leftImg8bit.png').touch()
  with pytest.raises(errors.UserError, match='differ in their ending alone or their directory'):
    sources.cityscapes(str(cityscapes), 'train', _KEEP)


def test_covered_stuff_of_ade20k_is_counted(tmp_path):
  (tmp_path / 'images/validation').mkdir(parents=True)
  PIL.Image.new('RGB', _SHAPE[::-1]).save(tmp_path / 'images/validation/a.jpg')
  _segment_png(tmp_path / 'ade20k_panoptic_val/a.png', _ids())
  listed = [(1000, 0, 40, 0), (70000, 7, 12, 0), (3, 255, 12, 0), (9, 7, 6, 0)]
  _json(tmp_path / 'ade20k_panoptic_val.json', 'a', 'a.png', [*listed, (5, 1, 40, 0)])
  source = sources.ade20k(str(tmp_path), 'val', _KEEP)
  (item,) = map(source.convert, source.tasks)
  assert item.notes == {'hidden': 1} and item.segments == 3
  _json(tmp_path / 'ade20k_panoptic_val.json', 'a', 'a.png', [*listed, (5, 10, 40, 0)])
  source = sources.ade20k(str(tmp_path), 'val', _KEEP)
  with pytest.raises(errors.UserError, match='a.png, image a, segment 5: is listed, but has no'):
    source.convert(source.tasks[0])


def test_things_that_all_become_void_are_counted(own):
  dataset, directory, annotations = own
  _segment_png(annotations.parent / 'train/a.png', _ids() * (_ids() != 9) * (_ids() != 70000))
  for segments, notes in (
    ([(1000, 41, 12, 0), (3, 17, 12, 1)], {'crowd alone': 1}),
    ([(1000, 17, 12, 1), (3, 17, 12, 1)], {'all void': 2}),
  ):
    _json(annotations, 5, 'a.png', segments)
    source = sources.own(
      str(directory),
      str(annotations),
      datasets.get(str(dataset)),
      sources.Choices(ignore_crowd=True),
    )
    assert source.convert(source.tasks[0]).notes == notes
    assert set(notes) <= set(sources.NOTES)
    assert _own(own).convert(_own(own).tasks[0]).notes == {}
