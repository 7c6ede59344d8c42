"""PyTorch kMaX-DeepLab's state dicts: which released key every tensor has, and in which layout.

Names as of bytedance/kmax-deeplab at f8e1d04, with detectron2's ResNet-50 and ConvNeXt. The tables
rename a key such as `backbone.res2.0.conv1.norm.bias`, its dots replaced by slashes, to that of
released_keys.py, `encoder/_stage2/_block1/_conv1_bn_act/_batch_norm/beta`.
"""

from collections.abc import Callable, Iterable
import re

import numpy as np

from deeplab2 import structures
from deeplab2.checkpoint import released_keys

_LAYER = 'transformer_decoder/_kmax_decoder/{1}/_block1_transformer/'
_DECODER = '^sem_seg_head/pixel_decoder/'
_PREDICTOR = '^sem_seg_head/predictor/'  # Of PyTorch: the k-means decoder and all heads.
_CONVNEXT = (
  r'/downsample_layers/0/layer_with_weights-0|/downsample_layers/[1-3]/layer_with_weights-1|'
  r'/depthwise_conv|/pointwise_conv[12]'
)
# Ends of keys that need no further rule.
_COMPLETE = ('/qkv_kernel', '/embeddings', '/layer_scale')
_SEMANTIC = f'{_PREDICTOR}_auxiliary_semantic_predictor/'
# Three tables as in released_keys.py: where a part is, what it is, what the variable is.
_PLACES = (
  (r'^backbone/stem/conv1/', 'encoder/_stem/'),
  (r'^backbone/res(\d)/(\d+)/', 'encoder/_stage{1}/_block{2+1}/'),
  (
    r'^backbone/downsample_layers/(\d)/(\d)/',
    'encoder/downsample_layers/{1}/layer_with_weights-{2}/',
  ),
  (r'^backbone/stages/(\d)/(\d+)/', 'encoder/stages/{1}/layer_with_weights-{2}/'),
  (_DECODER + r'_in_norms/(\d)/', 'pixel_decoder/_backbone_norms/{1}/'),
  (_DECODER + r'_stages/(\d)/_blocks/(\d+)/', 'pixel_decoder/_stages/{1}/_block{2+1}/'),
  (
    _DECODER + r'_resized_fuses/(\d)/_conv_bn_low/',
    'pixel_decoder/_skip_connections/{1}/_resized_conv_bn1/',
  ),
  (
    _DECODER + r'_resized_fuses/(\d)/_conv_bn_high/',
    'pixel_decoder/_skip_connections/{1}/_resized_conv_bn2/',
  ),
  (
    _PREDICTOR + r'_kmax_transformer_layers/(\d+)/_predcitor/',
    f'{_LAYER}_auxiliary_clustering_predictor/',
  ),
  (_PREDICTOR + r'_kmax_transformer_layers/(\d+)/', _LAYER),
  (_PREDICTOR + '_predcitor/_', ''),
  (_PREDICTOR + '_cluster_centers/weight$', 'transformer_decoder/cluster_centers'),
  (
    _PREDICTOR + r'_(class|mask)_embedding_projection/',
    'transformer_decoder/_{1}_embedding_projection/',
  ),
  (_SEMANTIC + '_aspp/_aspp_conv0/', 'semantic_decoder/_aspp/_conv_bn_act/'),
  (_SEMANTIC + r'_aspp/_aspp_(conv\d|pool)/', 'semantic_decoder/_aspp/_aspp_{1}/_conv_bn_act/'),
  (_SEMANTIC + '_aspp/', 'semantic_decoder/_aspp/'),
  (_SEMANTIC + '_low_level_projection_os8/', 'semantic_decoder/_low_level_conv1/'),
  (_SEMANTIC + '_low_level_projection_os4/', 'semantic_decoder/_low_level_conv2/'),
  (_SEMANTIC + '_low_level_fusion_os8_', 'semantic_decoder/_fusion_conv1/'),
  (_SEMANTIC + '_low_level_fusion_os4_', 'semantic_decoder/_fusion_conv2/'),
  # With and without a semantic decoder.
  (_SEMANTIC + r'(?:conv_block_)?([01])/', 'semantic_head_without_last_layer/conv{1}_bn_act/'),
  (_SEMANTIC + '(?:final_conv|2)/conv/', 'semantic_last_layer/'),
)
_PARTS = (
  # Residual blocks.
  (r'^(encoder/.*/_block\d+/)conv([12])/', '{1}_conv{2}_bn_act/'),
  (r'^(encoder/.*/_block\d+/)conv3/', '{1}_conv3_bn/'),
  (r'^(encoder/.*/_block\d+/)shortcut/', '{1}_shortcut/'),
  (r'/qkv_transform/conv/weight$', '/qkv_kernel'),
  (r'_rpe/_embeddings/weight$', '_rpe/embeddings'),
  # ConvNeXt.
  (r'(/layer_with_weights-\d+/)gamma$', '{1}layer_scale'),
  (r'(/layer_with_weights-\d+/)dwconv/', '{1}depthwise_conv/'),
  (r'(/layer_with_weights-\d+/)pwconv([12])/', '{1}pointwise_conv{2}/'),
  # Layers of the k-means decoder.
  (r'/_query_self_attention/', '/_memory_attention/'),
  (r'/_((?:kmeans_)?)query_(conv|qkv|ffn|batch)', '/_{1}memory_{2}'),
  # Predictors.
  (r'(pixel_space_head)_conv0bnact/', '{1}/conv_block/_conv1_bn_act/_depthwise/'),
  (r'(pixel_space_head)_conv1bnact/', '{1}/conv_block/_conv1_bn_act/_pointwise/'),
  (r'(pixel_space_head)_last_convbn/conv/', '{1}/final_conv/'),
  (r'(pixel_space)_head_last_convbn/norm/', '{1}_feature_batch_norm/'),
  # Separable convolutions of the semantic branch.
  (r'^(semantic_\w+(?:/_fusion_conv\d)?/)conv0_bn_act/', '{1}_conv1_bn_act/_depthwise/'),
  (r'^(semantic_\w+(?:/_fusion_conv\d)?/)conv1_bn_act/', '{1}_conv1_bn_act/_pointwise/'),
)
_LEAVES = (
  (r'/_depthwise/conv/weight$', '/_depthwise/_depthwise_conv/depthwise_kernel'),
  (r'(^|/)(final_conv|semantic_last_layer)/weight$', '{1}{2}/kernel'),
  (r'(^|/)(final_conv|semantic_last_layer)/bias$', '{1}{2}/bias'),
  (r'/conv/weight$', '/_conv/kernel'),
  (r'/conv/bias$', '/_conv/bias'),
  (rf'({_CONVNEXT})/weight$', '{1}/kernel'),
  (rf'({_CONVNEXT})/bias$', '{1}/bias'),
  # Detectron2's convolutions hold their norms.
  (
    r'^(encoder/(?:_stem|_stage.*/(?:_conv\d_bn_act|_conv3_bn|_shortcut)))/weight$',
    '{1}/_conv/kernel',
  ),
  *(
    rule
    for theirs, ours in (
      ('weight', 'gamma'),
      ('bias', 'beta'),
      ('running_mean', 'moving_mean'),
      ('running_var', 'moving_variance'),
    )
    for rule in (
      (rf'^(encoder/stages/.*/norm)/{theirs}$', f'{{1}}/{ours}'),
      (rf'/norm/{theirs}$', f'/_batch_norm/{ours}'),
      (rf'/{theirs}$', f'/{ours}'),
    )
  ),
)

