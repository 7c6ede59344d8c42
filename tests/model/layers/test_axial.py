"""Axial attention: goldens, and a brute-force one with plain loops."""

import numpy as np
import pytest
from scipy import special
import tensorflow as tf

from deeplab2.model.layers import axial
from tests.model import builders

_PLACE = 'pixel_decoder/stages/1/0/attention'


@pytest.fixture(scope='module')
def filled():
  """The first axial attention of the released pixel decoder."""
  layer = axial.AxialAttention2D(256, norm=builders.NORM)
  layer(tf.zeros([1, 3, 3, 512]))
  values = {key: v.numpy() for key, v in builders.fill_by_key(layer, _PLACE).items()}

  def refill():
    for key, variable in builders.fill_by_key(layer, _PLACE).items():
      variable.assign(values[key])
    return layer

  return refill


@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_1d_golden(golden, filled, mode):
  layers, training = golden('model_layers'), mode == 'train'
  layer = filled().height_axis
  # Four sequences of nine, side by side: the height is attended along.
  x = builders.layer_input('axial_attention_1d', 4, 9, 512).transpose(1, 0, 2)[np.newaxis]
  q, k, v = layer.project(tf.constant(x), training)
  qkv = np.concatenate(
    [np.asarray(p).transpose(0, 2, 1, 3).reshape(4, 9, -1) for p in (q, k, v)], axis=-1
  )
  assert builders.layer_deviation(qkv, layers, f'axial_attention_1d/qkv/{mode}') < 1e-4

  similarity = layer.norm_similarity(layer.similarities(q, k, 9), training=training)
  similarity = np.asarray(similarity).reshape(4, 3, 8, 9, 9).transpose(1, 0, 2, 3, 4)
  name = f'axial_attention_1d/similarity/{mode}'
  assert builders.layer_deviation(similarity, layers, name) < 1e-4

  logits = similarity.sum(axis=0)
  retrieved = tf.concat(
    [
      tf.reshape(tf.transpose(term, (0, 2, 1, 3)), [4, 9, 512])
      for term in layer.retrieve(tf.nn.softmax(logits), v, 9)
    ],
    axis=-1,
  )
  retrieved = np.asarray(layer.norm_retrieved(retrieved, training=training))
  retrieved = retrieved.reshape(4, 9, 2, 8, 64).transpose(2, 0, 3, 1, 4)
  name = f'axial_attention_1d/retrieved/{mode}'
  assert builders.layer_deviation(retrieved, layers, name) < 1e-4

  result = np.asarray(filled().height_axis(x, training=training))[0].transpose(1, 0, 2)
  assert builders.layer_deviation(result, layers, f'axial_attention_1d/output/{mode}') < 1e-4


@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_2d_golden(golden, filled, mode):
  x = builders.layer_input('axial_attention_2d', 2, 9, 9, 512)
  result = filled()(x, training=mode == 'train')
  name = f'axial_attention_2d/{mode}'
  assert builders.layer_deviation(result, golden('model_layers'), name) < 1e-4


@pytest.mark.parametrize('axis, size', [(1, (7, 3)), (2, (4, 6)), (2, (2, 300))])
def test_against_loops(axis, size):
  layer = axial.AxialAttention1D(8, 16, axis=axis, norm=builders.NORM)
  x = np.random.RandomState(0).normal(size=(1, *size, 5)).astype(np.float32)
  layer(x)
  builders.fill_by_key(layer, f'{_PLACE}/height_axis')
  result = layer(x).numpy()
  sequences = x[0] if axis == 2 else x[0].transpose(1, 0, 2)
  result = result[0] if axis == 2 else result[0].transpose(1, 0, 2)

  scale, offset = (value.numpy() for value in layer.norm_qkv.affine())
  similarity_scale, similarity_offset = (
    value.numpy().reshape(3, 8) for value in layer.norm_similarity.affine()
  )
  retrieved_scale, retrieved_offset = (
    value.numpy().reshape(2, 8, 2) for value in layer.norm_retrieved.affine()
  )
  tables = [
    table.embeddings.numpy()
    for table in (layer.query_positions, layer.key_positions, layer.value_positions)
  ]
  length = sequences.shape[1]
  for n in (0, sequences.shape[0] - 1):
    qkv = sequences[n] @ layer.qkv_kernel.numpy() * scale + offset
    q, k = qkv[:, :8].reshape(length, 8, 1), qkv[:, 8:16].reshape(length, 8, 1)
    v = qkv[:, 16:].reshape(length, 8, 2)
    for head, query in ((0, 0), (5, length - 1), (7, 1)):
      rows = np.clip(np.arange(length) - query + 254, 0, 508)
      terms = [
        k[:, head] @ q[query, head],
        tables[0][rows] @ q[query, head],
        np.sum(k[:, head] * tables[1][rows], axis=-1),
      ]
      logits = sum(
        t * similarity_scale[i, head] + similarity_offset[i, head] for i, t in enumerate(terms)
      )
      weights = special.softmax(logits)
      retrieved = [weights @ v[:, head], weights @ tables[2][rows]]
      expected = sum(
        r * retrieved_scale[i, head] + retrieved_offset[i, head] for i, r in enumerate(retrieved)
      )
      np.testing.assert_allclose(
        result[n, query, 2 * head : 2 * head + 2], expected, rtol=1e-4, atol=1e-5
      )


def test_strides_keep_every_other_row_and_column():
  layer = axial.AxialAttention2D(8, norm=builders.NORM, stride=2)
  plain = axial.AxialAttention2D(8, norm=builders.NORM)
  x = np.random.RandomState(0).normal(size=(2, 9, 7, 16)).astype(np.float32)
  for one in (layer, plain):
    one(x)
    builders.fill_by_key(one, _PLACE)
  # The width is attended before its columns are dropped, the rows are dropped before that.
  rows = plain.height_axis(x)[:, ::2]
  np.testing.assert_allclose(layer(x), plain.width_axis(rows)[:, :, ::2], atol=1e-5)


def test_channels_must_divide_among_heads():
  with pytest.raises(ValueError, match='12'):
    axial.AxialAttention1D(12, 16, axis=1, norm=builders.NORM)


def test_gradients_of_the_positions_are_dense():
  layer = axial.AxialAttention1D(8, 8, axis=1, norm=builders.NORM)
  with tf.GradientTape() as tape:
    result = layer(tf.random.normal([1, 5, 2, 4]), training=True)
  gradients = tape.gradient(result, layer.trainable_variables)
  assert all(isinstance(gradient, tf.Tensor) for gradient in gradients)
