"""The real model with ReMask and recomputed blocks on 1, 2, 4 devices and 2 hosts, at one batch."""

from concurrent import futures
import json
import os
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.data import shapes
from deeplab2.data import tfrecord
from deeplab2.trainer import hosts
from tests.trainer import test_hosts

_STEPS = 5


class _Run(NamedTuple):
  directory: str
  logs: list
  distance: float | None

  def variables(self):
    reader = tf.train.load_checkpoint(f'{self.directory}/ckpt-{_STEPS}')
    return {
      key: reader.get_tensor(key)
      for key in reader.get_variable_to_shape_map()
      if key.startswith(('model/', 'remask_semantic_heads/')) and 'OPTIMIZER_SLOT' not in key
    }

  def metrics(self):
    with open(f'{self.directory}/eval/metrics-{_STEPS}.json') as file:
      return json.load(file)


@pytest.fixture(scope='module')
def records(tmp_path_factory):
  """Four images to train on, one batch, and three to evaluate.

  They are square and their own mirror images, so that neither order, padding nor flips matter.
  """
  directory = tmp_path_factory.mktemp('records')
  space = datasets.get('shapes').label_space
  for name, count in (('train-0', 2), ('train-1', 2), ('val-0', 3)):
    with tf.io.TFRecordWriter(str(directory / f'{name}.tfrecord')) as writer:
      for index in range(count):
        parts = shapes.generate(0, name, index, space)
        image, label = (np.hstack([part[:96, :48], part[:96, 47::-1]]) for part in parts)
        assert image.shape == (96, 96, 3)
        encoded = images.Encoded(tf.io.encode_png(image).numpy(), 'png', *label.shape)
        writer.write(tfrecord.encode_example(encoded, f'image_{index}', label))
  return directory


def _run(devices, directory, records, *other, clusters=(None,)):
  """Trains on devices of this process, or in one process for each of `clusters`."""
  command = [sys.executable, '-m', 'tests.trainer.distributed_run']
  processes = [
    subprocess.Popen(
      [*command, str(devices), directory, str(_STEPS), *other],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={
        **os.environ,
        'SHAPES_TFRECORDS': str(records),
        **({} if cluster is None else {hosts.CLUSTER: cluster}),
      },
    )
    for cluster in clusters
  ]
  # Both at once: a full pipe would stop a process.
  with futures.ThreadPoolExecutor(len(processes)) as pool:
    outputs = list(pool.map(lambda process: process.communicate(), processes))
  for process, (_, log) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, log[-3000:]
  return _Run(directory, **json.loads(outputs[0][0].splitlines()[-1]))


def _check(run, expected):
  """Checks that a run has trained and evaluated as the expected one."""
  assert len(run.logs) == len(expected.logs) == _STEPS
  for tag, value in expected.logs[0].items():
    if tag.startswith(('losses/', 'gradient_norm')):
      # Sums over pixels in another order.
      assert run.logs[0][tag] == pytest.approx(value, rel=2e-5, abs=1e-6), tag
  _check_variables(run, expected)
  metrics, others = run.metrics(), expected.metrics()
  assert metrics['num_images'] == others['num_images'] == 3  # Every image once.
  assert metrics['PQ'] == pytest.approx(others['PQ'], abs=1e-6)
  assert metrics['losses'] == pytest.approx(others['losses'], rel=1e-5)


def _check_variables(run, expected):
  found, wanted = run.variables(), expected.variables()
  assert found.keys() == wanted.keys()
  for key, value in wanted.items():
    np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_devices_and_hosts_train_and_evaluate_as_one_device_does(tmp_path, records):
  # One test, so that one process has what all are compared with.
  one = _run(1, str(tmp_path / 'one'), records)
  for devices in (2, 4):
    several = _run(devices, str(tmp_path / f'{devices}'), records, f'{one.directory}/ckpt-4')
    _check(several, one)
    assert several.distance == 0.0  # What one device saved, on all of them.
  of_hosts = _run(1, str(tmp_path / 'hosts'), records, clusters=test_hosts.clusters(2))
  _check(of_hosts, one)
  # One device goes on where two hosts stopped.
  for name in os.listdir(of_hosts.directory):
    if name.startswith(f'ckpt-{_STEPS}.'):
      os.rename(f'{of_hosts.directory}/{name}', tmp_path / name)
  with open(f'{of_hosts.directory}/checkpoint', 'w') as file:
    file.write('model_checkpoint_path: "ckpt-4"\n')
  resumed = _run(1, of_hosts.directory, records)
  assert len(resumed.logs) == 1
  _check_variables(resumed, one)
