"""DeepLab2's public checkpoints: what every variable of a model is called there.

A released checkpoint names every tensor by the attribute path of the object that owned it, such as
`encoder/_stage2/_block1/_conv1_bn_act/_conv/kernel`. The tables below rename our attribute paths,
such as `backbone/stages/0/0/reduce/kernel`, to those keys. Nothing here knows the model's classes:
any tf.Module or Keras model with such paths will do.
"""

from collections.abc import Iterable, Iterator
import re

import tensorflow as tf

# Three tables, applied one after the other, each with its first rule that matches: where a part
# is, what it is inside a block, what the variable is. {1+2} stands for group 1 plus 2.
_PLACES = (
  (r'^backbone/stages/(\d+)/(\d+)/', 'encoder/_stage{1+2}/_block{2+1}/'),
  (r'^backbone/stem/convs/([01])/', 'encoder/_stem/_conv{1+1}_bn_act/'),
  (r'^backbone/stem/convs/2/', 'encoder/_stem/_conv3_bn/'),
  (r'^backbone/downsampling/0/conv/', 'encoder/downsample_layers/0/layer_with_weights-0/'),
  (r'^backbone/downsampling/0/norm/', 'encoder/downsample_layers/0/layer_with_weights-1/'),
  (r'^backbone/downsampling/(\d+)/norm/', 'encoder/downsample_layers/{1}/layer_with_weights-0/'),
  (r'^backbone/downsampling/(\d+)/conv/', 'encoder/downsample_layers/{1}/layer_with_weights-1/'),
  (r'^backbone/levels/(\d+)/(\d+)/', 'encoder/stages/{1}/layer_with_weights-{2}/'),
  (r'^backbone/', 'encoder/_'),
  (r'^pixel_decoder/stages/(\d+)/(\d+)/', 'pixel_decoder/_stages/{1}/_block{2+1}/'),
  (
    r'^pixel_decoder/skip_connections/(\d+)/decoded/conv/',
    'pixel_decoder/_skip_connections/{1}/_resized_conv_bn1/',
  ),
  (
    r'^pixel_decoder/skip_connections/(\d+)/skipped/conv/',
    'pixel_decoder/_skip_connections/{1}/_resized_conv_bn2/',
  ),
  (r'^pixel_decoder/', 'pixel_decoder/_'),
  (
    r'^kmax_decoder/layers/(\d+)/predictor/',
    'transformer_decoder/_kmax_decoder/{1}/_block1_transformer/_auxiliary_clustering_predictor/_',
  ),
  (r'^kmax_decoder/layers/(\d+)/', 'transformer_decoder/_kmax_decoder/{1}/_block1_transformer/'),
  (r'^kmax_decoder/(class|mask)_projection/', 'transformer_decoder/_{1}_embedding_projection/'),
  (r'^kmax_decoder/cluster_centers$', 'transformer_decoder/cluster_centers'),
  (r'^predictor/', ''),
  (r'^semantic_branch/decoder/pyramid_pooling/', 'semantic_decoder/_aspp/'),
  (r'^semantic_branch/decoder/low_level/(\d+)/', 'semantic_decoder/_low_level_conv{1+1}/'),
  (r'^semantic_branch/decoder/fusion/(\d+)/', 'semantic_decoder/_fusion_conv{1+1}/_conv1_bn_act/'),
  (r'^semantic_branch/hidden/', 'semantic_head_without_last_layer/_conv1_bn_act/'),
  (r'^semantic_branch/final/', 'semantic_last_layer/'),
)
_PARTS = (
  # Residual blocks.
  (r'(/_block\d+/)reduce/', r'{1}_conv1_bn_act/'),
  (r'(/_block\d+/)conv/', r'{1}_conv2_bn_act/'),
  (r'(/_block\d+/)expand/', r'{1}_conv3_bn/'),
  (r'(/_block\d+/)shortcut/', r'{1}_shortcut/'),
  (r'/attention/(height|width)_axis/norm_qkv/', '/_attention/_{1}_axis/_batch_norm_qkv/'),
  (
    r'/attention/(height|width)_axis/norm_similarity/',
    '/_attention/_{1}_axis/_batch_norm_similarity/',
  ),
  (
    r'/attention/(height|width)_axis/norm_retrieved/',
    '/_attention/_{1}_axis/_batch_norm_retrieved_output/',
  ),
  (
    r'/attention/(height|width)_axis/(query|key|value)_positions/',
    '/_attention/_{1}_axis/_{2}_rpe/',
  ),
  (r'/attention/(height|width)_axis/', '/_attention/_{1}_axis/'),
  # ConvNeXt.
  (r'(/layer_with_weights-\d+/)depthwise/', '{1}depthwise_conv/'),
  (r'(/layer_with_weights-\d+/)expand/', '{1}pointwise_conv1/'),
  (r'(/layer_with_weights-\d+/)project/', '{1}pointwise_conv2/'),
  # MobileNetV3.
  (r'(/_blocks/\d+/)expand/', '{1}_conv1_bn_act/'),
  (r'(/_blocks/\d+/)depthwise/', '{1}_conv2_bn_act/'),
  (r'(/_blocks/\d+/)squeeze_excite/(reduce|expand)/', '{1}_squeeze_excitation/_se_{2}/'),
  (r'(/_blocks/\d+/)project/', '{1}_conv3_bn/'),
  # MOAT.
  (r'/_stem/down/', '/_stem/layer_with_weights-0/'),
  (r'/_stem/down_norm/', '/_stem/layer_with_weights-1/'),
  (r'/_stem/refine/', '/_stem/layer_with_weights-2/'),
  (r'(/_blocks/\d+/\d+/)(?:mobile/)?expand/pre_norm/', '{1}_pre_norm/'),
  (r'(/_blocks/\d+/\d+/)(?:mobile/)?(expand|depthwise)/norm/', '{1}_{2}_norm/'),
  (r'(/_blocks/\d+/\d+/)(?:mobile/)?(expand|depthwise|shrink|shortcut)/', '{1}_{2}_conv/'),
  (r'(/_blocks/\d+/\d+/)squeeze_excite/(reduce|expand)/', '{1}_se/_se_{2}/'),
  (r'(/_blocks/\d+/\d+/)attention_norm/', '{1}_attention_norm/'),
  (r'(/_blocks/\d+/\d+/)attention/(q|k|v|o)\w+_projection/', '{1}_attention/_{2}_proj/'),
  (r'(/_blocks/\d+/\d+/)attention/', '{1}_attention/'),
  # Layers of the k-means decoder.
  (r'/slot_in/', '/_memory_conv1_bn_act/'),
  (r'/pixel_in/', '/_pixel_conv1_bn_act/'),
  (r'/slot_qkv/', '/_memory_qkv_conv_bn/'),
  (r'/pixel_value/', '/_pixel_v_conv_bn/'),
  (r'/update_norm/', '/_kmeans_memory_batch_norm_retrieved_value/'),
  (r'/update_out/', '/_kmeans_memory_conv3_bn/'),
  (r'/attention/norm_similarity/', '/_memory_attention/_batch_norm_similarity/'),
  (r'/attention/norm_retrieved/', '/_memory_attention/_batch_norm_retrieved_value/'),
  (r'/attention_out/', '/_memory_conv3_bn/'),
  (r'/feed_forward_in/', '/_memory_ffn_conv1_bn_act/'),
  (r'/feed_forward_out/', '/_memory_ffn_conv2_bn/'),
  # Predictors.
  (r'(^|/_)pixel_head/hidden/', '{1}pixel_space_head/conv_block/_conv1_bn_act/'),
  (r'(^|/_)pixel_head/final/', '{1}pixel_space_head/final_conv/'),
  (r'(^|/_)pixel_head/norm/', '{1}pixel_space_feature_batch_norm/'),
  (r'(^|/_)mask_head/', '{1}transformer_mask_head/'),
  (r'(^|/_)mask_norm/', '{1}pixel_space_mask_batch_norm/'),
  (r'(^|/_)class_head/', '{1}transformer_class_head/'),
  # Atrous spatial pyramid pooling.
  (r'/_aspp/conv/', '/_aspp/_conv_bn_act/'),
  (r'/_aspp/atrous/(\d+)/', '/_aspp/_aspp_conv{1+1}/_conv_bn_act/'),
  (r'/_aspp/pool/', '/_aspp/_aspp_pool/_conv_bn_act/'),
  (r'/_aspp/project/', '/_aspp/_proj_conv_bn_act/'),
)
_LEAVES = (
  (r'^(encoder/(?:downsample_layers|stages)/.*)$', '{1}'),
  (r'^(encoder/_stem/layer_with_weights-.*|encoder/_blocks/\d+/\d+/.*)$', '{1}'),
  (r'/(final_conv|semantic_last_layer|_se_reduce|_se_expand)/(kernel|bias)$', '/{1}/{2}'),
  (r'^semantic_last_layer/', 'semantic_last_layer/'),
  (r'/depthwise/depthwise_kernel$', '/_depthwise/_depthwise_conv/depthwise_kernel'),
  (r'/depthwise_kernel$', '/_depthwise_conv/depthwise_kernel'),
  (r'/(depthwise|pointwise)/norm/(\w+)$', '/_{1}/_batch_norm/{2}'),
  (r'/pointwise/kernel$', '/_pointwise/_conv/kernel'),
  (r'/norm/(\w+)$', '/_batch_norm/{1}'),
  (r'/(kernel|bias)$', '/_conv/{1}'),
)

