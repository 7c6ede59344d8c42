"""What is restored is exactly what was saved; everything else is refused in one line."""

import gc
import os
import resource

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab2.checkpoint import native
from deeplab2.checkpoint import released_keys
from deeplab2.checkpoint import restore
from deeplab2.checkpoint import run_checkpoints
from deeplab2.trainer import averages as averages_lib
from tests.checkpoint import files


class _Part(tf.Module):
  def __init__(self, **values):
    super().__init__()
    for name, value in values.items():
      setattr(self, name, value if isinstance(value, tf.Module) else tf.Variable(value, name=name))


def _model(classes=3, fill=0.0):
  """Returns a model with paths like those of KMaXDeepLab."""
  return _Part(
    backbone=_Part(stem=_Part(kernel=np.full([3, 3], fill), norm=_Part(gamma=np.full(3, fill)))),
    predictor=_Part(
      class_head=_Part(kernel=np.full([2, classes], fill)), mask_norm=_Part(gamma=np.full(1, fill))
    ),
    pixel_decoder=_Part(gamma=np.full(2, fill)),
  )


def _optimizer(model, kind=tf_keras.optimizers.legacy.Adam):
  optimizer = kind(0.1)
  variables = list(model.trainable_variables)
  optimizer.apply_gradients([(tf.ones_like(v), v) for v in variables])
  return optimizer


def _checkpoints(directory, model, step=0, **settings):
  global_step = tf.Variable(step, dtype=tf.int64, trainable=False)
  return run_checkpoints.Checkpoints(
    str(directory), model=model, global_step=global_step, **settings
  ), global_step


def _values(model):
  return [v.numpy() for v in model.variables]


@pytest.fixture
def run(tmp_path):
  """A work directory with a checkpoint of step 5, of variables around 1."""
  model = _model(fill=1.0)
  checkpoints, _ = _checkpoints(
    tmp_path / 'run', model, 5, training={'optimizer': _optimizer(model)}
  )
  checkpoints.save()
  return tmp_path / 'run', model


