"""SavedModels by TensorFlow Serving's protocol, from a process that has TensorFlow alone."""

import os
import pathlib
import subprocess
import sys

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc

import deeplab2
from deeplab2.data import datasets
from deeplab2.data import images as images_lib
from tests.inference import color_model

_SERVER = pathlib.Path(__file__).with_name('model_server.py')
_SPACE = datasets.get('shapes').label_space
SIZES = ((40, 60), (65, 65), (131, 77))


@pytest.fixture(name='exported', scope='module')
def _exported(tmp_path_factory):
  return color_model.export(str(tmp_path_factory.mktemp('export') / 'model'))


@pytest.fixture(name='stub', scope='module')
def _stub(exported, tmp_path_factory):
  """Returns the client of a server of the model."""
  environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
  with subprocess.Popen(
    [sys.executable, '-P', str(_SERVER), exported],
    cwd=tmp_path_factory.mktemp('elsewhere'),
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  ) as server:
    try:
      port = server.stdout.readline().strip()
      unlimited = [('grpc.max_receive_message_length', -1)]
      with grpc.insecure_channel(f'localhost:{port}', options=unlimited) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)
    finally:
      server.terminate()


@pytest.fixture(name='expected', scope='module')
def _expected(exported):
  """Returns three images of different sizes, and what the model says of them."""
  images = [color_model.image(*size, seed=n) for n, size in enumerate(SIZES)]
  return deeplab2.load(exported)(images)


def _predict(stub, signature, outputs=(), **inputs):
  request = predict_pb2.PredictRequest(output_filter=outputs)
  request.model_spec.name = 'shapes'
  request.model_spec.signature_name = signature
  for name, value in inputs.items():
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
  response = stub.Predict(request, timeout=120)
  return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def _padded(results):
  """Returns the images of results in one array, and their sizes."""
  sizes = np.array([result.image.shape[:2] for result in results], np.int32)
  images = np.full((len(results), *sizes.max(0), 3), 99, np.uint8)
  for image, result in zip(images, results, strict=True):
    height, width = result.image.shape[:2]
    image[:height, :width] = result.image
  return images, sizes


def _check(found, results, height, width):
  assert found['panoptic_pred'].shape == (len(results), height, width)
  for number, result in enumerate(results):
    h, w = result.panoptic.shape
    for name, values, outside in (
      ('panoptic_pred', result.panoptic, _SPACE.void_id),
      ('semantic_pred', result.semantic, _SPACE.ignore_label),
    ):
      padded = np.full((height, width), outside)
      padded[:h, :w] = values
      np.testing.assert_array_equal(found[name][number], padded)
    pairs = zip(found['segment_ids'][number], found['segment_scores'][number], strict=True)
    scores = {i: s for i, s in pairs if i != _SPACE.void_id}
    assert scores == {segment['id']: segment['score'] for segment in result.segments}


def test_the_signatures_are_described(stub):
  request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=['signature_def'])
  metadata = stub.GetModelMetadata(request, timeout=60).metadata['signature_def']
  signatures = get_model_metadata_pb2.SignatureDefMap()
  metadata.Unpack(signatures)
  described = {
    name: (set(signature.inputs), set(signature.outputs))
    for name, signature in signatures.signature_def.items()
    if not name.startswith('__')
  }
  maps = {'panoptic_pred', 'semantic_pred', 'segment_ids', 'segment_scores'}
  assert described == {
    'serving_default': (
      {'input_tensor'},
      maps | {'instance_pred', 'instance_scores', 'semantic_scores'},
    ),
    'panoptic_in_crop': ({'input_tensor'}, {'values', 'rows', 'columns'}),
    'batch': ({'images', 'sizes'}, maps),
    'encoded': ({'image_bytes'}, maps | {'sizes'}),
    'logits': ({'images', 'sizes'}, {'mask_logits', 'class_logits', 'fitted_sizes'}),
  }


def test_one_image_of_any_size(stub, expected):
  for result in expected:
    found = _predict(stub, '', input_tensor=result.image)
    _check(found, [result], *result.image.shape[:2])
  # A server sends only what is asked for.
  assert list(_predict(stub, '', ['panoptic_pred'], input_tensor=result.image)) == ['panoptic_pred']


def test_a_batch_of_several_sizes(stub, expected):
  images, sizes = _padded(expected)
  _check(_predict(stub, 'batch', images=images, sizes=sizes), expected, *images.shape[1:3])


def test_encoded_images(stub, expected):
  files = [images_lib.encode(result.image, 'png').data for result in expected]
  found = _predict(stub, 'encoded', image_bytes=np.array(files, object))
  np.testing.assert_array_equal(found['sizes'], SIZES)
  _check(found, expected, *np.max(SIZES, axis=0))
  jpeg = images_lib.encode(expected[0].image, 'jpeg').data
  found = _predict(stub, 'encoded', image_bytes=np.array([jpeg], object))
  assert (found['panoptic_pred'][0] == expected[0].panoptic).mean() > 0.97


def test_logits(stub, expected):
  images, sizes = _padded(expected)
  found = _predict(stub, 'logits', images=images, sizes=sizes)
  # Longer sides are brought to the crop of 65, the others keep the ratio, rounded down.
  np.testing.assert_array_equal(found['fitted_sizes'], [(43, 65), (65, 65), (65, 38)])
  assert found['mask_logits'].shape == (3, 17, 17, 4)
  np.testing.assert_array_equal(
    found['class_logits'], np.repeat(20 * np.eye(10, dtype=np.float32)[None, [0, 1, 5, 6]], 3, 0)
  )
  # The model's masks are the distances to its colours: at the top left corner, that of the image.
  for image, logits in zip(images, found['mask_logits'], strict=True):
    distances = ((image[0, 0].astype(np.float32) - color_model.COLORS) ** 2).sum(-1)
    np.testing.assert_allclose(logits[0, 0], -distances / 100, rtol=1e-5)


@pytest.mark.parametrize(
  'signature,inputs,words',
  [
    ('batch', {'images': np.zeros((1, 9, 9, 3), np.uint8), 'sizes': [[9, 10]]}, 'each of `sizes`'),
    ('logits', {'images': np.zeros((1, 9, 9, 3), np.uint8), 'sizes': [[0, 9]]}, 'each of `sizes`'),
    ('encoded', {'image_bytes': [b'no image']}, 'Unknown image file format'),
    (
      'serving_default',
      {'input_tensor': np.zeros((9, 9, 3), np.float32)},
      'expected to be a uint8',
    ),
    ('masks', {}, 'signature key "masks" not found'),
  ],
)
def test_wrong_inputs_are_an_answer_and_the_server_goes_on(
  stub, expected, signature, inputs, words
):
  with pytest.raises(grpc.RpcError, match=words):
    _predict(stub, signature, **inputs)
  _check(_predict(stub, '', input_tensor=expected[0].image), expected[:1], *SIZES[0])
