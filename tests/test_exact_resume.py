"""A training that is killed and started again ends with the variables of an uninterrupted one."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = 'configs/shapes/kmax_mobilenet_v3_small.textproto'
NAME = 'shapes_kmax_mobilenet_v3_small'
STEPS = 6
# Drop path, sampled pixels, random scales, copy-paste and ReMask's heads all draw or have state.
OVERRIDES = [
  'train_dataset_options.crop_size=65,65',
  'eval_dataset_options.crop_size=65,65',
  'train_dataset_options.min_resize_value=65',
  'train_dataset_options.max_resize_value=65',
  'eval_dataset_options.min_resize_value=65',
  'eval_dataset_options.max_resize_value=65',
  'train_dataset_options.batch_size=2',
  'train_dataset_options.seed=1',
  'train_dataset_options.augmentations.panoptic_copy_paste.panoptic_copy_paste_scale=1.0',
  'model_options.kmax.decoder_drop_path_keep_prob=0.5',
  'model_options.kmax.decoder_layers=1,1,0',
  'trainer_options.steps_per_loop=1',
  'trainer_options.save_checkpoints_steps=2',
  'trainer_options.save_summaries_steps=2',
  'trainer_options.loss_options.remask.enable=true',
  'trainer_options.loss_options.remask.num_relaxed_layers=2',
  'model_options.decoder.atrous_rates=1,2,3',
  f'trainer_options.solver_options.training_number_of_steps={STEPS}',
  'trainer_options.solver_options.warmup_steps=2',
]


def _start(directory):
  command = [
    sys.executable,
    '-m',
    'deeplab2.trainer.train',
    f'--config_file={CONFIG}',
    '--mode=train',
    f'--model_dir={directory / "model"}',
    '--gin_param=set_up.seed = 1',
    '--gin_param=set_up.deterministic = True',
  ]
  for override in OVERRIDES:
    command += ['--set', override]
  return subprocess.Popen(
    command,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={
      **os.environ,
      'SHAPES_TFRECORDS': str(directory.parent / 'records'),
      'PYTHONPATH': str(ROOT),
    },
  )


def _finish(directory):
  process = _start(directory)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 0, output
  return output


def _final_variables(directory):
  reader = tf.train.load_checkpoint(str(directory / 'model' / NAME / f'ckpt-{STEPS}'))
  return {
    key: reader.get_tensor(key)
    for key in reader.get_variable_to_shape_map()
    if not key.startswith(('_CHECKPOINTABLE', 'save_counter'))
  }


@pytest.mark.slow
def test_a_killed_training_ends_like_an_uninterrupted_one(tmp_path):
  subprocess.run(
    [
      sys.executable,
      'scripts/build_tfrecords.py',
      '--dataset=shapes',
      '--split=train',
      '--num_images=7',
      '--num_shards=2',
      f'--output_dir={tmp_path / "records"}',
    ],
    cwd=ROOT,
    check=True,
    capture_output=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  _finish(whole)
  process = _start(killed)
  deadline = time.monotonic() + 300
  while not (killed / 'model' / NAME / 'ckpt-2.index').exists():
    assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (killed / 'model' / NAME / f'ckpt-{STEPS}.index').exists()
  assert 'Resumed' in _finish(killed)
  expected, found = _final_variables(whole), _final_variables(killed)
  assert set(expected) == set(found) and len(expected) > 100
  different = [key for key, value in expected.items() if not np.array_equal(value, found[key])]
  assert not different
