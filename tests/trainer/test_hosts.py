"""Several hosts, processes on this machine: they stop together, and notice when one is gone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.trainer import hosts
from deeplab2.trainer import runtime


def clusters(count):
  """Returns TF_CONFIG for each of `count` workers on this machine."""
  sockets = [socket.socket() for _ in range(count)]
  for one in sockets:
    one.bind(('localhost', 0))
  addresses = [f'localhost:{one.getsockname()[1]}' for one in sockets]
  for one in sockets:
    one.close()
  return [
    json.dumps({'cluster': {'worker': addresses}, 'task': {'type': 'worker', 'index': index}})
    for index in range(count)
  ]


def _start(directory):
  """Starts two hosts; returns their processes once both train."""
  processes = [
    subprocess.Popen(
      [sys.executable, '-m', 'tests.trainer.hosts_run', str(directory)],
      env={**os.environ, hosts.CLUSTER: cluster},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for cluster in clusters(2)
  ]
  for line in ('training\n', 'going on\n'):
    for process in processes:
      assert process.stdout.readline() == line, process.stderr.read()[-2000:]
  assert os.path.exists(directory / 'checkpoint')
  return processes


def _ended(process, seconds):
  """Returns exit code and log of a process that has to end within `seconds`."""
  try:
    _, log = process.communicate(timeout=seconds)
  finally:
    process.kill()
  return process.returncode, log


def test_a_signal_to_one_host_stops_all_at_the_same_step(tmp_path):
  chief, other = _start(tmp_path)
  other.send_signal(signal.SIGTERM)
  ended = [_ended(process, 120) for process in (chief, other)]
  assert [code for code, _ in ended] == [143, 143], ended[0][1][-2000:]
  steps = {re.search(r'Step (\d+) is saved', log).group(1) for _, log in ended}
  assert len(steps) == 1
  assert tf.train.latest_checkpoint(str(tmp_path)).endswith(f'ckpt-{steps.pop()}')
  # The other host leaves nothing in the run.
  assert not [name for name in os.listdir(tmp_path) if 'temp' in name]


def test_when_a_host_dies_the_others_end_within_a_minute(tmp_path):
  chief, other = _start(tmp_path)
  other.kill()
  code, log = _ended(chief, 60)
  other.communicate()
  assert code == 2, log[-3000:]
  assert 'Another host of this training is gone' in log.splitlines()[-1]
  assert 'Traceback' not in log


@pytest.mark.parametrize(
  'text, message',
  [
    ('{', 'cannot be used'),
    ('{"cluster": {"worker": ["a:1"]}}', "KeyError: 'task'"),
    ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}', "'chief'"),
    ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', 'index = 1'),
    ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', 'only "chief" and'),
  ],
)
def test_a_wrong_cluster(monkeypatch, text, message):
  monkeypatch.setenv(hosts.CLUSTER, text)
  with pytest.raises(errors.UserError, match=message) as caught:
    runtime.create_strategy(0, None)
  assert 'TF_CONFIG=' in str(caught.value) and 'must be like {"cluster"' in str(caught.value)


def test_slurm_without_slurm(monkeypatch):
  for name in list(os.environ):
    if name.startswith('SLURM'):
      monkeypatch.delenv(name)
  with pytest.raises(errors.UserError, match='--master=slurm: .* srun'):
    runtime.create_strategy(0, 'slurm')


def test_one_host_needs_no_others(tmp_path):
  assert hosts.count() == 1 and hosts.is_chief()
  assert hosts.gathered('x') == ['x']
  assert hosts.of_chief(True) and not hosts.of_chief(False)
  with hosts.own_directory(str(tmp_path)) as directory:
    assert directory == str(tmp_path)
