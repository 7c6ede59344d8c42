"""The whole model: goldens at full width (slow); structure, sizes and precision at tiny width."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab2.checkpoint import released_keys
from deeplab2.model import precision
from tests import weights
from tests.goldens import fill
from tests.model import builders


def _named(predictions):
  """Yields (name in the goldens, tensor) of (prefix, MaskPrediction) pairs."""
  for prefix, prediction in predictions:
    yield f'{prefix}/pixel_space_mask_logits', prediction.mask_logits
    yield f'{prefix}/transformer_class_logits', prediction.class_logits
    yield f'{prefix}/pixel_space_normalized_feature', prediction.pixel_feature


@pytest.mark.slow
@pytest.mark.usefixtures('constant_weights')
@pytest.mark.parametrize(
  'make, backbone, name',
  [
    (builders.coco, 'resnet50', 'model_coco_r50'),
    (builders.coco, 'axial_resnet50', 'model_coco_axial_r50'),
    (builders.coco, 'convnext_tiny', 'model_coco_convnext_tiny'),
    (builders.cityscapes, 'resnet50', 'model_cityscapes_r50'),
  ],
)
def test_inference_golden(golden, make, backbone, name):
  golden, model = golden(name), make(backbone)
  builders.fill_by_key(model, golden=golden)
  image = tf.constant(fill.image(*golden['image']), tf.float32)

  pyramid = model.backbone(image / 127.5 - 1.0)
  features = model.pixel_decoder(pyramid)
  class_feature, mask_feature, masks = model.kmax_decoder(features)
  tensors = {f'enc/stage{i}': stage for i, stage in enumerate(pyramid[:5], start=1)}
  tensors |= {f'pix/decoder_stage{i}': feature for i, feature in enumerate(features[:-1], start=1)}
  tensors |= {
    'pix/decoder_output': features[-1],
    'td/class_feature': class_feature,
    'td/mask_feature': mask_feature,
  }
  auxiliary = model.kmax_decoder.predictions(masks)
  tensors |= dict(_named((f'aux/{i}', prediction) for i, prediction in enumerate(auxiliary)))
  prediction = model(image)
  tensors |= dict(_named([('pred', prediction.final)]))
  tensors['pred/semantic_logits'] = prediction.semantic_logits
  for key, tensor in tensors.items():
    assert builders.deviation(tensor, golden, key) < 1e-3, key

  for i, layer_masks in enumerate(masks):
    np.testing.assert_array_equal(np.argmax(layer_masks.mask_logits, -1), golden[f'assignment/{i}'])
  final = prediction.final
  assert np.sum(np.argmax(final.mask_logits, -1) != golden['mask_argmax']) <= 2
  for tensor, key in (
    (final.class_logits, 'transformer_class_logits'),
    (final.mask_logits[:, ::4, ::4], 'pixel_space_mask_logits'),
    (final.pixel_feature[:, ::4, ::4], 'pixel_space_normalized_feature'),
  ):
    assert np.abs(tensor - golden[key]).max() / golden[key].std() < 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures('constant_weights')
@pytest.mark.parametrize('name, tolerance', [('BFLOAT16', 0.03), ('FLOAT16', 0.005)])
def test_inference_golden_in_half_precision(golden, name, tolerance):
  """Root mean square errors, in standard deviations; mask logits may have three times as much."""
  golden = golden('model_coco_r50')
  with precision.computing_in(name):
    model = builders.coco()
  builders.fill_by_key(model, golden=golden)
  image = tf.constant(fill.image(*golden['image']), tf.float32)
  prediction = tf.function(model.infer)(image)
  for tensor, key, weight in (
    (prediction.class_logits, 'transformer_class_logits', 1),
    (prediction.mask_logits[:, ::4, ::4], 'pixel_space_mask_logits', 3),
    (prediction.pixel_feature[:, ::4, ::4], 'pixel_space_normalized_feature', 1),
  ):
    error = np.sqrt(np.mean((tensor - golden[key]) ** 2)) / np.std(golden[key])
    assert error < weight * tolerance, key


@pytest.fixture(name='filled_for_training', scope='module')
def _filled_for_training():
  """Returns a model that is filled as the golden of training was made, its variables by key, and
  the values of those that training moves."""
  with weights.constant():
    model = builders.coco(dropout=0.0)
  variables = builders.fill_by_key(model)
  for key, variable in variables.items():
    if re.search(r'(_conv3_bn|_memory_ffn_conv2_bn)/_batch_norm/gamma$', key):
      variable.assign(0.1 * variable)
  moved = {key: variable.numpy() for key, variable in variables.items() if '/moving_' in key}
  return model, variables, moved


@pytest.mark.slow
@pytest.mark.usefixtures('each_form')
def test_training_golden(golden, filled_for_training):
  golden, (model, variables, start) = golden('model_train_coco_r50'), filled_for_training
  for key, value in start.items():
    variables[key].assign(value)
  height, width, *seeds = golden['image']
  images = np.concatenate([fill.image(height, width, seed) for seed in seeds])
  watched = [key.removeprefix('grad2_norm/') for key in golden if key.startswith('grad2_norm/')]

  def step(images):
    with tf.GradientTape() as tape1, tf.GradientTape() as tape2:
      prediction = model(images, training=True)
      tensors = {'pred/semantic_logits': prediction.semantic_logits}
      tensors |= dict(_named([('pred', prediction.final)]))
      tensors |= dict(_named((f'aux/{i}', p) for i, p in enumerate(prediction.auxiliary)))
      loss1 = tf.add_n([tf.reduce_mean(tensor**2) for tensor in tensors.values()])
      loss2 = tf.add_n(
        [
          tf.reduce_sum(tensor * fill.value(f'loss/{name}', tensor.shape))
          / np.sqrt(float(np.prod(tensor.shape)))
          for name, tensor in tensors.items()
        ]
      )
    sources = [variables[key] for key in watched]
    return tensors, loss1, loss2, tape1.gradient(loss1, sources), tape2.gradient(loss2, sources)

  tensors, loss1, loss2, *gradients = step(tf.constant(images, tf.float32))
  for name, tensor in tensors.items():
    assert builders.deviation(tensor, golden, name) < 1e-2, name
  chosen = np.argmax(tensors['pred/pixel_space_mask_logits'], axis=-1)
  assert np.sum(chosen != golden['mask_argmax']) <= 5
  assert float(loss1) == pytest.approx(float(golden['loss1']), rel=1e-4)
  assert float(loss2) == pytest.approx(float(golden['loss2']), abs=5e-3)
  for number, of_loss in enumerate(gradients, start=1):
    for key, gradient in zip(watched, of_loss, strict=True):
      if f'grad{number}_norm/{key}' not in golden:
        continue
      norm, stored = golden[f'grad{number}_norm/{key}'], golden[f'grad{number}_samples/{key}']
      gradient = np.asarray(tf.convert_to_tensor(gradient))
      assert np.linalg.norm(gradient) == pytest.approx(float(norm), rel=5e-3), key
      error = np.abs(builders.samples(gradient, stored.size) - stored).max()
      assert error < 0.05 * np.abs(stored).max() + 0.01 * norm, key
  moved = [key.removeprefix('moved/') for key in golden if key.startswith('moved/')]
  for key in moved:
    stored = golden[f'moved/{key}']
    assert np.abs(variables[key] - stored).max() < 1e-3 * np.abs(stored).max(), key


def _parameters(*parts):
  variables = [variable for part in parts for variable in part.variables]
  trainable = [variable for part in parts for variable in part.trainable_variables]
  return tuple(sum(int(np.prod(v.shape)) for v in some) for some in (variables, trainable))


@pytest.mark.slow
@pytest.mark.parametrize(
  'make, backbone, pixel_decoder, kmax_decoder, predictor, semantic, total',
  [
    (
      builders.coco,
      'resnet50',
      (21_238_144, 21_151_040),
      (11_813_116, 11_747_472),
      (175_114, 173_576),
      (15_863_270, 15_856_742),
      (72_650_796, 72_436_862),
    ),
    (
      builders.coco,
      'axial_resnet50',
      (21_238_144, 21_151_040),
      (11_813_116, 11_747_472),
      (175_114, 173_576),
      (15_863_270, 15_856_742),
      (90_577_452, 90_272_254),
    ),
    (
      builders.coco,
      'convnext_tiny',
      (21_288_640, 21_197_440),
      (11_813_116, 11_747_472),
      (175_114, 173_576),
      (6_334_950, 6_328_422),
      (67_430_412, 67_265_502),
    ),
    (
      builders.cityscapes,
      'resnet50',
      (21_268_480, 21_180_608),
      (11_670_096, 11_604_452),
      (109_336, 108_054),
      (589_587, 584_979),
      (57_198_651, 56_986_125),
    ),
  ],
)
def test_parameters_and_initial_values(
  make, backbone, pixel_decoder, kmax_decoder, predictor, semantic, total
):
  model = make(backbone)
  assert _parameters(model.pixel_decoder) == pixel_decoder
  assert _parameters(model.kmax_decoder) == kmax_decoder
  assert _parameters(model.predictor) == predictor
  assert _parameters(model.semantic_branch) == semantic
  assert _parameters(model) == total
  for key, variable in released_keys.of_model(model).items():
    _check_initial_value(key, variable.numpy())


def _check_initial_value(key, value):
  """Compares the spread of a fresh variable with that of its initializer."""
  leaf = key.rsplit('/', 1)[-1]
  if leaf in ('beta', 'bias', 'moving_mean'):
    expected = 0.0, 0.0
  elif leaf == 'layer_scale':
    expected = 1e-6, 0.0
  elif leaf == 'moving_variance':
    expected = 1.0, 0.0
  elif leaf == 'gamma':
    zero = '/_stem/' not in key and re.search(r'(_conv3_bn|_memory_ffn_conv2_bn)/', key)
    small = 'pixel_space_mask_batch_norm' in key
    expected = (0.0 if zero else 0.1 if small else 1.0), 0.0
  else:
    expected = 0.0, _initial_deviation(key, leaf, value.shape)
  mean, deviation = value.mean(), value.std()
  # Six standard errors.
  tolerance = 6.0 * max(expected[1], 1e-7) / np.sqrt(value.size)
  assert mean == pytest.approx(expected[0], abs=tolerance), key
  assert deviation == pytest.approx(expected[1], abs=tolerance), key


def _initial_deviation(key, leaf, shape):
  cut = 0.8796  # A normal cut at two standard deviations has this fraction of its spread.
  if leaf == 'depthwise_kernel':
    size, channels = shape[0] * shape[1], shape[2]
    return np.sqrt(2.0 / (size * channels + size))
  if leaf in ('embeddings', 'cluster_centers'):
    return cut
  if leaf == 'qkv_kernel' or re.search(r'_(memory_qkv|pixel_v)_conv_bn/', key):
    return cut * shape[-2] ** -0.5
  if re.search(r'final_conv|semantic_last_layer|transformer_class_head', key):
    return cut * 0.01
  if key.startswith(('encoder/stages/', 'encoder/downsample_layers/')):
    return cut * 0.02
  return np.sqrt(2.0 / np.prod(shape[:-1]))


@pytest.fixture(scope='module')
def tiny():
  return builders.tiny()


@pytest.mark.parametrize('size', [(33, 33), (65, 33), (33, 97)])
@pytest.mark.parametrize('dtype', [tf.uint8, tf.float32])
def test_infer_is_the_final_prediction_at_any_crop(tiny, size, dtype):
  image = tf.cast(fill.image(*size), dtype)
  final, prediction = tiny.infer(image), tiny(image)
  height, width = ((side - 1) // 4 + 1 for side in size)
  assert final.mask_logits.shape == (1, height, width, 8)
  assert final.class_logits.shape == (1, 8, 6)
  assert prediction.auxiliary == ()
  assert prediction.semantic_logits.shape == (1, (size[0] + 7) // 8, (size[1] + 7) // 8, 6)
  for ours, theirs in zip(final[:3], prediction.final[:3], strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_infer_captures_only_what_it_needs(tiny):
  graph = tf.function(tiny.infer).get_concrete_function(tf.TensorSpec([1, 33, 33, 3])).graph
  captured = {variable.ref() for variable in graph.variables}
  left_out = {
    key for key, variable in released_keys.of_model(tiny).items() if variable.ref() not in captured
  }
  expected = {
    key
    for key in released_keys.of_model(tiny)
    if key.startswith('semantic') or '_transformer_class_head' in key
  }
  assert left_out == expected


def test_infer_at_a_size_known_only_when_run(tiny):
  infer = tf.function(tiny.infer, input_signature=[tf.TensorSpec([None, None, None, 3])])
  for size in ((33, 65), (65, 33), (32, 50)):
    image = tf.constant(fill.image(*size), tf.float32)
    for ours, theirs in zip(infer(image)[:3], tiny.infer(image)[:3], strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_training_predicts_at_every_layer_and_moves_every_variable():
  model = builders.tiny()
  builders.fill_by_key(model)  # Fresh norms have a mean of zero, which masks inherit.
  images = tf.constant(np.concatenate([fill.image(33, 65, seed) for seed in range(2)]), tf.float32)
  before = {key: variable.numpy() for key, variable in released_keys.of_model(model).items()}
  with tf.GradientTape() as tape:
    prediction = model(images, training=True)
    tensors = [tensor for tensor in tf.nest.flatten(prediction) if tensor is not None]
    loss = tf.add_n([tf.reduce_mean(tensor**2) for tensor in tensors])
  assert len(prediction.auxiliary) == 3
  for auxiliary in prediction.auxiliary:
    for ours, final in zip(auxiliary[:3], prediction.final[:3], strict=True):
      assert ours.shape == final.shape and ours.dtype == tf.float32
  gradients = tape.gradient(loss, model.trainable_variables)
  assert all(gradient is not None for gradient in gradients)
  for key, variable in released_keys.of_model(model).items():
    if key.endswith(('moving_mean', 'moving_variance')):
      assert not np.array_equal(before[key], variable.numpy()), key


def test_semantic_heads_are_of_training_alone(tiny):
  model = builders.tiny(heads=builders.semantic_heads(2))
  images = tf.constant(fill.image(33, 65), tf.float32)
  for part in (model, tiny):
    builders.fill_by_key(part)
  for ours, theirs in ((model(images), tiny(images)), (model.infer(images), tiny.infer(images))):
    tf.nest.map_structure(np.testing.assert_array_equal, ours, theirs)
  assert len(model.variables) == len(tiny.variables) + len(model.semantic_heads.variables)
  graphs = [
    tf.function(one.infer).get_concrete_function(tf.TensorSpec([1, 33, 33, 3])).graph
    for one in (model, tiny)
  ]
  assert len(graphs[0].variables) == len(graphs[1].variables)
  assert [op.type for op in graphs[0].get_operations()] == [
    op.type for op in graphs[1].get_operations()
  ]
  prediction = model(images, training=True)
  assert [
    None if layer.semantic_logits is None else layer.semantic_logits.shape
    for layer in prediction.auxiliary
  ] == [(1, 9, 17, 6), (1, 9, 17, 6), None]


def test_more_semantic_heads_than_decoder_layers():
  with pytest.raises(ValueError, match='4 layers are to be relaxed, and the decoder has 3'):
    builders.tiny(heads=builders.semantic_heads(4))


def test_auxiliary_predictions_are_resized_with_corners_on_corners():
  model = builders.tiny()
  images = tf.constant(fill.image(33, 33), tf.float32)
  features = model.pixel_decoder(model.backbone(images / 127.5 - 1.0, training=True), training=True)
  *_, masks = model.kmax_decoder(features, training=True)
  auxiliary = model(images, training=True).auxiliary
  for stride, native, resized in zip((8, 4, 2), masks, auxiliary, strict=True):
    np.testing.assert_allclose(
      resized.mask_logits[:, ::stride, ::stride], native.mask_logits, atol=1e-4
    )


@pytest.mark.parametrize('policy', ['mixed_bfloat16', 'mixed_float16'])
def test_mixed_precision(tiny, policy):
  builders.fill_by_key(tiny)
  tf_keras.mixed_precision.set_global_policy(policy)
  try:
    model = builders.tiny()
  finally:
    tf_keras.mixed_precision.set_global_policy('float32')
  builders.fill_by_key(model)
  images = tf.constant(fill.image(33, 33), tf.float32)
  pyramid = model.backbone(images / 127.5 - 1.0)
  expected = tiny.backbone(images / 127.5 - 1.0)
  half = tf.bfloat16 if policy == 'mixed_bfloat16' else tf.float16
  for ours, theirs in zip(pyramid, expected, strict=True):
    assert ours.dtype == half
    error = np.abs(tf.cast(ours, tf.float32) - theirs).max()
    assert error < 0.1 * np.std(theirs)
  assert all(variable.dtype == tf.float32 for variable in model.variables)

  with tf.GradientTape() as tape:
    prediction = model(images, training=True)
    tensors = [tensor for tensor in tf.nest.flatten(prediction) if tensor is not None]
    loss = tf.add_n([tf.reduce_mean(tensor**2) for tensor in tensors])
  assert {tensor.dtype for tensor in tensors} == {tf.float32}
  for gradient in tape.gradient(loss, model.trainable_variables):
    assert gradient.dtype == tf.float32
    assert np.isfinite(gradient).all()


def test_variables_do_not_depend_on_the_crop():
  model = builders.tiny(num_stages=5)
  shapes = {key: variable.shape for key, variable in released_keys.of_model(model).items()}
  assert model.infer(tf.zeros([1, 33, 65, 3])).mask_logits.shape == (1, 17, 33, 8)
  assert {key: v.shape for key, v in released_keys.of_model(model).items()} == shapes
