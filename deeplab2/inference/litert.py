"""Converts segmenters to LiteRT (.tflite), with its built-in operations alone.

Conversion goes to float32 first; ai-edge-quantizer makes the other formats from that, of the
network alone. What comes before and after it (resizing, merging of masks) counts pixels and
compares with thresholds, and stays in float32.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import importlib
import os
import re
import tempfile
import types
from typing import Any
import warnings

import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import parallel
from deeplab2.inference import litert_graph
from deeplab2.inference import segmenter as segmenter_lib

# What a model takes and gives.
GRAPHS = {
  'panoptic': litert_graph.panoptic,
  'crop': litert_graph.panoptic_of_crop,
  'logits': litert_graph.logits,
}
QUANTIZE = ('none', 'float16', 'dynamic_int8', 'int8')

_CONVOLUTIONS = ('CONV_2D', 'DEPTHWISE_CONV_2D')
_PRODUCTS = ('FULLY_CONNECTED',)
# Of differences by rounding, as a part of the spread of the class logits.
_TOLERANCE = 1e-3
_UNSUPPORTED = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")


def convert(segmenter: segmenter_lib.Segmenter, outputs: str) -> bytes:
  """Returns a segmenter as a LiteRT model in float32.

  Args:
    segmenter: with restored weights.
    outputs: a key of GRAPHS, see litert_graph.py: 'panoptic' for images of any size to maps of
      their size, 'crop' for images in the crop to maps of it, 'logits' for these to what the
      network gives.

  Raises:
    UserError: an operation of the model has no counterpart in LiteRT, the result computes something
      else, or ai-edge-litert is not installed.
  """
  require('ai_edge_litert')
  graph = GRAPHS[outputs](segmenter)
  model = _converted(graph, outputs)
  _compare(graph, runner(model), segmenter.crop_size)
  return model


def runner(model: bytes | str, num_threads: int = 1) -> Callable[..., dict[str, np.ndarray]]:
  """Returns a function that runs a model: inputs by name to outputs by name.

  Args:
    model: the model, or the path of its file.
    num_threads: that it computes with.

  Raises:
    UserError: ai-edge-litert is not installed.
    ValueError, RuntimeError: LiteRT cannot load the model.
  """
  library = require('ai_edge_litert.interpreter')
  source = {'model_path': model} if isinstance(model, str) else {'model_content': model}
  with _quiet():
    interpreter = library.Interpreter(num_threads=num_threads, **source)
    return interpreter.get_signature_runner('serving_default')


def _converted(graph, outputs):
  with tempfile.TemporaryDirectory() as directory, _quiet():
    tf.saved_model.save(graph, directory, signatures={'serving_default': graph.function})
    converter = tf.lite.TFLiteConverter.from_saved_model(
      directory, signature_keys=['serving_default']
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
      return converter.convert()
    except Exception as error:  # What it raises is not documented.
      raise _explained(error, outputs) from error


def _compare(graph, run, size):
  """Compares a model with its graph on one image; UserError if they differ by more than rounding.

  TensorFlow's converter is not free of mistakes (model/layers/axial.py avoids one).
  """
  (signature,) = graph.function.input_signature
  noise = (
    np.random.default_rng(0).integers(0, 256, [1, *size, 3]).astype(signature.dtype.as_numpy_dtype)
  )
  expected = graph.function(tf.constant(noise))['class_logits'].numpy()
  found = run(image=noise)['class_logits']
  # By slot: a pixel between two clusters may change sides and take their slots along.
  difference = np.median(np.abs(found - expected).max(-1)) / expected.std()
  if not difference < _TOLERANCE:
    raise errors.UserError(
      f'the converted model computes something else than the model (class logits differ by '
      f'{difference:.2g} of their spread); take another --input_size or --format=saved_model.'
    )


def _explained(error, outputs):
  """Returns the UserError that says why a conversion failed."""
  found = sorted(set(_UNSUPPORTED.findall(str(error))))
  if not found:
    return errors.UserError(f'the model cannot be converted to LiteRT ({files.reason(error)}).')
  advice = (
    '--format=saved_model has all operations of TensorFlow'
    if outputs == 'logits'
    else '--outputs=logits leaves post-processing to NumPy, --format=saved_model to TensorFlow'
  )
  return errors.UserError(
    f'the model needs {", ".join(found)}, which LiteRT has no operation for; {advice}.'
  )


def quantize(model: bytes, form: str, calibration: Sequence[np.ndarray] = ()) -> bytes:
  """Returns a float32 model of `convert` in another format.

  Args:
    model: the model.
    form: one of QUANTIZE. 'float16': weights in 16 bits. 'dynamic_int8': weights in 8 bits, and
      activations in 8 bits of the range that they have in each image. 'int8': the same, but what
      convolutions read and give is in the range that it had in calibration.
    calibration: for 'int8', images as the model takes them, without batch axis.

  Raises:
    UserError: ai-edge-quantizer is not installed, or LiteRT cannot load what it makes.
  """
  if form == 'none':
    return model
  quantizer = require('ai_edge_quantizer').Quantizer(model, _recipe(form))
  with warnings.catch_warnings():
    # Of the memory of an interpreter that keeps all activations.
    warnings.filterwarnings('ignore', '.*experimental_preserve_all_tensors.*')
    ranges = _ranges(quantizer, calibration) if form == 'int8' else None
    with _quiet():
      result = quantizer.quantize(ranges, enable_progress_report=False)
  quantized = bytes(result.quantized_model)
  try:
    runner(quantized)
  except (ValueError, RuntimeError) as error:
    raise errors.UserError(
      f'--quantize={form}: LiteRT cannot load the result ({files.reason(error)}); take another '
      'format.'
    ) from error
  return quantized


def _ranges(quantizer, calibration):
  """Returns the ranges of all activations in all images.

  The library's own moving average would cut what few images have, and photographs differ much.
  """
  ranges: dict[str, Any] = {}
  # The other mode reads every tensor, and fails at those of branches that an image does not take.
  mode = require('ai_edge_quantizer.calibrator').CalibrationMode.CALIBRATION_PROFILER_BASED
  threads = parallel.usable_cores()
  for image in parallel.with_progress(calibration, len(calibration), 'calibration'):
    with _quiet():
      batch = {'serving_default': [{'image': image[np.newaxis]}]}
      found = quantizer.calibrate(batch, num_threads=threads, mode=mode)
    for name, values in found.items():
      known = ranges.setdefault(name, values)
      for key, widest in (('min', np.minimum), ('max', np.maximum)):
        if key in values:
          known[key] = widest(known[key], values[key])
  return ranges


def _recipe(form):
  """Returns ai-edge-quantizer's list of what becomes what.

  Of 'int8', convolutions alone take their ranges from calibration. With matrix products too, most
  of which are of the decoder's slots, or what is between them, a seventh of the pixels changes
  sides in photographs, not a thirtieth, and a CPU gains nothing.
  """
  weights = {'num_bits': 8, 'symmetric': True, 'granularity': 'CHANNELWISE', 'dtype': 'INT'}
  dynamic = {
    'weight_tensor_config': weights,
    'compute_precision': 'INTEGER',
    'explicit_dequantize': False,
  }
  if form == 'float16':
    half = {
      'weight_tensor_config': {**weights, 'num_bits': 16, 'dtype': 'FLOAT'},
      'compute_precision': 'FLOAT',
      'explicit_dequantize': True,
    }
    return _entries(_CONVOLUTIONS + _PRODUCTS, half, 'float_casting')
  if form == 'dynamic_int8':
    return _entries(_CONVOLUTIONS + _PRODUCTS, dynamic)
  activations = {'num_bits': 8, 'symmetric': False, 'granularity': 'TENSORWISE', 'dtype': 'INT'}
  calibrated = {**dynamic, 'activation_tensor_config': activations}
  return _entries(_CONVOLUTIONS, calibrated) + _entries(_PRODUCTS, dynamic)


def _entries(operations, config, algorithm='min_max_uniform_quantize'):
  return [
    {
      'regex': f'{litert_graph.NETWORK}/',
      'operation': operation,
      'algorithm_key': algorithm,
      'op_config': config,
    }
    for operation in operations
  ]


def require(module: str) -> types.ModuleType:
  """Returns a module that comes with the extra `litert`.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    name = module.partition('.')[0].replace('_', '-')
    raise errors.UserError(
      f'LiteRT models need {name}, which cannot be imported ({files.reason(error)}): '
      'pip install "deeplab2-remax[litert]".'
    ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps TensorFlow's converter from writing pages of its own working to the standard error.

  What it says is in what it raises. Python's warnings and logs are not touched.
  """
  saved = os.dup(2)
  try:
    with open(os.devnull, 'w', encoding='ascii') as nowhere:
      os.dup2(nowhere.fileno(), 2)
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)
