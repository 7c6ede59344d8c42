"""Models and layers for tests: full width as released, or tiny; filled as the goldens were."""

import functools

import numpy as np

from deeplab2.checkpoint import released_keys
from deeplab2.model import kmax_decoder
from deeplab2.model import kmax_deeplab
from deeplab2.model import mask_predictor
from deeplab2.model import pixel_decoder
from deeplab2.model import semantic_branch as semantic_branch_lib
from deeplab2.model import semantic_decoder
from deeplab2.model import semantic_heads as semantic_heads_lib
from deeplab2.model.backbones import registry
from deeplab2.model.layers import aspp
from deeplab2.model.layers import norm as norm_lib
from tests.goldens import fill

NORM = norm_lib.NormSettings()
_AXIAL, _BOTTLENECK = pixel_decoder.BLOCKS['AXIAL'], pixel_decoder.BLOCKS['BOTTLENECK']


def _stages(filters, blocks):
  return [
    pixel_decoder.PixelDecoderStage(f, n, _AXIAL if i < 2 else _BOTTLENECK)
    for i, (f, n) in enumerate(zip(filters, blocks, strict=True))
  ]


def _model(backbone, stages, decoder, predictor, semantic_branch, heads=None):
  return kmax_deeplab.KMaXDeepLab(
    backbone=registry.create(backbone, norm=NORM),
    pixel_decoder=pixel_decoder.PixelDecoder(stages, NORM),
    kmax_decoder=decoder,
    predictor=predictor(),
    semantic_branch=semantic_branch,
    semantic_heads=heads,
  )


def semantic_branch(dropout=0.1):
  """Returns the semantic branch of the released COCO models."""
  low_levels = [semantic_decoder.LowLevel('res3', 64), semantic_decoder.LowLevel('res2', 32)]
  decoder = semantic_decoder.SemanticDecoder(
    aspp.ASPP(256, (6, 12, 18), norm=NORM, dropout=dropout), low_levels, 256, norm=NORM
  )
  return semantic_branch_lib.SemanticBranch(134, norm=NORM, decoder=decoder)


def coco(backbone='resnet50', dropout=0.1):
  """Returns the released COCO model, freshly initialised."""
  predictor = functools.partial(mask_predictor.MaskPredictor, 134, norm=NORM)
  return _model(
    backbone,
    _stages((512, 256, 128, 64), (1, 5, 1, 1)),
    kmax_decoder.KMaXDecoder(128, predictor=predictor, norm=NORM),
    predictor,
    semantic_branch(dropout),
  )


def cityscapes(backbone='resnet50'):
  """Returns the released Cityscapes model, freshly initialised."""
  predictor = functools.partial(mask_predictor.MaskPredictor, 20, norm=NORM)
  return _model(
    backbone,
    _stages((512, 256, 128, 64, 32), (1, 5, 1, 1, 1)),
    kmax_decoder.KMaXDecoder(256, predictor=predictor, norm=NORM),
    predictor,
    semantic_branch_lib.SemanticBranch(19, norm=NORM),
  )


def semantic_heads(count, num_classes=6):
  """Returns ReMask's semantic heads with hardly any channels."""
  return semantic_heads_lib.SemanticHeads(
    [
      semantic_heads_lib.SemanticHead(num_classes, norm=NORM, channels=8, rates=(1, 2, 3))
      for _ in range(count)
    ]
  )


def tiny(num_stages=4, num_slots=8, num_classes=6, drop_path_keep_prob=1.0, heads=None):
  """Returns a model of three decoder layers with every part and hardly any channels."""
  predictor = functools.partial(
    mask_predictor.MaskPredictor, num_classes, norm=NORM, channels=16, head_channels=16
  )
  branch = semantic_branch_lib.SemanticBranch(
    num_classes,
    norm=NORM,
    head_channels=16,
    decoder=semantic_decoder.SemanticDecoder(
      aspp.ASPP(16, (6, 12, 18), norm=NORM), [semantic_decoder.LowLevel('res3', 8)], 16, norm=NORM
    ),
  )
  decoder = kmax_decoder.KMaXDecoder(
    num_slots,
    predictor=predictor,
    norm=NORM,
    layers_per_stride=(1, 1, 1),
    channels=32,
    feed_forward_channels=32,
    drop_path_keep_prob=drop_path_keep_prob,
  )
  return _model(
    'mobilenet_v3_small',
    _stages((16, 16, 8, 8, 8)[:num_stages], [1] * num_stages),
    decoder,
    predictor,
    branch,
    heads,
  )


def fill_by_key(part, place='', golden=()):
  """Fills the variables of `part`, which is at `place` of a model, as a golden file was made.

  Returns the variables by released key.
  """
  variables = released_keys.of_model(part, place)
  for key, variable in variables.items():
    override = f'fill/{key}'
    variable.assign(golden[override] if override in golden else fill.value(key, variable.shape))
  return variables


def layer_input(name, *shape):
  """Returns the input that goldens of single layers were made with."""
  return fill.value(f'input/{name}', shape)


def samples(tensor, count=64):
  """Returns the elements of a tensor that goldens hold."""
  flat = np.asarray(tensor).ravel()
  return flat[(np.arange(count) * 104729 + 12345) % flat.size]


def deviation(tensor, golden, name):
  """Returns max |tensor - golden| / std(golden) of a tensor whose samples and stats are stored."""
  stored = golden[f'samples/{name}']
  return np.abs(samples(tensor, stored.size) - stored).max() / golden[f'stats/{name}'][1]


def layer_deviation(tensor, golden, name):
  """The same for a golden of single layers, stored whole or as samples."""
  stored, tensor = golden[name], np.asarray(tensor)
  if stored.shape == (2048,):
    tensor = samples(tensor, 2048)
  assert tensor.shape == stored.shape
  return np.abs(tensor - stored).max() / golden[f'stats/{name}'][1]
