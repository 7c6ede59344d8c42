"""Tests of input from several machines: a tf.data service on this one, and shards of hosts."""

import socket

import numpy as np
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
_SERVICE = tf.data.experimental.service


def _example(number):
  """An image of one colour, its number."""
  encoded = images.Encoded(
    tf.io.encode_png(np.full([20, 30, 3], number, np.uint8)).numpy(), 'png', 20, 30
  )
  return tfrecord.encode_example(encoded, f'{number}', np.full([20, 30], 3 * 256, np.int32))


def _write(path, examples):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in examples:
      writer.write(example)


@pytest.fixture(name='directory')
def _directory(tmp_path):
  """Eight images in four files."""
  for index in range(4):
    _write(tmp_path / f'{index}.tfrecord', [_example(2 * index), _example(2 * index + 1)])
  return tmp_path


@pytest.fixture(name='service')
def _service():
  """The address of a dispatcher with two workers."""
  dispatcher = _SERVICE.DispatchServer()
  address = dispatcher.target.split('://')[1]
  workers = [
    _SERVICE.WorkerServer(
      _SERVICE.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=100)
    )
    for _ in range(2)
  ]
  yield dispatcher.target, workers
  for worker in workers:
    worker._stop()
  dispatcher._stop()


def _training(directory, **overrides):
  settings = dict(
    label_space=_SPACE,
    crop_size=(33, 33),
    batch_size=4,
    resize=geometry.Resize(),
    scale=augment.RandomScale(),
    target_options=targets.TargetOptions(max_thing_id=4),
    shuffle_buffer_size=4,
  )
  return pipeline.training([f'{directory}/*'], **{**settings, **overrides})


def _numbers(sample):
  """Returns the images of a batch by their colour."""
  return [
    int(np.unique(image[label == 3]).item())
    for image, label in zip(sample.image.numpy(), sample.targets.semantic.numpy(), strict=True)
  ]


def test_two_workers_make_the_batches(directory, service):
  address, workers = service
  local = _training(directory)
  dataset = _training(directory, data_service=address)
  assert dataset.element_spec == local.element_spec
  batches = list(dataset.take(40))
  shown = [number for sample in batches for number in _numbers(sample)]
  # As many as asked for, and every image about as often: 20 times, of two workers each.
  assert len(shown) == 160
  counts = [shown.count(number) for number in range(8)]
  assert sum(counts) == 160 and min(counts) >= 12 and max(counts) <= 28
  assert all(worker._num_tasks() == 1 for worker in workers)
  # The workers draw independently: no batch comes twice.
  assert len({sample.image.numpy().tobytes() for sample in batches}) == 40


@pytest.mark.parametrize('seed', [0, 7])
def test_workers_draw_independently_whatever_the_global_seed(directory, service, seed):
  address, _ = service
  tf.random.set_seed(seed)
  try:
    dataset = _training(
      directory, data_service=address, paste=copy_paste.CopyPaste(0.5, stuff='random')
    )
    batches = [sample.image.numpy().tobytes() for sample in dataset.take(12)]
  finally:
    tf.random.set_seed(None)
  assert len(set(batches)) == 12


def test_errors_of_a_worker_name_file_and_record(directory, service):
  address, _ = service
  path = directory / '2.tfrecord'
  _write(path, [_example(4), b'no example'])
  with pytest.raises(tf.errors.OpError) as error:
    for _ in _training(directory, data_service=address).take(40):
      pass
  explanation = pipeline.explain(error.value, [f'{directory}/*'])
  assert isinstance(explanation, errors.UserError)
  assert str(explanation).startswith(f'{path}, record 1: not a tf.Example')


def test_workers_skip_and_count(directory, service):
  address, _ = service
  _write(directory / '2.tfrecord', [_example(4), b'no example'])
  dataset = _training(directory, data_service=address, reader=reading.Skip(1.0))
  shown = {number for sample in dataset.take(20) for number in _numbers(sample)}
  assert shown == {0, 1, 2, 3, 4, 6, 7}
  with pytest.raises(tf.errors.OpError) as error:
    for _ in _training(directory, data_service=address, reader=reading.Skip(0.001)).take(40):
      pass
  explanation = pipeline.explain(error.value, [f'{directory}/*'])
  assert isinstance(explanation, errors.UserError)
  assert str(explanation).startswith('Corrupt records: 2 of ')