# Names of the variables of MOAT's ImageNet classifiers, which are of TensorFlow 1 (DeepLab2's
# model/pixel_encoder/moat.py, _load_moat_pretrained_checkpoint; layers: model/layers/moat_*.py).
_MOAT_BLOCK = r'^moat/block_0?(\d+)_0?(\d+)/'
_MOAT_NAMES = (
  (r'^(?:moat/stem/)?conv_0/(\w+)$', 'encoder/_stem/layer_with_weights-0/{1}'),
  (r'^(?:moat/stem/)?norm_0/(\w+)$', 'encoder/_stem/layer_with_weights-1/{1}'),
  (r'^(?:moat/stem/)?conv_1/(\w+)$', 'encoder/_stem/layer_with_weights-2/{1}'),
  (_MOAT_BLOCK + r'(\w+_(?:conv|norm))/(\w+)$', 'encoder/_blocks/{1}/{2}/_{3}/{4}'),
  (_MOAT_BLOCK + r'se/(reduce|expand)_conv2d/(\w+)$', 'encoder/_blocks/{1}/{2}/_se/_se_{3}/{4}'),
  (_MOAT_BLOCK + r'attention/([qkvo])/(\w+)$', 'encoder/_blocks/{1}/{2}/_attention/_{3}_proj/{4}'),
  (_MOAT_BLOCK + r'attention/(\w+)$', 'encoder/_blocks/{1}/{2}/_attention/{3}'),
)


