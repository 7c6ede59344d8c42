"""Tests of what the pipelines do about records that cannot be read, on records broken here."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.data import augment
from deeplab2.data import copy_paste
from deeplab2.data import geometry
from deeplab2.data import images
from deeplab2.data import pipeline
from deeplab2.data import reading
from deeplab2.data import targets
from deeplab2.data import tfrecord

_SPACE = structures.LabelSpace(num_classes=5, ignore_label=0, label_divisor=256, thing_ids=(1, 2))
_FEW = reading.Skip(0.005)  # Five of the first thousand.
_ALL = reading.Skip(1.0)


def _encode(image, image_format):
  buffer = io.BytesIO()
  PIL.Image.fromarray(image).save(buffer, image_format)
  return buffer.getvalue()


def _example(number, image_format='png', **features):
  """An image of one colour, its number; `features` are replaced, or taken away where None."""
  image = _encode(np.full([20, 30, 3], number, np.uint8), image_format)
  encoded = images.Encoded(image, image_format, 20, 30)
  label = np.full([20, 30], 3 * 256, np.int32)
  example = tf.train.Example.FromString(tfrecord.encode_example(encoded, f'image {number}', label))
  for name, value in features.items():
    key = f'image/{name}'
    if value is None:
      del example.features.feature[key]
    elif isinstance(value, bytes):
      example.features.feature[key].bytes_list.value[0] = value
    else:
      example.features.feature[key].int64_list.value[0] = value
  return example.SerializeToString()


def _write(path, examples):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example)


def _flip(path, position):
  """Flips a bit of the byte at `position` of a file."""
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(bytes(content))


def _training(directory, **overrides):
  settings = dict(
    label_space=_SPACE,
    crop_size=(33, 33),
    batch_size=2,
    resize=geometry.Resize(),
    scale=augment.RandomScale(),
    target_options=targets.TargetOptions(max_thing_id=4),
    shuffle_buffer_size=4,
    seed=1,
    reader=_ALL,
  )
  return pipeline.training([f'{directory}/*'], **{**settings, **overrides})


def _evaluation(directory, **overrides):
  settings = dict(
    label_space=_SPACE,
    crop_size=(33, 33),
    batch_size=2,
    resize=geometry.Resize(),
    target_options=targets.TargetOptions(max_thing_id=4),
    reader=_FEW,
  )
  return pipeline.evaluation([f'{directory}/*'], **{**settings, **overrides})


def _shown(dataset):
  """Returns (names of images, names of corrupt records) of an evaluation."""
  names, skipped = [], []
  for sample in dataset:
    for name, size in zip(sample.name.numpy(), sample.placement.raw_size.numpy(), strict=True):
      if size.all():
        names.append(name.decode())
      elif name:
        skipped.append(name.decode())
  return names, skipped


def _trained(dataset, batches=8):
  """Returns the set of images in the first batches, by their colour."""
  found = set()
  for sample in dataset.take(batches):
    is_image = sample.targets.semantic.numpy() == 3
    found.update(np.unique(sample.image.numpy()[is_image]).astype(int).tolist())
  return found


_JPEG, _PNG = (
  _encode(np.random.default_rng(0).integers(0, 255, [20, 30, 3], np.uint8), kind)
  for kind in ('jpeg', 'png')
)
_BAD_RECORDS = {
  'not a tf.Example': b'\xff\xff',
  'an empty record': b'',
  'a cut JPEG': _example(9, encoded=_JPEG[:200]),
  'a cut PNG': _example(9, encoded=_PNG[:-200]),
  'no image': _example(9, encoded=b'nothing'),
  'another size': _example(9, height=21),
  'no image at all': _example(9, encoded=None),
  'no name': _example(9, filename=None),
  'no label': _example(9, **{'segmentation/class/encoded': None}),
  'a short label': _example(9, **{'segmentation/class/encoded': bytes(100)}),
  'a format of labels': _example(9, **{'segmentation/class/format': b'png'}),
  'a broken zlib stream': _example(9, **{'segmentation/class/format': b'zlib'}),
}


@pytest.fixture(name='read_anew', scope='module')
def _read_anew(tmp_path_factory):
  """Returns a function: examples of a file -> its path and a dataset of what it holds then.

  The dataset, whose graphs take most of the time, is built once for each of its settings.
  """
  datasets = {}

  def write(examples, read, reader):
    if (read, reader) not in datasets:
      directory = tmp_path_factory.mktemp('records')
      _write(directory / 'a', [_example(1)])
      datasets[read, reader] = directory, read(directory, reader=reader)
    directory, dataset = datasets[read, reader]
    _write(directory / 'a', examples)
    return directory / 'a', dataset

  return write


@pytest.mark.parametrize('bad', _BAD_RECORDS.values(), ids=_BAD_RECORDS)
def test_a_bad_record_is_left_out_and_the_rest_is_not(read_anew, bad, capfd):
  examples = [_example(1), bad, _example(2, 'jpeg')]
  path, dataset = read_anew(examples, _evaluation, _FEW)
  names, skipped = _shown(dataset)
  assert names == ['image 1', 'image 2']
  assert skipped == [f'{path}, record 1']
  log = capfd.readouterr().err
  assert f'Skipped {path}, record 1: 1 of 2 records read are corrupt' in log
  _, dataset = read_anew(examples, _training, _ALL)
  assert _trained(dataset) == {1, 2}


@pytest.mark.parametrize('read', [_training, _evaluation])
@pytest.mark.parametrize('bad', _BAD_RECORDS.values(), ids=_BAD_RECORDS)
def test_a_bad_record_ends_the_run_by_default(read_anew, bad, read):
  path, dataset = read_anew([_example(1), bad, _example(2)], read, reading.Fail())
  with pytest.raises((tf.errors.OpError, UnicodeDecodeError)) as error:
    list(dataset.take(9))
  explanation = pipeline.explain(error.value, [f'{path.parent}/*'])
  assert isinstance(explanation, errors.UserError)
  assert str(explanation).startswith(f'{path}, record 1')
  assert '\n' not in str(explanation)


@pytest.mark.parametrize('position', [0, 1, 2])
def test_the_rest_of_a_file_after_a_flipped_bit_is_left_out(tmp_path, position):
  examples = [_example(1), _example(2), _example(3)]
  sizes = [len(example) + 16 for example in examples]
  _write(tmp_path / 'a', examples)
  _write(tmp_path / 'b', [_example(4)])
  _flip(tmp_path / 'a', sum(sizes[:position]) + sizes[position] // 2)
  names, (skipped,) = _shown(_evaluation(tmp_path))
  assert names == [f'image {number}' for number in (1, 2, 3)[:position]] + ['image 4']
  assert skipped == (
    f'{tmp_path}/a, record {position} to the end: {sum(sizes[position:])} bytes of {sum(sizes)}'
  )
  assert _trained(_training(tmp_path)) == {1, 2, 3, 4} - set((1, 2, 3)[position:])


@pytest.mark.parametrize('cut', [1, 50, 'inside the length'])
def test_a_truncated_file_is_read_up_to_the_cut(tmp_path, cut):
  _write(tmp_path / 'a', [_example(1), _example(2)])
  content = (tmp_path / 'a').read_bytes()
  end = len(content) // 2 + 5 if cut == 'inside the length' else len(content) - cut
  (tmp_path / 'a').write_bytes(content[:end])
  names, (skipped,) = _shown(_evaluation(tmp_path))
  assert names == ['image 1']
  assert skipped.startswith(f'{tmp_path}/a, record 1 to the end: ')
  assert _trained(_training(tmp_path)) == {1}


def test_empty_files_are_nothing_to_speak_of(tmp_path, capfd):
  _write(tmp_path / 'a', [_example(1)])
  (tmp_path / 'b').touch()
  assert _shown(_evaluation(tmp_path)) == (['image 1'], [])
  assert _trained(_training(tmp_path)) == {1}
  assert 'Skipped' not in capfd.readouterr().err
  (tmp_path / 'a').unlink()
  for read in (_training, _evaluation):
    with pytest.raises(errors.UserError, match='1 files .* hold no record'):
      read(tmp_path)


@pytest.mark.parametrize('read', [_training, _evaluation])
def test_too_many_bad_records_end_the_run(tmp_path, read):
  _write(tmp_path / 'a', [_example(1)] + [b'bad'] * 5)
  if read is _evaluation:
    assert len(_shown(read(tmp_path, reader=_FEW))[1]) == 5
  _write(tmp_path / 'b', [b'bad'])
  with pytest.raises(tf.errors.InvalidArgumentError) as error:
    for _ in read(tmp_path, reader=_FEW).take(20):
      pass
  explanation = pipeline.explain(error.value, [f'{tmp_path}/*'])
  assert isinstance(explanation, errors.UserError)
  assert 'Corrupt records: 6 of ' in str(explanation)
  assert 'more than max_corrupt_fraction = 0.005 allows; the last is ' in str(explanation)
  assert '\n' not in str(explanation)


def test_nothing_but_bad_records_ends_the_run(tmp_path):
  _write(tmp_path / 'a', [b'bad'])
  with pytest.raises(tf.errors.InvalidArgumentError, match='Corrupt records: 6 of 6 records read'):
    next(iter(_training(tmp_path, reader=_FEW)))


def test_the_share_is_of_what_was_read(tmp_path):
  _write(tmp_path / 'a', [_example(1)] * 1990 + [b'bad'] * 10)
  assert len(_shown(_evaluation(tmp_path, batch_size=50))[1]) == 10
  with pytest.raises(tf.errors.InvalidArgumentError, match='10 of 2000 records read'):
    _shown(_evaluation(tmp_path, batch_size=50, reader=reading.Skip(0.0048)))
  with pytest.raises(tf.errors.InvalidArgumentError, match='1 of 1991 records read'):
    _shown(_evaluation(tmp_path, batch_size=50, reader=reading.Skip(0.0)))


def test_skipping_changes_nothing_where_all_is_well(tmp_path):
  _write(tmp_path / 'a', [_example(number) for number in range(4)])
  _write(tmp_path / 'b', [_example(number, 'jpeg') for number in range(4, 7)])
  for read, settings in (
    (_training, dict(paste=copy_paste.CopyPaste(0.5, stuff='all'))),
    (_training, {}),
    (_evaluation, {}),
  ):
    plain, skipping = (
      read(tmp_path, reader=reader, **settings).take(5) for reader in (reading.Fail(), _FEW)
    )
    for one, other in zip(plain, skipping, strict=True):
      tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_copy_paste_never_sees_a_bad_record(tmp_path):
  _write(tmp_path / 'a', [_example(1), b'bad', _example(2)])
  dataset = _training(tmp_path, paste=copy_paste.CopyPaste(0.5, stuff='all', void='all'))
  for sample in dataset.take(6):
    is_image = sample.targets.semantic.numpy() == 3
    assert is_image.any(axis=(1, 2)).all()


def test_evaluation_without_labels_skips_too(tmp_path):
  encoded = images.Encoded(_PNG, 'png', 20, 30)
  _write(tmp_path / 'a', [tfrecord.encode_example(encoded, 'x'), b'bad'])
  names, skipped = _shown(_evaluation(tmp_path, decode_labels=False))
  assert (names, skipped) == (['x'], [f'{tmp_path}/a, record 1'])


def test_wrong_labels_are_no_matter_of_reading(tmp_path):
  """A class that does not exist is wrong in the configuration or in the whole set."""
  label = np.full([20, 30], 77 * 256, '<i4').tobytes()
  _write(tmp_path / 'a', [b'bad', _example(1, **{'segmentation/class/encoded': label})])
  _write(tmp_path / 'b', [_example(2)])
  _flip(tmp_path / 'b', 30)
  with pytest.raises(tf.errors.InvalidArgumentError, match='classes .77') as error:
    _shown(_evaluation(tmp_path))
  explanation = pipeline.explain(error.value, [f'{tmp_path}/*'])
  assert isinstance(explanation, errors.UserError)
  assert str(explanation).startswith(f'{tmp_path}/a, record 1: Image image 1: its label map')
