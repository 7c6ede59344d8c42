"""The modes: from a configuration to datasets, model, trainer, evaluator, and through the loop."""

from collections.abc import Sequence
import contextlib
import functools
import hashlib
import os

from absl import logging
import orbit
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import errors
from deeplab2 import locks
from deeplab2.checkpoint import directory as directory_lib
from deeplab2.checkpoint import pretrained as pretrained_lib
from deeplab2.checkpoint import restore
from deeplab2.checkpoint import run_checkpoints
from deeplab2.config import checks
from deeplab2.config import trainer_checks
from deeplab2.config.experiment import Config
from deeplab2.data import datasets
from deeplab2.data import pipeline
from deeplab2.inference import raw_predictions
from deeplab2.inference import segmenter
from deeplab2.report import write as write_report
from deeplab2.trainer import coco_results
from deeplab2.trainer import evaluated as evaluated_lib
from deeplab2.trainer import evaluation
from deeplab2.trainer import evaluator as evaluator_lib
from deeplab2.trainer import hosts
from deeplab2.trainer import loop
from deeplab2.trainer import reports
from deeplab2.trainer import run_record
from deeplab2.trainer import runtime
from deeplab2.trainer import slots
from deeplab2.trainer import stopping
from deeplab2.trainer import summaries as summaries_lib
from deeplab2.trainer import training as training_lib
from deeplab2.trainer import unfinished as unfinished_lib

_TRAIN = 'train_dataset_options'
_EVAL = 'eval_dataset_options'
_INITIAL = 'model_options.initial_checkpoint'
_PRETRAINED = 'model_options.backbone.pretrained_weights'


def train(
  config: Config,
  directory: str,
  stop: stopping.Request | None = None,
  summary_writers: Sequence[summaries_lib.Writer] = (),
) -> None:
  """Trains up to training_number_of_steps, in the current strategy's scope.

  Args:
    config: checked for this mode.
    directory: work directory of the run.
    stop: ends the run at the next step or batch.
    summary_writers: get the logs as TensorBoard does; on the first host alone.

  Raises:
    UserError: as of all modes, see train.run.
    Stopped: `stop` was requested; what was done is saved.
  """
  with _only_training(config, directory, 'train') as output:
    model = _model(config, training=True)
    global_step = orbit.utils.create_global_step()
    train_loop, _ = _train_loop(
      config, directory, output, model, global_step, stop, summary_writers
    )
    if train_loop.step < _num_steps(config):
      train_loop.run(_num_steps(config))
    else:
      _log_finished(config, train_loop)


def train_and_evaluate(
  config: Config,
  directory: str,
  stop: stopping.Request | None = None,
  summary_writers: Sequence[summaries_lib.Writer] = (),
) -> None:
  """Trains, and evaluates every eval_interval steps and at the end; arguments as of `train`."""
  with _only_training(config, directory, 'train_and_eval') as output:
    model = _model(config, training=True)
    global_step = orbit.utils.create_global_step()
    train_loop, averages = _train_loop(
      config, directory, output, model, global_step, stop, summary_writers
    )
    eval_loop = _eval_loop(
      config,
      output,
      model,
      global_step,
      stop,
      training=lambda: train_loop.logs,
      averages=averages if trainer_checks.averages_are_used(config) else None,
      summary_writers=summary_writers,
    )
    if train_loop.step < _num_steps(config) or not hosts.of_chief(eval_loop.is_done()):
      loop.train_and_evaluate(
        train_loop,
        eval_loop,
        total=_num_steps(config),
        interval=config.options.evaluator_options.eval_interval,
      )
    else:
      _log_finished(config, train_loop)


