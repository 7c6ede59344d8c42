"""Weights of Keras Applications: their files, and which variable of a backbone gets which tensor.

Tensors of `.h5` files go by the names of the layers that Keras Applications give them (tf_keras
2.20: applications/mobilenet_v3.py, applications/convnext.py). `.weights.h5` files of Keras hold no
such names: they number the layers of every class, `conv2d_3`, and so is the backbone numbered here.

What differs around the weights is taken into account:
  MobileNetV3's squeeze-and-excite ends in a hard sigmoid; its input is ours (-1..1).
  ConvNeXt's input is normalised by mean and deviation of ImageNet, which goes into the kernel and
  the bias of the first convolution. That is exact, as the convolution pads nothing in Keras; the
  pixels that this program pads with are mid-grey.
ResNet-50 is another network in Keras than here, see `_RESNET`.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import hashlib
import os
import re
from typing import NamedTuple

import h5py
import numpy as np
import tensorflow as tf
import tf_keras

from deeplab2 import errors
from deeplab2 import files
from deeplab2.checkpoint import foreign
from deeplab2.checkpoint import gates
from deeplab2.checkpoint import released_keys

_URL = 'https://storage.googleapis.com/tensorflow/keras-applications/'
_MOBILENET_URL = f'{_URL}mobilenet_v3/weights_mobilenet_v3_'
# (name of the backbone, width) -> (URL, hash) of the weights without classifier, as in tf_keras.
PUBLISHED = {
  (f'mobilenet_v3_{name}', width): (
    f'{_MOBILENET_URL}{name}_224_{width}_float_no_top_v2.h5',
    digest,
  )
  for name, width, digest in (
    ('large', 0.75, '40af19a13ebea4e2ee0c676887f69a2e'),
    ('large', 1.0, '07fb09a5933dd0c8eaafa16978110389'),
    ('large_minimalistic', 1.0, 'ec5221f64a2f6d1ef965a614bdae7973'),
    ('small', 0.75, 'ebdb5cc8e0b497cd13a7c275d475c819'),
    ('small', 1.0, 'd3e8ec802a04aa4fc771ee12a9a9b836'),
    ('small_minimalistic', 1.0, 'cde8136e733e811080d9fcd8a252f7e4'),
  )
}
for _size, _digest in (
  ('tiny', 'd547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1'),
  ('small', '6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab'),
  ('base', '40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45'),
  ('large', '96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd'),
  ('xlarge', 'de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05'),
):
  PUBLISHED[f'convnext_{_size}', 1.0] = (f'{_URL}convnext/convnext_{_size}_notop.h5', _digest)
# Hashes of the files with classifier, for those that are given by path.
_WITH_CLASSIFIER = {
  'weights_mobilenet_v3_large_224_0.75_float.h5': '765b44a33ad4005b3ac83185abf1d0eb',
  'weights_mobilenet_v3_large_224_1.0_float.h5': '59e551e166be033d707958cf9e29a6a7',
  'weights_mobilenet_v3_large_minimalistic_224_1.0_float.h5': '675e7b876c45c57e9e63e6d90a36599c',
  'weights_mobilenet_v3_small_224_0.75_float.h5': 'cb65d4e5be93758266aa0a7f2c6708b7',
  'weights_mobilenet_v3_small_224_1.0_float.h5': '8768d4c2e7dee89b9d02b2d03d65d862',
  'weights_mobilenet_v3_small_minimalistic_224_1.0_float.h5': '99cd97fb2fcdad2bf028eb838de69e37',
  'convnext_tiny.h5': '8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff',
  'convnext_small.h5': 'ce1277d8f1ee5a0ef0e171469089c18f5233860ceaf9b168049cb9263fd7483c',
  'convnext_base.h5': '52cbb006d3dadd03f6e095a8ca1aca47aecdd75acb4bc74bce1f5c695d0086e6',
  'convnext_large.h5': '070c5ed9ed289581e477741d3b34beffa920db8cf590899d6d2c67fba2a198a6',
  'convnext_xlarge.h5': 'c1f5ccab661354fc3a79a10fa99af82f0fbf10ec65cb894a3ae0815f17a889ee',
}
HASHES = {url.rpartition('/')[2]: digest for url, digest in PUBLISHED.values()} | _WITH_CLASSIFIER

_MOBILENET_EPSILON = 1e-3  # Of its batch norms.
# Of the pixels 0..255, RGB.
_IMAGENET_MEAN = 255.0 * np.array([0.485, 0.456, 0.406])
_IMAGENET_DEVIATION = 255.0 * np.array([0.229, 0.224, 0.225])
_RESNET = (
  'is of the ResNet-50 of Keras Applications, which is another network: the strides of its blocks '
  'are in the first 1x1 convolution instead of the 3x3 one, its stem has max pooling, and the zeros'
  ' around its image are of another colour; its weights do not give the same features here. Take '
  "DeepLab2's resnet50_imagenet1k (g3doc/projects/imagenet_pretrained_checkpoints.md)"
)


def _of_mobilenet(values: dict[str, np.ndarray], backbone: tf.Module) -> dict[str, np.ndarray]:
  return foreign.with_epsilon(values, backbone, _MOBILENET_EPSILON)


def _of_convnext(values: dict[str, np.ndarray], backbone: tf.Module) -> dict[str, np.ndarray]:
  """Lets the first convolution normalise the image, as a layer before it does in Keras."""
  del backbone
  place = 'downsampling/0/conv'
  kernel, shift = foreign.of_normalized_images(
    values[f'{place}/kernel'], _IMAGENET_MEAN, _IMAGENET_DEVIATION
  )
  return values | {f'{place}/kernel': kernel, f'{place}/bias': values[f'{place}/bias'] + shift}


class Family(NamedTuple):
  """How the networks of one family are called by Keras.

  Attributes:
    name: of the family.
    block: matches names that only it has, as far as they are the same for all of one block.
    table: rules of released_keys.rename, from names to paths below our backbone. `last` stands for
      the number of the last entry of `blocks`.
    classifier: matches the names of what is of no use here.
    adjust: as of foreign.Weights.
  """

  name: str
  block: re.Pattern
  table: tuple[tuple[str, str], ...]
  classifier: re.Pattern
  adjust: Callable[[dict[str, np.ndarray], tf.Module], dict[str, np.ndarray]]


# Names of Keras 3 -> those of tf_keras; the others are the same.
_BLOCK_OF_KERAS_3 = r'^(expanded_conv(?:_\d+)?)_'
_OF_KERAS_3 = (
  (r'^conv(_1)?_bn/', 'Conv{1}/BatchNorm/'),
  (r'^conv(_1|_2)?/', 'Conv{1}/'),
  (r'^logits/', 'Logits/'),
  (_BLOCK_OF_KERAS_3 + r'(expand|depthwise|project)_bn/', '{1}/{2}/BatchNorm/'),
  (_BLOCK_OF_KERAS_3 + r'depthwise/kernel$', '{1}/depthwise/depthwise_kernel'),
  (_BLOCK_OF_KERAS_3 + r'(expand|project)/', '{1}/{2}/'),
  (_BLOCK_OF_KERAS_3 + r'squeeze_excite_conv(_1)?/', '{1}/squeeze_excite/Conv{2}/'),
)
_BLOCK_LEAVES = (
  (r'/(expand|depthwise|project)/BatchNorm/', '/{1}/norm/'),
  (r'/squeeze_excite/Conv/', '/squeeze_excite/reduce/'),
  (r'/squeeze_excite/Conv_1/', '/squeeze_excite/expand/'),
)
MOBILENET = Family(
  'MobileNetV3',
  re.compile(r'expanded_conv(_\d+)?/'),
  (
    (r'^Conv/BatchNorm/', 'blocks/0/norm/'),
    (r'^Conv/', 'blocks/0/'),
    (r'^Conv_1/BatchNorm/', 'blocks/last/norm/'),
    (r'^Conv_1/', 'blocks/last/'),
    (r'^expanded_conv/', 'blocks/1/'),
    (r'^expanded_conv_(\d+)/', 'blocks/{1+1}/'),
  ),
  re.compile(r'(Conv_2|Logits)/'),
  _of_mobilenet,
)
CONVNEXT = Family(
  'ConvNeXt',
  re.compile(r'.*_stage_\d+_block_\d+_'),
  (
    (r'^.*_stem_conv/', 'downsampling/0/conv/'),
    (r'^.*_stem_layernorm/', 'downsampling/0/norm/'),
    (r'^.*_downsampling_layernorm_(\d+)/', 'downsampling/{1+1}/norm/'),
    (r'^.*_downsampling_conv_(\d+)/', 'downsampling/{1+1}/conv/'),
    (r'^.*_stage_(\d+)_block_(\d+)_depthwise_conv/', 'levels/{1}/{2}/depthwise/'),
    (r'^.*_stage_(\d+)_block_(\d+)_layernorm/', 'levels/{1}/{2}/norm/'),
    (r'^.*_stage_(\d+)_block_(\d+)_pointwise_conv_1/', 'levels/{1}/{2}/expand/'),
    (r'^.*_stage_(\d+)_block_(\d+)_pointwise_conv_2/', 'levels/{1}/{2}/project/'),
    (
      r'^.*_stage_(\d+)_block_(\d+)_layer_scale/(gamma|[Vv]ariable(_\d+)?)$',
      'levels/{1}/{2}/layer_scale',
    ),
  ),
  # The norm without a prefix is that of a network without classifier, after the last block.
  re.compile(r'.*_head_(layernorm|dense)/|layer_normalization(_\d+)?/|.*_prestem_normalization/'),
  _of_convnext,
)
_FAMILIES = (MOBILENET, CONVNEXT)
_NORM = ('gamma', 'beta', 'moving_mean', 'moving_variance')
_HEAD_OF_CONVNEXT = {'dense': 1, 'layer_normalization': 1, 'normalization': 1}
# The groups of the layers in a file that numbers them.
_NUMBERED = ('layers', '_layer_checkpoint_dependencies')
_RESNET_SIGN = re.compile(r'conv2_block1_1_conv/')


def fetch(backbone: tf.Module) -> str:
  """Downloads the ImageNet weights of a backbone, unless Keras has them in its cache.

  Returns:
    The path of the file, whose hash has been checked.

  Raises:
    UserError: there are none of this backbone, or they cannot be had.
  """
  name, width = backbone.name, getattr(backbone, 'width_multiplier', 1.0)
  if name == 'resnet50':
    raise errors.UserError(f'imagenet: what Keras has {_RESNET}.')
  if (name, width) not in PUBLISHED:
    known = ', '.join(f'{name} ({width:g})' for name, width in PUBLISHED)
    raise errors.UserError(
      f'imagenet: Keras Applications have no weights of {name} of width {width:g}, but of {known}; '
      'take one of these, or set model_options.backbone.pretrained_weights to a file or checkpoint.'
    )
  url, digest = PUBLISHED[name, width]
  cache = os.path.join(os.path.expanduser('~'), '.keras', 'models')
  try:
    return tf_keras.utils.get_file(
      os.path.basename(url), url, cache_subdir='models', file_hash=digest
    )
  except Exception as error:  # Keras raises Exception itself where the network fails.
    reason = files.reason(error).rpartition(' -- ')[2]  # Behind the URL once more.
    raise errors.UserError(
      f'imagenet: {url} cannot be had ({reason}). Without network, put this file into '
      f'{cache}, or set model_options.backbone.pretrained_weights=keras:FILE.'
    ) from error


@contextlib.contextmanager
def opened(path: str, backbone: tf.Module) -> Iterator[foreign.Weights]:
  """Yields the weights of a file of Keras, which are read while the context lasts.

  Args:
    path: of the file.
    backbone: that they will be for, with its variables created.

  Raises:
    UserError: it is missing, cannot be read, is not what Keras published under its name, or has
      no weights of a known network.
  """
  _check_hash(path)
  with contextlib.ExitStack() as stack:
    with _explained(path):
      file = stack.enter_context(h5py.File(path, 'r'))
      is_numbered = any(group in file for group in _NUMBERED)
      tensors = dict(_numbered_tensors(file) if is_numbered else _tensors(file))
    if is_numbered:
      yield _of_numbers(path, tensors, backbone)
    else:
      yield recognized(path, tensors, 'of Keras')


@contextlib.contextmanager
def _explained(path):
  try:
    yield
  except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
    if not os.path.exists(path):
      raise errors.UserError(f'{path}: no such file.') from error
    raise errors.UserError(
      f'{path}: not a readable file of Keras weights (HDF5; truncated or damaged?): '
      f'{files.reason(error)}.'
    ) from error


def _check_hash(path):
  """Checks that a file with the name of one that Keras published is that one."""
  expected = HASHES.get(os.path.basename(path))
  if expected is None or not os.path.isfile(path):
    return
  kind = 'md5' if len(expected) == 32 else 'sha256'
  with open(path, 'rb') as file:
    found = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
  if found != expected:
    raise errors.UserError(
      f'{path}: is not the file that Keras published under this name: its {kind} is {found}, not '
      f'{expected} (truncated or altered?). Fetch it again, or rename it if it is your own.'
    )


def _tensors(file) -> Iterator[tuple[str, foreign.Tensor]]:
  """Yields (name, tensor) of all weights of a file: 'Conv/BatchNorm/gamma' and the like."""
  group = file['model_weights'] if 'model_weights' in file else file
  for layer in _listed(group, 'layer_names'):
    for name in _listed(group[layer], 'weight_names'):
      scope, _, leaf = name.partition(':')[0].rpartition('/')
      # That of its own layer, if this is a network of layers; where Keras was a part of another
      # graph, or the weight was no layer's when it was made, the scope has more, or is missing.
      own = layer if not scope or scope.endswith(f'/{layer}') else scope
      yield f'{own}/{leaf}', _tensor(file, group[layer][name], name)


def _numbered_tensors(file) -> Iterator[tuple[str, foreign.Tensor]]:
  """Yields (name, tensor) of all weights of a numbered file: 'conv2d_3/0' and the like."""
  found: list[str] = []
  file.visit(found.append)
  for name in found:
    if isinstance(file[name], h5py.Dataset):
      shown = name.replace('/vars/', '/')
      for group in _NUMBERED:
        shown = shown.removeprefix(f'{group}/')
      yield shown, _tensor(file, file[name], name)


def _tensor(file, dataset, name):
  # HDF5 can take values from any other file, too.
  elsewhere = not isinstance(dataset, h5py.Dataset) or (
    dataset.file.filename != file.filename or dataset.is_virtual or dataset.external
  )
  if elsewhere:
    raise ValueError(f'{name} is no tensor of this file')
  return foreign.Tensor(tuple(dataset.shape), lambda: dataset[()])


def _listed(group, attribute):
  """Returns the names that Keras keeps in an attribute, or in numbered ones if they are many."""
  if attribute in group.attrs:
    parts = [group.attrs[attribute]]
  else:
    found = [key for key in group.attrs if re.fullmatch(rf'{attribute}\d+', key)]
    if not found:
      raise ValueError(f'there is no {attribute} in {group.name}')
    found.sort(key=lambda key: int(key.removeprefix(attribute)))
    parts = [group.attrs[key] for key in found]
  names = (name for part in parts for name in part)
  return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def recognized(path: str, stored: Mapping[str, foreign.Tensor], origin: str) -> foreign.Weights:
  """Returns what tensors are for a backbone.

  Args:
    path: of their file.
    stored: by Keras's names of layer and weight: 'Conv/BatchNorm/gamma'.
    origin: of the file, for people: 'of Keras'.

  Raises:
    UserError: they are of no known network, or of one that does not fit any backbone here.
  """
  # By tf_keras's names, and under these the file's own.
  own = {released_keys.rename(name, _OF_KERAS_3) or name: name for name in stored}
  family = next((family for family in _FAMILIES if any(map(family.block.match, own))), None)
  if family is None:
    if any(map(_RESNET_SIGN.match, own)):
      raise errors.UserError(f'{path}: {_RESNET}.')
    left_out = [own[name] for name in own if any(f.classifier.match(name) for f in _FAMILIES)]
    if left_out:
      raise errors.UserError(
        f'{path}: holds a classifier ({errors.listed(left_out, 1)}) without its backbone; give '
        'weights that have it.'
      )
    raise errors.UserError(
      f'{path}: holds no network that is known here (MobileNetV3 or ConvNeXt of Keras '
      f'Applications); it has {errors.listed(stored or ["nothing"], 1)}.'
    )
  blocks = {found[0] for found in map(family.block.match, own) if found}
  last = str(len(blocks) + 1)
  tensors, names, left_out, unknown = {}, {}, [], []
  for name in own:
    ours = _placed(name, family, last)
    if family.classifier.match(name):
      left_out.append(own[name])
    elif ours is None or ours in tensors:
      unknown.append(own[name])
    else:
      tensors[ours], names[ours] = _shaped(ours, stored[own[name]]), own[name]
  gate = None
  if any(name.endswith('/squeeze_excite/Conv/kernel') for name in own):
    gate = gates.HARD_SIGMOID
  return foreign.Weights(
    path,
    f'{family.name}{_kind(family, gate)} {origin} with {len(blocks)} blocks, the last one of '
    f'{_last_width(tensors)} channels',
    tensors,
    names,
    tuple(left_out),
    tuple(unknown),
    gate,
    family.adjust,
  )


def _kind(family, gate):
  return ', minimalistic,' if family is MOBILENET and gate is None else ''


def _placed(name, family, last):
  """Returns the path of the variable that a tensor is for, None if there is none."""
  placed = released_keys.rename(name, family.table)
  if placed is None:
    return None
  placed = placed.replace('blocks/last/', f'blocks/{last}/')
  return released_keys.rename(placed, _BLOCK_LEAVES) or placed


def _shaped(path, tensor):
  """Returns a tensor in the shape of its variable, where that has axes of length 1 besides."""
  if not path.endswith('/layer_scale') or len(tensor.shape) != 1:
    return tensor
  shape = (1, 1, 1, *tensor.shape)
  return foreign.Tensor(shape, lambda: tensor.read().reshape(shape))


def _last_width(tensors):
  """Returns the output channels of the last block, for people."""
  ends = [path for path in tensors if path.endswith('/project/kernel')]
  if not ends:
    return 'an unknown number of'
  return tensors[max(ends, key=_numbers)].shape[-1]


def _numbers(path):
  return [int(number) for number in re.findall(r'\d+', path)]


def _of_numbers(path, stored, backbone) -> foreign.Weights:
  """Returns what the tensors of a file that numbers its layers are for a backbone."""
  variables = dict(released_keys.walk(backbone, ''))
  family: Family | None
  layers: Iterable[tuple[str, str, tuple[str, ...]]]
  if 'blocks/0/kernel' in variables:
    family, layers, head = MOBILENET, _layers_of_mobilenet(backbone), {'conv2d': 2}
  elif 'downsampling/0/conv/kernel' in variables:
    family, layers, head = CONVNEXT, _layers_of_convnext(backbone), _HEAD_OF_CONVNEXT
  else:
    family, layers, head = None, (), {}
  counts: collections.Counter[str] = collections.Counter()
  expected: dict[str, str] = {}
  for kind, place, leaves in layers:
    there = [f'{place}/{leaf}' for leaf in leaves if f'{place}/{leaf}' in variables]
    name = _numbered(kind, counts[kind])
    expected |= {f'{name}/{index}': ours for index, ours in enumerate(there)}
    counts[kind] += bool(there)
  classifier = {
    _numbered(kind, counts[kind] + index) for kind, most in head.items() for index in range(most)
  }
  tensors, names, left_out, unknown = {}, {}, [], []
  for name, tensor in stored.items():
    if name in expected:
      ours = expected[name]
      tensors[ours], names[ours] = _shaped(ours, tensor), name
    elif name.rpartition('/')[0] in classifier:
      left_out.append(name)
    else:
      unknown.append(name)
  places = {name.rpartition('/')[0] for name in stored}
  found = collections.Counter(re.sub(r'_\d+(?=/|$)', '', place) for place in places)
  described = ', '.join(f'{number} {kind}' for kind, number in sorted(found.items()))
  return foreign.Weights(
    path,
    f'a network of Keras with numbered layers ({described or "no tensor"})',
    tensors,
    names,
    tuple(left_out),
    tuple(unknown),
    gates.HARD_SIGMOID if any('/squeeze_excite/' in ours for ours in tensors) else None,
    family.adjust if family else lambda values, _: values,
  )


def _numbered(kind, number):
  """Returns Keras's name of a layer among those of its class."""
  return f'{kind}_{number}' if number else kind


