"""ReMaX over all layers: what it adds to training, and that inference knows nothing of it."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab2 import assemble
from deeplab2 import errors
from deeplab2 import randomness
from deeplab2.checkpoint import native
from deeplab2.checkpoint import restore
from deeplab2.config import load
from deeplab2.loss import panoptic_loss
from deeplab2.trainer import experiment
from deeplab2.trainer import runtime
from deeplab2.trainer import training as training_lib
from tests import eager
from tests import test_end_to_end

CONFIG = test_end_to_end.CONFIG
_LOSSES = 'trainer_options.loss_options'
_TINY = [*test_end_to_end.OVERRIDES, 'train_dataset_options.batch_size=2']
_REMAX = [
  f'{_LOSSES}.remask.enable=true',
  f'{_LOSSES}.remask.num_relaxed_layers=2',
  f'{_LOSSES}.remask.head_channels=16',
  f'{_LOSSES}.reclass.enable=true',
  'model_options.decoder.atrous_rates=1,2,3',
]


def _config(*overrides):
  return load.load(CONFIG, [*_TINY, *overrides])


def _sample(config):
  """Returns a training batch of noise with two halves of stuff."""
  batch = config.value('train_dataset_options.batch_size')
  height, width = config.value('train_dataset_options.crop_size')
  space = assemble.dataset_info(config).label_space
  semantic = np.full([batch, height, width], space.stuff_ids[0], np.int32)
  semantic[:, height // 2 :] = space.stuff_ids[1]
  semantic[:, 10:30, 10:30] = space.thing_ids[0]
  thing = np.full([batch, height, width], -1, np.int32)
  thing[:, 10:30, 10:30] = 0
  things = np.full([batch, config.value('train_dataset_options.max_thing_id')], -1, np.int32)
  things[:, 0] = space.thing_ids[0]
  images = np.random.default_rng(0).uniform(0, 255, [batch, height, width, 3])
  return tf.constant(images, tf.float32), panoptic_loss.structures.Targets(
    *map(tf.constant, (semantic, thing, things, np.ones([batch, height, width], np.float32)))
  )


def _keys(model):
  """Returns what variables are called in checkpoints, in the order of the model."""
  keys = {variable.ref(): key for key, variable in native.variable_keys({'model': model}).items()}
  return [keys[variable.ref()] for variable in model.variables]


def _fill(model, reference):
  for variable, value in zip(model.variables, reference.get_weights(), strict=True):
    variable.assign(value)


def test_switched_off_is_the_plain_model_and_loss_bit_for_bit():
  plain = _config()
  off = _config(*_REMAX, f'{_LOSSES}.remask.enable=false', f'{_LOSSES}.reclass.enable=false')
  models = [assemble.model(config, training=True) for config in (plain, off)]
  assert models[0].semantic_heads is None and models[1].semantic_heads is None
  _fill(models[1], models[0])
  images, targets = _sample(plain)
  results = []
  for config, model in zip((plain, off), models, strict=True):
    with tf.GradientTape() as tape:
      prediction = model(images, training=True)
      with randomness.keyed(tf.constant([0, 1])):
        losses = assemble.loss(config).score(prediction, targets).losses
      total = tf.reduce_sum(losses[panoptic_loss.TOTAL])
    gradients = tape.gradient(total, model.trainable_variables)
    results.append((losses, [None if g is None else tf.convert_to_tensor(g) for g in gradients]))
  (losses, gradients), (losses_off, gradients_off) = results
  assert list(losses) == list(losses_off)
  for name, value in losses.items():
    np.testing.assert_array_equal(value, losses_off[name], err_msg=name)
  tf.nest.map_structure(np.testing.assert_array_equal, gradients, gradients_off)


def test_runs_with_and_without_remax_are_paired_by_their_seed(monkeypatch):
  """Common variables start with the same values, and common parts of a step draw the same."""
  # Dropout in the heads (0.1), drop path, and losses of sampled pixels.
  draws = ['model_options.kmax.decoder_drop_path_keep_prob=0.5']
  monkeypatch.setattr(runtime, '_seed', None)  # Put back at the end.
  found = []
  for overrides in ((), (*_REMAX[:3], _REMAX[-1], f'{_LOSSES}.remask.gate_masks=false')):
    config = _config(*draws, *overrides)
    tf_keras.backend.clear_session()
    runtime.set_up(seed=3)
    model = assemble.model(config, training=True)
    variables = native.variable_keys({'model': model})
    initial = {key: variable.numpy() for key, variable in variables.items()}
    images, targets = _sample(config)
    with randomness.keyed(tf.constant([0, 1])):
      losses = assemble.loss(config).score(model(images, training=True), targets).losses
    found.append((initial, losses))
  (plain, plain_losses), (remax, losses) = found
  assert set(plain) == set(remax)
  for key, value in plain.items():
    np.testing.assert_array_equal(remax[key], value, err_msg=key)
  for name, value in plain_losses.items():
    if name != panoptic_loss.TOTAL:
      np.testing.assert_array_equal(losses[name], value, err_msg=name)


def test_training_has_heads_of_its_own_and_inference_the_plain_model():
  config = _config(*_REMAX)
  model = assemble.model(config, training=True)
  assert len(model.semantic_heads.heads) == 2 and model.semantic_heads.trainable_variables
  assert assemble.model(config).semantic_heads is None
  assert _keys(assemble.model(config)) == _keys(assemble.model(_config()))
  prediction = model(_sample(config)[0], training=True)
  shape = [*prediction.final.mask_logits.shape[:3], 10]
  assert [
    None if layer.semantic_logits is None else layer.semantic_logits.shape
    for layer in prediction.auxiliary
  ] == [shape, shape, None]
  # Evaluation gets the plain model's prediction.
  assert model(_sample(config)[0], training=False).auxiliary == ()


def test_heads_learn_at_the_rate_of_the_head_and_get_gradients():
  config = _config(*_REMAX, 'trainer_options.solver_options.backbone_learning_rate_multiplier=0.1')
  training = assemble.model(config, training=True)
  rest, backbone = (
    group.variables for group in training_lib.create_state(config, training).groups.values()
  )
  ours = {v.ref() for v in training.semantic_heads.trainable_variables}
  assert ours <= {v.ref() for v in rest} and not ours & {v.ref() for v in backbone}
  images, targets = _sample(config)
  with tf.GradientTape() as tape:
    losses = assemble.loss(config).score(training(images, training=True), targets).losses
    total = tf.reduce_sum(losses[panoptic_loss.TOTAL])
  for variable, gradient in zip(
    training.semantic_heads.trainable_variables,
    tape.gradient(total, training.semantic_heads.trainable_variables),
    strict=True,
  ):
    assert gradient is not None and np.isfinite(gradient).all(), variable.name


def test_evaluations_report_the_plain_loss():
  config = _config(*_REMAX)
  images, targets = _sample(config)
  model = assemble.model(config)
  prediction = model(images, training=False)
  with randomness.keyed(tf.constant([0, 1])):
    relaxed = assemble.evaluation_loss(config).score(prediction, targets)
  with randomness.keyed(tf.constant([0, 1])):
    plain = assemble.loss(_config()).score(prediction, targets)
  assert list(relaxed.losses) == list(plain.losses)
  for name, value in plain.losses.items():
    np.testing.assert_array_equal(relaxed.losses[name], value, err_msg=name)
  assert set(relaxed.diagnostics) == {
    'mask_fp',
    'mask_fn',
    'mask_fp_fn_ratio',
    'all_slots_fp_fn_ratio',
    'matched_dice',
    'unmatched_segments',
    'images_beyond_slots',
  }


@pytest.mark.parametrize(
  'policy, masks', [('mixed_bfloat16', 'SOFTMAX'), ('mixed_float16', 'SIGMOID')]
)
def test_mixed_precision_is_relaxed_in_float32(policy, masks):
  tf_keras.mixed_precision.set_global_policy(policy)
  try:
    config = _config(*_REMAX, f'{_LOSSES}.mask_loss_activation={masks}')
    training = assemble.model(config, training=True)
    images, targets = _sample(config)
    with tf.GradientTape() as tape:
      prediction = training(images, training=True)
      scored = assemble.loss(config).score(prediction, targets)
      total = tf.reduce_sum(scored.losses[panoptic_loss.TOTAL])
    gradients = tape.gradient(total, training.trainable_variables)
  finally:
    tf_keras.mixed_precision.set_global_policy('float32')
  for name, value in scored.losses.items():
    assert value.dtype == tf.float32 and np.isfinite(value).all(), name
  for variable, gradient in zip(training.trainable_variables, gradients, strict=True):
    assert gradient is None or np.isfinite(tf.convert_to_tensor(gradient)).all(), variable.name


@pytest.fixture(scope='module', name='runs')
def _runs(tmp_path_factory):
  """Two runs of one step: `plain` and `remax`, by directory."""
  directory = tmp_path_factory.mktemp('remax')
  run = test_end_to_end.Run(directory)
  run.call(
    'scripts/build_tfrecords.py',
    '--dataset=shapes',
    '--split=train',
    '--num_images=4',
    '--num_shards=1',
    f'--output_dir={directory / "tfrecords"}',
  )
  runs = {}
  _STEPS.append(f'train_dataset_options.file_pattern={directory}/tfrecords/*')
  for name, overrides in (('plain', ()), ('remax', _REMAX)):
    runs[name] = directory / name
    _train(_config(*overrides, *_STEPS), runs[name])
  return runs


_FEW_LAYERS = [
  'model_options.kmax.decoder_layers=1,1,0',
  'model_options.kmax.semantic_decoder=false',
]
_STEPS = [
  *_FEW_LAYERS,
  'trainer_options.solver_options.training_number_of_steps=1',
  'trainer_options.solver_options.warmup_steps=0',
  'trainer_options.steps_per_loop=1',
  'trainer_options.save_summaries_steps=1',
]


def _train(config, directory):
  with eager.functions():
    experiment.train(config, str(directory))


def _weights(path, item):
  """Returns the values below one item of the newest checkpoint."""
  reader = tf.train.load_checkpoint(str(path))
  return {
    key: reader.get_tensor(key)
    for key in reader.get_variable_to_shape_map()
    if key.startswith(f'{item}/') and '.OPTIMIZER_SLOT' not in key
  }


@pytest.mark.slow
def test_checkpoints_load_into_each_other(runs, tmp_path):
  assert not _weights(runs['plain'], 'remask_semantic_heads')
  assert _weights(runs['remax'], 'remask_semantic_heads')
  assert set(_weights(runs['plain'], 'model')) == set(_weights(runs['remax'], 'model'))
  for source in runs:
    for name, overrides in (('plain', ()), ('remax', _REMAX)):
      directory = tmp_path / f'{name}_from_{source}'
      _train(
        _config(*overrides, *_STEPS, f'model_options.initial_checkpoint={runs[source]}'), directory
      )
      first, wanted = (_weights(path, 'model') for path in (directory / 'ckpt-0', runs[source]))
      for key, value in wanted.items():
        np.testing.assert_array_equal(first[key], value, err_msg=key)
      if name == source == 'remax':
        heads = _weights(directory / 'ckpt-0', 'remask_semantic_heads')
        for key, value in _weights(runs['remax'], 'remask_semantic_heads').items():
          np.testing.assert_array_equal(heads[key], value, err_msg=key)


@pytest.mark.slow
def test_a_run_resumes_with_its_heads_and_not_as_another_run(runs, tmp_path):
  longer = [*_STEPS, 'trainer_options.solver_options.training_number_of_steps=2']
  copy = tmp_path / 'run'
  copy.mkdir()
  for file in runs['remax'].iterdir():
    if file.is_file():
      (copy / file.name).write_bytes(file.read_bytes())
  with pytest.raises(errors.UserError, match='remask.enable = true, now'):
    _train(_config(*longer), copy)
  _train(_config(*_REMAX, *longer), copy)
  assert (copy / 'ckpt-2.index').exists()


@pytest.mark.slow
def test_the_exported_model_is_the_same_with_and_without(runs):
  """Of one checkpoint, under both configs: variables, kinds of operations, and every output."""
  images = _sample(_config())[0][:1]
  found = []
  for overrides in ((), _REMAX):
    config = _config(*overrides, *_FEW_LAYERS)
    model = assemble.model(config, training=True)
    restore.restore_model(model, str(runs['remax']))
    merge = assemble.post_processing(config)
    graph = tf.function(lambda x, m=model, p=merge: p(*m.infer(x)[:2])).get_concrete_function(
      tf.TensorSpec(images.shape)
    )
    kinds = collections.Counter(op.type for op in graph.graph.get_operations())
    keys = {v.ref(): key for key, v in native.variable_keys({'model': model}).items()}
    found.append(({keys[v.ref()] for v in graph.graph.variables}, kinds, graph(images)))
  assert found[0][0] == found[1][0] and found[0][1] == found[1][1]
  tf.nest.map_structure(np.testing.assert_array_equal, found[0][2], found[1][2])