_HEADS = 8  # Of every attention.
# Released keys, and how PyTorch's layout becomes that of DeepLab2: the first that matches. Kernels
# have their two axes of channels in front there, output first, and ours have them last.
_Change = Callable[[np.ndarray], np.ndarray]
_LAYOUTS: tuple[tuple[str, _Change], ...] = (
  ('depthwise_kernel$', lambda x: x.transpose(2, 3, 0, 1)),
  # Of every position alone, where PyTorch convolves.
  ('qkv_kernel$', lambda x: _channels_last(x)[0]),
  (r'/_pixel_(conv1_bn_act|v_conv_bn)/_conv/kernel$', lambda x: _channels_last(x)[0]),
  ('kernel$', lambda x: _channels_last(x)),
  ('/layer_scale$', lambda x: x.reshape(1, 1, 1, -1)),
  ('/cluster_centers$', lambda x: x.T[np.newaxis]),
  # Terms, heads and channels of a head, each group in one axis of PyTorch.
  ('/_attention/.*/_batch_norm_similarity/', lambda x: x.reshape(3, 1, _HEADS, 1, 1)),
  ('/_attention/.*/_batch_norm_retrieved_output/', lambda x: x.reshape(2, 1, _HEADS, 1, -1)),
  ('/_memory_attention/_batch_norm_retrieved_value/', lambda x: x.reshape(1, _HEADS, 1, -1)),
)
_COUNTER = re.compile(r'(.*\.)?num_batches_tracked$')
_CLASSES = re.compile(r'(.*/_)?transformer_class_head/')
_SEMANTIC_CLASSES = re.compile('semantic_last_layer/')


def is_kmax(keys: Iterable[str]) -> bool:
  """Says whether a state dict is of a whole kMaX-DeepLab."""
  return any(key.startswith('sem_seg_head.predictor._kmax_transformer_layers.') for key in keys)


def is_counter(key: str) -> bool:
  """Says whether a tensor counts the batches of a batch norm, which nothing reads."""
  return bool(_COUNTER.fullmatch(key))


def of_key(key: str) -> str | None:
  """Returns the released key of a tensor of a state dict; None of one without a partner."""
  path = released_keys.rename(key.replace('.', '/'), _PLACES)
  if path is None or path == 'transformer_decoder/cluster_centers':
    return path
  path = released_keys.rename(path, _PARTS) or path
  if path.endswith(_COMPLETE):
    return path
  return released_keys.rename(path, _LEAVES)


def in_our_layout(
  released_key: str, tensor: np.ndarray, label_space: structures.LabelSpace
) -> np.ndarray:
  """Returns a tensor of a state dict as DeepLab2 has it.

  Class channels are brought into order where they are those of `label_space`: PyTorch has classes
  by ascending dataset id, void last.

  Args:
    released_key: of the tensor.
    tensor: as PyTorch has it.
    label_space: of the dataset that the state dict is of, if it has as many classes.

  Raises:
    ValueError: the tensor cannot be of this key.
  """
  for pattern, change in _LAYOUTS:
    if re.search(pattern, released_key):
      tensor = change(tensor)
      break
  order = _class_order(released_key, label_space)
  return tensor[..., order] if order and tensor.shape[-1] == len(order) else tensor


def _channels_last(kernel):
  return np.moveaxis(kernel, (0, 1), (-1, -2))


def _class_order(released_key, space):
  """Returns PyTorch's channel of each of ours; None of tensors without classes."""
  ids = sorted(space.class_order)
  channel_of = {dataset_id: channel for channel, dataset_id in enumerate(ids)}
  if _CLASSES.match(released_key):
    return [*map(channel_of.get, space.class_order), len(ids)]
  if _SEMANTIC_CLASSES.match(released_key):
    return [channel_of.get(dataset_id, len(ids)) for dataset_id in range(space.num_classes)]
  return None
