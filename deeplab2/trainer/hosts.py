"""Several hosts that train one model: who they are, and what they tell one another.

Every host runs the same program. The first one, the chief, writes the run; the others write what it
takes to keep step with it into a directory that is deleted at their end.
"""

from collections.abc import Iterator
import contextlib
import io
import json
import os
import tempfile
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context as tensorflow_context

from deeplab2 import errors
from deeplab2.trainer import stopping

CLUSTER = 'TF_CONFIG'  # The environment variable in which TensorFlow expects the cluster.
_START_TIMEOUT_SECONDS = 300  # For all hosts to be there.
_DEAD_AFTER_SECONDS = 30  # Without a sign of life.


def create_strategy(master: str | None) -> tf.distribute.MultiWorkerMirroredStrategy:
  """Joins the cluster and returns its strategy, of all GPUs that are visible here, else the CPU.

  Args:
    master: 'slurm' asks Slurm for the cluster, None the environment variable TF_CONFIG.

  Raises:
    UserError: the cluster is not described as it should be, or a host cannot be reached.
  """
  resolver = _slurm() if master == 'slurm' else _resolver(os.environ[CLUSTER])
  cluster = resolver.cluster_spec()
  logging.info(
    'This is %s %d of %s; waiting for the others.',
    resolver.task_type,
    resolver.task_id,
    cluster.as_dict(),
  )
  job_message = tensorflow_context.coordination_config_pb2.CoordinatedJob
  jobs = [job_message(name=job, num_tasks=cluster.num_tasks(job)) for job in cluster.jobs]
  leader = 'chief' if 'chief' in cluster.jobs else 'worker'
  # TensorFlow has no public way to say how long it waits.
  tensorflow_context.context().configure_coordination_service(
    service_type='standalone',
    service_leader=f'/job:{leader}/replica:0/task:0',
    cluster_register_timeout_in_ms=1000 * _START_TIMEOUT_SECONDS,
    heartbeat_timeout_in_ms=1000 * _DEAD_AFTER_SECONDS,
    coordinated_jobs=jobs,
  )
  try:
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
  except (tf.errors.OpError, RuntimeError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise errors.UserError(
      f'The hosts {cluster.as_dict()} cannot be joined: {reason}. Every one must be started, with '
      'the same list of hosts, and reach the others at these addresses.'
    ) from error
  # All have the same number of batches, so none asks the others whether there is another one.
  strategy.extended.experimental_enable_get_next_as_optional = False
  return strategy


def _slurm():
  try:
    return tf.distribute.cluster_resolver.SlurmClusterResolver()
  except (KeyError, RuntimeError, ValueError, OSError) as error:
    raise errors.UserError(
      f'--master=slurm: Slurm says nothing of a cluster ({error}); start the program by srun.'
    ) from error


def _resolver(text):
  """Returns the resolver of TF_CONFIG, checked."""
  form = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'

  def wrong(what):
    return errors.UserError(f'{CLUSTER}={text}: {what}; it must be like {form}.')

  try:
    content = json.loads(text)
    cluster, task = content['cluster'], content['task']
    job, index = task['type'], task['index']
    addresses = cluster[job]
  except (ValueError, KeyError, TypeError) as error:
    raise wrong(f'cannot be used ({type(error).__name__}: {error})') from error
  if not set(cluster) <= {'chief', 'worker'}:
    raise wrong(f'has tasks {sorted(cluster)}, and only "chief" and "worker" train')
  if not isinstance(index, int) or not 0 <= index < len(addresses):
    raise wrong(f'task.index = {index!r} is none of the {len(addresses)} addresses of "{job}"')
  return tf.distribute.cluster_resolver.TFConfigClusterResolver()


def count() -> int:
  """Returns the number of hosts of the current strategy."""
  extended = tf.distribute.get_strategy().extended
  return int(getattr(extended, '_num_workers', 1)) if _are_several() else 1


def _are_several():
  return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def is_chief() -> bool:
  """Returns whether this host writes the run."""
  return not _are_several() or bool(tf.distribute.get_strategy().extended._is_chief)


@contextlib.contextmanager
def own_directory(directory: str) -> Iterator[str]:
  """Yields where this host writes what the chief writes in `directory`."""
  if is_chief():
    yield directory
    return
  with tempfile.TemporaryDirectory(prefix='deeplab2-') as scratch:
    yield os.path.join(scratch, os.path.basename(directory))


def of_chief(value: bool) -> bool:
  """Returns what the chief has for `value`; all hosts must ask together."""
  return bool(gathered(value)[0])


def agree(stop: stopping.Request) -> bool:
  """Lets all hosts stop if one of them was asked to; returns whether. All must ask together."""
  numbers = [int(number) for number in gathered(stop.number or 0) if number]
  if numbers:
    stop.make(numbers[0])
  return bool(numbers)


def gathered(value: Any) -> list:
  """Returns the values of all hosts, in their order; all hosts must ask together.

  Args:
    value: a nest of arrays, numbers, byte strings and None, of one structure on all hosts.

  Returns:
    One nest of arrays and None for each host; for one host, `value` itself.
  """
  if count() == 1:
    return [value]
  buffer = io.BytesIO()
  flat = [None if item is None else np.asarray(item) for item in tf.nest.flatten(value)]
  # Arrays of byte strings are objects to numpy unless they have a length.
  plain = [item.astype('S') if item is not None and item.dtype == object else item for item in flat]
  named: dict[str, Any] = {str(i): item for i, item in enumerate(plain) if item is not None}
  np.savez(buffer, **named)
  content = buffer.getvalue()
  # Collectives carry no bytes.
  sized = len(content).to_bytes(8, 'little') + content
  numbers = tf.io.decode_raw(sized + bytes(-len(sized) % 4), tf.int32)
  data, values = _gather(numbers).numpy().tobytes(), []
  while data:
    size = int.from_bytes(data[:8], 'little')
    with np.load(io.BytesIO(data[8 : 8 + size]), allow_pickle=False) as stored:
      items = [stored.get(str(i)) for i in range(len(flat))]
    values.append(tf.nest.pack_sequence_as(value, items))
    data = data[8 + size + (-(8 + size)) % 4 :]
  return values


@tf.function(input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False)
def _gather(numbers):
  """Returns the numbers of all hosts, one after the other."""
  strategy = tf.distribute.get_strategy()
  local = strategy.num_replicas_in_sync // count()

  def on_replica(numbers):
    context = tf.distribute.get_replica_context()
    # The first replica of a host speaks for it.
    speaks = context.replica_id_in_sync_group % local == 0
    return context.all_gather(numbers[: tf.where(speaks, tf.shape(numbers)[0], 0)], axis=0)

  return strategy.experimental_local_results(strategy.run(on_replica, args=(numbers,)))[0]


@contextlib.contextmanager
def explained() -> Iterator[None]:
  """Raises the errors by which the loss of another host shows itself as ones that say so."""
  try:
    yield
  except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError) as error:
    if count() == 1:
      raise
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise errors.UserError(
      f'Another host of this training is gone ({reason}). Start all of them again: the run goes on '
      'from its newest checkpoint.'
    ) from error