def evaluate(
  config: Config,
  directory: str,
  stop: stopping.Request | None = None,
  summary_writers: Sequence[summaries_lib.Writer] = (),
) -> None:
  """Evaluates the newest checkpoint of the run, or initial_checkpoint; arguments as of `train`."""
  model, global_step = _model(config), orbit.utils.create_global_step()
  averages = trainer_checks.averages_are_used(config)
  checkpoints = run_checkpoints.Checkpoints(
    directory, model=model, global_step=global_step, averages=averages
  )
  prefix = checkpoints.resume()
  source = None
  if prefix is None:
    initial = config.resolved(_INITIAL)
    if not initial:
      raise errors.UserError(
        f'{directory}: there is no checkpoint, and {_INITIAL} is not set: nothing to evaluate.'
      )
    prefix = source = restore.restore_model(
      model, initial, averages=averages, conventions=assemble.conventions(config)
    )
  logging.info('Evaluating %s', prefix)
  with hosts.own_directory(directory) as output:
    _eval_loop(
      config,
      output,
      model,
      global_step,
      stop,
      source=source,
      summary_writers=summary_writers,
    ).run()


def evaluate_continuously(
  config: Config,
  directory: str,
  stop: stopping.Request | None = None,
  summary_writers: Sequence[summaries_lib.Writer] = (),
) -> None:
  """Evaluates every checkpoint that another process saves; arguments as of `train`.

  It ends with the checkpoint of training_number_of_steps, or if none appears in time.
  """
  if hosts.count() > 1:
    raise errors.UserError(
      f'--mode=continuous_eval is for one host, and {hosts.count()} are given by '
      f'{hosts.CLUSTER} or --master=slurm.'
    )
  stop = stop or stopping.Request()
  model, global_step = _model(config), orbit.utils.create_global_step()
  averages = trainer_checks.averages_are_used(config)
  checkpoints = run_checkpoints.Checkpoints(
    directory, model=model, global_step=global_step, averages=averages
  )
  timeout = config.options.evaluator_options.continuous_eval_timeout
  count = loop.evaluate_continuously(
    _eval_loop(config, directory, model, global_step, stop, summary_writers=summary_writers),
    checkpoints,
    timeout=None if timeout == -1 else timeout,
    total=_num_steps(config),
    stop=stop,
  )
  if not count:
    raise errors.UserError(
      f'{directory}: no checkpoint appeared within {timeout} seconds '
      '(evaluator_options.continuous_eval_timeout): nothing to evaluate.'
    )


def _model(config, training=False):
  return assemble.model(config, training, config.options.trainer_options.precision)


def _num_steps(config):
  return config.options.trainer_options.solver_options.training_number_of_steps


@contextlib.contextmanager
def _only_training(config, directory, mode):
  """Holds the run and keeps its record; yields the directory that this host writes into."""
  with contextlib.ExitStack() as stack:
    if hosts.is_chief():
      # No other process trains in the directory.
      lock = locks.hold(os.path.join(directory, 'train.lock'), f'The run {directory}')
      stack.enter_context(lock)
      stack.enter_context(run_record.kept(config, directory, mode))
    yield stack.enter_context(hosts.own_directory(directory))


def _log_finished(config, train_loop):
  logging.info(
    'This run is finished: it is at step %d, and training_number_of_steps is %d. '
    'Nothing was done; --mode=eval evaluates it.',
    train_loop.step,
    _num_steps(config),
  )


def _train_loop(config, directory, output, model, global_step, stop, summary_writers=()):
  """Returns the training loop, with the run resumed, or the model initialised; and the averages."""
  trainer_checks.check_devices(
    config, tf.distribute.get_strategy().num_replicas_in_sync, runtime.device_type()
  )
  _warn_of_slots(config)
  options = config.options.trainer_options
  state = training_lib.create_state(config, model)
  checkpoints = run_checkpoints.Checkpoints(
    directory,
    model=model,
    global_step=global_step,
    keep=options.num_checkpoints_to_keep,
    training=state.parts(),
    output=None if hosts.is_chief() else output,
  )
  _restore(config, model, checkpoints, state)
  trainer = training_lib.create_trainer(
    config,
    model,
    state,
    runtime.distribute_shards(
      functools.partial(assemble.train_dataset, config, first_step=int(global_step.numpy())),
      fetch_to_device=True,
    ),
    global_step=global_step,
  )
  train_loop = loop.TrainLoop(
    trainer,
    checkpoints,
    global_step=global_step,
    steps_per_loop=options.steps_per_loop,
    save_steps=options.save_checkpoints_steps,
    summary_steps=options.save_summaries_steps,
    explained=lambda: _explained(config, _TRAIN),
    stop=stop,
    profile_steps=tuple(options.profile_steps),
    summary_writers=summary_writers if hosts.is_chief() else (),
  )
  return train_loop, state.averages


