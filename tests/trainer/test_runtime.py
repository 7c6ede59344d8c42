"""Devices, seeds and gin: what is asked for is what is used, or refused in one line."""

import ctypes
import logging
import resource
import time

import gin
import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.trainer import runtime


@pytest.fixture(autouse=True)
def _no_bindings():
  yield
  gin.clear_config()


@pytest.fixture
def two_gpus(monkeypatch):
  """Pretends that there are two GPUs; returns what was made visible."""
  visible = []
  monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: ['first', 'second'])
  monkeypatch.setattr(tf.config, 'set_visible_devices', lambda gpus, kind: visible.append(gpus))
  monkeypatch.setattr(tf.distribute, 'MirroredStrategy', lambda devices: ('mirrored', devices))
  monkeypatch.setattr(tf.distribute, 'OneDeviceStrategy', lambda device: ('one', device))
  return visible


@pytest.mark.parametrize(
  'asked, strategy, visible',
  [
    (None, ('mirrored', ['/gpu:0', '/gpu:1']), ['first', 'second']),
    (2, ('mirrored', ['/gpu:0', '/gpu:1']), ['first', 'second']),
    (1, ('one', '/gpu:0'), ['first']),
    (0, ('one', '/cpu:0'), []),
  ],
)
def test_gpus_that_exist_are_used_unless_told_otherwise(two_gpus, asked, strategy, visible):
  assert runtime.create_strategy(asked, None) == strategy
  assert two_gpus == [visible]


@pytest.mark.parametrize('asked', [-1, 3])
def test_gpus_that_do_not_exist_are_refused(two_gpus, asked):
  with pytest.raises(errors.UserError, match=f'--num_gpus={asked}: this machine has 2 GPUs'):
    runtime.create_strategy(asked, None)


def test_a_tpu_that_cannot_be_reached_is_named(monkeypatch):
  def refuse(tpu):
    raise ValueError(f'Could not look up {tpu}\nand more')

  monkeypatch.setattr(tf.distribute.cluster_resolver, 'TPUClusterResolver', refuse)
  with pytest.raises(errors.UserError, match="--master='pod': no such TPU.*look up pod$"):
    runtime.create_strategy(None, 'pod')


def test_gin_binds_seed(tmp_path):
  file = tmp_path / 'seed.gin'
  file.write_text('set_up.seed = 5\n')
  draws = []
  for _ in range(2):
    gin.clear_config()
    runtime.bind_gin([str(file)], [])
    runtime.set_up()
    draws.append((np.random.rand(), float(tf.random.uniform([]))))
  assert draws[0] == draws[1]


@pytest.mark.parametrize(
  'binding', ['set_up.sed = 1', 'trainer.learning_rate = 1', 'set_up.seed =']
)
def test_wrong_bindings_are_refused(binding):
  with pytest.raises(errors.UserError, match='--gin_param: ') as caught:
    runtime.bind_gin([], [binding])
    runtime.set_up()
  assert '\n' not in str(caught.value)


def test_gin_files_of_any_name_and_with_a_byte_order_mark(tmp_path):
  file = tmp_path / 'a[1].gin'
  file.write_bytes(b'\xef\xbb\xbfset_up.num_threads = 3')
  runtime.bind_gin([str(file)], [])
  assert gin.query_parameter('set_up.num_threads') == 3


def test_missing_gin_file_is_named():
  with pytest.raises(errors.UserError, match='nothing.gin'):
    runtime.bind_gin(['nothing.gin'], [])


def test_determinism_needs_a_seed():
  runtime.bind_gin([], ['set_up.deterministic = True'])
  with pytest.raises(errors.UserError, match='set_up.seed'):
    runtime.set_up()


def test_log_lines_are_plain(capsys):
  before = logging.getLogger().handlers[:]
  try:
    runtime.start_logging()
    logging.getLogger('absl').info('hello')
    assert capsys.readouterr().err.endswith(' hello\n')
  finally:
    logging.getLogger().handlers[:] = before


def _resident_mb():
  with open('/proc/self/statm', encoding='ascii') as file:
    return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), 'malloc_trim'), reason='only glibc gives memory back when asked'
)
def test_freed_memory_goes_back_while_a_context_lasts():
  blocks = [bytes(1000) for _ in range(200_000)]
  after = bytes(1000)  # What lies above them keeps them, freed, in this process.
  full = _resident_mb()
  with runtime.releasing_freed_memory(seconds_between=0.1):
    del blocks
    deadline = time.monotonic() + 30
    while _resident_mb() > full - 150:
      assert time.monotonic() < deadline
      time.sleep(0.01)
  assert len(after) == 1000
