"""The inputs of the campaign: tiny data, a tiny configuration, a checkpoint, an exported model.

Everything is made by the project's own code from synthetic images. Below the directory:

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

from google.protobuf import text_format
import PIL.Image

from campaign import processes
from campaign.processes import Command
from deeplab2.config import load
from deeplab2.data import datasets
from deeplab2.data import panoptic_results
from deeplab2.data import shapes
from deeplab2.data import stretched

PARTS = ('own', 'records', 'model')  # Each is made with those before it.
NUM_OWN = 3
NUM_MANY = 90

# A model as small as the architecture allows.
_CONFIG = processes.ROOT / 'configs' / 'shapes' / 'kmax_mobilenet_v3_small.textproto'
_STAGE = '{filters: 16 num_blocks: 1 type: BOTTLENECK}'
_TINY = f"""experiment_name=tiny
model_options.decoder.decoder_channels=16
model_options.decoder.aspp_channels=16
model_options.decoder.atrous_rates=[1,2,3]
model_options.max_deeplab.pixel_space_head={{output_channels: 16 head_channels: 16}}
model_options.max_deeplab.auxiliary_low_level[0].channels_project=8
model_options.max_deeplab.auxiliary_low_level[1].channels_project=8
model_options.max_deeplab.auxiliary_semantic_head.head_channels=16
model_options.max_deeplab.instance_discrimination_sample_k=64
model_options.kmax.pixel_decoder_stages=[{', '.join([_STAGE] * 4)}]
model_options.kmax.cluster_channels=32
model_options.kmax.feed_forward_channels=64
trainer_options.save_checkpoints_steps=2
trainer_options.save_summaries_steps=2
trainer_options.steps_per_loop=2
trainer_options.loss_options.remask={{enable: true num_relaxed_layers: 2 head_channels: 16}}
trainer_options.loss_options.remask.semantic_loss.weight=1
trainer_options.solver_options.batchnorm_momentum=0.9
trainer_options.solver_options.base_learning_rate=0.001
trainer_options.solver_options.warmup_steps=2
trainer_options.solver_options.training_number_of_steps=4
train_dataset_options.augmentations=
train_dataset_options.batch_size=2
train_dataset_options.shuffle_buffer_size=8
train_dataset_options.seed=1
evaluator_options.eval_interval=100
evaluator_options.maskwise_postprocessing.transformer_class_confidence_threshold_thing=0.1
evaluator_options.maskwise_postprocessing.transformer_class_confidence_threshold_stuff=0.1
evaluator_options.num_vis_samples=2"""
_RECORDS = (
  'build_tfrecords --dataset=shapes --num_shards=2 --output_dir={here}/records --num_workers=1 '
)
_MADE_BY = {
  'records': (_RECORDS + '--split=train --num_images=8', _RECORDS + '--split=val --num_images=4'),
  'model': (
    'deeplab2.trainer.train --config_file={here}/tiny.textproto --mode=train_and_eval '
    '--model_dir={here}/runs --num_gpus=0 --gin_param="set_up.seed = 1"',
    'deeplab2.inference.export --config_file={here}/tiny.textproto '
    '--checkpoint_path={here}/runs/tiny --export_path={here}/exported',
  ),
}


def make(directory: pathlib.Path, needed: Collection[str] = PARTS) -> pathlib.Path:
  """Makes what is not there yet below `directory`; returns it.

  Args:
    directory: for all that is made.
    needed: of PARTS; records take seconds, the run and its exported model a minute.

  Raises:
    RuntimeError: one of the command lines fails on these inputs, with its output.
  """
  directory.mkdir(parents=True, exist_ok=True)
  for part in PARTS[: max([0, *map(PARTS.index, needed)]) + 1]:
    mark = directory / f'{part}_is_complete'
    if not mark.exists():
      if part == 'own':
        _make_own(directory)
      for line in _MADE_BY.get(part, ()):
        call(line, directory)
      mark.touch()
  return directory


def _make_own(directory):
  overrides = _TINY.splitlines()
  for field, split in (('train_dataset_options', 'train'), ('eval_dataset_options', 'val')):
    overrides.append(f'{field}.file_pattern={directory}/records/{split}-*.tfrecord')
    for name in ('crop_size=65,65', 'min_resize_value=65', 'max_resize_value=65'):
      overrides.append(f'{field}.{name}')
  text = text_format.MessageToString(load.parse(str(_CONFIG), overrides).options)
  (directory / 'tiny.textproto').write_text(text, encoding='utf-8')
  write_own(directory / 'own', NUM_OWN)
  write_own(directory / 'own_many', NUM_MANY)


def call(line: str, directory: pathlib.Path, **places: object) -> None:
  """Runs a command that must succeed, with `directory` in the place of {here}.

  Raises:
    RuntimeError: it fails, with its output.
  """
  command = Command.of(line, here=directory, **places)
  ended = processes.watch(command, directory / 'output.txt')
  if ended.code != 0:
    raise RuntimeError(f'{command}: {ended.ended_by} {ended.code}:\n{ended.output}')


def write_own(directory: pathlib.Path, count: int) -> None:
  """Writes a data set of one's own: `count` images, dataset.json, panoptic.json, instances.json."""
  info = datasets.get('shapes')
  (directory / 'images').mkdir(parents=True, exist_ok=True)
  (directory / 'dataset.json').write_text(datasets.to_json(info), encoding='utf-8')
  entries, labels = {}, {}
  for index in range(count):
    pixels, label = shapes.generate(7, 'own', index, info.label_space)
    stem = f'image{index}'
    # The last one is a JPEG.
    name = stem + ('.jpg' if index == count - 1 else '.png')
    PIL.Image.fromarray(pixels).save(directory / 'images' / name, quality=95)
    size = {'height': label.shape[0], 'width': label.shape[1]}
    entries[stem], labels[stem] = {'id': stem, 'file_name': name, **size}, label
  path = directory / 'panoptic.json'
  things = [info.original_ids[index] for index in info.label_space.thing_ids]
  instances: list[dict] = []
  with panoptic_results.open_results(str(path), info, of={}, images=entries) as results:
    for stem, label in labels.items():
      for segment in results.add(stem, stretched.unstretched(label), None):
        if segment['category_id'] in things:
          instances.append(_instance(len(instances) + 1, stem, segment))
  content = {**json.loads(path.read_text(encoding='utf-8')), 'annotations': instances}
  (directory / 'instances.json').write_text(json.dumps(content), encoding='utf-8')


def _instance(number, image_id, segment):
  """Returns a COCO instance: the box of a segment as a polygon."""
  x, y, width, height = segment['bbox']
  polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
  named = {'id': number, 'category_id': segment['category_id'], 'bbox': segment['bbox']}
  of_box = {'area': width * height, 'iscrowd': 0, 'segmentation': [polygon]}
  return {**named, 'image_id': image_id, **of_box}
