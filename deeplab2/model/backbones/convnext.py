"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s") as kMaX-DeepLab's pixel encoder."""

from collections.abc import Sequence
import functools
import itertools

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.model.backbones import depth
from deeplab2.model.layers import activations
from deeplab2.model.layers import affine
from deeplab2.model.layers import conv
from deeplab2.model.layers import drop_path
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import recompute
from deeplab2.model.layers import weights

_EPSILON = 1e-6  # Of every layer norm.
_STEM_STRIDE = 4
_DEPTHWISE_SIZE = 7
_EXPANSION = 4  # Inner channels of a block per channel of its input.
_LAYER_SCALE = 1e-6  # Initial value.


class PatchConv(affine.Affine):
  """Convolution of patches of `stride` x `stride` pixels that do not overlap."""

  def __init__(self, filters: int, stride: int, **kwargs):
    super().__init__(kernel_initializer=_initializer(), **kwargs)
    self._filters = filters
    self._stride = stride

  def build(self, input_shape):
    self._build((self._stride, self._stride, input_shape[-1], self._filters))

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B, H // stride, W // stride, filters]."""
    kernel = tf.cast(self.kernel, x.dtype)
    return self._add_bias(tf.nn.conv2d(x, kernel, self._stride, 'VALID'))


class Stem(tf_keras.layers.Layer):
  """Patches, then norm: [B, H, W, 3] -> [B, ceil(H / 4), ceil(W / 4), filters]."""

  def __init__(self, filters: int, **kwargs):
    super().__init__(**kwargs)
    self.conv = PatchConv(filters, _STEM_STRIDE, name='conv')
    self.norm = norm_lib.LayerNorm(_EPSILON, name='norm')

  def call(self, images: tf.Tensor) -> tf.Tensor:
    return self.norm(self.conv(_padded(images, _STEM_STRIDE)))


class Downsampling(tf_keras.layers.Layer):
  """Norm, then patches: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), filters].

  The norm sees the padding as well, so that a padded pixel becomes the norm's offset, not zero.
  """

  def __init__(self, filters: int, **kwargs):
    super().__init__(**kwargs)
    self.norm = norm_lib.LayerNorm(_EPSILON, name='norm')
    self.conv = PatchConv(filters, 2, name='conv')

  def call(self, x: tf.Tensor) -> tf.Tensor:
    return self.conv(self.norm(_padded(x, 2)))


class DepthwiseConv(affine.Affine):
  """7x7 depthwise convolution, zeros around the map."""

  def __init__(self, **kwargs):
    super().__init__(kernel_initializer=_initializer(), **kwargs)

  def build(self, input_shape):
    # As checkpoints have it: that of a convolution with a group for every channel.
    self._build((_DEPTHWISE_SIZE, _DEPTHWISE_SIZE, 1, input_shape[-1]))

  def call(self, x: tf.Tensor) -> tf.Tensor:
    kernel = tf.cast(tf.transpose(self.kernel, (0, 1, 3, 2)), x.dtype)
    return self._add_bias(tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], 'SAME'))


class Block(tf_keras.layers.Layer):
  """x + layer_scale * project(gelu(expand(norm(depthwise(x))))) (sec. 2.6, fig. 4)."""

  def __init__(self, channels: int, *, drop_path_keep_prob: float, **kwargs):
    """Creates a block of `channels` input and output channels."""
    super().__init__(**kwargs)
    self._channels = channels
    self._keep_prob = drop_path_keep_prob
    self.depthwise = DepthwiseConv(name='depthwise')
    self.norm = norm_lib.LayerNorm(_EPSILON, name='norm')
    self.expand = _dense(_EXPANSION * channels, activation=activations.gelu, name='expand')
    self.project = _dense(channels, name='project')

  def build(self, input_shape):
    initializer = tf_keras.initializers.Constant(_LAYER_SCALE)
    self.layer_scale = weights.add(self, 'layer_scale', (1, 1, 1, self._channels), initializer)
    self.built = True

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    residual = self.project(self.expand(self.norm(self.depthwise(x))))
    residual *= tf.cast(self.layer_scale, x.dtype)
    return x + activations.drop_path(residual, self._keep_prob, training)


class ConvNeXt(tf_keras.layers.Layer):
  """Four levels of blocks at strides 4 to 32.

  There is no feature of stride 2: stage1 is the stem's, of stride 4 as stage2.
  """

  def __init__(
    self,
    depths: Sequence[int],
    channels: Sequence[int],
    *,
    drop_path_keep_prob: float = 1.0,
    **kwargs,
  ):
    """Creates a ConvNeXt.

    Args:
      depths: numbers of blocks of the four levels.
      channels: of the four levels.
      drop_path_keep_prob: probability, in (0, 1], that training keeps the residual of the last
        block; it falls linearly from 1 at the first block.
      **kwargs: passed on to the Keras layer.
    """
    super().__init__(**kwargs)
    self.downsampling = [Stem(channels[0])] + [Downsampling(width) for width in channels[1:]]
    self.levels = []
    numbers = itertools.count()
    for num_blocks, width in zip(depths, channels, strict=True):
      keep_probs = [
        drop_path.keep_prob(drop_path_keep_prob, next(numbers), sum(depths) - 1)
        for _ in range(num_blocks)
      ]
      self.levels.append([Block(width, drop_path_keep_prob=keep) for keep in keep_probs])

  def call(self, images: tf.Tensor, training: bool = False) -> structures.Pyramid:
    """Returns the features of `images` [B, H, W, 3] in -1..1, of strides 4, 4, 8, 16, 32."""
    x = self.downsampling[0](images)
    stages = [x]
    for level, blocks in enumerate(self.levels):
      if level:
        x = self.downsampling[level](x)
      for block in blocks:
        x = recompute.block(block, x, training)
      stages.append(x)
    return structures.Pyramid(*stages, *(activations.gelu(stage) for stage in stages))

  def groups_by_depth(self) -> list[list[tf_keras.layers.Layer]]:
    """Returns the layers from the images on, see depth.groups."""
    found = depth.groups(self.downsampling[:1], self.levels)
    # A downsampling goes with the blocks that follow it.
    for downsampling, blocks in zip(self.downsampling[1:], self.levels[1:], strict=True):
      next(group for group in found if blocks[0] in group).insert(0, downsampling)
    return found


def _initializer():
  """Returns a new initializer: one instance gives every variable the same values."""
  return conv.truncated_normal(0.02)


def _dense(filters, **kwargs):
  return affine.Projection(filters, spatial_rank=0, kernel_initializer=_initializer(), **kwargs)


def _padded(x, stride):
  """Adds `stride - 1` rows and columns of zeros, half of them (rounded down) before `x`."""
  sides = [(stride - 1) // 2, stride // 2]
  return tf.pad(x, [[0, 0], sides, sides, [0, 0]])


# Sizes of sec. 3 and table 9: name -> function of drop_path_keep_prob.
CONVNEXTS = {
  name: functools.partial(
    ConvNeXt, depths, tuple(width * 2**level for level in range(4)), name=name
  )
  for name, depths, width in (
    ('convnext_tiny', (3, 3, 9, 3), 96),
    ('convnext_small', (3, 3, 27, 3), 96),
    ('convnext_base', (3, 3, 27, 3), 128),
    ('convnext_large', (3, 3, 27, 3), 192),
    ('convnext_xlarge', (3, 3, 27, 3), 256),
  )
}
