"""A configuration whose real network is built and run in seconds."""

import pathlib

CONFIG = pathlib.Path(__file__).parents[2] / 'configs/shapes/kmax_mobilenet_v3_small.textproto'
OVERRIDES = (
  'eval_dataset_options.crop_size=65,65',
  'eval_dataset_options.min_resize_value=65',
  'eval_dataset_options.max_resize_value=65',
  'eval_dataset_options.file_pattern=none',
  'model_options.kmax.decoder_layers=1,0,0',
)
