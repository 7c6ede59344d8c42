"""Weights of timm's networks: which variable of a backbone gets which tensor.

Tensors go by the names that timm gives them (huggingface/pytorch-image-models, in models:
mobilenetv3.py, _efficientnet_blocks.py, convnext.py, resnet.py); ConvNeXt's by those of its
authors, too (facebookresearch/ConvNeXt); torchvision calls ResNet-50's the same. This module gets
them by name, and does not read files.

What differs around the weights is taken into account:
  Images are normalised by a mean and a deviation, which go into the first convolution. ConvNeXt's
  pads nothing, so that this is exact. The others' pad zeros after the normalisation, and this
  program before it: exact where both do not differ (`tf_...`, whose mean is mid-grey), and
  elsewhere up to the pixels at the border.
  Batch norms add 1e-5 (`tf_...`: 1e-3); gamma makes up for it.
  MobileNetV3's squeeze-and-excite ends in a hard sigmoid, ResNet-50's stem in a max-pooling.
"""

from collections.abc import Callable, Mapping
import os
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import foreign
from deeplab2.checkpoint import gates
from deeplab2.checkpoint import released_keys

_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CONFIG = 'config.json'  # Beside weights of the Hugging Face hub.
_MOBILENET = re.compile(r'(tf_)?mobilenetv3_(small|large)(_minimal)?_\d{3}')
_LAST = re.compile(r'/project/|/\d/\d/expand/norm/')  # What every block ends in.
_COUNTER = re.compile(r'\.num_batches_tracked$')
_BLOCK = re.compile(r'blocks\.(\d+)\.(\d+)\.(.+)\.(\w+)')
_SQUEEZE_EXCITE = {
  'se.conv_reduce': 'squeeze_excite/reduce',
  'se.conv_expand': 'squeeze_excite/expand',
}
# What the parts of a block are called, by a part that only this kind of block has, in this order.
_PARTS_OF_BLOCKS = (
  (
    'conv_pwl',
    {
      'conv_pw': 'expand',
      'bn1': 'expand/norm',
      'conv_dw': 'depthwise',
      'bn2': 'depthwise/norm',
      'conv_pwl': 'project',
      'bn3': 'project/norm',
      **_SQUEEZE_EXCITE,
    },
  ),
  (
    'conv_dw',
    {
      'conv_dw': 'depthwise',
      'bn1': 'depthwise/norm',
      'conv_pw': 'project',
      'bn2': 'project/norm',
      **_SQUEEZE_EXCITE,
    },
  ),
  ('conv', {'conv': '', 'bn1': 'norm'}),
)
_CONVNEXT = (
  (r'^(?:stem|downsample_layers\.0)\.0\.', 'downsampling/0/conv/'),
  (r'^(?:stem|downsample_layers\.0)\.1\.', 'downsampling/0/norm/'),
  (r'^stages\.(\d+)\.downsample\.0\.', 'downsampling/{1}/norm/'),
  (r'^stages\.(\d+)\.downsample\.1\.', 'downsampling/{1}/conv/'),
  (r'^downsample_layers\.(\d+)\.0\.', 'downsampling/{1}/norm/'),
  (r'^downsample_layers\.(\d+)\.1\.', 'downsampling/{1}/conv/'),
  (r'^stages\.(\d+)\.(?:blocks\.)?(\d+)\.(?:conv_dw|dwconv)\.', 'levels/{1}/{2}/depthwise/'),
  (r'^stages\.(\d+)\.(?:blocks\.)?(\d+)\.norm\.', 'levels/{1}/{2}/norm/'),
  (r'^stages\.(\d+)\.(?:blocks\.)?(\d+)\.(?:mlp\.fc1|pwconv1)\.', 'levels/{1}/{2}/expand/'),
  (r'^stages\.(\d+)\.(?:blocks\.)?(\d+)\.(?:mlp\.fc2|pwconv2)\.', 'levels/{1}/{2}/project/'),
  (r'^stages\.(\d+)\.(?:blocks\.)?(\d+)\.gamma$', 'levels/{1}/{2}/layer_scale'),
)
_RESNET_SIGN = 'layer1.0.conv1.weight'
_RESNET = (
  (r'^conv1\.', 'stem/'),
  (r'^bn1\.', 'stem/norm/'),
  *(
    (rf'^layer{stage + 1}\.(\d)\.{theirs}\.', f'stages/{stage}/{{1}}/{ours}/')
    for stage in range(4)
    for theirs, ours in (
      ('conv1', 'reduce'),
      ('bn1', 'reduce/norm'),
      ('conv2', 'conv'),
      ('bn2', 'conv/norm'),
      ('conv3', 'expand'),
      ('bn3', 'expand/norm'),
      ('downsample.0', 'shortcut'),
      ('downsample.1', 'shortcut/norm'),
    )
  ),
)
_NORM_LEAVES = {
  'weight': 'gamma',
  'bias': 'beta',
  'running_mean': 'moving_mean',
  'running_var': 'moving_variance',
}