def of_moat_name(name: str) -> str | None:
  """Returns the released key of a variable of MOAT's ImageNet classifiers, None for any other.

  Their exponential moving averages, which DeepLab2 does not load, are others.
  """
  return rename(name, _MOAT_NAMES)


def of_model(model: tf.Module, place: str = '') -> dict[str, tf.Variable]:
  """Returns every variable of `model` by its key in DeepLab2's public checkpoints.

  Args:
    model: with its variables created. Walked along the edges that checkpoints save.
    place: path of `model` if it is only a part, such as 'backbone'.

  Raises:
    ValueError: if two variables would have one key.
  """
  variables = {}
  for path, variable in walk(model, place):
    key = of_path(path)
    if key in variables:
      raise ValueError(f'Two variables have the released key {key}; one is {path}.')
    variables[key] = variable
  return variables


def of_path(path: str) -> str:
  """Returns the released key of the variable at attribute `path` of a model.

  Raises:
    ValueError: if no rule says where the path belongs.
  """
  placed = rename(path, _PLACES)
  if placed is None:
    raise ValueError(f'No rule gives {path} a key of the released checkpoints.')
  for table in (_PARTS, _LEAVES):
    placed = rename(placed, table) or placed
  return placed


def walk(root: tf.Module, place: str) -> Iterator[tuple[str, tf.Variable]]:
  """Yields (attribute path, variable) for every variable under `root`, each once.

  Args:
    root: with its variables created. Walked along the edges that checkpoints save.
    place: path of `root` if it is only a part, such as 'backbone'; '' for paths below it.
  """
  view = tf.train.TrackableView(root)
  seen = set()

  def visit(node, path):
    for name, child in view.children(node).items():
      if id(child) in seen:
        continue
      seen.add(id(child))
      child_path = f'{path}/{name}' if path else name
      if isinstance(child, tf.Variable):
        yield child_path, child
      else:
        yield from visit(child, child_path)

  yield from visit(root, place)


def rename(path: str, table: Iterable[tuple[str, str]]) -> str | None:
  """Applies the first rule of `table` that matches; None if none does.

  Args:
    path: what is renamed.
    table: of (pattern, template). {1} in a template stands for group 1, which may be missing, {1+2}
      for group 1 plus 2.
  """
  for pattern, template in table:
    match = re.search(pattern, path)
    if match:
      return path[: match.start()] + _expand(template, match) + path[match.end() :]
  return None


def _expand(template, match):
  def value(field):
    group, offset = match[int(field[1])] or '', field[2]
    return str(int(group) + int(offset)) if offset else group

  return re.sub(r'\{(\d)(?:\+(\d))?\}', value, template)