def _layers_of_mobilenet(backbone) -> Iterator[tuple[str, str, tuple[str, ...]]]:
  """Yields (class, path, variables) of the layers that a backbone may have, in Keras's order."""
  parts = ('', '/expand', '/depthwise', '/squeeze_excite/reduce', '/squeeze_excite/expand')
  for index in range(len(backbone.blocks)):
    for part in (*parts, '/project'):
      place = f'blocks/{index}{part}'
      kind = 'depthwise_conv2d' if part == '/depthwise' else 'conv2d'
      yield kind, place, ('kernel', 'depthwise_kernel', 'bias')
      yield 'batch_normalization', f'{place}/norm', _NORM


def _layers_of_convnext(backbone) -> Iterator[tuple[str, str, tuple[str, ...]]]:
  """The same; the layers of a downsampling are in a network of their own."""
  for level, blocks in enumerate(backbone.levels):
    inside = f'{_numbered("sequential", level)}/layers'
    yield f'{inside}/conv2d', f'downsampling/{level}/conv', ('kernel', 'bias')
    yield f'{inside}/layer_normalization', f'downsampling/{level}/norm', _NORM
    for index in range(len(blocks)):
      place = f'levels/{level}/{index}'
      yield 'conv2d', f'{place}/depthwise', ('kernel', 'bias')
      yield 'layer_normalization', f'{place}/norm', _NORM
      yield 'dense', f'{place}/expand', ('kernel', 'bias')
      yield 'dense', f'{place}/project', ('kernel', 'bias')
      yield 'layer_scale', place, ('layer_scale',)
