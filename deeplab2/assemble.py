"""The one door: experiment options -> datasets, model, loss, post-processing.

Everything below this module takes plain arguments; everything above it asks here.
"""

from collections.abc import Callable
import contextlib
import functools
import os
from typing import Any, NamedTuple

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.config import dataset_pb2
from deeplab2.config import loss_checks
from deeplab2.config import model_pb2
from deeplab2.config import scope
from deeplab2.config import trainer_pb2
from deeplab2.config.experiment import Config
from deeplab2.data import augment
from deeplab2.data import autoaugment
from deeplab2.data import copy_paste
from deeplab2.data import datasets
from deeplab2.data import geometry
from deeplab2.data import pipeline
from deeplab2.data import reading
from deeplab2.data import targets
from deeplab2.loss import mask_activation
from deeplab2.loss import panoptic_loss
from deeplab2.loss import relaxation
from deeplab2.loss import sampling
from deeplab2.loss import terms
from deeplab2.model import kmax_decoder
from deeplab2.model import kmax_deeplab
from deeplab2.model import mask_predictor
from deeplab2.model import pixel_decoder
from deeplab2.model import postprocess
from deeplab2.model import precision as precision_lib
from deeplab2.model import semantic_branch
from deeplab2.model import semantic_decoder
from deeplab2.model import semantic_heads
from deeplab2.model.backbones import registry
from deeplab2.model.layers import aspp
from deeplab2.model.layers import conv
from deeplab2.model.layers import norm as norm_lib
from deeplab2.model.layers import weights

_TRAIN = 'train_dataset_options'
_EVAL = 'eval_dataset_options'
_MAX_DEEPLAB = 'model_options.max_deeplab'
_MAX_POOL = 'model_options.backbone.stem_max_pool'
_BACKBONE = 'model_options.backbone.name'
_DROP_PATH = 'model_options.backbone.drop_path_keep_prob'
_WIDTH = 'model_options.backbone.backbone_width_multiplier'
_GATE = 'model_options.backbone.squeeze_excite_gate'
_LOSSES = 'trainer_options.loss_options'
_ACTIVATIONS = {
  trainer_pb2.LossOptions.SIGMOID: tf.sigmoid,
  trainer_pb2.LossOptions.SOFTMAX: tf.nn.softmax,
}
# By mask_loss_activation and mask_loss_all_slots.
_MASK_ACTIVATIONS = {
  (trainer_pb2.LossOptions.SIGMOID, False): mask_activation.SIGMOID,
  (trainer_pb2.LossOptions.SIGMOID, True): mask_activation.SIGMOID_ALL_SLOTS,
  (trainer_pb2.LossOptions.SOFTMAX, False): mask_activation.SOFTMAX,
}
_GATES = model_pb2.ModelOptions.BackboneOptions.SqueezeExciteGate
_READERS = {
  dataset_pb2.DatasetOptions.FAIL: lambda options: reading.Fail(),
  dataset_pb2.DatasetOptions.SKIP: lambda options: reading.Skip(options.max_corrupt_fraction),
}


def dataset_info(config: Config) -> datasets.DatasetInfo:
  """Returns the descriptor of the dataset that the model is built for.

  That is the evaluation dataset's, or the training dataset's where a config has no other.

  Raises:
    UserError: if there is none of that name, or training and evaluation name different ones.
  """
  fields = [field for field in (_EVAL, _TRAIN) if config.value(f'{field}.dataset')]
  if not fields:
    raise config.error(
      f'{_TRAIN}.dataset',
      f'is missing; choose from {", ".join(datasets.DATASETS)}, or give the path of a JSON file.',
    )
  names = [_dataset_name(config.value(f'{field}.dataset')) for field in fields]
  if len(set(names)) > 1:
    raise config.error(
      f'{_EVAL}.dataset',
      f'differs from {_TRAIN}.dataset = "{names[1]}"; one model has the classes of one dataset.',
    )
  try:
    return datasets.get(config.resolved(f'{fields[0]}.dataset'))
  except errors.UserError as error:
    raise config.error(f'{fields[0]}.dataset', str(error)) from error


def _dataset_name(name):
  """Returns the name of a dataset; of one's own, the absolute path of its file."""
  return os.path.abspath(name) if name.endswith('.json') and '://' not in name else name