def test_resume_restores_model_step_and_optimizer(run):
  directory, saved = run
  model = _model()
  optimizer = _optimizer(model)
  optimizer.apply_gradients([(tf.ones_like(v), v) for v in model.trainable_variables])
  checkpoints, step = _checkpoints(directory, model, training={'optimizer': optimizer})
  assert checkpoints.resume() == str(directory / 'ckpt-5')
  assert step.numpy() == checkpoints.last_saved == 5
  assert optimizer.iterations.numpy() == 1
  for ours, theirs in zip(_values(model), _values(saved), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  for variable in model.trainable_variables:
    np.testing.assert_allclose(
      optimizer.get_slot(variable, 'm'), np.full(variable.shape, 0.1), rtol=1e-6
    )


def test_resume_of_an_empty_or_missing_directory_is_none(tmp_path):
  assert _checkpoints(tmp_path, _model())[0].resume() is None
  assert _checkpoints(tmp_path / 'missing', _model())[0].resume() is None


def test_evaluation_passes_over_optimizers_but_takes_the_step(run):
  directory, saved = run
  model = _model()
  checkpoints, step = _checkpoints(directory, model)
  checkpoints.resume()
  assert step.numpy() == 5
  np.testing.assert_array_equal(model.variables[0], saved.variables[0])


def test_keys_are_those_that_tensorflow_saves(run):
  directory, model = run
  optimizer = _optimizer(model)
  parts = {'model': model, 'optimizer': optimizer, 'global_step': tf.Variable(0)}
  stored = {
    key.removesuffix(files.SUFFIX)
    for key, _ in tf.train.list_variables(str(directory))
    if 'SLOT' not in key
  }
  assert set(native.variable_keys(parts)) == stored - {
    'save_counter',
    '_CHECKPOINTABLE_OBJECT_GRAPH',
  }


def test_keys_of_a_keras_model_with_shared_and_listed_layers(tmp_path):
  dense = tf_keras.layers.Dense(2)

  class Model(tf_keras.Model):
    def __init__(self):
      super().__init__()
      self.inner = tf_keras.Sequential([dense, tf_keras.layers.BatchNormalization()])
      self.again = dense
      self.blocks = [tf_keras.layers.Dense(2), tf_keras.layers.Dense(2)]

  model = Model()
  for layer in (model.inner, *model.blocks):
    layer(tf.zeros([1, 2]))
  checkpoints, _ = _checkpoints(tmp_path, model)
  checkpoints.save()
  stored = {key.removesuffix(files.SUFFIX) for key, _ in tf.train.list_variables(str(tmp_path))}
  assert {key for key in stored if key.startswith('model/')} == set(
    native.variable_keys({'model': model})
  )


@pytest.mark.parametrize('ending', ['', '/ckpt-5', '/ckpt-5.index', '/ckpt-5.data-00000-of-00001'])
def test_model_alone_from_prefix_directory_or_file(run, ending):
  directory, saved = run
  model = _model()
  assert restore.restore_model(model, str(directory) + ending) == str(directory / 'ckpt-5')
  for ours, theirs in zip(_values(model), _values(saved), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_wrong_paths_are_refused(tmp_path):
  model = _model()
  files.refused(lambda: restore.restore_model(model, str(tmp_path)), str(tmp_path), 'no checkpoint')
  files.refused(
    lambda: restore.restore_model(model, str(tmp_path / 'ckpt-9')), 'ckpt-9', 'no such checkpoint'
  )
  files.refused(
    lambda: restore.restore_model(model, 'kmax_resnet50.tar.gz'),
    'kmax_resnet50.tar.gz',
    'unpack it',
  )


def test_checkpoint_of_another_model_is_refused_and_changes_nothing(run):
  directory, _ = run
  other = _model(classes=7)
  before = _values(other)
  files.refused(
    lambda: restore.restore_model(other, str(directory)),
    'ckpt-5',
    'does not fit',
    'model/predictor/class_head/kernel is [2, 3] there and [2, 7] here',
  )
  wider = _model()
  wider.extra = tf.Variable(0.0)
  files.refused(lambda: restore.restore_model(wider, str(directory)), 'it lacks model/extra')
  del wider.extra, wider.predictor
  files.refused(
    lambda: restore.restore_model(wider, str(directory)),
    'it has model/predictor/class_head/kernel and 1 more in addition',
  )
  for ours, theirs in zip(_values(other), before, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_another_optimizer_is_refused(run):
  directory, _ = run
  model = _model()
  sgd = _optimizer(model, lambda rate: tf_keras.optimizers.legacy.SGD(rate, momentum=0.9))
  checkpoints, _ = _checkpoints(directory, model, training={'optimizer': sgd})
  files.refused(checkpoints.resume, 'does not fit', 'optimizer/beta_1')
  adam = _optimizer(model)
  checkpoints, _ = _checkpoints(
    directory, model, training={'optimizer': adam, 'backbone_optimizer': _optimizer(model)}
  )
  files.refused(checkpoints.resume, 'it lacks backbone_optimizer/')


def test_optimizer_without_its_slots_is_refused(tmp_path):
  model = _model()
  checkpoints, _ = _checkpoints(
    tmp_path, model, training={'optimizer': tf_keras.optimizers.legacy.Adam(0.1)}
  )
  checkpoints._parts['optimizer'].iterations  # noqa: B018  Creates it, but no slots.
  checkpoints._parts['optimizer']._create_hypers()
  checkpoints.save()
  whole, _ = _checkpoints(tmp_path, model, training={'optimizer': _optimizer(model)})
  files.refused(whole.resume, 'state of the optimizer')


@pytest.mark.parametrize(
  'file, fraction',
  [
    ('ckpt-5.index', 0.0),
    ('ckpt-5.index', 0.9),
    ('ckpt-5.data-00000-of-00001', 0.0),
    ('ckpt-5.data-00000-of-00001', 0.5),
  ],
)
def test_truncated_files_are_refused(run, file, fraction):
  directory, _ = run
  size = os.path.getsize(directory / file)
  os.truncate(directory / file, int(fraction * size))
  files.refused(
    lambda: restore.restore_model(_model(), str(directory)), 'ckpt-5', 'truncated or damaged'
  )


def test_a_flipped_bit_is_noticed(run, caplog):
  directory, saved = run
  path = directory / 'ckpt-5.data-00000-of-00001'
  data = bytearray(path.read_bytes())
  place = data.find(saved.variables[0].numpy().tobytes())
  data[place] ^= 1
  path.write_bytes(data)
  files.refused(lambda: restore.restore_model(_model(), str(directory)), 'ckpt-5', 'damaged')
  gc.collect()  # A restoration that TensorFlow gives up warns of every value when it is deleted.
  assert 'unrestored' not in caplog.text


def test_the_only_checkpoint_of_a_directory_needs_no_list(run):
  directory, saved = run
  (directory / 'checkpoint').unlink()
  model = _model()
  assert restore.restore_model(model, str(directory)) == str(directory / 'ckpt-5')
  np.testing.assert_array_equal(model.backbone.stem.kernel, saved.backbone.stem.kernel)
  for path in list(directory.glob('ckpt-5.*')):
    (directory / path.name.replace('5', '7', 1)).write_bytes(path.read_bytes())
  files.refused(lambda: restore.newest(str(directory)), 'ckpt-5', 'ckpt-7', '`checkpoint`')


@pytest.mark.parametrize('path', ['https://example.org/kmax/ckpt-1', 's3://nowhere/ckpt-1'])
def test_places_that_tensorflow_cannot_open(path):
  files.refused(lambda: restore.newest(path), path, 'cannot be looked up')


def test_a_damaged_list_is_refused(run):
  directory, _ = run
  (directory / 'checkpoint').write_bytes(bytes(range(128, 256)))
  files.refused(lambda: restore.newest(str(directory)), str(directory))


def test_model_gardens_head_does_not_make_it_a_run_of_ours(tmp_path):
  model = _model()
  tensors = {
    f'backbone/_{key}{files.SUFFIX}': 2 * tf.ones_like(variable)
    for key, variable in released_keys.of_model(model).items()
    if key.startswith('encoder/')
  }
  path = files.write(
    tmp_path / 'ckpt', tensors | {'model/layer_with_weights-1/kernel' + files.SUFFIX: tf.ones([5])}
  )
  for start in (
    lambda: restore.initialize_model(model, path),
    lambda: restore.initialize_backbone(model.backbone, path),
  ):
    start()
    assert (model.backbone.stem.kernel.numpy() == 2).all()
    model.backbone.stem.kernel.assign(tf.zeros_like(model.backbone.stem.kernel))


def test_checkpoints_without_their_list_are_not_overlooked(run):
  directory, _ = run
  os.remove(directory / 'checkpoint')
  files.refused(_checkpoints(directory, _model())[0].resume, str(directory), '`checkpoint`')


def test_a_foreign_checkpoint_is_refused(tmp_path):
  prefix = files.write(tmp_path / 'x', {'dense/kernel': tf.ones([2])})
  files.refused(lambda: restore.restore_model(_model(), prefix), prefix, 'DeepLab2', 'dense/kernel')


def _released(directory, model, without=(), **more):
  """Writes a whole released checkpoint with twos everywhere, or what is left of it."""
  variables = released_keys.of_model(model)
  tensors = {
    key + files.SUFFIX: 2.0 * tf.ones_like(variable)
    for key, variable in variables.items()
    if not key.startswith(tuple(without))
  }
  return files.write(directory / 'released', {**tensors, **more})


def test_released_checkpoint_fills_all_or_is_refused(tmp_path):
  model = _model()
  restore.restore_model(model, _released(tmp_path, model))
  assert all((value == 2).all() for value in _values(model))
  lacking = _released(tmp_path, model, without=['pixel_space_mask'])
  files.refused(
    lambda: restore.restore_model(model, lacking), 'it lacks pixel_space_mask_batch_norm/'
  )
  more = _released(tmp_path, model, **{'depth_head/kernel' + files.SUFFIX: tf.ones([1])})
  files.refused(lambda: restore.restore_model(model, more), 'it has depth_head/kernel in addition')


def test_training_may_start_from_a_backbone_alone_but_not_be_evaluated_so(tmp_path):
  model = _model()
  backbone = _released(tmp_path, model, without=['transformer', 'pixel'])
  restore.initialize_model(model, backbone)
  assert (model.backbone.stem.kernel.numpy() == 2).all()
  assert (model.predictor.class_head.kernel.numpy() == 0).all()
  files.refused(
    lambda: restore.restore_model(_model(), backbone),
    'holds a backbone',
    'whole kMaX-DeepLab is expected',
  )


def test_a_backbone_from_a_run_from_a_release_or_from_a_classifier(run, tmp_path):
  directory, saved = run
  trained = saved.backbone.stem.kernel.numpy()
  classifier = _released(
    tmp_path / 'classifier',
    _model(),
    without=['transformer', 'pixel'],
    **{'head/bias' + files.SUFFIX: tf.ones([5])},
  )
  for path, value in (
    (str(directory), trained),
    (_released(tmp_path, _model()), 2.0),
    (classifier, 2.0),
  ):
    model = _model()
    restore.initialize_backbone(model.backbone, path)
    assert (model.backbone.stem.kernel.numpy() == value).all()
    assert (model.predictor.class_head.kernel.numpy() == 0).all()


def test_a_backbone_of_another_run_is_refused(run):
  directory, _ = run
  backbone = _Part(stem=_Part(kernel=np.zeros([5, 5]), norm=_Part(gamma=np.zeros(3))))
  files.refused(
    lambda: restore.initialize_backbone(backbone, str(directory)),
    'ckpt-5',
    'model/backbone/stem/kernel is [3, 3] there and [5, 5] here',
  )


@pytest.mark.parametrize('fraction', [0.0, 0.5])
def test_a_truncated_released_checkpoint_is_refused(tmp_path, fraction):
  path = f'{_released(tmp_path, _model())}.data-00000-of-00001'
  os.truncate(path, int(fraction * os.path.getsize(path)))
  for load in (
    restore.restore_model,
    restore.initialize_model,
    lambda model, prefix: restore.initialize_backbone(model.backbone, prefix),
  ):
    files.refused(
      lambda load=load: load(_model(), str(tmp_path / 'released')),
      'released',
      'truncated or damaged',
    )


def test_class_heads_may_start_afresh(run, tmp_path):
  directory, saved = run
  for path in (str(directory), _released(tmp_path, _model())):
    model = _model(classes=7)
    files.refused(
      lambda model=model, path=path: restore.initialize_model(model, path),
      'classes, not 7',
      'restore_semantic_last_layer_from_initial_checkpoint=false',
    )
    restore.initialize_model(model, path, fresh_class_heads=True)
    assert (model.predictor.class_head.kernel.numpy() == 0).all()
    assert (model.backbone.stem.kernel.numpy() != 0).all()
    same = _model()
    restore.initialize_model(same, path, fresh_class_heads=True)
    assert (same.predictor.class_head.kernel.numpy() != 0).all()
  assert saved is not None


def test_a_step_is_saved_once_and_the_newest_are_kept(tmp_path):
  checkpoints, step = _checkpoints(tmp_path, _model(), keep=2)
  assert checkpoints.save() == str(tmp_path / 'ckpt-0')
  assert checkpoints.save() is None
  for value in (3, 6):
    step.assign(value)
    checkpoints.save()
  assert sorted(path.name for path in tmp_path.glob('*.index')) == ['ckpt-3.index', 'ckpt-6.index']


def test_a_full_disk_costs_only_the_new_checkpoint(run):
  directory, _ = run
  model = _model()
  model.big = tf.Variable(tf.zeros([100000]))
  checkpoints, _ = _checkpoints(directory, model, 6)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  # Python ignores the signal, so that a write beyond the limit fails as on a full disk.
  resource.setrlimit(resource.RLIMIT_FSIZE, (50000, hard))
  try:
    files.refused(
      checkpoints.save,
      f'{directory}/ckpt-6',
      'cannot be saved',
      f'The last good one is {directory}/ckpt-5',
    )
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert sorted(os.listdir(directory)) == [
    'checkpoint',
    'ckpt-5.data-00000-of-00001',
    'ckpt-5.index',
  ]
  restore.restore_model(_model(), str(directory))


@pytest.mark.parametrize(
  'error',
  [
    tf.errors.ResourceExhaustedError(None, None, 'x; No space left on device'),
    tf.errors.UnknownError(None, None, 'x; Input/output error'),
    OSError(28, 'No space left'),
  ],
)
def test_errors_of_saving_name_the_path(tmp_path, monkeypatch, error):
  checkpoints, _ = _checkpoints(tmp_path / 'run', _model())

  def fail(*args, **kwargs):
    raise error

  monkeypatch.setattr(tf.train.Checkpoint, 'write', fail)
  files.refused(checkpoints.save, f'{tmp_path}/run/ckpt-0', 'None has been saved before')


def test_a_directory_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('not a directory')
  checkpoints, _ = _checkpoints(tmp_path / 'file' / 'run', _model())
  files.refused(checkpoints.save, 'cannot be saved')


def test_averages_are_restored_in_place_of_the_variables(run, tmp_path):
  model = _model(fill=3.0)
  averages = averages_lib.Averages(native.variable_keys({'model': model}), 0.9)
  for average in averages.saved.by_key.values():
    average.assign(np.full(average.shape, 0.5))
  checkpoints, _ = _checkpoints(tmp_path / 'averaged', model, training={'averages': averages.saved})
  checkpoints.save()
  for use, value in ((True, 0.5), (False, 3.0)):
    restored = _model()
    restore.restore_model(restored, str(tmp_path / 'averaged'), averages=use)
    for variable in restored.variables:
      np.testing.assert_array_equal(variable, np.full(variable.shape, value))
  directory, _ = run
  files.refused(
    lambda: restore.restore_model(_model(), str(directory), averages=True),
    'no moving averages',
    'trainer_options.ema_decay',
    'use_raw_weights=true',
  )
