"""Checks annotations or records, counts what is in them, and draws what the model sees.

  deeplab2-inspect annotations --dataset=coco_panoptic|my/dataset.json \\
      --annotations=panoptic_val.json [--masks=panoptic_val] --images=val [--json=OUT.json] \\
      [--mask_orientation=upright|stored]
  deeplab2-inspect records --config_file=CONFIG --split=train|eval \\
      [--set a.b.c=value ...] [--contact_sheet=OUT.png] [--json=OUT.json]

Every problem is one line, `file, segment, pixel (row, column): category: what is wrong`; after all
images come the number of problems of each category and a table of images, segments, crowd regions
and pixels of every class. The exit code is 0 if there are no problems, else 2.

`annotations` compares a COCO panoptic JSON, its PNGs and images with each other and with the
dataset. `records` decodes the TFRecords of a config. --contact_sheet draws some of them, one a
row: image and label as stored, then what the input pipeline of the config makes of them: the image,
the classes and the masks of things that a training step (or an evaluation) gets.
"""

import argparse
import functools
import itertools
import os
import sys
from typing import Any

import tensorflow as tf
import tqdm

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2.config import load
from deeplab2.data import datasets
from deeplab2.data import inspect_annotations
from deeplab2.data import inspect_records
from deeplab2.data import inspection
from deeplab2.data import orientation
from deeplab2.data import parallel
from deeplab2.data import pipeline
from deeplab2.data import reading
from deeplab2.inference import contact_sheet


def _inspect_annotations(options: argparse.Namespace) -> inspection.Statistics:
  """Checks a COCO panoptic set; UserError if it cannot be read at all."""
  _prepare_outputs([options.annotations, options.dataset], options.json)
  info = datasets.get(options.dataset)
  if options.train_ids:
    info = info._replace(dataset_ids={n: n for n in range(info.label_space.num_classes)})
  tasks, problems = inspect_annotations.annotations(
    options.annotations,
    options.masks or os.path.splitext(options.annotations)[0],
    options.images,
    info,
    options.mask_orientation,
  )
  num_workers = max(1, min(options.num_workers or parallel.usable_cores(), len(tasks)))
  reports = parallel.in_order(
    functools.partial(inspect_annotations.check, info=info), tasks, num_workers
  )
  reports = parallel.with_progress(reports, len(tasks), 'annotations')
  return _added_up(itertools.chain([inspection.Report(problems)], reports), info, options)


def _added_up(reports, info, options) -> inspection.Statistics:
  """Adds up reports, but for problems that are ignored; prints problems, then the statistics."""
  statistics = inspection.Statistics(info)
  for report in reports:
    problems = [problem for problem in report.problems if problem.category not in options.ignore]
    statistics.add(report._replace(problems=problems))
    for problem in problems:
      tqdm.tqdm.write(str(problem))
  print(statistics.table())
  if options.json:
    files.write_json(options.json, statistics.as_json())
    print(f'Wrote {options.json}.')
  return statistics


def pairs(config, split: str, count: int, seed: int):
  """Returns the first `count` images of a config's own input: [(Record, Sample of one image)].

  Args:
    config: as `load.load` returns it; set to batches of one image, from `seed`, on this machine.
    split: 'train' or 'eval'.
    count: fewer come if there are fewer.
    seed: of order and augmentation, for training.

  Raises:
    UserError: naming file and record, if one of them cannot be used.
  """
  field = f'{split}_dataset_options'
  options = config.value(field)
  options.batch_size = 1
  for option in ('on_corrupt', 'data_service'):
    options.ClearField(option)
  patterns = config.require(f'{field}.file_pattern')
  paths, reader = pipeline.find_files(patterns), reading.Fail()
  if split == 'train':
    # Enough to be shuffled a little; a training run's buffer would take gigabytes.
    options.shuffle_buffer_size, options.seed = 4 * count, seed
    # The pipeline's first stream is in this very order, which tells whose sample is whose.
    stored = pipeline.shuffled(paths, reader, options.shuffle_buffer_size, seed)
    samples = assemble.train_dataset(config)
  else:
    stored = reading.sources(paths).flat_map(reader.read)
    samples = assemble.eval_dataset(config)
  deterministic = tf.data.Options()
  deterministic.deterministic = True
  records = reader.decode(stored, with_label=True, void_id=0).with_options(deterministic)
  try:
    return list(tf.data.Dataset.zip(records, samples).take(count))
  except tf.errors.OpError as error:
    raise pipeline.explain(error, patterns) from error


def _prepare_outputs(inputs, *paths):
  """Makes the directories of files that are written at the end, before the work starts."""
  for path in filter(None, paths):
    if os.path.isdir(path):
      raise errors.UserError(f'{path}: is a directory; must be a file.')
    there = [read for read in inputs if os.path.exists(read) and os.path.exists(path)]
    if any(os.path.samefile(path, read) for read in there):
      raise errors.UserError(f'{path}: is read; the result would overwrite it.')
    if os.path.dirname(path):
      files.make_directory(os.path.dirname(path))


