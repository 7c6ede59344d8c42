"""MOAT against goldens, parameter counts, and attention computed pixel by pixel."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab2.model.backbones import moat
from deeplab2.model.layers import activations
from tests.goldens import fill
from tests.model import builders

_TINY = 'tiny_moat0_pretrain_256_1k'
_TINY_NO_PE = 'tiny_moat0_pretrain_256_no_pe_1k'
# The smallest network with every part: two blocks where the second has no shortcut convolution.
_SMALLEST = moat.Size(8, 32, (1, 1, 2, 1))


def _smallest(windows=(3, 2), drop_path_keep_prob=1.0):
  return moat.MOAT(
    _SMALLEST, windows=windows, norm=builders.NORM, drop_path_keep_prob=drop_path_keep_prob
  )


def _created(backbone, size=(33, 33)):
  backbone(tf.zeros([1, *size, 3]))
  return backbone


def _randomise(backbone):
  """Gives every variable a value that matters."""
  rng = np.random.default_rng(1)
  for variable in backbone.variables:
    noise = rng.standard_normal(variable.shape)
    if 'moving_variance' in variable.name:
      value = 1.0 + 0.2 * np.tanh(noise)
    elif 'gamma' in variable.name:
      value = 1.0 + 0.2 * noise
    elif variable.shape.rank == 1 or 'bias' in variable.name:
      value = 0.2 * noise
    else:
      value = noise / np.sqrt(np.prod(variable.shape[:-1]))
    variable.assign(value)
  return backbone


@pytest.mark.parametrize('name, size', [(_TINY, (129, 129)), (_TINY_NO_PE, (65, 129))])
def test_golden(golden, name, size):
  golden = golden('model_moat')
  backbone = moat.MOATS[name](norm=builders.NORM, drop_path_keep_prob=1.0)
  image = tf.constant(fill.image(*size) / 127.5 - 1.0, tf.float32)
  backbone(image)
  variables = builders.fill_by_key(backbone, 'backbone')
  keys = sorted(f'{key} {"x".join(map(str, v.shape))}' for key, v in variables.items())
  assert keys == sorted(golden[f'{name}/keys'])

  pyramid = tf.function(backbone)(image)
  assert [stage.shape[-1] for stage in pyramid] == [32, 32, 64, 128, 256] * 2
  for number, stage in enumerate(pyramid[:5], start=1):
    stored = golden[f'{name}/stage{number}/samples']
    error = np.abs(builders.samples(stage, stored.size) - stored).max()
    assert error / golden[f'{name}/stage{number}/stats'][1] < 1e-4
    np.testing.assert_allclose(pyramid[number + 4], activations.gelu(stage), atol=1e-5)


def test_released_names():
  assert sorted(moat.MOATS) == sorted(
    [
      'moat0_pretrain_224_1k',
      'moat0_pretrain_224_no_pe_1k',
      'moat1_pretrain_224_1k',
      'moat1_pretrain_224_no_pe_1k',
      'moat2_finetune_384_22k',
      'moat2_finetune_384_no_pe_22k',
      'moat3_finetune_512_22k',
      'moat3_finetune_512_no_pe_22k',
      'moat4_finetune_512_22k',
      'moat4_finetune_512_no_pe_22k',
      'tiny_moat0_pretrain_256_1k',
      'tiny_moat0_pretrain_256_no_pe_1k',
      'tiny_moat1_pretrain_256_1k',
      'tiny_moat1_pretrain_256_no_pe_1k',
      'tiny_moat2_pretrain_256_1k',
      'tiny_moat2_pretrain_256_no_pe_1k',
      'tiny_moat3_pretrain_256_1k',
      'tiny_moat3_pretrain_256_no_pe_1k',
    ]
  )


@pytest.mark.parametrize('size', [(32, 32), (33, 65), (50, 70), (71, 34)])
@pytest.mark.parametrize('training', [False, True])
def test_sizes_of_any_batch(size, training):
  backbone = _smallest()

  @tf.function(input_signature=[tf.TensorSpec([None, *size, 3])])
  def apply(images):
    return backbone(images, training=training)

  pyramid = apply(tf.random.normal([2, *size, 3]))
  for level, (stage, activated) in enumerate(zip(pyramid[:5], pyramid[5:], strict=True), start=1):
    side = tuple(-(-length // 2**level) for length in size)
    assert tuple(stage.shape[1:3]) == tuple(activated.shape[1:3]) == side
    assert np.isfinite(stage).all() and np.isfinite(activated).all()
    # The batch has to be all that is unknown, for the decoders to be built.
    assert apply.get_concrete_function().structured_outputs[level - 1].shape[1:3] == side


def test_size_unknown_when_traced():
  backbone = _randomise(_created(_smallest()))
  images = tf.random.normal([1, 50, 70, 3])
  dynamic = tf.function(backbone, input_signature=[tf.TensorSpec([None, None, None, 3])])(images)
  for stage, expected in zip(dynamic, backbone(images), strict=True):
    np.testing.assert_allclose(stage, expected, atol=1e-4)


def test_compiled_inference():
  backbone = _randomise(_created(_smallest()))
  images = tf.random.normal([2, 50, 33, 3])
  compiled = tf.function(backbone, jit_compile=True)(images)
  for stage, expected in zip(compiled, backbone(images), strict=True):
    np.testing.assert_allclose(stage, expected, atol=1e-4)


@pytest.mark.parametrize('windows', [(3, 2), (None, None)])
def test_every_variable_gets_a_gradient(windows):
  backbone = _randomise(_created(_smallest(windows), (34, 65)))
  images = tf.random.normal([2, 34, 65, 3])
  with tf.GradientTape() as tape:
    loss = tf.add_n([tf.reduce_sum(tf.square(stage)) for stage in backbone(images, training=True)])
  gradients = tape.gradient(loss, backbone.trainable_variables)
  for variable, gradient in zip(backbone.trainable_variables, gradients, strict=True):
    assert gradient is not None, variable.name
    # The bias of keys shifts all similarities of a query alike; a norm takes off what was added
    # before it.
    if not variable.name.endswith(
      ('key_projection/bias:0', 'down/bias:0', 'expand/pre_norm/beta:0')
    ):
      assert np.abs(gradient).max() > 1e-4, variable.name


def test_initial_kernels():
  backbone = _created(_smallest())
  kernels = [
    v.numpy().ravel()
    for v in backbone.trainable_variables
    if v.name.endswith(('kernel:0', 'weight:0', 'embedding:0'))
  ]
  assert len(kernels) == 40  # 2 of the stem, 6 per MBConv; 9, 8 and 9 of the MOAT blocks.
  np.testing.assert_allclose(np.std(np.concatenate(kernels)), 0.02, rtol=0.02)
  assert len({kernel[0] for kernel in kernels}) == len(kernels)


def test_norms_folded_at_inference_are_those_of_training():
  """With the batch's own statistics as moving ones, training and inference are the same."""
  norm = builders.NORM._replace(momentum=0.0)
  backbone = _randomise(_created(moat.MOAT(_SMALLEST, windows=(3, 2), norm=norm)))
  images = tf.random.normal([2, 34, 50, 3])
  trained = backbone(images, training=True)
  for stage, expected in zip(backbone(images), trained, strict=True):
    np.testing.assert_allclose(stage, expected, atol=2e-3)


