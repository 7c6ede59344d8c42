"""Tests for deeplab2.data.tfrecord, with records that DeepLab2 wrote."""

import os
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.data import images
from deeplab2.data import tfrecord

_SPACE = structures.LabelSpace(134, 0, 256, tuple(range(1, 81)))
_IMAGE = np.random.default_rng(0).integers(0, 255, (12, 17, 3), np.uint8)
_LABEL = np.arange(12 * 17, dtype=np.int32).reshape(12, 17) % 7 + 256


def _example(name='one', label=_LABEL, label_format='raw', **replaced):
  """Returns a record; `replaced` overrides fields of the encoded image."""
  image = images.encode(_IMAGE)._replace(**replaced)
  return tfrecord.encode_example(image, name, label, label_format)


def _with_feature(serialized, key, value):
  """Returns the record with feature `key` set to `value`, or taken away for None."""
  example = tf.train.Example.FromString(serialized)
  del example.features.feature[key]
  if isinstance(value, bytes):
    example.features.feature[key].bytes_list.value.append(value)
  elif value is not None:
    example.features.feature[key].int64_list.value.append(value)
  return example.SerializeToString()


def _parse_in_pipeline(serialized, with_label=True):
  (record,) = tf.data.Dataset.from_tensors(serialized).map(
    lambda serialized: tfrecord.parse_example(serialized, with_label)
  )
  return record


def _write(path, examples):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example)
  return str(path)


def test_reads_what_deeplab2_wrote(golden):
  stored = golden('data_tfexample')
  record = tfrecord.parse_example(stored['example'].tobytes(), True)
  np.testing.assert_array_equal(record.image, stored['image'])
  np.testing.assert_array_equal(record.label, stored['label'])
  assert record.image.dtype == tf.uint8 and record.label.dtype == tf.int32
  assert (record.height.numpy(), record.width.numpy()) == (5, 7)
  assert record.height.dtype == tf.int32
  assert record.name.numpy() == stored['name'].tobytes() == b'tiny'


def test_reads_records_without_label(golden):
  stored = golden('data_tfexample')
  record = tfrecord.parse_example(stored['example_no_label'].tobytes(), False)
  np.testing.assert_array_equal(record.image, stored['image'])
  assert record.label is None
  # A label that is there, but not asked for, is left alone.
  assert tfrecord.parse_example(stored['example'].tobytes(), False).label is None


def test_semantic_labels_are_refused_by_name(golden):
  with pytest.raises(tf.errors.InvalidArgumentError, match='tiny.*format.*png'):
    _parse_in_pipeline(golden('data_tfexample')['example_semantic_png'].tobytes())


@pytest.mark.parametrize('key', ['example', 'example_no_label', 'example_semantic_png'])
def test_writes_what_deeplab2_writes(golden, key):
  stored = golden('data_tfexample')
  expected = tf.train.Example.FromString(stored[key].tobytes())
  encoded = expected.features.feature['image/encoded'].bytes_list.value[0]
  label = stored['label'][..., 0] if key == 'example' else None
  if key == 'example_semantic_png':
    label = expected.features.feature['image/segmentation/class/encoded'].bytes_list.value[0]
  written = tfrecord.encode_example(images.Encoded(encoded, 'png', 5, 7), 'tiny', label)
  assert tf.train.Example.FromString(written) == expected


@pytest.mark.parametrize('label_format', tfrecord.LABEL_FORMATS)
def test_round_trip_inside_a_pipeline(label_format):
  dataset = tf.data.Dataset.from_tensors(_example(label_format=label_format))
  dataset = dataset.map(lambda serialized: tfrecord.parse_example(serialized, True))
  assert dataset.element_spec.image.shape.as_list() == [None, None, 3]
  assert dataset.element_spec.label.shape.as_list() == [None, None, 1]
  (record,) = dataset
  np.testing.assert_array_equal(record.label[..., 0], _LABEL)
  np.testing.assert_array_equal(
    record.image, tf.io.decode_jpeg(images.encode(_IMAGE).data, channels=3)
  )


def test_compressed_labels_are_small():
  label = np.full((200, 300), 70000, np.int32)
  image = images.encode(np.zeros((200, 300, 3), np.uint8))
  raw, packed = (len(tfrecord.encode_example(image, 'a', label, f)) for f in ('raw', 'zlib'))
  assert raw - packed > 0.98 * label.nbytes


@pytest.mark.parametrize('label_format', tfrecord.LABEL_FORMATS)
def test_label_of_another_size_names_the_image(label_format):
  serialized = _with_feature(_example(label_format=label_format), 'image/height', 11)
  image = images.encode(_IMAGE[:11])
  serialized = _with_feature(serialized, 'image/encoded', image.data)
  with pytest.raises(tf.errors.InvalidArgumentError, match='label map of image.*one.*816'):
    _parse_in_pipeline(serialized)


def test_a_label_that_would_unpack_to_gigabytes(tmp_path):
  bomb = _with_feature(
    _example(label_format='zlib'),
    'image/segmentation/class/encoded',
    zlib.compress(bytes(10_000_000)),
  )
  with pytest.raises(tf.errors.InvalidArgumentError, match='more than a map of its size'):
    _parse_in_pipeline(bomb)
  with pytest.raises(errors.UserError, match='9.*bytes compressed, more than a map of the image'):
    tfrecord.scan([_write(tmp_path / 'a', [bomb])])


