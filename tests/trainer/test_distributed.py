"""The real model with ReMask and recomputed blocks on 1, 2 and 4 devices at the same batch."""

import json
import os
import shutil
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
  """Eight images to train on, and three to evaluate."""
  directory = tmp_path_factory.mktemp('records')
  space = datasets.get('shapes').label_space
  for split, count in (('train', 8), ('val', 3)):
    with tf.io.TFRecordWriter(str(directory / f'{split}-0.tfrecord')) as writer:
      for index in range(count):
        image, label = shapes.generate(0, split, index, space)
        encoded = images.Encoded(tf.io.encode_png(image).numpy(), 'png', *label.shape)
        writer.write(tfrecord.encode_example(encoded, f'image_{index}', label))
  return directory


def _run(devices, directory, records, *other):
  done = subprocess.run(
    [sys.executable, '-m', 'tests.trainer.distributed_run', str(devices), directory, str(_STEPS)]
    + list(other),
    capture_output=True,
    text=True,
    env={**os.environ, 'SHAPES_TFRECORDS': str(records)},
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return _Run(directory, **json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope='module')
def one(tmp_path_factory, records):
  return _run(1, str(tmp_path_factory.mktemp('one')), records)


@pytest.fixture(scope='module', params=[2, 4])
def several(request, tmp_path_factory, records, one):
  directory = str(tmp_path_factory.mktemp('several'))
  return _run(request.param, directory, records, f'{one.directory}/ckpt-4')


@pytest.mark.slow
def test_several_devices_train_as_one_does(one, several):
  assert len(one.logs) == len(several.logs) == _STEPS
  for tag, value in one.logs[0].items():
    if tag.startswith(('losses/', 'gradient_norm')):
      # Sums over pixels in another order.
      assert several.logs[0][tag] == pytest.approx(value, rel=2e-5, abs=1e-6), tag
  expected, found = one.variables(), several.variables()
  assert expected.keys() == found.keys()
  for key, value in expected.items():
    np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
  assert several.distance == 0.0


@pytest.mark.slow
def test_evaluation_on_several_devices_counts_every_image_once(one, several):
  expected, found = one.metrics(), several.metrics()
  assert found['num_images'] == expected['num_images'] == 3
  assert found['PQ'] == pytest.approx(expected['PQ'], abs=1e-6)


@pytest.mark.slow
def test_one_device_goes_on_where_several_stopped(tmp_path, records, several):
  directory = str(tmp_path / 'run')
  shutil.copytree(several.directory, directory)
  for name in os.listdir(directory):
    if name.startswith(f'ckpt-{_STEPS}.'):
      os.remove(f'{directory}/{name}')
  with open(f'{directory}/checkpoint', 'w') as file:
    file.write('model_checkpoint_path: "ckpt-4"\nall_model_checkpoint_paths: "ckpt-4"\n')
  resumed = _run(1, directory, records)
  assert len(resumed.logs) == 1
  for key, value in several.variables().items():
    np.testing.assert_allclose(resumed.variables()[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
