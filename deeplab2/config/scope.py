"""Which options of DeepLab2 are honoured here: refused and ignored ones, by message and field.

Options that are in neither table are honoured. A scalar counts as set if it differs from its
default, so configs may spell defaults out.
"""

from collections.abc import Iterator

from absl import logging

from deeplab2.config import experiment
from deeplab2.config import textproto

_KMAX_ONLY = 'only kMaX-DeepLab is built here: max_deeplab with a backbone named kmax_...'
BACKBONE_PREFIX = 'kmax_'
_NO_VIDEO = 'video is not supported; remove it.'
_NO_LOSS = 'kMaX-DeepLab has no such loss; remove it.'

REFUSED = {
  'BackboneOptions': {'output_stride': 'kMaX backbones have output stride 32; remove it.'},
  'LossOptions': dict.fromkeys(
    ('center_loss', 'regression_loss', 'motion_loss', 'next_regression_loss', 'depth_loss'),
    _NO_LOSS,
  ),
  'DatasetOptions': dict.fromkeys(
    ('use_two_frames', 'use_next_frame', 'cameras_to_use'), _NO_VIDEO
  ),
}

IGNORED = {
  'ModelOptions': ('restore_instance_last_layer_from_initial_checkpoint',),
  'BackboneOptions': (
    'drop_path_schedule',
    'use_squeeze_and_excite',
    'stem_width_multiplier',
    'backbone_layer_multiplier',
    'use_sac_beyond_stride',
  ),
  'HeadOptions': ('max_value_after_activation', 'min_value_after_activation'),
  'SolverOptions': ('weight_decay',),
  'DatasetOptions': ('sigma',),
  'EvaluatorOptions': (
    'center_score_threshold',
    'nms_kernel',
    'keep_k_centers',
    'merge_semantic_and_instance_with_tf_op',
  ),
}


def check(config: experiment.Config) -> None:
  """Refuses options that cannot be honoured, and warns of those that have no effect.

  Raises:
    UserError: naming the first refused option.
  """
  _check_meta_architecture(config)
  options = list(_set_options(config.options, ''))
  for path, message, field in options:
    reason = REFUSED.get(message.DESCRIPTOR.name, {}).get(field.name)
    if reason:
      raise config.error(path, reason)
  for path, message, field in options:
    if field.name in IGNORED.get(message.DESCRIPTOR.name, ()):
      logging.warning('%s', config.error(path, 'has no effect on kMaX-DeepLab; it is ignored.'))


def _check_meta_architecture(config):
  """Refuses all but kMaX-DeepLab, before anything else that such a config has is looked at."""
  model = config.options.model_options
  meta = model.WhichOneof('meta_architecture')
  if meta is None:
    raise config.error('model_options.max_deeplab', f'is missing; {_KMAX_ONLY}')
  if meta != 'max_deeplab':
    raise config.error(
      f'model_options.{meta}', f'meta architecture {meta} is not supported; {_KMAX_ONLY}'
    )
  if not model.backbone.name.startswith(BACKBONE_PREFIX):
    raise config.error(
      'model_options.backbone.name',
      f'meta architecture max_deeplab without k-means is not supported; {_KMAX_ONLY}',
    )


def _set_options(message, prefix) -> Iterator[tuple]:
  """Yields (path, message, field) of every option that differs from its default."""
  for field, value in message.ListFields():
    path = f'{prefix}.{field.name}' if prefix else field.name
    repeated, is_message = textproto.is_repeated(field), field.message_type is not None
    if repeated or is_message or value != field.default_value:
      yield path, message, field
    if is_message and repeated:
      for index, entry in enumerate(value):
        yield from _set_options(entry, f'{path}[{index}]')
    elif is_message:
      yield from _set_options(value, path)