def model(
  config: Config,
  training: bool = False,
  precision: trainer_pb2.TrainerOptions.Precision = trainer_pb2.TrainerOptions.FLOAT32,
  *,
  drawn: bool = True,
) -> kmax_deeplab.KMaXDeepLab:
  """Builds the model, with all variables created and nothing restored.

  Args:
    config: the configuration.
    training: whether it will be trained: with ReMask, it has semantic heads then.
    precision: what its layers compute in. Its variables are float32.
    drawn: whether random weights are drawn. If not, every variable must be restored.

  Raises:
    UserError: if the backbone is unknown, or the semantic head has another number of classes than
      the dataset.
  """
  check_model(config)
  start = contextlib.nullcontext() if drawn else weights.not_drawn()
  with start, precision_lib.computing_in(trainer_pb2.TrainerOptions.Precision.Name(precision)):
    return _model(config, training)


def _model(config, training):
  options = config.options
  info = _model_dataset(config)
  solver = options.trainer_options.solver_options
  norm = norm_lib.NormSettings(
    solver.use_sync_batchnorm, solver.batchnorm_momentum, solver.batchnorm_epsilon
  )
  kmax = options.model_options.kmax
  head = config.value(f'{_MAX_DEEPLAB}.pixel_space_head')

  def predictor(**kwargs):
    return mask_predictor.MaskPredictor(
      info.label_space.num_real_classes + 1,
      norm=norm,
      channels=head.output_channels,
      head_channels=head.head_channels,
      head_conv=conv.CONVS_5X5[head.head_conv_type],
      **kwargs,
    )

  return kmax_deeplab.KMaXDeepLab(
    backbone=registry.create(
      _backbone_name(config),
      norm=norm,
      drop_path_keep_prob=config.value(_DROP_PATH),
      stem_max_pool=config.value(_MAX_POOL),
      width_multiplier=round(config.value(_WIDTH), 6),  # As it was written, not as float32.
      squeeze_excite_gate=_GATES.Name(config.value(_GATE)),
    ),
    pixel_decoder=pixel_decoder.PixelDecoder(
      _pixel_decoder_stages(kmax), norm, features=kmax.pixel_decoder_features
    ),
    kmax_decoder=kmax_decoder.KMaXDecoder(
      kmax.num_mask_slots,
      predictor=predictor,
      norm=norm,
      layers_per_stride=tuple(kmax.decoder_layers),
      channels=kmax.cluster_channels,
      feed_forward_channels=kmax.feed_forward_channels,
      drop_path_keep_prob=kmax.decoder_drop_path_keep_prob,
    ),
    predictor=predictor(name='predictor'),
    semantic_branch=_semantic_branch(config, norm),
    semantic_heads=_semantic_heads(config, norm) if training else None,
    recompute_blocks=options.trainer_options.recompute == trainer_pb2.TrainerOptions.BLOCKS,
  )


def _pixel_decoder_stages(kmax):
  blocks = pixel_decoder.blocks(kmax.pixel_decoder_dilation)
  return [
    pixel_decoder.PixelDecoderStage(
      stage.filters, stage.num_blocks, blocks[stage.Type.Name(stage.type)]
    )
    for stage in kmax.pixel_decoder_stages
  ]


def conventions(config: Config) -> structures.Conventions:
  """Returns what the model computes that its variables do not show.

  Raises:
    UserError: as `dataset_info`, but that no dataset may be named.
  """
  kmax = config.value('model_options.kmax')
  max_deeplab = config.value(_MAX_DEEPLAB)
  semantic: list[str] = []
  if max_deeplab.HasField('auxiliary_semantic_head'):
    semantic.append(kmax.semantic_feature)
    if kmax.semantic_decoder:
      semantic += [level.feature_key for level in max_deeplab.auxiliary_low_level]
  features = tuple(kmax.pixel_decoder_features)
  return structures.Conventions(
    label_space=_model_dataset(config).label_space,
    stem_max_pool=config.value(_MAX_POOL),
    pixel_decoder_features=features or pixel_decoder.FEATURES[: len(kmax.pixel_decoder_stages)],
    semantic_features=tuple(semantic),
    pixel_decoder_dilation=kmax.pixel_decoder_dilation,
  )


