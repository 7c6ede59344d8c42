"""The tf.Example schema of DeepLab2, both ways: one image and its panoptic label map a record.

image/encoded, image/format    JPEG or PNG, three channels; `jpeg` or `png`
image/filename                 file stem without extension, the image's name
image/height, width, channels  int64
image/segmentation/class/encoded, format   the label map, absent without labels:
  `raw`   int32, little-endian, row-major: what DeepLab2 writes and reads
  `zlib`  the same bytes compressed (about a fiftieth of the size); DeepLab2 cannot read it
  `png`   a PNG of classes alone, which is written for other programs and not read here
"""

from collections.abc import Sequence
from typing import NamedTuple
import zlib

import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2 import structures
from deeplab2.data import framing
from deeplab2.data import images
from deeplab2.data import labels

_IMAGE = 'image/encoded'
_IMAGE_FORMAT = 'image/format'
_NAME = 'image/filename'
_HEIGHT = 'image/height'
_WIDTH = 'image/width'
_CHANNELS = 'image/channels'
_LABEL = 'image/segmentation/class/encoded'
_LABEL_FORMAT = 'image/segmentation/class/format'

LABEL_FORMATS = ('raw', 'zlib')


class Record(NamedTuple):
  """One decoded record."""

  image: tf.Tensor  # [h, w, 3] uint8 RGB
  label: tf.Tensor | None  # [h, w, 1] int32 panoptic ids, None where none were asked for
  name: tf.Tensor  # [] string, file stem
  height: tf.Tensor  # [] int32
  width: tf.Tensor  # [] int32


def parse_example(serialized: tf.Tensor, with_label: bool) -> Record:
  """Decodes a serialized tf.Example, in a tf.data map or eagerly.

  Images go through `images.decode`, which decides what can be in a record.

  Args:
    serialized: [] string.
    with_label: whether the label map is wanted; a record without one is then an error.

  Raises:
    tf.errors.InvalidArgumentError: (when run) a feature is missing, the image cannot be decoded,
      or image, label map and recorded size disagree; the latter names the image.
  """
  scalar = {_IMAGE: tf.string, _NAME: tf.string, _HEIGHT: tf.int64, _WIDTH: tf.int64}
  features = {key: tf.io.FixedLenFeature([], dtype) for key, dtype in scalar.items()}
  if with_label:
    features[_LABEL] = tf.io.FixedLenFeature([], tf.string)
    features[_LABEL_FORMAT] = tf.io.FixedLenFeature([], tf.string, default_value='raw')
  parsed = tf.io.parse_single_example(serialized, features)
  name = parsed[_NAME]
  height = tf.cast(parsed[_HEIGHT], tf.int32)
  width = tf.cast(parsed[_WIDTH], tf.int32)

  image = images.decode(parsed[_IMAGE])
  size = tf.shape(image)[:2]
  image = require(
    image,
    tf.reduce_all(size == tf.stack([height, width])),
    *('Image', name, 'is of size (height, width)', size, 'but its record says', height, width),
  )
  label = None
  if with_label:
    # The size that the image has, not only the one that the record claims.
    label = _decode_label(
      parsed[_LABEL], parsed[_LABEL_FORMAT], name, *tf.unstack(tf.shape(image)[:2])
    )
  return Record(image, label, name, height, width)


def require(value: tf.Tensor, holds: tf.Tensor, *message: tf.Tensor | str) -> tf.Tensor:
  """Returns `value`; tf.errors.InvalidArgumentError with the message, when run, unless `holds`."""
  with tf.control_dependencies([tf.debugging.Assert(holds, message)]):
    return tf.identity(value)


def _most_compressed_bytes(height, width):
  """Returns a bound on the bytes of a compressed label map: twice the map, and a header."""
  return 2 * 4 * height * width + 2**10


def _decode_label(encoded, label_format, name, height, width):
  """Decodes a label map to [height, width, 1] int32, after checking its format and length."""
  is_zlib = label_format == 'zlib'
  of_image = ('The label map of image', name, 'has')
  wanted = 'but must be raw or zlib (panoptic ids; semantic PNGs are not supported)'
  encoded = require(
    encoded, is_zlib | (label_format == 'raw'), *of_image, 'format', label_format, wanted
  )
  # Compressed data that is larger than the map might unpack to anything.
  length = tf.strings.length(encoded)
  too_long = 'bytes compressed, more than a map of its size'
  encoded = require(
    encoded,
    ~is_zlib | (length <= _most_compressed_bytes(height, width)),
    *(*of_image, length, too_long, height, width),
  )
  raw = tf.cond(is_zlib, lambda: tf.io.decode_compressed(encoded, 'ZLIB'), lambda: encoded)
  length = tf.strings.length(raw)
  raw = require(
    raw,
    length == 4 * height * width,
    *(*of_image, length, 'bytes, but its size', height, width, 'needs 4 * height * width'),
  )
  return tf.reshape(tf.io.decode_raw(raw, tf.int32, little_endian=True), [height, width, 1])


