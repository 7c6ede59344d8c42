"""Ways to spoil what is inside a record: the features of its tf.Example, with right checksums."""

import struct
import zlib

import tensorflow as tf

from campaign import images
from campaign import mutations
from campaign.mutations import Mutation

_KEYS = {
  'image': 'image/encoded',
  'name': 'image/filename',
  'height': 'image/height',
  'width': 'image/width',
  'label': 'image/segmentation/class/encoded',
  'label_format': 'image/segmentation/class/format',
}


def _feature(value):
  if isinstance(value, bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  if isinstance(value, float):
    return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
  values = value if isinstance(value, list) else [value]
  return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


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
        features[key].CopyFrom(_feature(value))
    return example.SerializeToString()

  return mutations.record_bytes(change)


def _png(spoil):
  """Returns the bytes that `spoil` makes of a good PNG, whatever image was there."""

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


def _only(table, *starts):
  return {
    f'image: {one.name}': one.spoil for one in table if not starts or one.name.startswith(starts)
  }


# A map in ids of the set `shapes`: 10 classes, divisor 256; void is 0.
EXAMPLES = (
  *mutations.named(
    {
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
      'image is a number': with_features(image=1),
      'label is a number': with_features(label=1),
      'name is a number': with_features(name=1),
      'label is empty': with_features(label=b''),
      'label is cut': with_features(label=mutations.cut),
      'label is one byte longer': with_features(label=lambda x, _: x + b'x'),
      'label of an unknown format': with_features(label_format=b'lzma'),
      'label of a number as format': with_features(label_format=1),
      'label of format png': with_features(label_format=b'png'),
      'zlib of noise': with_features(label_format=b'zlib'),
      'zlib, cut': with_features(label_format=b'zlib', label=_zipped(mutations.cut)),
      'zlib, a bomb of 5 GB': with_features(label_format=b'zlib', label=_bomb),
      **{
        f'ids {", ".join(map(str, ids))}': with_features(label=_first_ids(*ids))
        for ids in ((-1,), (-(2**31),), (2**31 - 1,), (10 * 256,), (255 * 256 + 255,))
      },
      **{name: with_features(image=spoil) for name, spoil in _only(mutations.ANY_FILE).items()},
    },
    'refused',
  ),
  Mutation('zlib, right', with_features(label_format=b'zlib', label=_zipped()), 'accepted'),
  *mutations.named(
    {
      'name is empty': with_features(name=b''),
      'name is not UTF-8': with_features(name=b'\xff\xfe'),
      'name is a path': with_features(name=b'../../../escaped'),
      'name of 10 MB': with_features(name=b'x' * 10**7),
      'name with line ends': with_features(name=b'a\nerror: b\n'),
      'zlib, bits flipped': with_features(label_format=b'zlib', label=_zipped(mutations.flip_bits)),
      'zlib, more behind it': with_features(
        label_format=b'zlib', label=_zipped(lambda data, rng: data * 2)
      ),
      **{
        name: with_features(image=_png(spoil))
        for name, spoil in _only(
          images.PNGS, 'header', 'really', 'a black', 'more data', 'no ', 'EXIF', '16 bits', 'anim'
        ).items()
      },
      **{
        name: with_features(image=spoil)
        for name, spoil in _only(images.JPEGS, 'frame', 'sampling', 'no ').items()
      },
    }
  ),
)
EXAMPLES_RANDOM = (
  Mutation('image: bits flipped', with_features(image=mutations.flip_bits)),
  Mutation('image: cut', with_features(image=mutations.cut)),
  Mutation('image: noise in the middle', with_features(image=mutations.scramble)),
  Mutation('label: noise in the middle', with_features(label=mutations.scramble)),
  *mutations.RECORD_FILES_RANDOM,
)