class _Preprocessing(NamedTuple):
  """What a network does to pixels, and what its norms add."""

  mean: tuple[float, ...]  # RGB, of pixels 0..1.
  deviation: tuple[float, ...]
  epsilon: float


def is_known(names) -> bool:
  """Returns whether tensors of these names are of a network that `recognized` knows."""
  return any(name in names for name in ('conv_stem.weight', _RESNET_SIGN, *_CONVNEXT_SIGNS))


_CONVNEXT_SIGNS = ('stages.0.blocks.0.conv_dw.weight', 'stages.0.0.dwconv.weight')


def recognized(path: str, stored: Mapping[str, np.ndarray]) -> foreign.Weights:
  """Returns what tensors are for a backbone.

  Args:
    path: of their file. Which of timm's MobileNetV3 it is of says its name, or the `config.json` of
      the Hugging Face hub beside it.
    stored: by timm's names.

  Raises:
    UserError: they are of no known network, or it is unknown of which MobileNetV3.
  """
  counters = [name for name in stored if _COUNTER.search(name)]
  kept = {name: value for name, value in stored.items() if not _COUNTER.search(name)}
  if 'conv_stem.weight' in kept:
    family, classifier, placed = 'MobileNetV3', r'(conv_head|classifier)\.', _placed_mobilenet
  elif any(sign in kept for sign in _CONVNEXT_SIGNS):
    family, classifier, placed = 'ConvNeXt', r'(head|norm|norm_pre)\.', _placed_convnext
  elif _RESNET_SIGN in kept:
    family, classifier, placed = 'ResNet', r'fc\.', _placed_resnet
  else:
    raise errors.UserError(
      f'{path}: holds no network that is known here (MobileNetV3, ResNet-50 or ConvNeXt of timm); '
      f'it has {errors.listed(kept or ["nothing"], 1)}.'
    )
  preprocessing = _preprocessing(path, family)
  tensors, names, left_out, unknown = {}, {}, [], []
  for name, value in kept.items():
    ours = placed(name, kept)
    if re.match(classifier, name):
      left_out.append(name)
    elif ours is None:
      unknown.append(name)
    else:
      tensors[ours], names[ours] = _tensor(ours, value), name
  if counters:
    left_out.append(f'{len(counters)} counters num_batches_tracked')
  blocks = {re.sub('/(project|expand)/.*', '', ours) for ours in tensors if _LAST.search(ours)}
  return foreign.Weights(
    path,
    f'{family} of timm with {len(blocks)} blocks',
    tensors,
    names,
    tuple(left_out),
    tuple(unknown),
    gates.HARD_SIGMOID if any('/squeeze_excite/' in ours for ours in tensors) else None,
    _adjust(path, family, preprocessing),
  )


def _preprocessing(path, family) -> _Preprocessing:
  """Returns the preprocessing of the network that a file is of."""
  beside = os.path.join(os.path.dirname(path), _CONFIG)
  config = files.read_json(beside) if tf.io.gfile.exists(beside) else {}
  config = config if isinstance(config, dict) else {}
  given = config.get('pretrained_cfg', {})
  mean: tuple[float, ...] = _IMAGENET_MEAN
  deviation: tuple[float, ...] = _IMAGENET_DEVIATION
  epsilon = 1e-6
  if family == 'MobileNetV3':
    named = _MOBILENET.match(str(config.get('architecture', os.path.basename(path))))
    if not named:
      raise errors.UserError(
        f"{path}: it cannot be told from the tensors which of timm's MobileNetV3 they are of "
        '(those of tf_... take images in another way); name the file like the model, such as '
        f'tf_mobilenetv3_small_100.safetensors, or put its {_CONFIG} beside it.'
      )
    epsilon = 1e-3 if named[1] else 1e-5
    if named[1]:
      mean = deviation = (0.5, 0.5, 0.5)
  elif family == 'ResNet':
    epsilon = 1e-5
  try:
    mean = tuple(float(value) for value in given.get('mean', mean))
    deviation = tuple(float(value) for value in given.get('std', deviation))
  except (AttributeError, TypeError, ValueError) as error:
    raise errors.UserError(
      f'{beside}: pretrained_cfg must hold mean and std, three numbers each.'
    ) from error
  if len(mean) != 3 or len(deviation) != 3 or min(deviation) <= 0:
    raise errors.UserError(f'{beside}: pretrained_cfg must hold mean and std, three numbers each.')
  return _Preprocessing(mean, deviation, epsilon)


