"""A short training with the real model on several devices, made of one CPU; run as a process.

  python -m tests.trainer.distributed_run DEVICES DIRECTORY STEPS [OTHER_CHECKPOINT]

With the environment variable TF_CONFIG, it is one of several hosts of one device each; otherwise,
one device runs operation by operation and several, as the hosts do, in graphs. Trains to step
STEPS in DIRECTORY and evaluates there. The last line is JSON: the logs of every step, and, if
another run's checkpoint is given, how far the variables on each device are from it once restored.
"""

import functools
import json
import os
import sys

import numpy as np
import tensorflow as tf

from deeplab2 import randomness
from deeplab2.checkpoint import native
from deeplab2.checkpoint import run_checkpoints
from deeplab2.config import load
from deeplab2.model.backbones import mobilenet_v3
from deeplab2.model.backbones import registry
from deeplab2.trainer import experiment
from deeplab2.trainer import hosts
from deeplab2.trainer import runtime
from deeplab2.trainer import trainer

_CONFIG = 'configs/shapes/kmax_mobilenet_v3_small.textproto'
_LOSSES = 'trainer_options.loss_options'
_SOLVER = 'trainer_options.solver_options'
# One block at each stride, for graphs take most of the time.
_ROWS = [mobilenet_v3.SMALL[index] for index in (0, 1, 2, 4, 9, 12)]
_OVERRIDES = [
  *(
    f'{split}_dataset_options.{name}'
    for split in ('train', 'eval')
    for name in ('crop_size=33,33', 'min_resize_value=33', 'max_resize_value=33')
  ),
  'train_dataset_options.batch_size=4',
  'train_dataset_options.seed=1',
  'eval_dataset_options.batch_size=1',
  'model_options.kmax.decoder_layers=1,0,0',
  'model_options.kmax.semantic_decoder=false',
  f'{_LOSSES}.remask.enable=true',
  f'{_LOSSES}.remask.num_relaxed_layers=1',
  f'{_LOSSES}.remask.head_channels=16',
  'model_options.decoder.atrous_rates=1,2,3',
  'train_dataset_options.augmentations.min_scale_factor=1',
  'train_dataset_options.augmentations.max_scale_factor=1',
  'trainer_options.recompute=BLOCKS',
  'trainer_options.steps_per_loop=1',
  'trainer_options.save_checkpoints_steps=4',
  'evaluator_options.eval_interval=100',
  # Adam divides by gradients that are near zero.
  f'{_SOLVER}.optimizer=sgd',
  f'{_SOLVER}.base_learning_rate=0.01',
  f'{_SOLVER}.warmup_steps=0',
  f'{_SOLVER}.use_gradient_clipping=true',
  f'{_SOLVER}.clip_gradient_norm=1.0',
]


class _Recorded(trainer.Trainer):
  """A trainer that keeps the logs of all calls."""

  logs: list[dict] = []

  def train(self, num_steps, stop=bool):
    found = super().train(num_steps, stop)
    self.logs.append({tag: float(value) for tag, value in found.items()})
    return found


def main(devices, directory, steps, other=None):
  """Runs the training; prints what is compared."""
  cpu = tf.config.list_physical_devices('CPU')[0]
  tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices)
  )
  # It takes longer than the few steps.
  tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})
  runtime.set_up(seed=1)
  # Replicas draw numbers of their own, as many devices do; here, all draw the same.
  randomness._Keyed.uniform = lambda self, shape: tf.fill(shape, 0.5)
  registry.BACKBONES['mobilenet_v3_small'] = functools.partial(
    mobilenet_v3.MobileNetV3, _ROWS, name='mobilenet_v3_small'
  )
  trainer.Trainer = _Recorded
  config = load.load(_CONFIG, [*_OVERRIDES, f'{_SOLVER}.training_number_of_steps={steps}'])
  if hosts.CLUSTER in os.environ:
    strategy = runtime.create_strategy(0, None)
  elif devices == '1':
    tf.config.run_functions_eagerly(True)  # As functions, building their graphs takes longer.
    strategy = tf.distribute.OneDeviceStrategy('/cpu:0')
  else:
    strategy = tf.distribute.MirroredStrategy([f'CPU:{index}' for index in range(int(devices))])
  with strategy.scope():
    experiment.train_and_evaluate(config, directory)
    distance = None if other is None else _distance(config, directory, other)
  print(json.dumps({'logs': _Recorded.logs, 'distance': distance}))


def _distance(config, directory, prefix):
  """Returns the largest difference of any copy of a variable from a checkpoint after restoring."""
  model = experiment._model(config, training=True)
  step = tf.Variable(0, dtype=tf.int64, trainable=False)
  run_checkpoints.Checkpoints(directory, model=model, global_step=step).restore(prefix)
  reader = tf.train.load_checkpoint(prefix)
  return max(
    float(np.abs(np.asarray(copy) - reader.get_tensor(f'{key}/.ATTRIBUTES/VARIABLE_VALUE')).max())
    for key, variable in native.variable_keys({'model': model}).items()
    for copy in variable.values
  )


if __name__ == '__main__':
  main(*sys.argv[1:])
