"""Ways to spoil what is inside a record: the features of its tf.Example, with right checksums."""

import struct
import zlib

import tensorflow as tf

from campaign import images
from campaign import mutations
from campaign.mutations import Mutation

_LISTS = {bytes: 'bytes_list', float: 'float_list', int: 'int64_list'}
_KEYS = {
  'image': 'image/encoded',
  'name': 'image/filename',
  'height': 'image/height',
  'width': 'image/width',
  'label': 'image/segmentation/class/encoded',
  'label_format': 'image/segmentation/class/format',
}


def with_features(**changes) -> mutations.Spoil:
  """Returns a mutation of the first record: name -> value, None to leave the feature out.

  Names are those of _KEYS.
  """

  def change(record, rng):
    example = tf.train.Example.FromString(record)
    features = example.features.feature
    for name, value in changes.items():
      key = _KEYS[name]
      if callable(value):
        value = value(features[key].bytes_list.value[0], rng)
      if value is None:
        features.pop(key)
      else:
        values = value if isinstance(value, list) else [value]
        features[key].Clear()
        getattr(features[key], _LISTS[type(values[0])]).value[:] = values
    return example.SerializeToString()

  return mutations.record_bytes(change)


def _png(spoil):
  """Returns the bytes that `spoil` makes of a good PNG, whatever image was there."""
  return lambda data, rng: spoil(images.saved_as('PNG')(data, rng), rng)


def _first_id(panoptic_id: int):
  """Returns a mutation of a raw label map: the id of its first pixel."""
  return with_features(label=lambda label, rng: struct.pack('<i', panoptic_id) + label[4:])


def _zlib(spoil=lambda data, rng: data):
  """Returns a mutation of a label map to a compressed one that is spoiled."""
  return with_features(
    label_format=b'zlib', label=lambda label, rng: spoil(zlib.compress(label), rng)
  )


def _of_images(table, *starts, change=lambda spoil: spoil):
  """Returns those mutations of a table whose names begin so as mutations of a record's image."""
  return {
    f'image: {one.name}': with_features(image=change(one.spoil))
    for one in table
    if one.name.startswith(starts or '')
  }


# A map in ids of the set `shapes`: 10 classes, divisor 256; void is 0.
_REFUSED = {
  **{
    f'without {name}': with_features(**{name: None})
    for name in ('image', 'name', 'height', 'width', 'label')
  },
  **{
    f'{name} is {value!r}': with_features(**{name: value})
    for name in ('height', 'width')
    for value in (0, -1, 2**31 - 1, 2**32 + 113, 2**62, 113.0, b'113', [113, 113])
  },
  'height and width of a billion': with_features(height=10**9, width=10**9),
  **{f'{name} is a number': with_features(**{name: 1}) for name in ('image', 'label', 'name')},
  'label is empty': with_features(label=b''),
  'label is cut': with_features(label=mutations.cut),
  'label is one byte longer': with_features(label=lambda label, rng: label + b'x'),
  'label of an unknown format': with_features(label_format=b'lzma'),
  'label of a number as format': with_features(label_format=1),
  'label of format png': with_features(label_format=b'png'),
  'zlib of noise': with_features(label_format=b'zlib'),
  'zlib, cut': _zlib(mutations.cut),
  'zlib, a bomb of 5 GB': _zlib(lambda data, rng: images.zeros(5000 * 2**20)),
  **{f'ids {n}': _first_id(n) for n in (-1, -(2**31), 2**31 - 1, 10 * 256, 255 * 256 + 255)},
  **_of_images(mutations.ANY_FILE),
}
_ANY = {
  'name is empty': with_features(name=b''),
  'name is not UTF-8': with_features(name=b'\xff\xfe'),
  'name is a path': with_features(name=b'../../../escaped'),
  'name of 10 MB': with_features(name=b'x' * 10**7),
  'name with line ends': with_features(name=b'a\nerror: b\n'),
  'zlib, bits flipped': _zlib(mutations.flip_bits),
  'zlib, more behind it': _zlib(lambda data, rng: data * 2),
  **_of_images(
    images.PNGS,
    *('header', 'really', 'a black', 'more data', 'no ', 'EXIF', '16 bits', 'anim'),
    change=_png,
  ),
  **_of_images(images.JPEGS, 'frame', 'sampling', 'no '),
}
EXAMPLES = (
  *mutations.named(_REFUSED, 'refused'),
  Mutation('zlib, right', _zlib(), 'accepted'),
  *mutations.named(_ANY),
)
EXAMPLES_RANDOM = (
  Mutation('image: bits flipped', with_features(image=mutations.flip_bits)),
  Mutation('image: cut', with_features(image=mutations.cut)),
  Mutation('image: noise in the middle', with_features(image=mutations.scramble)),
  Mutation('label: noise in the middle', with_features(label=mutations.scramble)),
  *mutations.RECORD_FILES_RANDOM,
)