def _inspect_records(options: argparse.Namespace) -> inspection.Statistics:
  """Checks the records of a split of a config; UserError if there are none."""
  config = load.load(options.config_file, options.set)
  field = f'{options.split}_dataset_options'
  if options.split == 'eval' and not config.value(f'{field}.decode_groundtruth_label'):
    raise config.error(f'{field}.decode_groundtruth_label', 'there are no labels to inspect.')
  if options.contact_sheet and not options.contact_sheet.lower().endswith('.png'):
    raise errors.UserError(f'--contact_sheet={options.contact_sheet}: must end in .png.')
  _prepare_outputs([options.config_file], options.json, options.contact_sheet)
  info = assemble.dataset_info(config)
  divisor = info.label_space.label_divisor
  pastes = options.split == 'train' and config.value(
    f'{field}.augmentations.panoptic_copy_paste.panoptic_copy_paste_scale'
  )
  reports = inspect_records.check_files(
    pipeline.find_files(config.require(f'{field}.file_pattern')),
    info.label_space,
    max_instances=config.value(f'{field}.max_thing_id'),
    max_instance_id=(divisor // 2 if pastes else divisor) - 1,
  )
  statistics = _added_up(reports, info, options)
  if options.contact_sheet and statistics.images:
    try:
      shown = pairs(config, options.split, options.num_images, options.seed)
      drawn = contact_sheet.draw(shown, info, options.tile)
    except errors.UserError as error:
      if not statistics.problems:
        raise
      print(f'No contact sheet is drawn: {error}')
    else:
      files.write_whole(options.contact_sheet, lambda path: drawn.save(path, 'PNG'))
      print(f'Wrote {options.contact_sheet}.')
  return statistics


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the flags; UserError for a mistake."""
  positive = command_line.integer_from(1)
  parser = command_line.Parser(__doc__)
  like_this: Any = functools.partial(command_line.Parser, __doc__)
  modes = parser.add_subparsers(dest='mode', required=True, parser_class=like_this)
  one = modes.add_parser('annotations')
  one.set_defaults(inspect=_inspect_annotations)
  one.add_path(
    '--dataset',
    required=True,
    help=f'{", ".join(datasets.DATASETS)}, or the path of a JSON file that describes your own.',
  )
  one.add_path('--annotations', required=True, help='Panoptic JSON.')
  one.add_path('--masks', help="Directory of the PNGs. Default: the JSON's path without .json.")
  one.add_path('--images', required=True, help='Directory of the images.')
  one.add_argument(
    '--mask_orientation',
    choices=orientation.MASK_ORIENTATIONS,
    help='On which pixels of images that EXIF turns the masks are drawn; as of deeplab2-data.',
  )
  one.add_argument(
    '--train_ids',
    action='store_true',
    help='The JSON holds ids of the dataset, not original ones: Cityscapes with --use-train-id.',
  )
  one.add_argument('--num_workers', type=positive, help='Processes. Default: one a core.')
  two = modes.add_parser('records')
  two.set_defaults(inspect=_inspect_records)
  two.add_path('--config_file', required=True)
  two.add_argument('--split', required=True, choices=('eval', 'train'))
  two.add_overrides()
  two.add_path('--contact_sheet', help='PNG file to draw images into.')
  two.add_argument('--num_images', type=positive, default=6, help='How many to draw.')
  two.add_argument(
    '--seed',
    type=command_line.integer_from(0),
    default=0,
    help='Of which ones are drawn and how they are augmented, for training.',
  )
  two.add_argument(
    '--tile',
    type=command_line.integer_from(480),
    default=480,
    help='Longer side of each image of the contact sheet, at least 480.',
  )
  for mode in (one, two):
    mode.add_path('--json', help='File to write the statistics to.')
    mode.add_argument(
      '--ignore',
      action='append',
      default=[],
      metavar='CATEGORY',
      help='Problems of this category are none. ADE20K lists stuff as it was before things '
      "covered it: --ignore=area --ignore='stuff not drawn'.",
    )
  one.add_old_name('--pictures', '--images')
  two.add_old_name('--num_pictures', '--num_images')
  two.add_old_name('--sheet', '--contact_sheet')
  return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""

  def run():
    options = parse_options(arguments)
    found = options.inspect(options).problems
    if found:
      categories = ', '.join(f'{category} {count}' for category, count in sorted(found.items()))
      raise errors.UserError(f'{sum(found.values())} problems: {categories}.')
    print('No problems.')

  return command_line.run(run)


if __name__ == '__main__':
  parallel.hide_accelerators()
  sys.exit(main(sys.argv[1:]))
