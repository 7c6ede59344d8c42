"""Tests for deeplab2.data.inspection: each kind of mistake is found where it was made."""

import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.data import inspect_annotations
from deeplab2.data import inspect_records
from deeplab2.data import inspection
from deeplab2.data import tfrecord
from tests.data import panoptic_files

# A circle of 2x3 pixels at row 1, column 2, sky at the left of column 1, crowd of squares below.
_LABEL = np.zeros((6, 8), np.int32)
_LABEL[:, :1] = 6 * 256
_LABEL[1:3, 2:5] = 1 * 256 + 1
_LABEL[4:, 4:] = 3 * 256


@pytest.fixture(name='info')
def _info():
  return datasets.get('shapes')


class _Set:
  """One annotated image on disk, whose JSON can be changed."""

  def __init__(self, directory, info):
    self._directory, self._info = directory, info
    writer = panoptic_files.Writer(str(directory / 'png'), info)
    self.png = writer.add('7', _LABEL)
    writer.save(str(directory / 'set.json'))
    self.content = json.loads((directory / 'set.json').read_text())
    # The ids of the PNG: the panoptic ids + 1.
    self.circle, self.crowd, self.sky = (
      next(
        segment
        for segment in self.content['annotations'][0]['segments_info']
        if segment['id'] == number
      )
      for number in (258, 769, 1537)
    )
    self.image = directory / 'jpg' / '7.jpg'
    self.image.parent.mkdir()
    PIL.Image.fromarray(np.full((6, 8, 3), 99, np.uint8)).save(self.image)

  def reports(self):
    """Returns (problems of the set, reports of the images)."""
    path = self._directory / 'set.json'
    path.write_text(json.dumps(self.content))
    tasks, problems = inspect_annotations.annotations(
      str(path), str(self._directory / 'png'), str(self.image.parent), self._info
    )
    return problems, [inspect_annotations.check(task, self._info) for task in tasks]

  def problem(self):
    """Returns the only problem there is."""
    problems, reports = self.reports()
    (problem,) = problems + [problem for report in reports for problem in report.problems]
    return problem


@pytest.fixture(name='made')
def _made(tmp_path, info):
  return _Set(tmp_path, info)


def test_statistics_of_a_right_set(made, info):
  problems, (report,) = made.reports()
  assert problems == [] and report.problems == []
  statistics = inspection.Statistics(info)
  statistics.add(report)
  statistics.add(report)
  content = statistics.as_json()
  by_name = {entry['name']: entry for entry in content['classes']}
  assert by_name['circle'] == {
    'id': 1,
    'name': 'circle',
    'isthing': 1,
    'images': 2,
    'segments': 2,
    'crowd': 0,
    'pixels': 12,
  }
  assert by_name['square'] == {
    'id': 3,
    'name': 'square',
    'isthing': 1,
    'images': 2,
    'segments': 2,
    'crowd': 2,
    'pixels': 16,
  }
  assert by_name['sky']['pixels'] == 12 and by_name['sky']['isthing'] == 0
  assert by_name['sand']['images'] == 0 and 'void' not in by_name
  assert content['void_pixels'] == 2 * (48 - 6 - 8 - 6)
  assert content['most_instances'] == 1 and content['most_segments'] == 2
  assert (content['height'], content['width']) == ((6, 6), (8, 8))
  lines = statistics.table().splitlines()
  assert lines[1].split() == ['1', 'circle', 'thing', '2', '2', '0', '12', '12.50']
  json.dumps(content)


