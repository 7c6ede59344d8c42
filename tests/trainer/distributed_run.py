"""Short trainings with the real model on devices made of one CPU; run as a process.

  python -m tests.trainer.distributed_run DIRECTORY STEPS NAME...

With the environment variable TF_CONFIG, it is one of several hosts of one device each. Trains to
step STEPS in DIRECTORY/NAME for each NAME, on the devices that RUNS has for it, and evaluates
there. The last line is JSON, of every name: the logs of every step, and how far the variables on
each device are, once restored, from the first one's last checkpoint but one.
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
# One small block at each stride, for building them takes most of the time.
_ROWS = (
  mobilenet_v3.SMALL[0],
  mobilenet_v3.SMALL[1],
  mobilenet_v3.SMALL[2]._replace(expansion=2),
  mobilenet_v3.SMALL[2]._replace(expansion=1),
  mobilenet_v3.SMALL[12]._replace(stride=2),
)
_STAGES = [f'{{filters: {filters} num_blocks: 1 type: BOTTLENECK}}' for filters in (64, 48, 32, 16)]
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
  f'model_options.kmax.pixel_decoder_stages=[{", ".join(_STAGES)}]',
  f'{_LOSSES}.remask.enable=true',
  f'{_LOSSES}.remask.num_relaxed_layers=1',
  f'{_LOSSES}.remask.head_channels=16',
  'model_options.decoder.atrous_rates=1,2,3',
  'train_dataset_options.augmentations.min_scale_factor=1',
  'train_dataset_options.augmentations.max_scale_factor=1',
  'trainer_options.recompute=BLOCKS',
  'trainer_options.steps_per_loop=1',
  'trainer_options.save_checkpoints_steps=1',
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


def _one():
  return tf.distribute.OneDeviceStrategy('/cpu:0')


def _several(devices):
  # Each strategy of a process needs keys of its own.
  tf.distribute.MirroredStrategy._collective_key_base += 10**6
  return tf.distribute.MirroredStrategy([f'CPU:{index}' for index in range(devices)])


# Name -> (strategy, whether it runs operation by operation, which is sooner for few steps).
RUNS = {
  'one': (_one, True),
  'resumed': (_one, True),
  'two': (lambda: _several(2), False),
  'four': (lambda: _several(4), True),
  'hosts': (lambda: runtime.create_strategy(0, None), False),
}


def main(directory, steps, *names):
  """Runs the trainings; prints what is compared."""
  if hosts.CLUSTER not in os.environ:
    cpu = tf.config.list_physical_devices('CPU')[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
  # It takes longer than the few steps.
  tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})
  # Replicas draw numbers of their own, as many devices do; here, all draw the same.
  randomness._Keyed.uniform = lambda self, shape: tf.fill(shape, 0.5)
  registry.BACKBONES['mobilenet_v3_small'] = functools.partial(
    mobilenet_v3.MobileNetV3, _ROWS, name='mobilenet_v3_small'
  )
  trainer.Trainer = _Recorded
  config = load.load(_CONFIG, [*_OVERRIDES, f'{_SOLVER}.training_number_of_steps={steps}'])
  found = {}
  for name in names:
    runtime.set_up(seed=1)
    create, eagerly = RUNS[name]
    tf.config.run_functions_eagerly(eagerly)
    strategy = create()
    _Recorded.logs = []
    with strategy.scope():
      experiment.train_and_evaluate(config, f'{directory}/{name}')
      distance = None
      if name in ('two', 'four'):
        distance = _distance(config, f'{directory}/{name}', f'{directory}/one/ckpt-1')
    found[name] = {'logs': _Recorded.logs, 'distance': distance}
  print(json.dumps(found))


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
