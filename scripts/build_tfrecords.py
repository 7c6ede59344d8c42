"""Turns a dataset into TFRecord shards of DeepLab2's schema (deeplab2/data/tfrecord.py).

  python scripts/build_tfrecords.py --dataset=coco --root=COCO --split=val --output_dir=OUT
  python scripts/build_tfrecords.py --dataset=shapes --split=train --num_images=1200 \
      --output_dir=OUT

Writes OUT/<split>-<i>-of-<n>.tfrecord. All shards appear at the end, or none.

--dataset=coco reads, below --root, `<split>2017/*.jpg` and, except for the split `test`,
`annotations/panoptic_<split>2017.json` with `annotations/panoptic_<split>2017/*.png`.
--dataset=shapes draws `--num_images` synthetic pictures from `--seed`; it needs no --root.

--treat_crowd_as_ignore=true makes crowd regions void, as DeepLab2's converter does: the default for
every split but `val`. `false` keeps them as class * divisor + 0, from which PQ with crowd as
panopticapi counts it follows without the JSON: the default for `val`. Either can be trained on.
"""
import argparse
import collections
from collections.abc import Callable
import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import os
import signal
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import tqdm

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import labels
from deeplab2.data import pictures
from deeplab2.data import shapes
from deeplab2.data import tfrecord

_PICTURES_PER_SHARD = 500


class Item(NamedTuple):
  """One picture ready to be written."""
  picture: pictures.Encoded
  name: str
  label: np.ndarray | None  # [H, W] int32 panoptic ids


class Source(NamedTuple):
  """The pictures of a split: `convert(task)` makes the Item of each task, in any process."""
  tasks: list[Any]
  convert: Callable[[Any], Item]


# --- COCO -----------------------------------------------------------------------------------------


class _CocoTask(NamedTuple):
  picture: str
  png: str
  annotation: coco_panoptic.Annotation | None


def coco_source(options: argparse.Namespace) -> Source:
  """Lists the pictures of a COCO split with their annotations."""
  root = _existing_folder(options.root, '--root')
  folder = _existing_folder(
      os.path.join(root, f'{options.split}2017'), f'--root={root} --split={options.split}')
  names = sorted(name for name in os.listdir(folder) if name.lower().endswith(('.jpg', '.jpeg')))
  if not names:
    raise errors.UserError(f'{folder}: holds no .jpg picture.')
  annotations = {}
  png_folder = os.path.join(root, 'annotations', f'panoptic_{options.split}2017')
  if options.split != 'test':
    annotations = coco_panoptic.read_annotations(f'{png_folder}.json',
                                                 datasets.get('coco_panoptic'))
    _existing_folder(png_folder, f'--root={root}')
    _check_pairs(folder, names, f'{png_folder}.json', annotations)
  tasks = []
  for name in names:
    annotation = annotations.get(os.path.splitext(name)[0])
    png = os.path.join(png_folder, annotation.file_name) if annotation else ''
    tasks.append(_CocoTask(os.path.join(folder, name), png, annotation))
  return Source(tasks, functools.partial(_convert_coco, options.ignore_crowd))


def _convert_coco(ignore_crowd, task):
  """Reads one picture and its label map."""
  name = os.path.splitext(os.path.basename(task.picture))[0]
  picture = pictures.encode_for_record(task.picture)
  label = None
  if task.annotation is not None:
    label = coco_panoptic.read_label(task.png, task.annotation, datasets.get('coco_panoptic'),
                                     treat_crowd_as_ignore=ignore_crowd)
    if label.shape != (picture.height, picture.width):
      raise errors.UserError(
          f'{task.png}: is {label.shape[0]}x{label.shape[1]} (height x width), but its picture '
          f'{task.picture} is {picture.height}x{picture.width}; must be equal.')
  return Item(picture, name, label)


def _check_pairs(folder, names, json_path, annotations):
  """Raises UserError unless there is one annotation for each picture and the other way round."""
  stems = {os.path.splitext(name)[0] for name in names}
  without = sorted(stems - set(annotations))
  if without:
    raise errors.UserError(f'{folder}: {len(without)} pictures have no annotation in {json_path}, '
                           f'first {without[0]}.')
  missing = sorted(set(annotations) - stems)
  if missing:
    raise errors.UserError(f'{folder}: {len(missing)} pictures that {json_path} annotates are '
                           f'missing, first {missing[0]}.jpg.')


# --- shapes ---------------------------------------------------------------------------------------


def shapes_source(options: argparse.Namespace) -> Source:
  """Lists the pictures of a synthetic split."""
  if options.root is not None:
    raise errors.UserError(f'--root={options.root}: shapes are drawn, not read; leave --root out.')
  if options.num_images < 1:
    raise errors.UserError(f'--num_images={options.num_images}; must be at least 1.')
  if options.seed < 0:
    raise errors.UserError(f'--seed={options.seed}; must not be negative.')
  return Source(list(range(options.num_images)), functools.partial(
      _convert_shapes, options.ignore_crowd, options.seed, options.split))


def _convert_shapes(ignore_crowd, seed, split, index):
  """Draws one picture."""
  space = datasets.get('shapes').label_space
  image, label = shapes.generate(seed, split, index, space)
  if ignore_crowd:
    label = labels.ignore_crowd(label, space)
  return Item(pictures.encode(image), f'{split}_{index:06d}', label)


SOURCES = {'coco': coco_source, 'shapes': shapes_source}


# --- all ------------------------------------------------------------------------------------------


