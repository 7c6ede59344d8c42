"""Finds the thresholds of maskwise post-processing that are best for a validation set.

  deeplab2-tune-thresholds --config_file=CONFIG --checkpoint_path=RUNS/NAME \
      [--output=thresholds.json] [--set a.b.c=value ...]

The network sees every image of `eval_dataset_options` once. What is kept of its logits (which masks
hold which pixels, in which order they are pasted, and how sure their classes are) is enough to
segment the images with any class confidence of things, of stuff, and any overlap: these three are
moved one after the other until PQ stops rising. All other options stay as they are.

PQ is the official one, at the images' own size, as an evaluation measures it. As thresholds that
are chosen by some images look better on these than on others, `PQ on other images` is what those
chosen by one half of the set reach on the other half, both ways.
"""

import argparse
from collections.abc import Iterator, Sequence
import functools
import sys
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2 import files
from deeplab2 import resampling
from deeplab2.config import checks
from deeplab2.config import load
from deeplab2.config.experiment import Config
from deeplab2.data import geometry
from deeplab2.data import parallel
from deeplab2.evaluation import thresholds as thresholds_lib
from deeplab2.inference import segmenter as segmenter_lib
from deeplab2.metrics import panoptic_quality

_IMAGES_OF_A_TASK = 16
_MASKWISE = 'evaluator_options.maskwise_postprocessing'
_CONFIDENCE = f'{_MASKWISE}.transformer_class_confidence_threshold'
_FIELDS = (f'{_CONFIDENCE}_thing', f'{_CONFIDENCE}_stuff', f'{_MASKWISE}.overlapping_threshold')


class Result(NamedTuple):
  """What was found. PQ in percent."""

  start: thresholds_lib.Thresholds
  best: thresholds_lib.Thresholds
  pq_before: float
  pq_after: float
  # Of thresholds chosen by the other half of the images; None of a single image.
  pq_on_others: float | None
  num_images: int
  num_tried: int


def tune(options: argparse.Namespace) -> Result:
  """Finds the thresholds, prints them, and writes them to --output.

  Args:
    options: the parsed flags.

  Raises:
    UserError: config, checkpoint or records are wrong, or there is no image.
  """
  config = load.load(options.config_file, options.set)
  _check(config)
  restored = segmenter_lib.restore(options.config_file, options.checkpoint_path, options.set)
  tables = list(read_tables(config, restored.segmenter))
  if not tables:
    raise config.error('eval_dataset_options.file_pattern', 'holds no image to tune with.')
  result = choose(config, tables, options.num_workers)
  print(_table(result))
  if options.output:
    files.write_json(options.output, _as_json(result))
  return result


def _check(config):
  checks.check_mode(config, 'eval')
  if config.value('evaluator_options.transformer_post_processing') != 'maskwise':
    raise config.error(
      'evaluator_options.transformer_post_processing',
      'must be "maskwise": its thresholds are tuned.',
    )
  if not config.value('eval_dataset_options.decode_groundtruth_label'):
    raise config.error(
      'eval_dataset_options.decode_groundtruth_label', 'must be true: PQ needs labels.'
    )


def read_tables(
  config: Config, segmenter: segmenter_lib.Segmenter
) -> Iterator[thresholds_lib.Table]:
  """Yields what there is to know of each image of the evaluation."""
  predict = tf.function(segmenter.infer)
  merge = assemble.post_processing(config)
  space = assemble.dataset_info(config).label_space
  confidence = config.value('evaluator_options.pixel_confidence_threshold')
  crop_size, _ = assemble.eval_fit(config)

  @tf.function
  def look(mask_logits, class_logits):
    ranking, channels, confidences = merge.rank(mask_logits, class_logits)
    resized = resampling.resize_bilinear(mask_logits[tf.newaxis], crop_size)[0]
    members = tf.gather(tf.nn.softmax(resized) > confidence, ranking, axis=-1)
    return members, tf.gather(space.class_order, channels), confidences

  batches = assemble.eval_dataset(config).take(config.value('evaluator_options.eval_steps'))
  seconds = 0.5 if sys.stderr.isatty() else 10.0
  for sample in tqdm.tqdm(batches, desc='segmenting', unit='batch', mininterval=seconds):
    final = predict(sample.image)
    for index in np.flatnonzero(sample.placement.raw_size.numpy().all(axis=1)):
      members, class_ids, confidences = look(final.mask_logits[index], final.class_logits[index])
      placement = type(sample.placement)(*(size[index] for size in sample.placement))
      rows, columns = (part.numpy() for part in geometry.restore_indices(placement))
      ground_truth = sample.panoptic_raw[index].numpy()[: len(rows), : len(columns)]
      yield thresholds_lib.make_table(
        members.numpy(), class_ids.numpy(), confidences.numpy(), ground_truth, rows, columns
      )


