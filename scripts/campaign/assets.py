"""What the campaign works on: tiny data, a tiny configuration, a checkpoint, an exported model.

Everything is made by the project's own command lines from synthetic images. Below the directory:

  records/        train and val records of the set `shapes`
  own/            images (PNG and JPEG), dataset.json, panoptic.json, panoptic/, instances.json
  own_many/       the same, more of it
  tiny.textproto  the configuration
  runs/tiny       a run of a few steps; plot_run draws it
  exported        its model
"""

from collections.abc import Collection
import json
import pathlib
import subprocess
import sys

import PIL.Image

from campaign import processes
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import shapes

PARTS = ('own', 'records', 'model')
NUM_OWN = 3
NUM_MANY = 90

_TEXTPROTO = """# A model as small as the architecture allows, for trying files and interruptions.
experiment_name: "tiny"
model_options {
  backbone { name: "kmax_mobilenet_v3_small" }
  decoder {
    feature_key: "feature_semantic"
    decoder_channels: 16
    aspp_channels: 16
    aspp_use_only_1x1_proj_conv: true
    atrous_rates: [1, 2, 3]
  }
  max_deeplab {
    pixel_space_head { output_channels: 16 head_channels: 16 }
    auxiliary_low_level { feature_key: "res3" channels_project: 8 }
    auxiliary_low_level { feature_key: "res2" channels_project: 8 }
    auxiliary_semantic_head { output_channels: 10 head_channels: 16 }
    instance_discrimination_sample_k: 64
    instance_discrimination_sample_temperature: 1.5
  }
  kmax {
    num_mask_slots: 24
    high_resolution_stride: 4
    semantic_decoder: true
    pixel_decoder_stages { filters: 16 num_blocks: 1 type: BOTTLENECK }
    pixel_decoder_stages { filters: 16 num_blocks: 1 type: BOTTLENECK }
    pixel_decoder_stages { filters: 16 num_blocks: 1 type: BOTTLENECK }
    pixel_decoder_stages { filters: 16 num_blocks: 1 type: BOTTLENECK }
    decoder_layers: [1, 1, 1]
    decoder_drop_path_keep_prob: 1.0
    cluster_channels: 32
    feed_forward_channels: 64
  }
}
trainer_options {
  save_checkpoints_steps: 2
  save_summaries_steps: 2
  steps_per_loop: 2
  loss_options {
    semantic_loss { weight: 0.5 }
    pq_style_loss { weight: 3.0 }
    mask_id_cross_entropy_loss { weight: 0.3 }
    instance_discrimination_loss { weight: 0.3 }
    remask {
      enable: true
      num_relaxed_layers: 2
      head_channels: 16
      semantic_loss { name: "softmax_cross_entropy" weight: 1.0 }
    }
  }
  solver_options {
    batchnorm_momentum: 0.9
    optimizer: "adamw"
    adamw_weight_decay: 0.05
    base_learning_rate: 0.001
    warmup_steps: 2
    training_number_of_steps: 4
  }
}
train_dataset_options {
  dataset: "shapes"
  file_pattern: "%(records)s/train-*.tfrecord"
  batch_size: 2
  crop_size: [65, 65]
  min_resize_value: 65
  max_resize_value: 65
  thing_id_mask_annotations: true
  max_thing_id: 32
  shuffle_buffer_size: 8
  seed: 1
}
eval_dataset_options {
  dataset: "shapes"
  file_pattern: "%(records)s/val-*.tfrecord"
  batch_size: 1
  crop_size: [65, 65]
  min_resize_value: 65
  max_resize_value: 65
  thing_id_mask_annotations: true
  max_thing_id: 32
}
evaluator_options {
  eval_interval: 100
  transformer_post_processing: "maskwise"
  pixel_confidence_threshold: 0.3
  maskwise_postprocessing {
    transformer_class_confidence_threshold_thing: 0.1
    transformer_class_confidence_threshold_stuff: 0.1
    overlapping_threshold: 0.5
    reorder_class_weight: 1.0
    reorder_mask_weight: 1.0
  }
  save_predictions: true
  num_vis_samples: 2
}
"""


def make(directory: pathlib.Path, needed: Collection[str] = PARTS) -> pathlib.Path:
  """Makes what is not there yet below `directory`; returns it.

  Args:
    directory: for all that is made.
    needed: of PARTS; records take seconds, the run and its exported model a minute.

  Raises:
    RuntimeError: one of the command lines fails on these inputs, with its output.
  """
  _once(directory / 'own_is_complete', _make_own)
  if 'records' in needed or 'model' in needed:
    _once(directory / 'records_are_complete', _make_records)
  if 'model' in needed:
    _once(directory / 'model_is_complete', _make_model)
  return directory


