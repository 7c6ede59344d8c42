"""Training input prepared by the workers of a tf.data service.

Every worker reads all files in a random order of its own and prepares whole batches; the trainer
takes whichever is ready. There is no epoch over all workers: after W workers have gone through the
files n_1, ..., n_W times, an image was seen n_1 + ... + n_W times, give or take the W rounds under
way. Workers may come and go; what a lost one had ready is lost with it, and nothing else.
"""

from collections.abc import Callable
import socket
import urllib.parse

from absl import logging
import tensorflow as tf

from deeplab2 import errors

_SECONDS_TO_ANSWER = 10


def distribute(build: Callable[[tf.Tensor], tf.data.Dataset], address: str) -> tf.data.Dataset:
  """Returns the batches that the workers of a tf.data service make.

  Args:
    build: seed, [] int64 -> dataset. Called once, to trace it; each worker runs it with a seed of
      its own.
    address: of the dispatcher, like grpc://host:5000.

  Raises:
    UserError: nothing answers at the address.
  """
  _reach(address)

  def with_own_seed(_):
    # Of this function's graph alone. Without it, TensorFlow asks whether the tensor below is 0.
    tf.random.set_seed(1)
    # Raw, because with a seed of tf.random.set_seed all workers would draw the same.
    return build(
      tf.raw_ops.RandomUniformInt(
        shape=tf.zeros([0], tf.int32),
        minval=tf.constant(1, tf.int64),
        maxval=tf.constant(2**31 - 1, tf.int64),
      )
    )

  dataset = tf.data.Dataset.range(1).flat_map(with_own_seed)
  try:
    dataset = dataset.apply(
      tf.data.experimental.service.distribute(
        tf.data.experimental.service.ShardingPolicy.OFF, address
      )
    )
  except tf.errors.OpError as error:
    raise errors.UserError(
      f'data_service = "{address}": no dispatcher of a tf.data service '
      f'({" ".join(error.message.split())}).'
    ) from error
  logging.info(
    'Input comes from the tf.data service at %s; without workers there it will not start.', address
  )
  return dataset


def _reach(address):
  """Raises UserError unless something listens: TensorFlow would try for ever, without a word."""
  found = urllib.parse.urlsplit(address)
  try:
    socket.create_connection((found.hostname, found.port), _SECONDS_TO_ANSWER).close()
  except OSError as error:
    raise errors.UserError(
      f'data_service = "{address}": no dispatcher of a tf.data service can be reached '
      f'({error.strerror or error}); start one there, and its workers.'
    ) from error