def check_model(config: Config) -> None:
  """Checks what `model` needs of the configuration and of the dataset, without building it.

  Raises:
    UserError: as `model`.
  """
  info = _model_dataset(config)
  slots, divisor = config.value('model_options.kmax.num_mask_slots'), info.label_space.label_divisor
  if slots >= divisor:
    raise config.error(
      'model_options.kmax.num_mask_slots',
      f'must be below the label divisor {divisor} of {info.name}: instances are numbered by slot.',
    )
  head = f'{_MAX_DEEPLAB}.auxiliary_semantic_head'
  if (
    config.value(_MAX_DEEPLAB).HasField('auxiliary_semantic_head')
    and config.value(f'{head}.output_channels') != info.label_space.num_classes
  ):
    raise config.error(
      f'{head}.output_channels',
      f'must be {info.label_space.num_classes}, the classes of {info.name}.',
    )
  name = _backbone_name(config)
  if name not in registry.BACKBONES:
    known = [scope.BACKBONE_PREFIX + known for known in sorted(registry.BACKBONES)]
    raise config.error(_BACKBONE, f'is no backbone; choose from {known}.')
  if config.value(_MAX_POOL) and name not in registry.WITH_MAX_POOL:
    others = ', '.join(scope.BACKBONE_PREFIX + other for other in sorted(registry.WITH_MAX_POOL))
    raise config.error(_MAX_POOL, f'{config.value(_BACKBONE)} has none; {others} can have one.')
  if name in registry.WITHOUT_DROP_PATH and config.value(_DROP_PATH) != 1:
    raise config.error(_DROP_PATH, f'{config.value(_BACKBONE)} has no drop path; must be 1.0.')
  if name not in registry.WITH_WIDTHS and config.value(_WIDTH) != 1:
    raise config.error(_WIDTH, f'{config.value(_BACKBONE)} has one width; must be 1.0.')
  if name not in registry.WITH_GATES and config.value(_GATE) != _GATES.SIGMOID:
    raise config.error(_GATE, f'{config.value(_BACKBONE)} has no choice of gates; must be SIGMOID.')


def _model_dataset(config):
  """Returns the dataset whose classes the model has: COCO where none is named, as for
  model_options.kmax (load.py). Training and evaluation ask for a name."""
  if any(config.value(f'{field}.dataset') for field in (_EVAL, _TRAIN)):
    return dataset_info(config)
  logging.info('%s: no dataset is named; the model has the classes of COCO.', config.path)
  return datasets.get('coco_panoptic')


def _backbone_name(config):
  return config.value(_BACKBONE).removeprefix(scope.BACKBONE_PREFIX)


def _semantic_branch(config, norm):
  """Builds the auxiliary semantic branch; None where the config has no head for it."""
  max_deeplab = config.value(_MAX_DEEPLAB)
  if not max_deeplab.HasField('auxiliary_semantic_head'):
    return None
  head = max_deeplab.auxiliary_semantic_head
  feature = config.value('model_options.kmax.semantic_feature')
  decoder = None
  if config.value('model_options.kmax.semantic_decoder'):
    decoder = _semantic_decoder(config.value('model_options.decoder'), max_deeplab, feature, norm)
  return semantic_branch.SemanticBranch(
    head.output_channels,
    norm=norm,
    head_channels=head.head_channels,
    decoder=decoder,
    head_conv=conv.CONVS_5X5[head.head_conv_type],
    feature=feature,
  )


def _semantic_decoder(decoder, max_deeplab, feature, norm):
  if decoder.aspp_use_only_1x1_proj_conv:
    pooling = aspp.PointwisePyramid(decoder.aspp_channels, norm=norm)
  else:
    pooling = aspp.ASPP(decoder.aspp_channels, decoder.atrous_rates, norm=norm)
  low_levels = [
    semantic_decoder.LowLevel(level.feature_key, level.channels_project)
    for level in max_deeplab.auxiliary_low_level
  ]
  return semantic_decoder.SemanticDecoder(
    pooling,
    low_levels,
    decoder.decoder_channels,
    norm=norm,
    fusion_conv=conv.CONVS_5X5[decoder.decoder_conv_type],
    feature=feature,
  )


def _semantic_heads(config, norm):
  """Builds ReMask's semantic heads; None without ReMask."""
  options = config.value(f'{_LOSSES}.remask')
  if not options.enable:
    return None
  return semantic_heads.SemanticHeads(
    [
      semantic_heads.SemanticHead(
        dataset_info(config).label_space.num_classes,
        norm=norm,
        channels=options.head_channels,
        rates=config.value('model_options.decoder.atrous_rates'),
        name=f'head{layer}',
      )
      for layer in range(options.num_relaxed_layers)
    ]
  )


