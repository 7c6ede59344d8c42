"""Small configurations for tests: the fields that the published kMaX configs set."""

# Dataset -> the backbones of its published configs.
BACKBONES = {
  'coco_panoptic': (
    'resnet50',
    'axial_resnet50',
    'convnext_tiny',
    'convnext_small',
    'convnext_base',
    'convnext_large',
  ),
  'cityscapes_panoptic': (
    'resnet50',
    'axial_resnet50',
    'convnext_tiny',
    'convnext_small',
    'convnext_base',
    'convnext_large',
  ),
  'ade20k_panoptic': ('resnet50', 'convnext_large'),
}
_PER_DATASET = {
  'coco_panoptic': dict(
    channels=134,
    crop='1281 1281',
    resize=1281,
    rate=0.0005,
    steps=150000,
    batch=64,
    top_k=1.0,
    scale=(0.3, 1.7),
    policy='simple_classification_policy',
    things=128,
    thing=0.7,
    stuff=0.5,
    overlap=0.8,
    mask_weight=1.0,
    areas=(400, 6400),
    sampling='instance_discrimination_sample_temperature: 1.5 semantic_sample_k: 4096 '
    'semantic_sample_temperature: 2.0',
  ),
  'cityscapes_panoptic': dict(
    channels=19,
    crop='1025 2049',
    resize=0,
    rate=0.0003,
    steps=60000,
    batch=32,
    top_k=0.2,
    scale=(0.5, 2.0),
    policy='simple_classification_policy_magnitude_scale_0.2',
    things=256,
    thing=0.5,
    stuff=0.3,
    overlap=0.9,
    mask_weight=0.0,
    areas=(256, 2048),
    sampling='',
  ),
  'ade20k_panoptic': dict(
    channels=151,
    crop='641 641',
    resize=641,
    rate=0.0005,
    steps=100000,
    batch=64,
    top_k=1.0,
    scale=(0.5, 2.0),
    policy='simple_classification_policy',
    things=256,
    thing=0.4,
    stuff=0.4,
    overlap=0.8,
    mask_weight=1.0,
    areas=(0, 0),
    sampling='instance_discrimination_sample_temperature: 1.5 semantic_sample_k: 1024 '
    'semantic_sample_temperature: 2.0',
  ),
}


def kmax(dataset: str, backbone: str, *, max_deeplab: str = '', more: str = '') -> str:
  """Returns an experiment with every field that a published config of `dataset` sets.

  Args:
    dataset: key of BACKBONES.
    backbone: one of its backbones.
    max_deeplab: text to add to the message max_deeplab.
    more: text to add to the end.
  """
  of = _PER_DATASET[dataset]
  weights = (
    ('initial_checkpoint: "${INIT_CHECKPOINT}"', '')
    if 'resnet' in backbone
    else ('', 'pretrained_weights: "${PRETRAINED_WEIGHTS}"')
  )
  height, width = of['crop'].split()
  data = f"""
    dataset: "{dataset}"
    crop_size: {height}
    crop_size: {width}
    min_resize_value: {of['resize']}
    max_resize_value: {of['resize']}
    increase_small_instance_weights: {'true' if of['top_k'] != 1.0 else 'false'}
    small_instance_weight: {3.0 if of['top_k'] != 1.0 else 1.0}
    thing_id_mask_annotations: true
    max_thing_id: {of['things']}"""
  return f"""
experiment_name: "${{EXPERIMENT_NAME}}"
model_options {{
  {weights[0]}
  backbone {{ name: "kmax_{backbone}" drop_path_keep_prob: 0.8 {weights[1]} }}
  decoder {{
    feature_key: "feature_semantic" decoder_channels: 256 aspp_channels: 256
    atrous_rates: 6 atrous_rates: 12 atrous_rates: 18
  }}
  max_deeplab {{
    pixel_space_head {{ output_channels: 128 head_channels: 256 }}
    auxiliary_low_level {{ feature_key: "res3" channels_project: 64 }}
    auxiliary_low_level {{ feature_key: "res2" channels_project: 32 }}
    auxiliary_semantic_head {{ output_channels: {of['channels']} head_channels: 256 }}
    instance_discrimination_sample_k: 4096
    {of['sampling']}
    {max_deeplab}
  }}
}}
trainer_options {{
  save_checkpoints_steps: 1000 save_summaries_steps: 100 steps_per_loop: 100
  loss_options {{
    semantic_loss {{ name: "softmax_cross_entropy" weight: 1.0 top_k_percent: {of['top_k']} }}
    pq_style_loss {{ weight: 3.0 }}
    mask_id_cross_entropy_loss {{ weight: 0.3 }}
    instance_discrimination_loss {{ weight: 1.0 }}
  }}
  solver_options {{
    base_learning_rate: {of['rate']} training_number_of_steps: {of['steps']} warmup_steps: 5000
    backbone_learning_rate_multiplier: 0.1 optimizer: "adamw" adamw_weight_decay: 0.05
  }}
}}
train_dataset_options {{{data}
    file_pattern: "${{TRAIN_SET}}"
    batch_size: {of['batch']}
    augmentations {{
      min_scale_factor: {of['scale'][0]} max_scale_factor: {of['scale'][1]}
      scale_factor_step_size: 0.1 autoaugment_policy_name: "{of['policy']}"
      panoptic_copy_paste {{
        panoptic_copy_paste_scale: 0.5 panoptic_copy_paste_thing_option: "all"
        panoptic_copy_paste_stuff_option: "random" panoptic_copy_paste_void_option: "none"
      }}
    }}
}}
eval_dataset_options {{{data}
    file_pattern: "${{VAL_SET}}"
    batch_size: 1
}}
evaluator_options {{
  continuous_eval_timeout: -1
  thing_area_limit: {of['areas'][0]} stuff_area_limit: {of['areas'][1]}
  transformer_post_processing: "maskwise" pixel_confidence_threshold: 0.4
  maskwise_postprocessing {{
    transformer_class_confidence_threshold_thing: {of['thing']}
    transformer_class_confidence_threshold_stuff: {of['stuff']}
    overlapping_threshold: {of['overlap']}
    reorder_class_weight: 1.0 reorder_mask_weight: {of['mask_weight']}
  }}
  save_predictions: true save_raw_predictions: false
}}
{more}
"""


# The least that builds a model, on the lines that tests of line numbers count on.
SMALL = """\
# A comment with braces { and "quotes.
model_options {
  backbone { name: "kmax_resnet50" }
  decoder { feature_key: "feature_semantic" atrous_rates: [6, 12, 18] }
  max_deeplab {
    pixel_space_head { output_channels: 128 head_channels: 256 }
    auxiliary_low_level { feature_key: "res3" channels_project: 64 }
    auxiliary_low_level { feature_key: "res2" channels_project: 32 }
    auxiliary_semantic_head { output_channels: 134 head_channels: 256 }
  }
}
trainer_options {
  loss_options { pq_style_loss { weight: 3.0 } }
}
train_dataset_options {
  dataset: "coco_panoptic"
  file_pattern: "${TRAIN_SET}"
  batch_size: 8
  crop_size: 65
  crop_size: 97
  thing_id_mask_annotations: true
}
eval_dataset_options {
  dataset: "coco_panoptic"
  crop_size: [65, 97]
}
"""