def encode_example(
  image: images.Encoded,
  name: str,
  label: np.ndarray | bytes | None = None,
  label_format: str = 'raw',
) -> bytes:
  """Serializes one record.

  Args:
    image: the encoded image, three channels, upright (`images.encode_image`).
    name: file stem.
    label: [h, w] panoptic ids of the image's size, the bytes of a PNG of its classes, or None.
    label_format: of panoptic ids, one of LABEL_FORMATS.

  Raises:
    ValueError: the image's or label's format is unknown, or the label is of another size.
  """
  if image.format not in ('jpeg', 'png'):
    raise ValueError(f'Records hold jpeg or png images, not {image.format!r}.')
  features = {
    _IMAGE: _bytes(image.data),
    _IMAGE_FORMAT: _bytes(image.format.encode()),
    _NAME: _bytes(name.encode()),
    _HEIGHT: _int64(image.height),
    _WIDTH: _int64(image.width),
    _CHANNELS: _int64(3),
  }
  if isinstance(label, bytes):
    features[_LABEL] = _bytes(label)
    features[_LABEL_FORMAT] = _bytes(b'png')
  elif label is not None:
    if label_format not in LABEL_FORMATS:
      raise ValueError(f'{label_format!r} is no label format; choose from {LABEL_FORMATS}.')
    if label.shape != (image.height, image.width):
      raise ValueError(
        f'Label map of shape {label.shape} for image {name!r} of {image.height}x{image.width}.'
      )
    raw = np.ascontiguousarray(label, '<i4').tobytes()
    features[_LABEL] = _bytes(raw if label_format == 'raw' else zlib.compress(raw, 6))
    features[_LABEL_FORMAT] = _bytes(label_format.encode())
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString(deterministic=True)


def scan(
  paths: Sequence[str], *, with_label: bool = True, label_space: structures.LabelSpace | None = None
) -> int:
  """Reads every record of `paths` in order and says exactly what is wrong with the first bad one.

  Slower than the input pipeline; meant to explain an error of it, or to check a set once.

  Args:
    paths: TFRecord files.
    with_label: whether records must hold a label map.
    label_space: if given, ids of the label maps must belong to it.

  Returns:
    The number of records.

  Raises:
    errors.UserError: names file, record (counted from 0), image, and what is wrong with it.
  """
  total = 0
  for file in paths:
    for number, serialized in enumerate(framing.records(file)):
      check_record(serialized, f'{file}, record {number}', with_label, label_space)
      total += 1
  return total


def check_record(
  serialized: bytes,
  where: str,
  with_label: bool = True,
  label_space: structures.LabelSpace | None = None,
) -> Record:
  """Decodes a record as `parse_example` does, and says exactly what is wrong with it.

  Args:
    serialized: a tf.Example.
    where: file and record.
    with_label: whether it must hold a label map.
    label_space: if given, ids of the label map must belong to it.

  Raises:
    errors.UserError: naming `where` and the image.
  """
  try:
    example = tf.train.Example.FromString(serialized)
  except Exception as error:  # The protobuf runtimes raise different types here.
    raise errors.UserError(
      f'{where}: not a tf.Example; were these records written for something else?'
    ) from error
  feature = example.features.feature
  named = feature[_NAME].bytes_list.value if _NAME in feature else ()
  if named:
    where = f'{where}, image {named[0].decode(errors="replace")!r}'
  needed = [_IMAGE, _NAME, _HEIGHT, _WIDTH] + ([_LABEL] if with_label else [])
  missing = [key for key in needed if key not in feature]
  if missing:
    raise errors.UserError(
      f'{where}: feature {missing[0]!r} is missing; the record has {sorted(feature)}.'
    )
  for key in needed:
    list_type = 'int64_list' if key in (_HEIGHT, _WIDTH) else 'bytes_list'
    if len(getattr(feature[key], list_type).value) != 1:
      raise errors.UserError(f'{where}: feature {key!r} must hold one value, a {list_type}.')
  try:
    record = parse_example(serialized, with_label)
  except (tf.errors.OpError, UnicodeDecodeError) as error:
    raise errors.UserError(f'{where}: {_what_fails(feature, error)}') from error
  if record.label is not None and label_space is not None:
    problem = labels.find_problem(record.label.numpy(), label_space)
    if problem:
      raise errors.UserError(f'{where}: {problem}')
  return record


def _what_fails(feature, error):
  """Returns a sentence on the first part of a complete record that does not fit."""
  (encoded,) = feature[_IMAGE].bytes_list.value or (b'',)
  try:
    image = images.decode(encoded)
  except tf.errors.OpError as image_error:
    return f'the image cannot be decoded ({files.reason(image_error)}).'
  (height,) = feature[_HEIGHT].int64_list.value or (None,)
  (width,) = feature[_WIDTH].int64_list.value or (None,)
  if tuple(image.shape[:2]) != (height, width):
    return (
      f'the image is of size {image.shape[0]}x{image.shape[1]} (height x width), but the '
      f'record says {height}x{width}; deeplab2-data stores images with EXIF '
      'rotation upright.'
    )
  (label_format,) = feature[_LABEL_FORMAT].bytes_list.value or (b'raw',)
  if label_format.decode(errors='replace') not in LABEL_FORMATS:
    return (
      f'the label map has format {label_format!r}; must be one of {LABEL_FORMATS} (panoptic '
      'ids; semantic PNGs are not supported).'
    )
  (label,) = feature[_LABEL].bytes_list.value or (b'',)
  if label_format == b'zlib' and len(label) > _most_compressed_bytes(height, width):
    return (
      f"the label map has {len(label)} bytes compressed, more than a map of the image's "
      f'size {height}x{width} has.'
    )
  try:
    num_bytes = len(label if label_format == b'raw' else zlib.decompress(label))
  except zlib.error as label_error:
    return f'the label map cannot be decompressed ({label_error}).'
  if num_bytes != 4 * height * width:
    return (
      f"the label map has {num_bytes} bytes, but a map of the image's size "
      f'{height}x{width} has {4 * height * width}.'
    )
  return f'{files.reason(error)}.'


def _bytes(value):
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int64(value):
  return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