def test_a_dispatcher_that_cannot_be_reached_is_said_at_once(directory):
  with socket.socket() as unused:
    unused.bind(('localhost', 0))
    address = f'grpc://localhost:{unused.getsockname()[1]}'
    with pytest.raises(errors.UserError) as error:
      _training(directory, data_service=address)
  assert str(error.value) == (
    f'data_service = "{address}": no dispatcher of a tf.data service can be reached (Connection '
    'refused); start one there, and its workers.'
  )
  with pytest.raises(errors.UserError, match='grpc://no.such.host.invalid:80": no dispatcher'):
    _training(directory, data_service='grpc://no.such.host.invalid:80')


@pytest.mark.parametrize('hosts', [1, 2, 3, 4])
def test_every_file_belongs_to_one_host(directory, hosts):
  (directory / 'empty.tfrecord').touch()
  shown = [
    {
      number
      for sample in _training(
        directory, seed=1, batch_size=hosts, shard=pipeline.Shard(host, hosts)
      ).take(40)
      for number in _numbers(sample)
    }
    for host in range(hosts)
  ]
  assert sorted(sum(map(list, shown), [])) == list(range(8))
  assert all(2 * (4 // hosts) <= len(numbers) <= 2 * -(-4 // hosts) for numbers in shown)


def test_more_hosts_than_files_are_refused(directory):
  (directory / 'empty.tfrecord').touch()
  with pytest.raises(errors.UserError, match='^4 files with records cannot be shared by 5 hosts'):
    _training(directory, shard=pipeline.Shard(0, 5))


def test_hosts_draw_differently(tmp_path):
  for index in range(2):
    _write(tmp_path / f'{index}', [_example(5)])
  first, second = (
    next(iter(_training(tmp_path, seed=1, batch_size=8, shard=pipeline.Shard(host, 2))))
    for host in range(2)
  )
  assert first.image.shape == (4, 33, 33, 3)
  assert np.any(first.image != second.image)


def test_replicas_of_a_host_get_parts_of_the_batch(directory):
  whole = list(_training(directory, seed=1).take(3))
  parts = list(_training(directory, seed=1, shard=pipeline.Shard(replicas=2)).take(6))
  for index, sample in enumerate(whole):
    first, second = parts[2 * index : 2 * index + 2]
    np.testing.assert_array_equal(tf.concat([first.image, second.image], 0), sample.image)
    np.testing.assert_array_equal(
      tf.concat([first.targets.semantic, second.targets.semantic], 0), sample.targets.semantic
    )


@pytest.mark.parametrize('hosts, replicas', [(1, 1), (2, 1), (2, 2), (3, 1)])
def test_hosts_share_an_evaluation_without_repeating(directory, hosts, replicas):
  """Shards as tf.distribute makes them of runtime.distribute's dataset, seven images in all."""
  # What experimental_distribute_dataset does for several hosts; there is no public door to it.
  from tensorflow.python.distribute import input_ops

  _write(directory / '3.tfrecord', [_example(6)])
  dataset = pipeline.evaluation(
    [f'{directory}/*'],
    label_space=_SPACE,
    crop_size=(33, 33),
    batch_size=2 * hosts * replicas,
    resize=geometry.Resize(),
    target_options=targets.TargetOptions(max_thing_id=4),
  )
  options = tf.data.Options()
  options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
  dataset = dataset.with_options(options)
  shards = [
    list(
      input_ops.auto_shard_dataset(
        dataset.rebatch([2] * hosts * replicas).prefetch(replicas), hosts, host, hosts * replicas
      )
    )
    for host in range(hosts)
  ]
  names = [name.decode() for shard in shards for sample in shard for name in sample.name.numpy()]
  assert sorted(name for name in names if name) == [str(number) for number in range(7)]
  assert len({len(shard) for shard in shards}) == 1
