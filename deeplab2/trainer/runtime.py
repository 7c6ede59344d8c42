"""Devices, randomness and threads of a run."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import ctypes
import logging as python_logging
import os
import random
import threading

from absl import logging
import gin
import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2 import kernels
from deeplab2.data import pipeline
from deeplab2.trainer import hosts
from deeplab2.trainer import progress


def create_strategy(num_gpus: int | None, master: str | None) -> tf.distribute.Strategy:
  """Returns the strategy of the devices that are asked for.

  Args:
    num_gpus: number of GPUs of this host; 0 for the CPU, None for all GPUs that there are, else the
      CPU.
    master: name or address of a TPU (`local` for one of this machine), `slurm` for the hosts of a
      Slurm job, or None: the hosts of the environment variable TF_CONFIG, else this one.

  Raises:
    UserError: there is no such TPU or host, or not that many GPUs.
  """
  several_hosts = master == 'slurm' or (master is None and hosts.CLUSTER in os.environ)
  if master is not None and not several_hosts:
    return _tpu_strategy(master)
  gpus = tf.config.list_physical_devices('GPU')
  if num_gpus is None:
    num_gpus = len(gpus)
  if num_gpus < 0 or num_gpus > len(gpus):
    raise errors.UserError(
      f'--num_gpus={num_gpus}: this machine has {len(gpus)} GPUs; give '
      f'0 (the CPU) to {len(gpus)}, or leave it out to use all.'
    )
  tf.config.set_visible_devices(gpus[:num_gpus], 'GPU')
  if several_hosts:
    return hosts.create_strategy(master)
  if num_gpus > 1:
    return tf.distribute.MirroredStrategy([f'/gpu:{index}' for index in range(num_gpus)])
  return tf.distribute.OneDeviceStrategy('/gpu:0' if num_gpus else '/cpu:0')


def _tpu_strategy(master):
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=master)
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)
  except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise errors.UserError(f'--master={master!r}: no such TPU can be reached: {reason}') from error


def device_type() -> str:
  """Returns what the current strategy computes on: 'CPU', 'GPU' or 'TPU'."""
  types = kernels.device_types() - {'CPU'}
  return types.pop() if types else 'CPU'


def has_tpu() -> bool:
  """Returns whether the current strategy runs on a TPU."""
  return device_type() == 'TPU'


def distribute(dataset: tf.data.Dataset, *, fetch_to_device: bool):
  """Splits the batches of `dataset` over the replicas of the current strategy.

  Every host reads the whole dataset and keeps its own parts of the batches, so all get equally
  many, and nothing comes twice.

  Args:
    dataset: of global batches.
    fetch_to_device: whether batches are sent to the devices ahead of time. Strings, which devices
      cannot hold, need False.

  Returns:
    A distributed dataset.
  """
  options = tf.data.Options()
  options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
  return tf.distribute.get_strategy().experimental_distribute_dataset(
    dataset.with_options(options),
    tf.distribute.InputOptions(experimental_fetch_to_device=fetch_to_device),
  )


def distribute_shards(build: Callable[[pipeline.Shard], tf.data.Dataset], *, fetch_to_device: bool):
  """Lets every host of the current strategy make its shard of the input.

  Args:
    build: shard -> dataset of batches for one replica. Called once per host.
    fetch_to_device: as of `distribute`.

  Returns:
    A distributed dataset.
  """

  def of_host(context):
    hosts = context.num_input_pipelines
    return build(
      pipeline.Shard(context.input_pipeline_id, hosts, context.num_replicas_in_sync // hosts)
    )

  return tf.distribute.get_strategy().distribute_datasets_from_function(
    of_host, tf.distribute.InputOptions(experimental_fetch_to_device=fetch_to_device)
  )


_seed: int | None = None  # As `set_up` was told.


def seed_of_steps() -> int:
  """Returns the seed of what model and loss draw in a training step, a new one where none is set.

  A run with a set seed that is resumed draws what it would have drawn uninterrupted.
  """
  return random.SystemRandom().getrandbits(31) if _seed is None else _seed


@gin.configurable
def set_up(seed: int | None = None, deterministic: bool = False, num_threads: int = 0) -> None:
  """Sets what the experiment's options do not hold; values come from gin.

  Args:
    seed: of initial values and of the noise in model and loss. The input pipeline has its own,
      train_dataset_options.seed.
    deterministic: whether TensorFlow only uses kernels that give the same bits in every run.
    num_threads: most threads of one operation; 0 for one per core.

  Raises:
    UserError: the seed is no integer in [0, 2**31), or `deterministic` has none.
  """
  global _seed
  if seed is not None and (not isinstance(seed, int) or not 0 <= seed < 2**31):
    raise errors.UserError(f'gin: set_up.seed = {seed!r}; must be an integer from 0 to 2**31 - 1.')
  _seed = seed
  if seed is not None:
    random.seed(seed)
    np.random.seed(seed)
    tf.random.set_seed(seed)
  if deterministic:
    if seed is None:
      raise errors.UserError('gin: set_up.deterministic = True needs set_up.seed, an integer.')
    tf.config.experimental.enable_op_determinism()
  if num_threads:
    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    logging.info('At most %d threads per operation', num_threads)


def release_freed_memory() -> None:
  """Gives memory that was freed back to the system, where the C library can (glibc)."""
  library = ctypes.CDLL(None)
  if hasattr(library, 'malloc_trim'):
    library.malloc_trim(0)


@contextlib.contextmanager
def releasing_freed_memory(seconds_between: float = 0.3) -> Iterator[None]:
  """Does `release_freed_memory` every so many seconds while the context lasts, and at its end."""
  done = threading.Event()

  def release():
    while not done.wait(seconds_between):
      release_freed_memory()

  thread = threading.Thread(target=release, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    release_freed_memory()


def start_logging() -> None:
  """Shows the log from INFO on, one plain line each, without what others note on every call."""
  handler = progress.LogHandler()
  handler.setFormatter(python_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  python_logging.basicConfig(handlers=[handler], force=True)
  logging.set_verbosity(logging.INFO)
  logging.get_absl_logger().addFilter(
    lambda record: record.module not in ('functional_saver', 'loop_fns')
  )


def bind_gin(paths: Sequence[str], bindings: Sequence[str]) -> None:
  """Reads gin files and bindings.

  Raises:
    UserError: a file cannot be read, or something is bound that is not configurable.
  """
  for path in paths:
    _parse_gin(files.read_text(path), f'--gin_file={path}')
  _parse_gin(list(bindings), '--gin_param')
  gin.finalize()


def _parse_gin(bindings, flag):
  try:
    gin.parse_config(bindings)
  except (OSError, SyntaxError, ValueError, ImportError) as error:
    raise errors.UserError(f'{flag}: {" ".join(str(error).split())}') from error
