"""Turns a dataset into TFRecord shards of DeepLab2's schema (deeplab2/data/tfrecord.py).

  deeplab2-data --dataset=coco --root=COCO --split=train --output_dir=OUT
  deeplab2-data --dataset=cityscapes --root=CITYSCAPES --split=train ...
  deeplab2-data --dataset=ade20k --root=ADE20K --split=train ...
  deeplab2-data --dataset=my/dataset.json --split=train --output_dir=OUT \\
      --images=my/train --annotations=my/panoptic_train.json [--masks=my/panoptic_train]
  deeplab2-data --dataset=shapes --split=train --num_images=1200 ...

Writes OUT/<split>-<i>-of-<n>.tfrecord and OUT/manifest-<split>.json. All shards appear at the end,
or none; after an interruption or an error, the same command goes on with the shards that are
missing. docs/data.md says what lies where below --root; `cityscapes_semantic` writes maps of
classes for other programs; `shapes` draws `--num_images` synthetic images from `--seed`.

--treat_crowd_as_ignore=true makes crowd regions void, as DeepLab2's converter does: the default for
every split but `val`. `false` keeps them as class * divisor + 0, from which PQ with crowd as
panopticapi counts it follows without the JSON: the default for `val`. Either can be trained on.

An image that cannot be used (undecodable, without annotation, ids of JSON and PNG disagree, ...)
ends the run by name; with --on_error=skip it is named, left out, and listed in the manifest.
Where EXIF turns an image and sizes cannot tell whether its mask is drawn on the upright or on the
stored pixels, --mask_orientation says it.
"""

import argparse
import contextlib
import functools
import os
import sys
import time

from absl import logging
import tqdm

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2 import locks
from deeplab2.data import datasets
from deeplab2.data import orientation
from deeplab2.data import parallel
from deeplab2.data import shards
from deeplab2.data import sources
from deeplab2.data import tfrecord

_IMAGES_PER_SHARD = 500


# By name, what lists the images of a split below a root.
_PUBLIC = {
  'ade20k': sources.ade20k,
  'cityscapes': sources.cityscapes,
  'cityscapes_semantic': sources.cityscapes_semantic,
  'coco': sources.coco,
}
_NAMES = (*_PUBLIC, 'shapes')


def source(options: argparse.Namespace) -> sources.Source:
  """Lists the images that the flags ask for; UserError for what is missing or does not fit."""
  is_own = options.dataset.endswith('.json')
  for flag in ('images', 'annotations', 'masks'):
    value = getattr(options, flag)
    if value is not None and not is_own:
      raise errors.UserError(
        f'--{flag}={value}: only for a dataset of your own; --dataset='
        f'{options.dataset} knows where its files are.'
      )
  if options.root is not None and (is_own or options.dataset == 'shapes'):
    raise errors.UserError(
      f'--root={options.root}: --dataset={options.dataset} has none; leave --root out.'
    )
  skip = options.on_error == 'skip'
  choices = sources.Choices(options.ignore_crowd, options.mask_orientation, skip)
  if options.dataset == 'shapes':
    return sources.synthetic(
      options.split, choices, num_images=options.num_images, seed=options.seed
    )
  if not is_own:
    root = sources.existing_directory(options.root, '--root')
    return _PUBLIC[options.dataset](root, options.split, choices)
  info = datasets.get(options.dataset)
  directory = sources.existing_directory(options.images, '--images')
  if options.split != 'test' and not options.annotations:
    raise errors.UserError('--annotations is missing: the panoptic JSON of the images.')
  return sources.own(directory, options.annotations, info, choices, png_directory=options.masks)


def _serialize(convert, label_format, images_dir, skip, task) -> shards.Made:
  """Makes the record of one task; runs in the workers."""
  try:
    item = convert(task)
  except errors.UserError as error:
    if not skip:
      raise
    return shards.Made(None, getattr(task, 'name', ''), str(error))
  if images_dir:
    ending = {'jpeg': 'jpg', 'png': 'png'}[item.image.format]
    files.write_whole(os.path.join(images_dir, f'{item.name}.{ending}'), item.image.data)
  record = tfrecord.encode_example(item.image, item.name, item.label, label_format)
  return shards.Made(record, item.name, '', item.segments, item.notes)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
  """Reads the flags; UserError for a mistake."""
  parser = command_line.Parser(__doc__)
  positive = command_line.integer_from(1)
  add, add_path = parser.add_argument, parser.add_path
  add_path(
    '--dataset',
    required=True,
    help=f'{", ".join(_NAMES)}, or the path of a JSON file that describes your own.',
  )
  add_path('--root', help='Directory of a public dataset.')
  add_path('--images', help='Your own: directory of the images.')
  add_path('--annotations', help='Your own: panoptic JSON.')
  add_path(
    '--masks', help='Your own: directory of the PNGs. Default: the path of the JSON without .json.'
  )
  add('--split', required=True, choices=('train', 'val', 'test'))
  add_path('--output_dir', required=True, help='Directory to write to.')
  add('--num_shards', type=positive, help='Number of files. Default: about 500 images a file.')
  add(
    '--treat_crowd_as_ignore',
    choices=('true', 'false'),
    nargs='?',
    const='true',
    help='Whether crowd becomes void. Default: true, for the split val false.',
  )
  add(
    '--label_format',
    choices=tfrecord.LABEL_FORMATS,
    default='raw',
    help='raw, as DeepLab2 reads it, or zlib: about a third of the disk, for this project only.',
  )
  add('--num_images', type=positive, default=1000, help='shapes: number of images.')
  add('--seed', type=command_line.integer_from(0), default=0, help='shapes: seed of the set.')
  add_path('--images_dir', help='Directory to write the images to as well, as files of their own.')
  add(
    '--on_error',
    choices=('stop', 'skip'),
    default='stop',
    help='What becomes of an image that cannot be used: it ends the run, or is left out.',
  )
  add(
    '--mask_orientation',
    choices=orientation.MASK_ORIENTATIONS,
    help='On which pixels of images that EXIF turns the masks are drawn: upright, as viewers '
    'show them, or as they are stored. Default: by the size of the mask, where that tells.',
  )
  add('--num_workers', type=positive, help='Processes. Default: one a core.')
  for name in ('pictures', 'num_pictures', 'pictures_dir'):
    parser.add_old_name(f'--{name}', f'--{name.replace("pictures", "images")}')
  options = parser.parse_args(arguments)
  if options.dataset not in _NAMES and not options.dataset.endswith('.json'):
    raise errors.UserError(
      f'--dataset={options.dataset}: is none of {", ".join(_NAMES)}, and no path of a JSON file.'
    )
  default = 'false' if options.split == 'val' else 'true'
  options.ignore_crowd = (options.treat_crowd_as_ignore or default) == 'true'
  return options