def loss(config: Config) -> panoptic_loss.PanopticLoss:
  """Builds the training objective, relaxed as the config says."""
  return _loss(config, remask=remask(config), reclass=_reclass(config))


def evaluation_loss(config: Config) -> panoptic_loss.PanopticLoss:
  """Builds the objective that evaluations report: without ReMask, with hard targets."""
  return _loss(config, remask=None, reclass=None)


def _loss(config, **relaxations):
  options = config.value(_LOSSES)
  max_deeplab = config.value(_MAX_DEEPLAB)

  def weighting(name, *sampled):
    if not options.HasField(name):
      return None
    term = getattr(options, name)
    return terms.Weighting(term.weight, term.top_k_percent, sampling.Sampling(*sampled))

  return panoptic_loss.PanopticLoss(
    dataset_info(config).label_space,
    pq_style=weighting('pq_style_loss'),
    mask_id_cross_entropy=weighting('mask_id_cross_entropy_loss'),
    instance_discrimination=weighting(
      'instance_discrimination_loss',
      max_deeplab.instance_discrimination_sample_k,
      max_deeplab.instance_discrimination_sample_temperature,
    ),
    semantic=weighting(
      'semantic_loss', max_deeplab.semantic_sample_k, max_deeplab.semantic_sample_temperature
    ),
    mask_activation=_MASK_ACTIVATIONS[options.mask_loss_activation, options.mask_loss_all_slots],
    **relaxations,
  )


def remask(config: Config) -> relaxation.ReMask | None:
  """Returns the settings of ReMask; None without it."""
  options = config.value(f'{_LOSSES}.remask')
  if not options.enable:
    return None
  space = dataset_info(config).label_space
  semantic_terms: dict[str, Callable] = {
    'softmax_cross_entropy': terms.semantic_cross_entropy,
    'sigmoid_cross_entropy': functools.partial(
      terms.semantic_binary_cross_entropy, class_order=space.class_order
    ),
  }
  semantic = options.semantic_loss
  return relaxation.ReMask(
    num_layers=options.num_relaxed_layers,
    identity_mapping=options.identity_mapping,
    stop_gradient=options.stop_gradient,
    gate_masks=options.gate_masks,
    semantic_activation=_ACTIVATIONS[options.semantic_activation],
    class_activation=_ACTIVATIONS[options.class_activation],
    semantic_term=semantic_terms[semantic.name or loss_checks.SEMANTIC_LOSSES[0]],
    semantic=terms.Weighting(
      semantic.weight,
      semantic.top_k_percent,
      sampling.Sampling(options.semantic_sample_k, options.semantic_sample_temperature),
    ),
  )


def _reclass(config):
  options = config.value(f'{_LOSSES}.reclass')
  if not options.enable:
    return None
  return relaxation.ReClass(
    eta=options.eta,
    mask_activation=_ACTIVATIONS[options.mask_activation],
    by_mask_area=options.normalization == options.MASK_AREA,
    apply_to_unmatched=options.apply_to_unmatched,
    renormalize=options.renormalize_target,
  )


def post_processing(config: Config):
  """Builds the merging rule: mask and class logits -> PanopticMap at the evaluation crop."""
  options = config.options.evaluator_options
  maskwise = options.maskwise_postprocessing
  common: dict[str, Any] = {
    'label_space': dataset_info(config).label_space,
    'output_size': _crop(config, _EVAL),
    'pixel_confidence': options.pixel_confidence_threshold,
    'thing_area_limit': options.thing_area_limit,
    'stuff_area_limit': options.stuff_area_limit,
  }
  if options.transformer_post_processing == 'pixelwise':
    confidence = options.transformer_class_confidence_threshold
    return postprocess.PixelwisePostprocess(class_confidence=confidence, **common)
  return postprocess.MaskwisePostprocess(
    options=postprocess.MaskwiseOptions(
      maskwise.transformer_class_confidence_threshold_thing,
      maskwise.transformer_class_confidence_threshold_stuff,
      maskwise.overlapping_threshold,
      maskwise.reorder_class_weight,
      maskwise.reorder_mask_weight,
    ),
    **common,
  )


class EvalViews(NamedTuple):
  """The copies of an image that an evaluation averages over (inference/augmentation.py)."""

  scales: tuple[float, ...]
  flip: bool

  def any(self) -> bool:
    """Returns whether there is a copy besides the image itself."""
    return self.flip or any(scale != 1.0 for scale in self.scales)