def _once(mark, function):
  """Calls function(directory) unless an earlier campaign has done it to the end."""
  if not mark.exists():
    mark.parent.mkdir(parents=True, exist_ok=True)
    function(mark.parent)
    mark.touch()


def _make_own(directory):
  config = directory / 'tiny.textproto'
  config.write_text(_TEXTPROTO % {'records': directory / 'records'}, encoding='utf-8')
  write_own(directory / 'own', NUM_OWN)
  write_own(directory / 'own_many', NUM_MANY)


def _make_records(directory):
  for split, count in (('train', 8), ('val', 4)):
    call(
      processes.Command(
        'build_tfrecords',
        (
          '--dataset=shapes',
          f'--split={split}',
          f'--num_images={count}',
          '--num_shards=2',
          f'--output_dir={directory / "records"}',
          '--num_workers=1',
        ),
      )
    )


def _make_model(directory):
  config = f'--config_file={directory / "tiny.textproto"}'
  call(
    processes.Command(
      'deeplab2.trainer.train',
      (
        config,
        '--mode=train_and_eval',
        f'--model_dir={directory / "runs"}',
        '--num_gpus=0',
        '--gin_param=set_up.seed = 1',
      ),
    )
  )
  call(
    processes.Command(
      'deeplab2.inference.export',
      (
        config,
        f'--checkpoint_path={directory / "runs" / "tiny"}',
        f'--export_path={directory / "exported"}',
      ),
    )
  )


def call(command: processes.Command) -> str:
  """Runs a command that must succeed; returns its output."""
  done = subprocess.run(
    [sys.executable, *command.words()[1:]],
    cwd=processes.ROOT,
    env=processes.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f'{command}: exit code {done.returncode}:\n{done.stdout}{done.stderr}')
  return done.stdout + done.stderr


def write_own(directory: pathlib.Path, count: int) -> None:
  """Writes a data set of one's own: `count` images, dataset.json, panoptic.json, instances.json."""
  info = datasets.get('shapes')
  images = directory / 'images'
  images.mkdir(parents=True, exist_ok=True)
  (directory / 'dataset.json').write_text(datasets.to_json(info), encoding='utf-8')
  entries, segments = [], []
  masks = {}
  for index in range(count):
    pixels, label = shapes.generate(7, 'own', index, info.label_space)
    # The last one is a JPEG.
    name = f'image{index}' + ('.jpg' if index == count - 1 else '.png')
    PIL.Image.fromarray(pixels).save(images / name, quality=95)
    masks[name], found = coco_panoptic.encode(label, info)
    entries.append(
      {'id': f'image{index}', 'file_name': name, 'height': label.shape[0], 'width': label.shape[1]}
    )
    segments.append(
      {'image_id': f'image{index}', 'file_name': f'image{index}.png', 'segments_info': found}
    )
  categories = [
    {
      'id': original,
      'name': info.class_names[index],
      'isthing': int(index in info.label_space.thing_ids),
      'color': list(info.colors[index]),
    }
    for original, index in sorted(info.dataset_ids.items())
  ]
  (directory / 'panoptic').mkdir(exist_ok=True)
  for name, rgb in masks.items():
    PIL.Image.fromarray(rgb).save(directory / 'panoptic' / f'{pathlib.Path(name).stem}.png')
  _write_json(
    directory / 'panoptic.json',
    {'images': entries, 'annotations': segments, 'categories': categories},
  )
  _write_json(
    directory / 'instances.json',
    {'images': entries, 'annotations': _instances(segments, info), 'categories': categories},
  )


def _instances(annotations, info):
  """Returns COCO instances: the box of every thing as a polygon."""
  things = [info.original_ids[index] for index in info.label_space.thing_ids]
  found = []
  for annotation in annotations:
    for segment in annotation['segments_info']:
      if segment['category_id'] not in things:
        continue
      x, y, width, height = segment['bbox']
      found.append(
        {
          'id': len(found) + 1,
          'image_id': annotation['image_id'],
          'category_id': segment['category_id'],
          'area': width * height,
          'iscrowd': 0,
          'bbox': segment['bbox'],
          'segmentation': [[x, y, x + width, y, x + width, y + height, x, y + height]],
        }
      )
  return found


def _write_json(path, content):
  path.write_text(json.dumps(content), encoding='utf-8')
