"""An endless training of a tiny model on several hosts, by TF_CONFIG; run as a process.

python -m tests.trainer.hosts_run DIRECTORY
"""

import contextlib
import itertools
import sys

import tensorflow as tf

from deeplab2 import command_line
from deeplab2.checkpoint import run_checkpoints
from deeplab2.trainer import hosts
from deeplab2.trainer import loop
from deeplab2.trainer import runtime
from deeplab2.trainer import stopping
from tests.trainer import fakes


def _said(train):
  """Wraps Trainer.train to say once that a few loops are done."""
  count = itertools.count(1)

  def train_and_say(num_steps, stop):
    logs = train(num_steps, stop)
    if next(count) == 3:
      print('going on', flush=True)
    return logs

  return train_and_say


def _run(directory):
  strategy = runtime.create_strategy(0, None)
  stop = stopping.Request()
  with stopping.heeded(stop), strategy.scope(), hosts.explained(), contextlib.ExitStack() as stack:
    output = stack.enter_context(hosts.own_directory(directory))
    trainer, model, step = fakes.trainer(fakes.dataset(), batch=8, name='sgd')
    groups = {'optimizer': trainer._groups[0].optimizer}
    checkpoints = run_checkpoints.Checkpoints(
      directory,
      model=model,
      global_step=step,
      training=groups,
      output=None if hosts.is_chief() else output,
    )
    settings = {'steps_per_loop': 2, 'save_steps': 10**6, 'summary_steps': 10**6}
    train = loop.TrainLoop(trainer, checkpoints, global_step=step, stop=stop, **settings)
    print('training', flush=True)
    trainer.train = _said(trainer.train)
    train.run(10**6)


if __name__ == '__main__':
  tf.get_logger().setLevel('ERROR')
  runtime.start_logging()
  sys.exit(command_line.run(lambda: _run(sys.argv[1])))
