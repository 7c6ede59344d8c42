"""A server of TensorFlow Serving's PredictionService, in a process that has TensorFlow alone.

  python model_server.py SAVED_MODEL

Prints its port. It answers `Predict` and `GetModelMetadata` as TensorFlow Serving does: inputs and
outputs go by the names of the signature, and a failure of the graph is its status. The protocol is
that of tensorflow-serving-api; no package holds the server itself.
"""

from concurrent import futures
import pathlib
import sys

# A SavedModel must need nothing but TensorFlow.
for name in ('deeplab2', 'tf_keras', 'keras', 'official', 'orbit'):
  sys.modules[name] = None

import grpc  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.core.protobuf import saved_model_pb2  # noqa: E402
from tensorflow_serving.apis import get_model_metadata_pb2  # noqa: E402
from tensorflow_serving.apis import predict_pb2  # noqa: E402
from tensorflow_serving.apis import prediction_service_pb2_grpc  # noqa: E402


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
  """Serves one SavedModel."""

  def __init__(self, path):
    self._model = tf.saved_model.load(path)
    self._path = path

  def Predict(self, request, context):
    """Runs a signature."""
    name = request.model_spec.signature_name or 'serving_default'
    if name not in self._model.signatures:
      context.abort(
        grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
      )
    inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
    try:
      outputs = self._model.signatures[name](**inputs)
    except (tf.errors.OpError, TypeError) as error:
      context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    response = predict_pb2.PredictResponse(model_spec=request.model_spec)
    for key in request.output_filter or outputs:
      response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key]))
    return response

  def GetModelMetadata(self, request, context):
    """Returns the signatures as they are in the file."""
    del context
    saved = saved_model_pb2.SavedModel.FromString(
      pathlib.Path(self._path, 'saved_model.pb').read_bytes()
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for key, value in saved.meta_graphs[0].signature_def.items():
      signatures.signature_def[key].CopyFrom(value)
    response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=request.model_spec)
    response.metadata['signature_def'].Pack(signatures)
    return response


def main(path):
  """Serves until the process is ended."""
  unlimited = [('grpc.max_receive_message_length', -1), ('grpc.max_send_message_length', -1)]
  server = grpc.server(futures.ThreadPoolExecutor(1), options=unlimited)
  prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(path), server)
  port = server.add_insecure_port('localhost:0')
  server.start()
  print(port, flush=True)
  server.wait_for_termination()


if __name__ == '__main__':
  main(sys.argv[1])