def test_records_of_turned_files_as_advised(tmp_path):
  """Other converters store the file of a turned image, and the size that viewers show."""
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  PIL.Image.fromarray(_IMAGE).save(tmp_path / 'a.jpg', exif=exif)
  height, width = _IMAGE.shape[:2]
  data = (tmp_path / 'a.jpg').read_bytes()
  stored = tfrecord.encode_example(images.Encoded(data, 'jpeg', width, height), 'x')
  with pytest.raises(errors.UserError, match='deeplab2-data stores .* upright'):
    tfrecord.scan([_write(tmp_path / 'b', [stored])], with_label=False)
  upright = tfrecord.encode_example(images.encode_image(images.load(str(tmp_path / 'a.jpg'))), 'x')
  assert tfrecord.scan([_write(tmp_path / 'c', [upright])], with_label=False) == 1


def test_image_of_another_size_names_the_image():
  with pytest.raises(tf.errors.InvalidArgumentError, match='Image.*one.*record says'):
    _parse_in_pipeline(_example(label=None, height=17, width=12), False)


@pytest.mark.parametrize(
  'changes', [{'label': _LABEL[:5]}, {'label_format': 'bmp'}, {'format': 'gif'}]
)
def test_writer_refuses_what_the_schema_does_not_allow(changes):
  with pytest.raises(ValueError, match='gif|bmp|5, 17'):
    _example(**changes)


def test_scan_counts_good_records(tmp_path):
  files = [
    _write(tmp_path / 'a', [_example(), _example()]),
    _write(tmp_path / 'b', []),
    _write(tmp_path / 'c', [_example(label_format='zlib')]),
  ]
  assert tfrecord.scan(files, label_space=_SPACE) == 3


_GARBAGE = images.encode(_IMAGE).data[:40]


@pytest.mark.parametrize(
  'bad, message',
  [
    (b'\xff\xff no example', 'not a tf.Example'),
    (_with_feature(_example('x'), 'image/encoded', _GARBAGE), "'x': the image cannot be decoded"),
    (
      _with_feature(_example('x'), 'image/encoded', b'no image'),
      "'x': the image cannot be decoded",
    ),
    (
      _example('x', label=None, height=17, width=12),
      "'x': feature 'image/segmentation/class/encoded' is missing",
    ),
    (
      _with_feature(_example('x'), 'image/width', 16),
      "'x': the image is of size 12x17 .height x width., but the record says 12x16",
    ),
    (_with_feature(_example('x'), 'image/height', None), "'x': feature 'image/height' is missing"),
    (
      _with_feature(_example('x'), 'image/segmentation/class/encoded', bytes(100)),
      "'x': the label map has 100 bytes, but a map .* 12x17 has 816",
    ),
    (
      _with_feature(_example('x'), 'image/segmentation/class/format', b'png'),
      "'x': .*format b'png'",
    ),
    (
      _with_feature(_example('x', label_format='zlib'), 'image/segmentation/class/encoded', b'abc'),
      "'x': the label map cannot be decompressed",
    ),
    (_example('x', label=_LABEL + 134 * 256), "'x': the label map holds id 34560 .class 135"),
    (_example('x', label=_LABEL + 99 * 256), "'x': .*class 100 is stuff"),
  ],
)
def test_scan_names_file_record_and_image(tmp_path, bad, message):
  good = _write(tmp_path / 'a', [_example()])
  file = _write(tmp_path / 'b', [_example(), _example(), bad, _example()])
  with pytest.raises(errors.UserError, match=f'^{file}, record 2(, image |: ).*') as caught:
    tfrecord.scan([good, file], label_space=_SPACE)
  assert caught.match(message)
  assert '\n' not in str(caught.value)


def test_scan_finds_a_truncated_file(tmp_path):
  file = _write(tmp_path / 'a', [_example()] * 3)
  os.truncate(file, os.path.getsize(file) - 10)
  with pytest.raises(errors.UserError, match=f'^{file}, record 2: the file is truncated or'):
    tfrecord.scan([file])


def test_scan_finds_a_file_cut_within_a_length(tmp_path):
  file = _write(tmp_path / 'a', [_example()] * 3)
  os.truncate(file, os.path.getsize(file) // 3 + 11)
  with pytest.raises(errors.UserError, match=f'^{file}, record 1: the file is truncated, 11 bytes'):
    tfrecord.scan([file])


def test_scan_finds_a_flipped_bit(tmp_path):
  file = _write(tmp_path / 'a', [_example()] * 3)
  data = bytearray((tmp_path / 'a').read_bytes())
  data[len(data) // 2] ^= 1  # In the middle of record 1.
  (tmp_path / 'a').write_bytes(data)
  with pytest.raises(errors.UserError, match=f'^{file}, record 1: the file is truncated or'):
    tfrecord.scan([file])


def test_scan_of_a_missing_file(tmp_path):
  with pytest.raises(errors.UserError, match='none: no such file'):
    tfrecord.scan([str(tmp_path / 'none')])
