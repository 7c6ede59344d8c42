"""Networks of Keras Applications with random weights, saved as Keras saves them."""

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras.src.applications import convnext as keras_convnext

from deeplab2.model.backbones import convnext

CONVNEXT_SIZE = ((1, 1, 2, 1), (8, 16, 24, 32))


def mobilenet(size='Small', shape=(65, 97, 3), **settings):
  """Returns a MobileNetV3 for images of one shape, every variable random."""
  build = getattr(tf_keras.applications, f'MobileNetV3{size}')
  return _randomized(build(weights=None, input_shape=shape, classes=3, **settings))


def convnext_of(shape, **settings):
  """Returns a ConvNeXt with hardly any channels, every variable random."""
  depths, widths = CONVNEXT_SIZE
  network = keras_convnext.ConvNeXt(
    depths, widths, model_name='convnext_test', input_shape=shape, classes=3, **settings
  )
  return _randomized(network)


def our_convnext():
  """Returns the same with this program, its variables created."""
  backbone = convnext.ConvNeXt(*CONVNEXT_SIZE, name='convnext_test')
  backbone(tf.zeros([1, 32, 32, 3]))
  return backbone


def _randomized(network, seed=0):
  generator = np.random.default_rng(seed)
  for variable in network.variables:
    shape = tuple(variable.shape)
    if 'moving_variance' in variable.name or 'gamma' in variable.name:
      value = generator.uniform(0.5, 2.0, shape)
    elif len(shape) == 1:
      value = 0.2 * generator.normal(size=shape)
    else:
      fan_in = np.prod(shape[:2] if 'depthwise' in variable.name else shape[:-1])
      value = generator.normal(size=shape) / np.sqrt(fan_in)
    variable.assign(value.astype(np.float32))
  return network


def outputs(network, layers, image):
  """Returns the outputs of some layers for [1, H, W, 3] in 0..255."""
  found = [network.get_layer(layer).inbound_nodes[-1].outputs for layer in layers]
  return tf_keras.Model(network.input, found)(image)


def mobilenet_blocks(network):
  """Returns the names of the layers at the end of every block but the last convolution."""
  names = {layer.name for layer in network.layers}
  places = ['expanded_conv', *(f'expanded_conv_{i}' for i in range(1, 20))]
  places = [place for place in places if f'{place}/project' in names]
  return [
    f'{place}/Add' if f'{place}/Add' in names else f'{place}/project/BatchNorm' for place in places
  ]


def convnext_blocks(network):
  """Returns the names of the layers at the end of every block."""
  return [layer.name for layer in network.layers if 'operators__.add' in layer.name]


def deviation(ours, theirs):
  """Returns max |ours - theirs| / std(theirs)."""
  return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.std(theirs))