def choose(config: Config, tables: Sequence[thresholds_lib.Table], num_workers: int = 1) -> Result:
  """Returns the best thresholds for some images."""
  space = assemble.dataset_info(config).label_space
  rule = thresholds_lib.Rule(
    space,
    config.value('evaluator_options.thing_area_limit'),
    config.value('evaluator_options.stuff_area_limit'),
  )
  # As they were written, not as float32.
  start = thresholds_lib.Thresholds(*(round(config.value(field), 6) for field in _FIELDS))
  tasks = [
    tables[first : first + _IMAGES_OF_A_TASK] for first in range(0, len(tables), _IMAGES_OF_A_TASK)
  ]
  known: dict[thresholds_lib.Thresholds, np.ndarray] = {}

  def counts(tried):
    """Returns the counts [2, 4, num_classes] of both halves of the images, for each."""
    new = [thresholds for thresholds in tried if thresholds not in known]
    if new:
      parts = parallel.in_order(
        functools.partial(thresholds_lib.measure, rule),
        [(new, task) for task in tasks],
        min(num_workers, len(tasks)),
      )
      found = np.concatenate(list(parts), axis=1)
      for thresholds, of_images in zip(new, found, strict=True):
        known[thresholds] = np.stack([of_images[::2].sum(0), of_images[1::2].sum(0)])
    return [known[thresholds] for thresholds in tried]

  def quality(halves):
    def of(tried):
      return [
        panoptic_quality.protocol_result(both[halves].sum(0), space).all.pq
        for both in counts(tried)
      ]

    return of

  every = quality([0, 1])
  best = thresholds_lib.search(every, start)
  before, after = every([start, best])
  on_others = None
  if len(tables) > 1:
    crossed = [
      counts([thresholds_lib.search(quality([half]), start)])[0][1 - half] for half in (0, 1)
    ]
    on_others = 100 * panoptic_quality.protocol_result(sum(crossed), space).all.pq
  return Result(start, best, 100 * before, 100 * after, on_others, len(tables), len(known))


def _table(result):
  lines = [
    f'{result.num_images} images, {result.num_tried} thresholds tried',
    f'PQ before           {result.pq_before:6.2f}',
    f'PQ after            {result.pq_after:6.2f}',
  ]
  if result.pq_on_others is not None:
    lines.append(f'PQ on other images  {result.pq_on_others:6.2f}')
  lines += [
    f'--set {field}={value:g}  # was {old:g}'
    for field, value, old in zip(_FIELDS, result.best, result.start, strict=True)
  ]
  return '\n'.join(lines)


def _as_json(result):
  return {
    'num_images': result.num_images,
    'PQ_before': result.pq_before,
    'PQ_after': result.pq_after,
    'PQ_on_other_images': result.pq_on_others,
    'before': dict(zip(_FIELDS, result.start, strict=True)),
    'after': dict(zip(_FIELDS, result.best, strict=True)),
  }


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', required=True, help='Textproto of the experiment.')
  parser.add_path(
    '--checkpoint_path',
    required=True,
    help='Prefix of a checkpoint, a directory whose newest one is taken, or a file of PyTorch.',
  )
  parser.add_path('--output', help='JSON file to write thresholds and PQ to.')
  parser.add_argument(
    '--num_workers',
    type=command_line.integer_from(1),
    default=parallel.usable_cores(),
    help='Processes. Default: one for each core.',
  )
  parser.add_overrides()
  return command_line.run(lambda: tune(parser.parse_args(arguments)))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