@pytest.mark.parametrize(
  'segment, field, value, kind, words',
  [
    ('circle', 'area', 5, 'area', 'covers 6 pixels, but its annotated area is 5'),
    ('circle', 'bbox', [2, 1, 3, 3], 'bbox', '[2, 1, 3, 2]'),
    ('circle', 'category_id', 77, 'class', 'category_id 77'),
    ('circle', 'category_id', '1', 'field', 'must be an integer'),
    ('circle', 'iscrowd', 2, 'crowd', 'must be 0 or 1'),
    ('circle', 'isthing', 0, 'isthing', 'circle has 1'),
    ('sky', 'iscrowd', 1, 'crowd', 'crowd of sky, which is stuff'),
  ],
)
def test_a_wrong_field_of_a_segment(made, segment, field, value, kind, words):
  getattr(made, segment)[field] = value
  problem = made.problem()
  pixel = {'circle': (1, 2), 'sky': (0, 0)}[segment]
  assert problem[:2] == (kind, made.png)
  assert (problem.segment, problem.pixel) == (getattr(made, segment)['id'], pixel)
  assert words in problem.message
  assert str(problem).startswith(
    f'{made.png}, segment {problem.segment}, pixel ({pixel[0]}, {pixel[1]}): {kind}: '
  )


def test_ids_that_one_side_lacks(made):
  made.circle['id'] = 300
  _, (report,) = made.reports()
  more, lacks = report.problems
  assert (lacks.category, lacks.segment, lacks.pixel) == ('not drawn', 300, None)
  assert (more.category, more.segment, more.pixel) == ('not listed', 258, (1, 2))
  assert '6 pixels' in more.message


def test_segments_without_area_or_id(made):
  segments = made.content['annotations'][0]['segments_info']
  segments += [
    {'id': 0, 'category_id': 6, 'area': 1},
    {'category_id': 6},
    {'id': 4, 'category_id': 6, 'area': 0},
    dict(made.sky),
  ]
  del made.circle['area']
  _, (report,) = made.reports()
  kinds = sorted(
    (problem.category, problem.segment)
    for problem in report.problems
    if problem.segment is not None
  )
  assert kinds == [
    ('duplicate', 1537),
    ('field', 0),
    ('field', 258),
    ('stuff not drawn', 4),
    ('zero area', 4),
  ]
  assert [f.message for f in report.problems if f.segment is None] == [
    "segments_info[4]: field 'id' is missing; must be an integer"
  ]
  assert sum(segment.area for segment in report.segments) == 6 + 8 + 6


def test_images_that_do_not_fit(made):
  PIL.Image.new('RGB', (9, 6)).save(made.image)
  problem = made.problem()
  assert problem[:2] == ('size', made.png)
  assert 'is 6x8 (height x width), but its image' in problem.message and '6x9' in problem.message
  made.image.write_bytes(made.image.read_bytes()[:200])
  problem = made.problem()
  assert problem[:2] == ('unreadable', str(made.image))
  made.image.unlink()
  problem = made.problem()
  assert problem[:2] == ('missing', made.png) and 'image_id 7' in problem.message
  made.content['images'][0]['height'] = 5
  assert [problem.category for problem in made.reports()[1][0].problems] == ['missing', 'size']


def test_png_that_cannot_be_used(made, info):
  PIL.Image.fromarray(np.zeros((6, 8), np.uint8)).save(made.png)
  problem = made.problem()
  assert problem.category == 'unreadable' and "mode 'L'" in problem.message
  statistics = inspection.Statistics(info)
  statistics.add(made.reports()[1][0])
  assert (statistics.images, statistics.problems) == (0, {'unreadable': 1})
  PIL.Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(made.png)
  made.content['annotations'][0]['segments_info'] = []
  assert made.problem().category == 'no segments'


def test_what_is_wrong_with_the_set(made, tmp_path):
  annotation = made.content['annotations'][0]
  made.content['annotations'] += [annotation, {'image_id': 8, 'segments_info': []}]
  made.content['categories'][0]['isthing'] = 0
  made.content['categories'][1]['id'] = 50
  made.content['images'][0]['id'] = 6
  PIL.Image.new('RGB', (8, 6)).save(made.image.parent / 'other.jpg')
  PIL.Image.new('RGB', (8, 6)).save(tmp_path / 'png' / 'other.png')
  problems, reports = made.reports()
  assert [(problem.category, problem.file.rpartition('/')[2]) for problem in problems] == [
    ('isthing', 'set.json'),
    ('class', 'set.json'),
    ('duplicate', 'set.json, annotations[1]'),
    ('duplicate', 'set.json, annotations[1]'),
    ('field', 'set.json, annotations[2]'),
    ('image', 'set.json, annotations[0]'),
    ('image', 'set.json, annotations[1]'),
    ('no annotation', 'other.jpg'),
    ('no annotation', 'other.png'),
  ]
  assert [report.problems for report in reports] == [[], []]