def _warn_of_slots(config):
  """Warns of images that are known to have more segments than the model has mask slots."""
  field = 'model_options.kmax.num_mask_slots'
  most, manifest = slots.most_segments(
    pipeline.find_files(config.require(f'{_TRAIN}.file_pattern'))
  )
  if most > config.value(field):
    logging.warning(
      '%s',
      config.error(
        field,
        f'an image has {most} segments ({manifest}), and those beyond the slots are not '
        f'learned from; model_options.kmax.num_mask_slots={most} would be enough.',
      ),
    )


def _restore(config, model, checkpoints, state):
  """Resumes the run, else starts from initial_checkpoint, else from scratch; says which."""
  if hosts.is_chief():
    directory_lib.remove_unfinished(checkpoints.directory)
    if directory_lib.newest(checkpoints.directory) is None:
      directory_lib.check_unused(checkpoints.directory)
  hosts.gathered(None)  # The others see what the chief leaves.
  prefix = checkpoints.resume()
  hosts.gathered(None)  # And the chief changes nothing before they have.
  if prefix is not None:
    logging.info('Resumed %s', prefix)
    return
  _initialize(config, model, checkpoints.directory)
  if state.averages is not None:
    state.averages.start()


def _initialize(config, model, directory):
  """Fills the model from what the configuration names; says which."""
  pretrained, initial = config.resolved(_PRETRAINED), config.resolved(_INITIAL)
  conventions = assemble.conventions(config)
  if pretrained:
    if pretrained_lib.is_meant(pretrained) and hosts.is_chief():
      pretrained_lib.fetch(model.backbone, pretrained)
    hosts.gathered(None)  # The others find it in the cache, or fetch it into one of their own.
    path = restore.initialize_backbone(model.backbone, pretrained, conventions=conventions)
    rest = '' if initial else '; all other parts start from scratch'
    logging.info('Backbone from %s%s', path, rest)
  if initial:
    options = config.options.model_options
    prefix = restore.initialize_model(
      model,
      initial,
      fresh_class_heads=not options.restore_semantic_last_layer_from_initial_checkpoint,
      conventions=conventions,
    )
    logging.info('Started from %s', prefix)
  elif not pretrained:
    logging.info(
      'Started from scratch: no checkpoint in %s, neither %s nor %s',
      directory,
      _INITIAL,
      _PRETRAINED,
    )


def _eval_loop(
  config,
  directory,
  model,
  global_step,
  stop,
  source=None,
  training=dict,
  averages=None,
  summary_writers=(),
):
  """Creates the evaluation loop.

  Args:
    config: the configuration.
    directory: that is written into.
    model: to evaluate.
    global_step: of it.
    stop: ends an evaluation after a batch.
    source: checkpoint that the model is from, None for that of the run and step.
    training: returns the logs of a concurrent training, if any.
    averages: of the model's variables, to be evaluated instead of them.
    summary_writers: get the logs as well.
  """
  config = checks.evaluated_by(config, tf.distribute.get_strategy().num_replicas_in_sync)
  options, info = config.options.evaluator_options, assemble.dataset_info(config)
  eval_directory = os.path.join(directory, 'eval')
  evaluated = evaluated_lib.describe(config)
  if source:
    evaluated['checkpoint'] = source
  summaries = summaries_lib.Summaries(
    eval_directory, global_step, summary_writers if hosts.is_chief() else ()
  )
  batch_size = config.value(f'{_EVAL}.batch_size')
  digest = evaluated_lib.digest(evaluated_lib.identity(evaluated))

  def path_of(name):
    return os.path.join(eval_directory, f'{name}-{int(global_step.numpy())}-{digest}')

  writers = _writers(config, directory, info, evaluated, summaries)
  coco = None
  if options.save_coco_results:
    coco = coco_results.CocoResults(lambda: path_of('predictions'), info)
    writers.append(coco.add)
  report = _report(config, directory, global_step, evaluated, training)
  if report is None and not writers:
    raise _nothing_to_measure(config)

  @contextlib.contextmanager
  def guard():
    lock = locks.hold(f'{path_of("evaluating")}.lock', f'The evaluation in {eval_directory}')
    weights = contextlib.nullcontext() if averages is None else averages.applied()
    with lock, weights, _explained(config, _EVAL):
      yield

  def unfinished():
    if hosts.count() > 1:
      return unfinished_lib.Never()
    path = f'{path_of("unfinished")}.npz'
    return unfinished_lib.Unfinished(path, _identity(config, model, evaluated))

  return evaluation.Evaluation(
    evaluator_lib.Evaluator(
      lambda batches: runtime.distribute(
        assemble.eval_dataset(config, skip=batches * batch_size), fetch_to_device=False
      ),
      model=model,
      segmenter=segmenter.create(config, model),
      loss=assemble.evaluation_loss(config).score
      if report is not None and options.measure_losses
      else None,
      batch_size=batch_size,
      use_tf_function=options.use_tf_function,
    ),
    report=report,
    writers=writers,
    unfinished=unfinished,
    summaries=summaries,
    num_steps=options.eval_steps,
    num_images=None if options.eval_steps == -1 else options.eval_steps * batch_size,
    guard=guard,
    stop=stop if hosts.count() == 1 else None,  # Several stop together, between evaluations.
    finish=coco.finish if coco else lambda: None,
  )


