"""Tests of deeplab2.data.pipeline on small records written here."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.data import augment
from deeplab2.data import autoaugment
from deeplab2.data import copy_paste
from deeplab2.data import geometry
from deeplab2.data import images
from deeplab2.data import pipeline
from deeplab2.data import reading
from deeplab2.data import targets
from deeplab2.data import tfrecord
from deeplab2.trainer import runtime

_SPACE = structures.LabelSpace(num_classes=5, ignore_label=0, label_divisor=256, thing_ids=(1, 2))
_SIZES = [(20, 30), (33, 33), (41, 25), (33, 65), (10, 12)]

# Two replicas on one machine. Must come before TensorFlow starts.
tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def _label(number):
  """Left half stuff 3 or 4, right half instance `number` + 1 of class 1, two rows of void."""
  height, width = _SIZES[number % len(_SIZES)]
  label = np.full([height, width], 256 + number + 1, np.int32)
  label[:, : width // 2] = (3 + number % 2) * 256
  label[:2] = 0
  return label


def _example(number, label=None):
  """Red is 20 times the class of the pixel, green is the number of the image."""
  ground_truth = _label(number)
  image = np.stack(
    [ground_truth // 256 * 20, np.full(ground_truth.shape, number), ground_truth * 0], -1
  )
  encoded = images.Encoded(
    tf.io.encode_png(image.astype(np.uint8)).numpy(), 'png', *ground_truth.shape
  )
  return tfrecord.encode_example(encoded, f'{number:06d}', ground_truth if label is None else label)


def _write(path, examples):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example)


@pytest.fixture(name='pattern')
def _pattern(tmp_path):
  """Five images in two files, and an empty file between them."""
  _write(tmp_path / 'a.tfrecord', [_example(0), _example(1), _example(2)])
  (tmp_path / 'b.tfrecord').touch()
  _write(tmp_path / 'c.tfrecord', [_example(3), _example(4)])
  return str(tmp_path / '*.tfrecord')


def _training(pattern, **overrides):
  settings = dict(
    label_space=_SPACE,
    crop_size=(33, 33),
    batch_size=4,
    resize=geometry.Resize(),
    scale=augment.RandomScale(),
    target_options=targets.TargetOptions(max_thing_id=4),
    shuffle_buffer_size=10,
    seed=1,
  )
  return pipeline.training([pattern], **{**settings, **overrides})


def _evaluation(pattern, **overrides):
  settings = dict(
    label_space=_SPACE,
    crop_size=(33, 33),
    batch_size=2,
    resize=geometry.Resize(),
    target_options=targets.TargetOptions(max_thing_id=4),
  )
  return pipeline.evaluation([pattern], **{**settings, **overrides})


def _flat(sample):
  return [field.numpy() for field in tf.nest.flatten(sample) if field is not None]


def test_training_batches_have_static_shapes(pattern):
  spec = _training(pattern).element_spec
  assert spec.image == tf.TensorSpec([4, 33, 33, 3], tf.float32)
  assert spec.targets == structures.Targets(
    tf.TensorSpec([4, 33, 33], tf.int32),
    tf.TensorSpec([4, 33, 33], tf.int32),
    tf.TensorSpec([4, 4], tf.int32),
    tf.TensorSpec([4, 33, 33], tf.float32),
  )
  sample = next(iter(_training(pattern)))
  assert (sample.placement, sample.name, sample.panoptic, sample.panoptic_raw) == (None,) * 4


def test_image_and_targets_stay_together(pattern):
  for sample in _training(pattern).take(10):
    red, semantic = sample.image[..., 0], sample.targets.semantic
    is_padding = sample.image[..., 1] == 127.5
    expected = tf.where(is_padding, 127.5, 20.0 * tf.cast(semantic, tf.float32))
    np.testing.assert_array_equal(red, expected)
    np.testing.assert_array_equal(tf.boolean_mask(semantic, is_padding), 0)
    np.testing.assert_array_equal(sample.targets.thing_id_mask == 0, semantic == 1)


def test_training_goes_on_and_shows_every_image(pattern):
  shown = [
    round(number)
    for sample in _training(pattern).take(10)
    for number in sample.image.numpy()[..., 1].min(axis=(1, 2))
  ]
  assert len(shown) == 40
  epochs = [shown[start : start + 5] for start in range(0, 40, 5)]
  assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
  assert epochs[0] != epochs[1]


def test_the_same_seed_gives_the_same_batches(pattern):
  scale = augment.RandomScale(0.5, 2.0, 0.0)
  first, again, other, unseeded = (
    [_flat(sample) for sample in _training(pattern, seed=seed, scale=scale).take(4)]
    for seed in (5, 5, 6, None)
  )
  for one, same in zip(itertools.chain(*first), itertools.chain(*again), strict=True):
    np.testing.assert_array_equal(one, same)
  assert any(np.any(a[0] != b[0]) for a, b in zip(first, other, strict=True))
  assert any(np.any(a[0] != b[0]) for a, b in zip(first, unseeded, strict=True))


@pytest.mark.parametrize('first_step', [1, 3, 5, 11])
@pytest.mark.parametrize('paste', [None, copy_paste.CopyPaste(1.0, things='all')])
def test_the_stream_goes_on_at_any_step(pattern, first_step, paste):
  settings = dict(seed=5, scale=augment.RandomScale(0.5, 2.0, 0.0), paste=paste)
  whole = list(_training(pattern, **settings).take(first_step + 3))[first_step:]
  rest = list(_training(pattern, first_step=first_step, **settings).take(3))
  for one, same in zip(whole, rest, strict=True):
    for value, equal in zip(_flat(one), _flat(same), strict=True):
      np.testing.assert_array_equal(value, equal)


@pytest.mark.parametrize('host', [0, 1])
def test_the_stream_of_a_host_with_two_replicas_goes_on(pattern, host):
  shard = pipeline.Shard(host, 2, 2)
  whole = list(_training(pattern, seed=5, shard=shard).take(10))[6:]
  rest = list(_training(pattern, seed=5, shard=shard, first_step=3).take(4))
  for one, same in zip(whole, rest, strict=True):
    np.testing.assert_array_equal(one.image, same.image)


def test_orders_depend_on_the_seed_of_the_input_alone(pattern):
  images = []
  for seed in (None, 0, 7):
    tf.random.set_seed(seed)
    images.append(next(iter(_training(pattern, seed=5))).image.numpy())
  tf.random.set_seed(None)
  np.testing.assert_array_equal(images[0], images[1])
  np.testing.assert_array_equal(images[0], images[2])


def test_runs_of_the_next_seeds_share_no_order(tmp_path):
  _write(tmp_path / 'a', [_example(number) for number in range(30)])
  orders = [
    tuple(
      hash(str(tf.nest.flatten(stored)))
      for stored in pipeline.shuffled(
        [str(tmp_path / 'a')], reading.Fail(), 30, seed, order=order
      ).take(30)
    )
    for seed in (0, 1, 2)
    for order in pipeline._ORDERS
  ]
  assert len({frozenset(order) for order in orders}) == 1 and len(set(orders[0])) == 30
  assert len(set(orders)) == 6


def test_a_image_is_augmented_anew_each_time(tmp_path):
  _write(tmp_path / 'one', [_example(3)])
  batch = next(iter(_training(str(tmp_path / 'one'), batch_size=8))).image.numpy()
  assert len({image.tobytes() for image in batch}) > 4


def test_autoaugment_changes_colours_alone(pattern):
  dark = ((autoaugment.Step(autoaugment.brightness, 1.0, 0.0),) * 2,)  # Two times times 0.1.
  plain, changed = (
    next(iter(_training(pattern, seed=3, policy=policy))) for policy in (None, dark)
  )
  for before, after in zip(plain.targets, changed.targets, strict=True):
    np.testing.assert_array_equal(before, after)
  is_image = plain.targets.semantic.numpy() != 0
  by_hand = np.floor(np.floor(np.floor(plain.image.numpy()) * 0.1) * 0.1)
  np.testing.assert_array_equal(changed.image.numpy()[is_image], by_hand[is_image])


def _pasted(pattern, **options):
  settings = copy_paste.CopyPaste(0.5, **options)
  return _training(pattern, seed=5, paste=settings, scale=augment.RandomScale(1.0, 1.0))


def test_things_of_another_image_are_pasted_with_their_pixels(pattern):
  plain = _training(pattern, seed=5, scale=augment.RandomScale(1.0, 1.0))
  pasted = _pasted(pattern, things='all', stuff='none')
  more = 0
  for before, after in itertools.islice(zip(plain, pasted, strict=False), 10):
    counts = [
      np.sum(sample.targets.thing_id_class.numpy() >= 0, axis=1) for sample in (before, after)
    ]
    more += np.sum(counts[1] > counts[0])
    is_same = np.all(before.image == after.image, axis=-1)
    # Pixels that changed show another image's thing.
    assert np.all(after.targets.thing_id_mask.numpy()[~is_same] >= 0)
    # Red is 20 times the class, wherever a pixel is from.
    is_labelled = after.targets.semantic.numpy() != 0
    red = after.image.numpy()[..., 0]
    np.testing.assert_allclose(
      red[is_labelled], 20.0 * after.targets.semantic.numpy()[is_labelled], atol=25.0
    )
  assert more > 0


def test_nothing_to_paste_leaves_every_bit(pattern):
  plain = _training(pattern, seed=5, scale=augment.RandomScale(1.0, 1.0))
  pasted = _pasted(pattern, things='none', stuff='none')
  for before, after in itertools.islice(zip(plain, pasted, strict=False), 3):
    for ours, theirs in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
      np.testing.assert_array_equal(ours, theirs)


def test_copy_paste_is_the_same_with_the_same_seed(pattern):
  first, second = (next(iter(_pasted(pattern, things='random', stuff='random'))) for _ in range(2))
  for ours, theirs in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('batch_size', [1, 2, 4, 5, 8])
def test_evaluation_shows_every_image_once_and_fills_up_the_tail(pattern, batch_size):
  batches = list(_evaluation(pattern, batch_size=batch_size))
  assert len(batches) == -(-5 // batch_size)
  names, raw_sizes = [], []
  for sample in batches:
    assert sample.image.shape == (batch_size, 33, 33, 3)
    names.extend(sample.name.numpy().tolist())
    raw_sizes.extend(sample.placement.raw_size.numpy().tolist())
  padding = len(batches) * batch_size - 5
  assert names == [b'%06d' % number for number in range(5)] + [b''] * padding
  assert raw_sizes == [list(size) for size in _SIZES] + [[0, 0]] * padding


def test_evaluation_holds_the_map_at_either_size(pattern):
  batches = list(_evaluation(pattern, batch_size=4, resize=geometry.Resize((33, 33), (33, 33))))
  assert batches[0].panoptic_raw.shape == (4, 41, 65)
  for number in range(5):
    sample, index = batches[number // 4], number % 4
    label = _label(number)
    height, width = label.shape
    raw = sample.panoptic_raw[index].numpy()
    np.testing.assert_array_equal(raw[:height, :width], label)
    np.testing.assert_array_equal(raw[height:], 0)
    np.testing.assert_array_equal(raw[:, width:], 0)
    placement = structures.Placement(*(field[index] for field in sample.placement))
    np.testing.assert_array_equal(placement.resized_size.numpy().max(), 33)
    fitted = geometry.fit_label(tf.constant(label), placement, (33, 33), 0)
    np.testing.assert_array_equal(sample.panoptic[index], fitted)
    np.testing.assert_array_equal(sample.targets.semantic[index], fitted // 256)
  np.testing.assert_array_equal(batches[1].panoptic[1:], np.zeros([3, 33, 33]))
  np.testing.assert_array_equal(batches[1].targets.thing_id_class[1:], np.full([3, 4], -1))


def test_padding_and_padding_examples_are_void_where_void_is_not_zero(tmp_path):
  space = structures.LabelSpace(5, ignore_label=255, label_divisor=1000, thing_ids=(1, 2))
  for number, size in enumerate([(9, 5), (5, 9), (4, 4)]):
    encoded = images.Encoded(tf.io.encode_png(np.zeros([*size, 3], np.uint8)).numpy(), 'png', *size)
    _write(
      tmp_path / str(number), [tfrecord.encode_example(encoded, str(number), np.full(size, 3000))]
    )
  first, last = _evaluation(str(tmp_path / '*'), label_space=space)
  np.testing.assert_array_equal(first.panoptic_raw[0, :, 5:], np.full([9, 4], 255000))
  np.testing.assert_array_equal(first.panoptic[0, 9:], np.full([24, 33], 255000))
  np.testing.assert_array_equal(last.targets.semantic[1], np.full([33, 33], 255))
  np.testing.assert_array_equal(last.panoptic_raw[1], np.full([4, 4], 255000))


def test_evaluation_works_without_labels(tmp_path):
  encoded = images.Encoded(
    tf.io.encode_png(np.full([20, 30, 3], 7, np.uint8)).numpy(), 'png', 20, 30
  )
  _write(tmp_path / 'x', [tfrecord.encode_example(encoded, 'x')] * 3)
  first, last = _evaluation(str(tmp_path / 'x'), decode_labels=False)
  assert (first.targets, first.panoptic, first.panoptic_raw) == (None, None, None)
  np.testing.assert_array_equal(first.image[:, :20, :30], np.full([2, 20, 30, 3], 7))
  np.testing.assert_array_equal(last.placement.raw_size, [[20, 30], [0, 0]])


@pytest.mark.parametrize('decode_labels', [True, False])
def test_two_replicas_share_the_batches_of_evaluation(pattern, decode_labels):
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  dataset = _evaluation(pattern, decode_labels=decode_labels)

  @tf.function
  def step(iterator):
    def replica(sample):
      assert isinstance(sample, structures.Sample)
      assert (sample.targets is None) == (not decode_labels)
      assert sample.image.shape[1:] == (33, 33, 3)
      return sample.placement.raw_size, sample.name

    return strategy.run(replica, args=(next(iterator),))

  sizes, names = [], []
  iterator = iter(strategy.experimental_distribute_dataset(dataset))
  for _ in range(3):
    for values, results in zip(step(iterator), (sizes, names), strict=True):
      results.extend(np.concatenate(strategy.experimental_local_results(values)).tolist())
  assert sizes == [list(size) for size in _SIZES] + [[0, 0]]
  assert names == [b'%06d' % number for number in range(5)] + [b'']
  with pytest.raises(tf.errors.OutOfRangeError):
    step(iterator)


def test_two_replicas_share_the_batches_of_training(pattern):
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  with strategy.scope():
    iterator = iter(
      runtime.distribute_shards(lambda shard: _training(pattern, shard=shard), fetch_to_device=True)
    )
  sample = next(iterator)
  expected = next(iter(_training(pattern)))
  for i, image in enumerate(strategy.experimental_local_results(sample.image)):
    np.testing.assert_array_equal(image, expected.image[2 * i : 2 * i + 2])


@pytest.mark.parametrize('read', [_training, _evaluation])
def test_files_that_are_missing_or_empty_are_refused(read, tmp_path):
  missing = str(tmp_path / 'no-*.tfrecord')
  with pytest.raises(errors.UserError, match='No file matches the pattern .*no-'):
    read(missing)
  with pytest.raises(errors.UserError, match=r'is a directory; write .*/\*\.tfrecord'):
    read(str(tmp_path))
  (tmp_path / 'empty.tfrecord').touch()
  with pytest.raises(errors.UserError, match='1 files .* hold no record'):
    read(str(tmp_path / '*'))


def test_what_lies_beside_the_shards_is_left_alone(tmp_path):
  for name in (
    'train-00000-of-00001.tfrecord',
    'manifest-train.json',
    'train-1.tfrecord.part',
    'train-2.tfrecord.part.tmp',
  ):
    (tmp_path / name).write_bytes(b'x')
  assert pipeline.find_files([f'{tmp_path}/*']) == [f'{tmp_path}/train-00000-of-00001.tfrecord']
  with pytest.raises(errors.UserError, match='Only an unfinished run of build_tfrecords.py'):
    pipeline.find_files([f'{tmp_path}/*.part*'])


def test_a_file_matched_twice_is_read_once(pattern):
  files = pipeline.find_files([pattern, pattern.replace('*', 'a')])
  assert [file[-10:] for file in files] == ['a.tfrecord', 'b.tfrecord', 'c.tfrecord']
  with pytest.raises(errors.UserError, match='No file pattern'):
    pipeline.find_files([])


def _explanation(pattern, read=_evaluation):
  with pytest.raises(tf.errors.OpError) as error:
    for _ in read(pattern).take(20):
      pass
  return pipeline.explain(error.value, [pattern])


@pytest.mark.parametrize('lost', [50, 'all but 5 bytes of a record'])
@pytest.mark.parametrize('read', [_training, _evaluation])
def test_a_truncated_file_is_named(pattern, read, lost):
  path = pattern.replace('*', 'c')
  content = open(path, 'rb').read()
  first, _ = (len(record.numpy()) + 16 for record in tf.data.TFRecordDataset(path))
  # TensorFlow itself takes a file that is cut within the length of a record for a whole one.
  open(path, 'wb').write(content[: first + 5 if isinstance(lost, str) else -lost])
  explanation = _explanation(pattern, read)
  assert isinstance(explanation, errors.UserError)
  assert f'{path}, record 1: ' in str(explanation)


def test_a_flipped_bit_is_found(pattern):
  path = pattern.replace('*', 'a')
  content = bytearray(open(path, 'rb').read())
  content[len(content) // 2] ^= 1
  open(path, 'wb').write(bytes(content))
  explanation = _explanation(pattern)
  assert isinstance(explanation, errors.UserError)
  assert f'{path}, record 1: ' in str(explanation)


@pytest.mark.parametrize('read', [_training, _evaluation])
def test_an_unknown_class_is_named(pattern, read):
  path = pattern.replace('*', 'd')
  wrong = np.where(_label(1) >= 768, 7 * 256, _label(1))
  _write(path, [_example(0), _example(11, np.resize(wrong, _label(11).shape))])
  explanation = _explanation(pattern, read)
  assert isinstance(explanation, errors.UserError)
  assert f'{path}, record 1: Image 000011: its label map holds the ids [1792] of classes [7]' in (
    str(explanation)
  )


def test_a_label_map_of_another_size_is_named(pattern):
  path = pattern.replace('*', 'd')
  example = tf.train.Example.FromString(_example(7))
  example.features.feature['image/segmentation/class/encoded'].bytes_list.value[0] = bytes(400)
  _write(path, [_example(0), example.SerializeToString()])
  explanation = _explanation(pattern)
  assert isinstance(explanation, errors.UserError)
  assert f"{path}, record 1, image '000007'" in str(explanation)


def test_a_image_that_cannot_be_decoded_is_named(pattern):
  path = pattern.replace('*', 'd')
  example = tf.train.Example.FromString(_example(7))
  example.features.feature['image/encoded'].bytes_list.value[0] = b'no image'
  _write(path, [example.SerializeToString()])
  explanation = _explanation(pattern)
  assert isinstance(explanation, errors.UserError)
  assert f"{path}, record 0, image '000007'" in str(explanation)


def test_errors_that_are_not_about_the_data_stay_as_they_are(pattern):
  with pytest.raises(tf.errors.OpError) as error:
    tf.debugging.assert_all_finite(tf.constant(np.nan), 'the loss')
  assert pipeline.explain(error.value, [pattern]) is error.value


@pytest.mark.parametrize('skip', [0, 2, 4, 6])
def test_an_evaluation_that_passes_over_records_ends_like_the_whole(pattern, skip):
  whole = [_flat(sample) for sample in _evaluation(pattern)]
  rest = [_flat(sample) for sample in _evaluation(pattern, skip=skip)]
  assert len(rest) == max(len(whole) - skip // 2, 0)
  for ours, theirs in zip(rest, whole[skip // 2 :], strict=True):
    for one, other in zip(ours, theirs, strict=True):
      np.testing.assert_array_equal(one, other)