def test_red_and_blue_exchanged(made):
  rgb = np.asarray(PIL.Image.open(made.png))
  PIL.Image.fromarray(rgb[..., ::-1]).save(made.png)
  _, (report,) = made.reports()
  (problem,) = (problem for problem in report.problems if problem.category == 'exchanged')
  assert problem.file == made.png and 'OpenCV' in problem.message


@pytest.mark.parametrize('turned, kinds', [(1, []), (3, ['orientation']), (6, [])])
def test_masks_of_turned_images(made, turned, kinds):
  """The mask has the size of the stored pixels: recognised where the sizes differ."""
  exif = PIL.Image.Exif()
  exif[0x0112] = turned
  PIL.Image.fromarray(np.full((6, 8, 3), 99, np.uint8)).save(made.image, exif=exif)
  assert [problem.category for problem in made.reports()[1][0].problems] == kinds


def test_images_that_are_not_read(made):
  directory = made.image.parent
  (directory / 'below').mkdir()
  for name in ('x.heic', '._7.jpg', 'below/8.png'):
    (directory / name).write_bytes(b'')
  problems, _ = made.reports()
  assert [(problem.category, problem.file) for problem in problems] == [
    ('left out', str(directory / name)) for name in ('._7.jpg', 'x.heic', 'below/8.png')
  ]
  # One that is missing otherwise is found in any format that is read.
  made.image.rename(directory / '7.TIFF')
  assert made.reports()[1][0].problems == []


def test_an_image_listed_twice(made):
  made.content['images'] *= 2
  problem = made.problem()
  assert problem.category == 'duplicate' and 'image 7 twice' in problem.message


def test_noise_is_no_map_of_segments(made):
  noise = np.random.randint(0, 255, (400, 400, 3), np.uint8)
  PIL.Image.fromarray(noise).save(made.png)
  problem = made.problem()
  assert problem.category == 'unreadable' and 'different ids' in problem.message


def test_cityscapes_names(made, tmp_path):
  """Images lie in directories of cities, and are named by the image id and a suffix."""
  made.content['annotations'][0]['image_id'] = made.content['images'][0]['id'] = 'ulm_000_001'
  (made.image.parent / 'ulm').mkdir()
  made.image.rename(made.image.parent / 'ulm' / 'ulm_000_001_leftImg8bit.png')
  problems, (report,) = made.reports()
  assert problems == report.problems == []


def test_too_many_instances(made, info):
  task, *_ = inspect_annotations.annotations(
    made.png.replace('png/7.png', 'set.json'), made.png[:-6], str(made.image.parent), info
  )[0]
  assert not inspect_annotations.check(task, info).problems
  space = info.label_space._replace(label_divisor=2)
  task.entry.content['segments_info'].append({**made.circle, 'id': 5})
  (problem,) = (
    f
    for f in inspect_annotations.check(task, info._replace(label_space=space)).problems
    if f.category == 'too many'
  )
  assert 'instance 2 of circle' in problem.message


def test_other_files_are_one_line(tmp_path, info):
  path = tmp_path / 'instances.json'
  path.write_text('{"annotations": [{"segmentation": []}]}')
  for name, words in (
    (path, 'instances or stuff'),
    (tmp_path, 'is a directory'),
    (tmp_path / 'no.json', 'no such file'),
  ):
    with pytest.raises(errors.UserError, match=words):
      inspect_annotations.annotations(str(name), str(tmp_path), str(tmp_path), info)
  path.write_text('{"annotations": []}')
  with pytest.raises(errors.UserError, match='no such directory'):
    inspect_annotations.annotations(str(path), str(tmp_path / 'no'), str(tmp_path), info)


