"""From a configuration to what trains: optimizers, training step, trainer."""

from typing import NamedTuple

import tensorflow as tf
import tf_keras

from deeplab2 import assemble
from deeplab2.checkpoint import native
from deeplab2.config.experiment import Config
from deeplab2.trainer import averages as averages_lib
from deeplab2.trainer import loss_scale as loss_scale_lib
from deeplab2.trainer import optimizer
from deeplab2.trainer import runtime
from deeplab2.trainer import step as step_lib
from deeplab2.trainer import trainer as trainer_lib


class State(NamedTuple):
  """What changes in training next to model and global step, and is saved in checkpoints."""

  groups: dict[str, optimizer.Group]  # By the optimizers' names in checkpoints.
  loss_scale: loss_scale_lib.LossScale | None
  averages: averages_lib.Averages | None

  def parts(self) -> dict[str, tf.Module]:
    """Returns the parts of a checkpoint, by name."""
    parts = {name: group.optimizer for name, group in self.groups.items()}
    if self.loss_scale is not None:
      parts['loss_scale'] = self.loss_scale
    if self.averages is not None:
      parts[native.AVERAGES] = self.averages.saved
    return parts


def create_state(config: Config, model: tf_keras.Model) -> State:
  """Creates optimizers, loss scale and averages in the current strategy's scope."""
  options = config.options.trainer_options
  loss_scale = averages = None
  if options.precision == options.FLOAT16:
    loss_scale = loss_scale_lib.LossScale()
  if options.ema_decay:
    # Of what checkpoints hold of a model.
    averages = averages_lib.Averages(native.variable_keys({'model': model}), options.ema_decay)
  return State(_optimizer_groups(config, model), loss_scale, averages)


def create_trainer(
  config: Config,
  model: tf_keras.Model,
  state: State,
  dataset,
  *,
  global_step: tf.Variable,
) -> trainer_lib.Trainer:
  """Creates the trainer of a model.

  Args:
    config: the configuration.
    model: built for training.
    state: of `create_state`.
    dataset: distributed dataset of structures.Sample, of a part of a step's batch each.
    global_step: number of steps done.
  """
  options = config.options.trainer_options
  solver = options.solver_options
  groups = tuple(state.groups.values())
  return trainer_lib.Trainer(
    dataset,
    step=step_lib.Step(
      model=model,
      loss=assemble.loss(config).score,
      groups=groups,
      global_step=global_step,
      clip_norm=solver.clip_gradient_norm if solver.use_gradient_clipping else None,
      seed=runtime.seed_of_steps(),
      parts=options.gradient_accumulation_steps,
      loss_scale=state.loss_scale,
      averages=state.averages,
      jit_compile=options.jit_compile and not runtime.has_tpu(),  # TPUs always compile.
    ),
    groups=groups,
    global_step=global_step,
    batch_size=config.options.train_dataset_options.batch_size,
    loop_on_device=runtime.has_tpu(),
  )


def _optimizer_groups(config, model):
  """Creates the optimizers: {name in checkpoints: Group}, the head's or only one first.

  The backbone has an optimizer of its own iff backbone_learning_rate_multiplier is present.
  """
  solver = config.options.trainer_options.solver_options
  multiples = None
  if solver.backbone_layer_decay != 1:
    groups = model.backbone.groups_by_depth()
    multiples = optimizer.by_depth(groups, solver.backbone_layer_decay)
  if not solver.HasField('backbone_learning_rate_multiplier'):
    return {'optimizer': _group(solver, 1.0, model.trainable_variables, multiples)}
  rest, backbone = optimizer.split(model.trainable_variables, model.backbone.trainable_variables)
  return {
    'optimizer': _group(solver, 1.0, rest),
    'backbone_optimizer': _group(
      solver, solver.backbone_learning_rate_multiplier, backbone, multiples
    ),
  }


def _group(solver, multiplier, variables, multiples=None):
  rate, steps = solver.base_learning_rate * multiplier, solver.training_number_of_steps
  if solver.learning_policy == 'cosine':
    decay = optimizer.cosine(rate, steps)
  else:
    # The end rate is the same for both groups.
    decay = optimizer.poly(rate, steps, solver.poly_learning_power, solver.poly_end_learning_rate)
  schedule = optimizer.with_warm_up(
    decay, rate, solver.warmup_steps, solver.warmup_start_learning_rate * multiplier
  )
  return optimizer.create(
    solver.optimizer, schedule, solver.adamw_weight_decay, variables, multiples
  )
