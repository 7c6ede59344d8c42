"""Ways to spoil what is inside a record: the features of its tf.Example, with right checksums."""

import random
import struct
import zlib

import tensorflow as tf

from campaign import images
from campaign import mutations
from campaign.mutations import Mutation

_IMAGE = 'image/encoded'
_NAME = 'image/filename'
_HEIGHT = 'image/height'
_WIDTH = 'image/width'
_LABEL = 'image/segmentation/class/encoded'
_FORMAT = 'image/segmentation/class/format'


def _feature(value):
  if isinstance(value, bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  if isinstance(value, float):
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
  values = value if isinstance(value, list) else [value]
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def with_features(**changes) -> mutations.Spoil:
  """Returns a mutation of the first record: name -> value, None to leave the feature out.

  Names are those of the constants above, without the underscore and in small letters.
  """

  def change(record, rng):
    example = tf.train.Example.FromString(record)
    features = example.features.feature
    for name, value in changes.items():
      key = {
        'image': _IMAGE,
        'name': _NAME,
        'height': _HEIGHT,
        'width': _WIDTH,
        'label': _LABEL,
        'label_format': _FORMAT,
      }[name]
      if callable(value):
        value = value(features[key].bytes_list.value[0], rng)
      if value is None:
        features.pop(key)
      else:
        features[key].CopyFrom(_feature(value))
    return example.SerializeToString()

  return mutations.record_bytes(change)


def _png(spoil):
  """Returns what `spoil` makes of a good PNG, whatever image was there."""

  def change(data, rng):
    return spoil(images.saved_as('PNG')(data, rng), rng)

  return change


def _first_ids(*ids: int):
  """Returns a mutation of a raw label map: its first ids are `ids`."""
  content = struct.pack(f'<{len(ids)}i', *ids)
  return lambda label, rng: content + label[len(content) :]


def _bomb(label, rng):
  packer = zlib.compressobj(9)
  return b''.join([packer.compress(bytes(2**20)) for _ in range(5000)] + [packer.flush()])


def _zipped(spoil=lambda data, rng: data):
  return lambda label, rng: spoil(zlib.compress(label), rng)


# A map in ids of the set `shapes`: 10 classes, divisor 256; void is 0.
EXAMPLES = (
  *(
    Mutation(f'without {name}', with_features(**{name: None}), 'refused')
    for name in ('image', 'name', 'height', 'width', 'label')
  ),
  *(
    Mutation(f'{name} is {value!r}', with_features(**{name: value}), 'refused')
    for name in ('height', 'width')
    for value in (0, -1, 2**31 - 1, 2**32 + 113, 2**62, 113.0, b'113', [113, 113])
  ),
  Mutation('height and width of a billion', with_features(height=10**9, width=10**9), 'refused'),
  Mutation('image is a number', with_features(image=1), 'refused'),
  Mutation('label is a number', with_features(label=1), 'refused'),
  Mutation('name is a number', with_features(name=1), 'refused'),
  Mutation('name is empty', with_features(name=b'')),
  Mutation('name is not UTF-8', with_features(name=b'\xff\xfe')),
  Mutation('name is a path', with_features(name=b'../../../escaped')),
  Mutation('name of 10 MB', with_features(name=b'x' * 10**7)),
  Mutation('name with line ends', with_features(name=b'a\nerror: b\n')),
  Mutation('label is empty', with_features(label=b''), 'refused'),
  Mutation('label is cut', with_features(label=mutations.cut), 'refused'),
  Mutation('label is one byte longer', with_features(label=lambda x, _: x + b'x'), 'refused'),
  Mutation('label of an unknown format', with_features(label_format=b'lzma'), 'refused'),
  Mutation('label of a number as format', with_features(label_format=1), 'refused'),
  Mutation('label of format png', with_features(label_format=b'png'), 'refused'),
  Mutation('zlib of noise', with_features(label_format=b'zlib'), 'refused'),
  Mutation('zlib, right', with_features(label_format=b'zlib', label=_zipped()), 'accepted'),
  Mutation(
    'zlib, cut', with_features(label_format=b'zlib', label=_zipped(mutations.cut)), 'refused'
  ),
  Mutation(
    'zlib, bits flipped', with_features(label_format=b'zlib', label=_zipped(mutations.flip_bits))
  ),
  Mutation(
    'zlib, more behind it',
    with_features(label_format=b'zlib', label=_zipped(lambda data, rng: data * 2)),
  ),
  Mutation('zlib, a bomb of 5 GB', with_features(label_format=b'zlib', label=_bomb), 'refused'),
  *(
    Mutation(f'ids {", ".join(map(str, ids))}', with_features(label=_first_ids(*ids)), 'refused')
    for ids in ((-1,), (-(2**31),), (2**31 - 1,), (10 * 256,), (255 * 256 + 255,))
  ),
  *(
    Mutation(f'image: {mutation.name}', with_features(image=_png(mutation.spoil)))
    for mutation in images.PNGS
    if mutation.name.startswith(
      ('header', 'really', 'a black', 'more data', 'no ', 'EXIF', '16 bits', 'animated')
    )
  ),
  *(
    Mutation(f'image: {mutation.name}', with_features(image=mutation.spoil))
    for mutation in images.JPEGS
    if mutation.name.startswith(('frame', 'sampling', 'no '))
  ),
  *(
    Mutation(f'image: {mutation.name}', with_features(image=mutation.spoil), 'refused')
    for mutation in mutations.ANY_FILE
  ),
)
EXAMPLES_RANDOM = (
  Mutation('image: bits flipped', with_features(image=mutations.flip_bits)),
  Mutation('image: cut', with_features(image=mutations.cut)),
  Mutation('image: noise in the middle', with_features(image=mutations.scramble)),
  Mutation('label: noise in the middle', with_features(label=mutations.scramble)),
  *mutations.RECORD_FILES_RANDOM,
)


def sample(rng: random.Random, count: int) -> list[Mutation]:
  """Returns `count` mutations of files of records, of their frames and of what is inside."""
  outside = mutations.choose(mutations.RECORD_FILES, mutations.RECORD_FILES_RANDOM, count // 3, rng)
  return outside + mutations.choose(EXAMPLES, EXAMPLES_RANDOM, count - len(outside), rng)