def build(options: argparse.Namespace) -> None:
  """Writes the shards that the flags ask for; UserError for bad input or a full disk."""
  found = source(options)
  if options.images_dir:
    files.make_directory(options.images_dir, '--images_dir')
  files.make_directory(options.output_dir, '--output_dir')
  with contextlib.ExitStack() as held:
    path = os.path.join(options.output_dir, f'build-{options.split}.lock')
    what = f'--output_dir={options.output_dir} --split={options.split}'
    held.enter_context(locks.hold(path, what))
    if options.images_dir:
      path = os.path.join(options.images_dir, 'build.lock')
      held.enter_context(locks.hold(path, f'--images_dir={options.images_dir}'))
      files.remove_half_written(options.images_dir)
    _write(options, found)


def _write(options, found):
  started = time.monotonic()
  function = functools.partial(
    _serialize, found.convert, options.label_format, options.images_dir, options.on_error == 'skip'
  )

  def serialize(tasks):
    num_workers = min(options.num_workers or parallel.usable_cores(), max(1, len(tasks)))
    with contextlib.closing(
      parallel.in_order(function, tasks, num_workers, lambda made: len(made.record or b''))
    ) as results:
      for made in parallel.with_progress(results, len(tasks), f'{options.dataset} {options.split}'):
        if made.record is None:
          tqdm.tqdm.write(f'left out: {made.name}: {made.reason}', file=sys.stderr)
        yield made

  total = len(found.tasks)
  written = shards.write(
    serialize,
    found.tasks,
    options.output_dir,
    options.split,
    options.num_shards or -(-total // _IMAGES_PER_SHARD),
    _settings(options),
    # The converter and its arguments: classes, choices, seed.
    identity=repr((found.convert.func.__name__, found.convert.args, found.convert.keywords)),
    versions=[_version(task) for task in found.tasks],
    skip=options.on_error == 'skip',
  )
  for key, (count, num_images, name) in sorted(written.summary.notes.items()):
    logging.warning('%d %s (%d images, first %s).', count, sources.NOTES[key], num_images, name)
  resumed = f' ({written.resumed} by an earlier run)' if written.resumed else ''
  print(
    f'Wrote {written.records} records{resumed}, {written.num_bytes / 1e6:.1f} MB, in '
    f'{len(written.files)} shards {written.files[0]} ... in '
    f'{time.monotonic() - started:.0f} s.'
  )
  if written.summary.left_out:
    print(
      f'Left out {len(written.summary.left_out)} of {total} images; '
      f'{os.path.join(options.output_dir, f"manifest-{options.split}.json")} lists them.'
    )


def _settings(options):
  """Returns the settings that the shards of one directory must have in common, for the manifest."""
  # A description goes by its name: its path may be written in many ways.
  is_own = options.dataset.endswith('.json')
  return {
    'dataset': datasets.get(options.dataset).name if is_own else options.dataset,
    'split': options.split,
    'label_format': options.label_format,
    'crowd': 'void' if options.ignore_crowd else 'kept',
    **({'seed': options.seed} if options.dataset == 'shapes' else {}),
  }


def _version(task) -> list:
  """Returns sizes and times of a task's files, None for one that is not there."""
  versions: list[tuple[int, int] | None] = []
  for path in (getattr(task, 'image', ''), getattr(task, 'label', '')):
    try:
      status = os.stat(path)
      versions.append((status.st_size, status.st_mtime_ns))
    except OSError:  # There is none, or whoever reads it will say so.
      versions.append(None)
  return versions


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  return command_line.run(lambda: build(parse_options(arguments)))


if __name__ == '__main__':
  parallel.hide_accelerators()
  sys.exit(main(sys.argv[1:]))