def eval_views(config: Config) -> EvalViews:
  """Returns the copies of an image that evaluation and inference average over."""
  options = config.options.evaluator_options
  # As they were written, not as float32.
  scales = tuple(round(scale, 6) for scale in options.eval_scales)
  return EvalViews(scales, options.add_flipped_images)


def eval_fit(config: Config) -> tuple[tuple[int, int], geometry.Resize]:
  """Returns how an image is fitted for evaluation and inference: (crop size, resize range)."""
  return _crop(config, _EVAL), _resize(config.value(_EVAL))


def train_dataset(
  config: Config, shard: pipeline.Shard | None = None, first_step: int = 0
) -> tf.data.Dataset:
  """Builds the endless training dataset of Sample, with the config's global batch size.

  Args:
    config: the configuration.
    shard: what one of several hosts or replicas gets of it; None for everything.
    first_step: number of updates that the run has done, whose batches are passed over if the input
      has a seed.

  Raises:
    UserError: a file pattern matches nothing, there are fewer files than hosts, or the dispatcher
      of the data service cannot be reached.
  """
  options = config.value(_TRAIN)
  # The parts that a step's batch comes in.
  parts = config.options.trainer_options.gradient_accumulation_steps
  return pipeline.training(
    config.require(f'{_TRAIN}.file_pattern'),
    batch_size=options.batch_size // parts,
    shuffle_buffer_size=options.shuffle_buffer_size,
    seed=options.seed if options.HasField('seed') else None,
    shard=shard or pipeline.Shard(),
    data_service=config.resolved(f'{_TRAIN}.data_service') or None,
    first_step=first_step * parts,
    **train_input(config),
  )


def train_input(config: Config) -> dict[str, Any]:
  """Returns the augmentation of training images, as arguments of pipeline.training."""
  augmentations = config.value(_TRAIN).augmentations
  return {
    'scale': augment.RandomScale(
      augmentations.min_scale_factor,
      augmentations.max_scale_factor,
      augmentations.scale_factor_step_size,
    ),
    'policy': _policy(config),
    'paste': _copy_paste(augmentations),
    **_input(config, _TRAIN),
  }


def eval_dataset(config: Config, skip: int = 0) -> tf.data.Dataset:
  """Builds the evaluation dataset of Sample: every image once, in order.

  Args:
    config: the configuration.
    skip: number of records to leave out at the beginning.

  Raises:
    UserError: a file pattern matches nothing.
  """
  options = config.value(_EVAL)
  return pipeline.evaluation(
    config.require(f'{_EVAL}.file_pattern'),
    batch_size=options.batch_size,
    decode_labels=options.decode_groundtruth_label,
    skip=skip,
    **_input(config, _EVAL),
  )


def _input(config, field):
  """Returns the arguments that both pipelines share."""
  options = config.value(field)
  weight = options.small_instance_weight if options.increase_small_instance_weights else 1.0
  return {
    'label_space': dataset_info(config).label_space,
    'crop_size': _crop(config, field),
    'resize': _resize(options),
    'target_options': targets.TargetOptions(
      options.max_thing_id, options.small_instance_threshold, weight
    ),
    'reader': _READERS[options.on_corrupt](options),
  }


def _policy(config):
  """Returns AutoAugment's policy, None if none is named."""
  field = f'{_TRAIN}.augmentations.autoaugment_policy_name'
  name = config.value(field)
  if not name:
    return None
  if name not in autoaugment.POLICIES:
    raise config.error(field, f'is unknown; choose from {sorted(autoaugment.POLICIES)}.')
  return autoaugment.POLICIES[name]


def _copy_paste(augmentations):
  """Returns the settings of copy-paste, None if it is off."""
  options = augmentations.panoptic_copy_paste
  if not options.panoptic_copy_paste_scale:
    return None
  return copy_paste.CopyPaste(
    options.panoptic_copy_paste_scale,
    options.panoptic_copy_paste_thing_option,
    options.panoptic_copy_paste_stuff_option,
    options.panoptic_copy_paste_void_option,
  )


def _resize(options):
  return geometry.Resize.from_lists(
    options.min_resize_value, options.max_resize_value, options.resize_factor
  )


def _crop(config, field):
  return tuple(config.require(f'{field}.crop_size'))
