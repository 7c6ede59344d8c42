"""What a checkpoint's model computes, against what the configured one does.

Models of DeepLab2 and of PyTorch have the same variables and compute different things of them, so
that a checkpoint of one fits the other, and makes results that are wrong without any sign of it.
"""

from collections.abc import Iterable, Iterator

from deeplab2 import errors
from deeplab2 import structures

_KMAX = 'model_options.kmax'
_LOW_LEVELS = 'model_options.max_deeplab.auxiliary_low_level'
_LEVELS = (5, 4, 3, 2, 1)  # Of the pixel decoder's stages.


def of_deeplab2(keys: Iterable[str], configured: structures.Conventions) -> structures.Conventions:
  """Returns what DeepLab2's models compute, as far as its checkpoint tells; else as configured.

  Args:
    keys: released keys, of a whole model or of a backbone.
    configured: of the model that is to be filled.
  """
  keys = tuple(keys)
  if any('_stage2/_block1/' in key for key in keys):
    configured = configured._replace(stem_max_pool=False)
  if not any(key.startswith('pixel_decoder/') for key in keys):
    return configured
  num_stages = len(configured.pixel_decoder_features)
  return configured._replace(
    pixel_decoder_features=tuple(f'stage{level}' for level in _LEVELS[:num_stages]),
    pixel_decoder_dilation=2,
    semantic_features=('stage5', *configured.semantic_features[1:]),
  )


def of_torch(keys: Iterable[str], label_space: structures.LabelSpace) -> structures.Conventions:
  """Returns what a model of PyTorch kMaX-DeepLab computes.

  Args:
    keys: of its state dict.
    label_space: of the model that is to be filled.
  """
  keys = tuple(keys)
  of_resnet = any(key.startswith('backbone.res2.') for key in keys)
  num_stages = sum(
    key.startswith('sem_seg_head.pixel_decoder._in_norms.') and key.endswith('.weight')
    for key in keys
  )
  levels = _LEVELS[:num_stages]
  if of_resnet and num_stages == 5:
    # Stages are sorted by stride, and the stem, also at stride 4, comes first.
    levels = (5, 4, 3, 1, 2)
  semantic = (5, 3, 2) if any('._low_level_projection_' in key for key in keys) else (5,)
  # Features leave a ResNet activated, and a ConvNeXt as they are.
  kind = 'res' if of_resnet else 'stage'
  return structures.Conventions(
    label_space=label_space,
    stem_max_pool=of_resnet,
    pixel_decoder_features=tuple(f'{kind}{level}' for level in levels),
    semantic_features=tuple(f'{kind}{level}' for level in semantic),
    pixel_decoder_dilation=1,
  )


def check(
  computed: structures.Conventions,
  configured: structures.Conventions,
  *,
  whole: bool,
  prefix: str,
  origin: str,
) -> None:
  """Checks that a model computes what that of a checkpoint does.

  Args:
    computed: by the model of the checkpoint.
    configured: of the model that is to be filled.
    whole: whether all of the model is filled, or the backbone alone.
    prefix: of the checkpoint, for the error.
    origin: the program that it is of, for the error.

  Raises:
    UserError: naming the options that have to be set.
  """
  settings = []
  if computed.stem_max_pool != configured.stem_max_pool:
    settings.append(f'model_options.backbone.stem_max_pool={str(computed.stem_max_pool).lower()}')
  if whole:
    settings += _of_decoders(computed, configured)
  if settings:
    raise errors.UserError(
      f'{prefix}: its model, of {origin}, computes otherwise than the configured one; set '
      f'{", ".join(settings)} (docs/pytorch.md).'
    )


def _of_decoders(computed, configured) -> Iterator[str]:
  """Yields the settings of what the decoders compute otherwise."""
  theirs, ours = computed.pixel_decoder_features, configured.pixel_decoder_features
  # Another number of features shows in the variables.
  if theirs != ours and len(theirs) == len(ours):
    yield f'{_KMAX}.pixel_decoder_features={",".join(theirs)}'
  if computed.pixel_decoder_dilation != configured.pixel_decoder_dilation:
    yield f'{_KMAX}.pixel_decoder_dilation={computed.pixel_decoder_dilation}'
  pairs = zip(computed.semantic_features, configured.semantic_features, strict=False)
  for index, (read, configured_one) in enumerate(pairs):
    if read != configured_one:
      field = f'{_LOW_LEVELS}[{index - 1}].feature_key' if index else f'{_KMAX}.semantic_feature'
      yield f'{field}={read}'