def test_relative_bias_pixel_by_pixel():
  height, width, window = 4, 3, 5
  attention = moat.Attention(64, window=window)
  attention.build([None, None, None, 64])
  table = np.random.standard_normal([2, 2 * window - 1, 2 * window - 1]).astype(np.float32)
  attention.relative_position_embedding.assign(table)
  resized = tf.image.resize(np.moveaxis(table, 0, -1), [2 * height - 1, 2 * width - 1])

  bias = tf.reshape(attention.relative_bias(height, width), [2, width, height, height, width])
  for query in np.ndindex(height, width):
    for key in np.ndindex(height, width):
      expected = resized[key[0] - query[0] + height - 1, key[1] - query[1] + width - 1]
      np.testing.assert_allclose(bias[:, query[1], query[0], key[0], key[1]], expected, atol=1e-6)


def test_attention_by_hand():
  attention = moat.Attention(64, window=2)
  x = np.random.standard_normal([2, 2, 3, 64]).astype(np.float32)
  attention(x)
  _randomise(attention)

  def project(part, rows):
    weight = part.weight.numpy().reshape(64, 64)
    return rows @ weight + part.bias.numpy().ravel()

  bias = tf.reshape(attention.relative_bias(2, 3), [2, 3, 2, 6]).numpy()
  bias = bias.transpose(0, 2, 1, 3).reshape(2, 6, 6)
  for image, result in zip(x.reshape(2, 6, 64), attention(x), strict=True):
    q, k, v = (
      project(part, image).reshape(6, 2, 32)
      for part in (attention.query_projection, attention.key_projection, attention.value_projection)
    )
    weights = np.exp(np.einsum('qhd,khd->hqk', q, k) / np.sqrt(32.0) + bias)
    weights /= weights.sum(-1, keepdims=True)
    merged = np.einsum('hqk,khd->qhd', weights, v).reshape(6, 64)
    expected = project(attention.output_projection, merged).reshape(2, 3, 64)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_attention_channels_that_are_no_heads():
  with pytest.raises(ValueError, match='48'):
    moat.Attention(48, window=None)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_mixed_precision(dtype):
  exact = _randomise(_created(_smallest()))
  images = tf.random.normal([2, 33, 50, 3])
  policy = tf_keras.mixed_precision.global_policy()
  tf_keras.mixed_precision.set_global_policy(f'mixed_{dtype}')
  try:
    backbone = _created(_smallest())
    for training in (False, True):
      for variable, source in zip(backbone.variables, exact.variables, strict=True):
        assert variable.dtype == tf.float32
        variable.assign(source)
      mixed = backbone(images, training=training)
      for stage, expected in zip(mixed, exact(images, training=training), strict=True):
        assert stage.dtype == dtype
        error = tf.math.reduce_std(tf.cast(stage, tf.float32) - expected)
        assert error < (0.01 if dtype == 'float16' else 0.08) * tf.math.reduce_std(expected)
  finally:
    tf_keras.mixed_precision.set_global_policy(policy)


def test_large_similarities():
  attention = moat.Attention(32, window=None)
  x = tf.random.normal([1, 3, 3, 32])
  attention(x)
  attention.query_projection.weight.assign(1e3 * tf.random.normal([32, 1, 32]))
  attention.key_projection.weight.assign(1e3 * tf.random.normal([32, 1, 32]))
  assert np.isfinite(attention(x)).all()


def test_drop_path_rises_from_block_to_block():
  keep = 0.5
  backbone = _smallest(drop_path_keep_prob=keep)
  blocks = [block for stage in backbone.blocks for block in stage]
  probabilities = [1.0, 0.9, 0.8, 0.7, 0.6]
  np.testing.assert_allclose([block._keep_prob for block in blocks], probabilities)
  np.testing.assert_allclose([block.mobile._keep_prob for block in blocks[2:]], probabilities[2:])


def test_drop_path_drops_both_residuals():
  block = moat.MOATBlock(32, 32, norm=builders.NORM, window=None, drop_path_keep_prob=1e-6)
  x = tf.random.normal([2, 4, 4, 32])
  np.testing.assert_array_equal(block(x, training=True), x)
  assert np.abs(block(x) - x).max() > 0.0