def _report(config, directory, global_step, evaluated, training):
  """Returns what measures evaluated images, None where they have no labels."""
  options = config.options.evaluator_options
  if config.value(f'{_EVAL}.decode_groundtruth_label'):
    return reports.Report(
      assemble.dataset_info(config),
      os.path.join(directory, 'eval'),
      global_step,
      with_ap=options.instance_ap,
      detailed_ap=options.detailed_ap_metrics,
      evaluated=evaluated,
      training=training,
      with_segments=options.report,
      finish=functools.partial(write_report.after, directory) if options.report else None,
    )
  if options.report:
    raise config.error(
      'evaluator_options.report',
      f'needs labels, and {_EVAL}.decode_groundtruth_label is false; set one of them otherwise.',
    )
  return None


def _nothing_to_measure(config):
  return config.error(
    f'{_EVAL}.decode_groundtruth_label',
    'without labels there is nothing to '
    'measure; set evaluator_options.save_coco_results=true, '
    'evaluator_options.save_raw_predictions=true or evaluator_options.save_predictions=true.',
  )


def _identity(config, model, evaluated):
  """Returns the identity of this evaluation and of its unfinished state."""
  return {
    'format': 3,  # Of the arrays.
    'evaluated': evaluated,
    'weights': evaluated_lib.weights_digest(model),
    'options': hashlib.sha256(str(config.options).encode()).hexdigest(),
  }


def _writers(config, directory, info, evaluated, summaries):
  """Returns the writers that get every evaluated image."""
  options = config.options.evaluator_options
  draws = options.save_predictions and options.num_vis_samples
  if not draws and not options.save_raw_predictions:
    return []
  output_directory = reports.directory_of_set(
    config.resolved('evaluator_options.override_save_dir') or os.path.join(directory, 'vis'),
    evaluated,
  )
  writers = []
  if draws:
    writers.append(
      reports.Visualizer(info, output_directory, summaries, options.num_vis_samples).update
    )
  if options.save_raw_predictions:
    raw = raw_predictions.RawPredictions(
      output_directory,
      info.label_space,
      panoptic_format=options.raw_panoptic_format,
      instance_files=True,
      class_table=datasets.original_id_table(info) if options.convert_raw_to_eval_ids else None,
    )
    writers.append(lambda image: raw.add(image.name, image.maps))
  return writers


@contextlib.contextmanager
def _explained(config, field):
  """Raises errors of an input pipeline as ones that name file and record."""
  try:
    yield
  except (tf.errors.UnavailableError, tf.errors.AbortedError):
    raise  # Of another host, not of the data.
  except (tf.errors.OpError, UnicodeDecodeError) as error:
    explanation = pipeline.explain(
      error,
      config.resolved(f'{field}.file_pattern'),
      with_labels=config.value(f'{field}.decode_groundtruth_label'),
    )
    if explanation is error:
      raise
    raise explanation from error