def _placed_mobilenet(name, stored) -> str | None:
  """Returns the path of the variable that a tensor is for, None if there is none."""
  if name == 'conv_stem.weight':
    return 'blocks/0/kernel'
  if name.startswith('bn1.'):
    return f'blocks/0/norm/{_NORM_LEAVES.get(name[4:], "")}'
  found = _BLOCK.fullmatch(name)
  if not found:
    return None
  stage, block, part, leaf = int(found[1]), int(found[2]), found[3], found[4]
  parts = next(
    (
      parts for sign, parts in _PARTS_OF_BLOCKS if f'blocks.{stage}.{block}.{sign}.weight' in stored
    ),
    {},
  )
  if part not in parts:
    return None
  before = {
    (earlier[1], earlier[2])
    for earlier in map(_BLOCK.fullmatch, stored)
    if earlier and int(earlier[1]) < stage
  }
  place = '/'.join(filter(None, [f'blocks/{1 + len(before) + block}', parts[part]]))
  if place.endswith('/norm'):
    return f'{place}/{_NORM_LEAVES.get(leaf, "")}'
  kernel = 'depthwise_kernel' if place.endswith('/depthwise') else 'kernel'
  return f'{place}/{kernel if leaf == "weight" else leaf}'


def _placed_convnext(name, stored) -> str | None:
  """The same of ConvNeXt."""
  del stored
  placed = released_keys.rename(name, _CONVNEXT)
  if placed is None or placed.endswith('/layer_scale'):
    return placed
  place, _, leaf = placed.rpartition('/')
  leaves = _NORM_LEAVES if place.endswith('/norm') else {'weight': 'kernel', 'bias': 'bias'}
  return f'{place}/{leaves[leaf]}' if leaf in leaves else None


def _placed_resnet(name, stored) -> str | None:
  """The same of ResNet-50."""
  del stored
  placed = released_keys.rename(name, _RESNET)
  if placed is None:
    return None
  place, _, leaf = placed.rpartition('/')
  leaves = _NORM_LEAVES if place.endswith('/norm') else {'weight': 'kernel'}
  return f'{place}/{leaves[leaf]}' if leaf in leaves else None


def _tensor(path, value) -> foreign.Tensor:
  """Returns a tensor in the layout of its variable: [..., in, out] instead of [out, in, ...]."""
  if path.endswith('/layer_scale'):
    value = value.reshape(1, 1, 1, -1)
  elif path.endswith('/depthwise_kernel') and value.ndim == 4:
    value = value.transpose(2, 3, 0, 1)
  elif value.ndim == 4:
    value = value.transpose(2, 3, 1, 0)
  elif value.ndim == 2:
    value = value.transpose()
  return foreign.Tensor(value.shape, lambda: value)


def _adjust(path, family, preprocessing) -> Callable:
  """Returns `adjust` of foreign.Weights."""
  mean = 255.0 * np.array(preprocessing.mean)
  deviation = 255.0 * np.array(preprocessing.deviation)

  def of_batch_norms(values, backbone, stem):
    values = foreign.with_epsilon(values, backbone, preprocessing.epsilon)
    kernel, shift = foreign.of_normalized_images(values[f'{stem}/kernel'], mean, deviation)
    moved = values[f'{stem}/norm/moving_mean'] - shift
    return values | {f'{stem}/kernel': kernel, f'{stem}/norm/moving_mean': moved}

  def of_mobilenet(values, backbone):
    return of_batch_norms(values, backbone, 'blocks/0')

  def of_resnet(values, backbone):
    if not getattr(backbone.stem, 'has_max_pool', False):
      raise errors.UserError(
        f'{path}: ResNet-50 of timm and torchvision has a max-pooling behind its stem; set '
        'model_options.backbone.stem_max_pool=true.'
      )
    return of_batch_norms(values, backbone, 'stem')

  def of_convnext(values, backbone):
    del backbone
    place = 'downsampling/0/conv'
    kernel, shift = foreign.of_normalized_images(values[f'{place}/kernel'], mean, deviation)
    return values | {f'{place}/kernel': kernel, f'{place}/bias': values[f'{place}/bias'] + shift}

  return {'MobileNetV3': of_mobilenet, 'ResNet': of_resnet, 'ConvNeXt': of_convnext}[family]
