"""Weights of MobileNetV3 with batch norm folded in, under Google's names."""

import re

import numpy as np

from deeplab2.checkpoint import released_keys


def _name(path, last):
  """Returns Google's name of the tensor for a variable; None where folding leaves none."""
  if re.search(r'/norm/(gamma|moving_)', path):
    return None
  block, rest = re.fullmatch(r'blocks/(\d+)/(.*)', path).groups()
  rest = rest.replace('squeeze_excite/reduce', 'squeeze_excite/Conv')
  rest = rest.replace('squeeze_excite/expand', 'squeeze_excite/Conv_1')
  rest = rest.replace('depthwise_kernel', 'depthwise_weights').replace('norm/beta', 'biases')
  rest = re.sub(r'\bkernel$', 'weights', re.sub(r'\bbias$', 'biases', rest))
  places = {0: 'Conv', 1: 'expanded_conv', last: 'Conv_1'}
  return f'MobilenetV3/{places.get(int(block), f"expanded_conv_{int(block) - 1}")}/{rest}'


def tensors(backbone, seed=0):
  """Returns (random tensors by Google's name, by path of the variable) of a backbone's shapes."""
  generator = np.random.default_rng(seed)
  by_name, by_path = {}, {}
  for path, variable in released_keys.walk(backbone, ''):
    name = _name(path, len(backbone.blocks) - 1)
    if name is not None:
      shape = tuple(variable.shape)
      fan_in = np.prod(shape[:2] if 'depthwise' in name else shape[:-1])
      value = generator.normal(size=shape) / (5.0 if len(shape) == 1 else np.sqrt(fan_in))
      by_name[name] = by_path[path] = value.astype(np.float32)
  by_name['MobilenetV3/Conv_2/weights'] = np.zeros([1, 1, 8, 8], np.float32)
  by_name['MobilenetV3/Logits/Conv2d_1c_1x1/biases'] = np.zeros([8], np.float32)
  return by_name, by_path


def write(path, backbone, without=(), **more):
  """Writes such tensors; returns them by path of the variable."""
  by_name, by_path = tensors(backbone)
  kept = {name: value for name, value in by_name.items() if name not in without}
  np.savez(path, **kept, **more)
  return by_path