def _existing_folder(path, flag):
  """Returns `path`; UserError naming `flag` unless it is a folder."""
  if not path:
    raise errors.UserError(f'{flag} is missing.')
  if not os.path.isdir(path):
    raise errors.UserError(f'{flag}: no such folder {path}.')
  return path


def _serialize(convert, label_format, pictures_dir, task) -> bytes:
  """Makes the record of one task; runs in the workers."""
  item = convert(task)
  if pictures_dir:
    ending = {'jpeg': 'jpg', 'png': 'png'}[item.picture.format]
    path = os.path.join(pictures_dir, f'{item.name}.{ending}')
    try:
      with open(path, 'wb') as file:
        file.write(item.picture.data)
    except OSError as error:
      raise errors.UserError(f'{path}: cannot be written ({error.strerror}).') from error
  return tfrecord.encode_example(item.picture, item.name, item.label, label_format)


def _in_order(function, tasks, num_workers):
  """Yields function(task) for each task in order, computed by `num_workers` processes.

  Only a few results are kept waiting, however slowly they are consumed.
  """
  if num_workers == 1:
    yield from map(function, tasks)
    return
  # Workers may be forked: the first result must be asked for before TensorFlow runs anything here.
  # The parent alone answers to Ctrl-C, and takes the workers down with it.
  with concurrent.futures.ProcessPoolExecutor(
      num_workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
    waiting = collections.deque()
    try:
      for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) >= 4 * num_workers:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    except concurrent.futures.process.BrokenProcessPool as error:
      raise errors.UserError('a worker process was killed, probably for lack of memory; try fewer '
                             f'than --num_workers={num_workers}.') from error
    finally:
      pool.shutdown(cancel_futures=True)


def _with_progress(items, total, title):
  """Yields `items`, showing a bar on a terminal and a line every 10 seconds elsewhere."""
  if sys.stderr.isatty():
    yield from tqdm.tqdm(items, total=total, desc=title, unit='picture')
    return
  started = shown = time.monotonic()
  for done, item in enumerate(items, 1):
    yield item
    now = time.monotonic()
    if now - shown >= 10:
      shown = now
      rate = done / (now - started)
      print(f'{title}: {done}/{total} pictures, {rate:.1f}/s, {(total - done) / rate:.0f} s left',
            file=sys.stderr, flush=True)


def _whole_number_from(lowest):
  """Returns a parser of whole numbers that are at least `lowest`."""
  def parse(text):
    if not text.isdecimal() or int(text) < lowest:
      raise argparse.ArgumentTypeError(f'{text!r} must be a whole number from {lowest}')
    return int(text)
  return parse


def parse_options(arguments: list[str]) -> argparse.Namespace:
  """Reads the flags; UserError for a mistake."""
  parser = command_line.Parser(__doc__)
  positive = _whole_number_from(1)
  add = parser.add_argument
  add('--dataset', required=True, choices=sorted(SOURCES), help='What to convert.')
  add('--root', help='Folder of the dataset (not for shapes).')
  add('--split', required=True, choices=('train', 'val', 'test'))
  add('--output_dir', required=True, help='Folder to write to.')
  add('--num_shards', type=positive, help='Number of files. Default: about 500 pictures a file.')
  add('--treat_crowd_as_ignore', choices=('true', 'false'), nargs='?', const='true',
      help='Whether crowd becomes void. Default: true, for the split val false.')
  add('--label_format', choices=tfrecord.LABEL_FORMATS, default='raw',
      help='raw, as DeepLab2 reads it, or zlib: about a third of the disk, for this project only.')
  add('--num_images', type=positive, default=1000, help='shapes: number of pictures.')
  add('--seed', type=_whole_number_from(0), default=0, help='shapes: seed of the set.')
  add('--pictures_dir', help='Folder to write the pictures to as well, as files of their own.')
  add('--num_workers', type=positive, help='Processes. Default: one a core.')
  options = parser.parse_args(arguments)
  default = 'false' if options.split == 'val' else 'true'
  options.ignore_crowd = (options.treat_crowd_as_ignore or default) == 'true'
  return options


def build(options: argparse.Namespace) -> None:
  """Writes the shards that the flags ask for; UserError for bad input or a full disk."""
  started = time.monotonic()
  source = SOURCES[options.dataset](options)
  if options.pictures_dir:
    try:
      os.makedirs(options.pictures_dir, exist_ok=True)
    except OSError as error:
      raise errors.UserError(
          f'--pictures_dir={options.pictures_dir}: cannot be made ({error.strerror}).') from error
  total = len(source.tasks)
  num_workers = min(options.num_workers or _usable_cores(), total)
  serialize = functools.partial(
      _serialize, source.convert, options.label_format, options.pictures_dir)
  with contextlib.closing(_in_order(serialize, source.tasks, num_workers)) as examples:
    shown = _with_progress(examples, total, f'{options.dataset} {options.split}')
    written = tfrecord.write_shards(shown, total, options.output_dir, options.split,
                                    options.num_shards or -(-total // _PICTURES_PER_SHARD))
  print(f'Wrote {written.records} records, {written.num_bytes / 1e6:.1f} MB, in '
        f'{len(written.files)} shards {written.files[0]} ... in '
        f'{time.monotonic() - started:.0f} s.')


def _usable_cores():
  """Returns the number of cores this process may use; containers often allow fewer than exist."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def main(arguments: list[str]) -> int:
  """Runs the command line; returns its exit code."""
  return command_line.run(lambda: build(parse_options(arguments)))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