def _record(label, image_size=None, label_format='raw'):
  size = label.shape if image_size is None else image_size
  image = images.encode(np.zeros((*size, 3), np.uint8))
  return tfrecord.encode_example(
    image._replace(height=label.shape[0], width=label.shape[1]), 'seven', label, label_format
  )


def _check(serialized, info, **limits):
  limits = {'max_instances': 128, 'max_instance_id': 255, **limits}
  return inspect_records.check(serialized, 'file, record 3', info.label_space, **limits)


@pytest.mark.parametrize('label_format', tfrecord.LABEL_FORMATS)
def test_a_record_counts_like_its_annotation(made, info, label_format):
  report = _check(_record(_LABEL, label_format=label_format), info)
  assert report.problems == [] and report.name == 'seven' and report.size == (6, 8)
  annotation = made.reports()[1][0]
  assert {segment[1:] for segment in report.segments} == {
    segment[1:] for segment in annotation.segments
  }


@pytest.mark.parametrize(
  'value, kind',
  [(10 * 256, 'class'), (-3, 'class'), (6 * 256 + 2, 'isthing'), (200 * 256 + 1, 'class')],
)
def test_an_id_that_is_no_id(info, value, kind):
  label = _LABEL.copy()
  label[5, 2] = value
  (problem,) = _check(_record(label), info).problems
  assert problem.category == kind and (problem.segment, problem.pixel) == (value, (5, 2))
  assert str(problem).startswith(f"file, record 3, image 'seven', segment {value}, pixel (5, 2)")


def test_limits_of_training(info):
  label = np.arange(1, 7, dtype=np.int32).reshape(2, 3) + 256
  (problem,) = _check(_record(label), info, max_instances=5).problems
  assert problem.category == 'too many' and '6 instances' in problem.message
  (problem,) = _check(_record(label), info, max_instance_id=5).problems
  assert (problem.segment, problem.pixel) == (256 + 6, (1, 2))
  (problem,) = _check(_record(np.zeros((2, 3), np.int32)), info).problems
  assert problem.category == 'no segments'


def test_records_that_cannot_be_decoded(info):
  (problem,) = _check(_record(_LABEL, image_size=(6, 9)), info).problems
  assert problem.category == 'unreadable' and '6x9' in problem.message
  (problem,) = _check(b'no example', info).problems
  assert problem.category == 'unreadable' and 'not a tf.Example' in problem.message
  # TensorFlow quotes such bytes in its message, which Python cannot decode.
  (problem,) = _check(b'\xff\xfe\x80\x81' * 20, info).problems
  assert problem.category == 'unreadable' and 'not a tf.Example' in problem.message
  example = tf.train.Example.FromString(_record(_LABEL))
  example.features.feature['image/height'].int64_list.value.append(6)
  (problem,) = _check(example.SerializeToString(), info).problems
  assert "'image/height' must hold one value" in problem.message
  example = tf.train.Example.FromString(_record(_LABEL))
  example.features.feature['image/encoded'].bytes_list.value[0] = b'\xff\xd8\xff\xe0 no image'
  (problem,) = _check(example.SerializeToString(), info).problems
  assert 'cannot be decoded' in problem.message
  assert not any(word in problem.message for word in ('function_node', '/job:', '[Op:'))


# A record of four bytes takes 20. TensorFlow says nothing of a cut within the twelve bytes that
# come before its content.
@pytest.mark.parametrize(
  'length, words', [(39, 'truncated or corrupt from here on'), (30, 'truncated, 10 bytes')]
)
def test_reading_goes_on_after_a_broken_file(tmp_path, length, words):
  paths = [str(tmp_path / name) for name in ('a', 'b')]
  for path in paths:
    with tf.io.TFRecordWriter(path) as writer:
      writer.write(b'1234')
      writer.write(b'5678')
  with open(paths[0], 'r+b') as file:
    file.truncate(length)
  (first, broken, *others) = inspect_records.stored_records(paths)
  assert first == (f'{paths[0]}, record 0', b'1234')
  assert broken[1].category == 'unreadable' and words in broken[1].message
  assert [content for _, content in others] == [b'1234', b'5678']
