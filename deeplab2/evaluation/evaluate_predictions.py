"""Evaluates predictions in files, of whatever program, against a ground truth in files.

  deeplab2-evaluate-predictions --ground_truth=panoptic_val2017.json \
      --predictions=predictions.json [--masks=DIRECTORY] [--prediction_masks=DIRECTORY] \
      [--output=metrics.json]

Both are JSON files in COCO's formats (https://cocodataset.org/#format-data), told apart by what is
in them; PNGs are next to the JSON, in the directory of its name without .json, unless told.

  ground truth     predictions          measured
  panoptic JSON    panoptic JSON        PQ, SQ, RQ as panopticapi, boundary PQ (Cheng et al. 2021),
                                        mIoU; AP of masks if `segments_info` has scores
  panoptic JSON    detection results    AP of masks, of the true things
  instances JSON   detection results    AP of masks, as pycocotools
  instances JSON   panoptic JSON        AP of masks, of the predicted things; they need scores

Classes are those of the ground truth's `categories`, or of --dataset. Images go by `image_id`. An
image of the ground truth without a prediction is an error; one that the ground truth lacks is named
and left out.
"""

import argparse
from collections.abc import Mapping, Sequence
import functools
import os
import sys
from typing import Any, NamedTuple

import numpy as np

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import json_fields
from deeplab2.data import parallel
from deeplab2.evaluation import instances
from deeplab2.evaluation import pairs as pairs_lib
from deeplab2.evaluation import panoptic
from deeplab2.metrics import instance_ap
from deeplab2.metrics import mean_iou
from deeplab2.metrics import panoptic_quality
from deeplab2.metrics import tables

_IMAGES_OF_A_TASK = 8
_PANOPTIC, _INSTANCES, _RESULTS = 'panoptic', 'instances', 'detection results'


class Numbers(NamedTuple):
  """What was measured; None where the files do not tell."""

  num_images: int
  quality: panoptic_quality.ProtocolResult | None = None
  boundary: panoptic_quality.ProtocolResult | None = None
  iou: mean_iou.MeanIoUResult | None = None
  ap: instance_ap.InstanceAPResult | None = None


class _File(NamedTuple):
  """An input."""

  path: str
  content: Any
  kind: str


def evaluate(options: argparse.Namespace) -> Numbers:
  """Measures the predictions; prints the numbers, and writes them to --output.

  Args:
    options: the parsed flags.

  Raises:
    UserError: a file cannot be read, or the two do not fit each other.
  """
  truth = _open(options.ground_truth, '--ground_truth', (_PANOPTIC, _INSTANCES))
  prediction = _open(options.predictions, '--predictions', (_PANOPTIC, _RESULTS))
  for file, flag in ((truth, 'masks'), (prediction, 'prediction_masks')):
    if getattr(options, flag) and file.kind != _PANOPTIC:
      raise errors.UserError(f'--{flag}: {file.path} has no PNGs, it holds {file.kind}.')
  info = _classes(truth, options.dataset)
  notes: list[str] = []
  if truth.kind == prediction.kind == _PANOPTIC:
    numbers = _panoptic(truth, prediction, info, options, notes)
  else:
    numbers = _instances(truth, prediction, info, options, notes)
  for note in notes:
    print(note, file=sys.stderr)
  print(_table(numbers, info, options))
  if options.output:
    files.write_json(options.output, _as_json(numbers, info, options, notes))
  return numbers


def _open(path, flag, kinds):
  """Reads a file; UserError unless it is of one of some kinds."""
  content = files.read_json(path)
  if isinstance(content, list):
    kind = _RESULTS
  else:
    annotations = content.get('annotations') if isinstance(content, dict) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(first, dict) and 'segmentation' in first:
      kind = _INSTANCES
    else:
      content = json_fields.read_lists(
        path, ('annotations',), f'{flag} must be a COCO JSON of {" or ".join(kinds)}'
      )
      kind = _PANOPTIC
  if kind not in kinds:
    raise errors.UserError(f'{flag}={path}: holds {kind}; must hold {" or ".join(kinds)}.')
  if kind == _PANOPTIC:
    coco_panoptic.check_type(content, path)
  return _File(path, content, kind)


def _classes(truth, dataset):
  """Returns the classes of --dataset, or of the ground truth."""
  if dataset:
    info = datasets.get(dataset)
  else:
    categories = truth.content.get('categories')
    if not isinstance(categories, list):
      raise errors.UserError(
        f"{truth.path}: has no list 'categories'; --dataset names the classes instead "
        f'({", ".join(datasets.DATASETS)}, or a JSON file).'
      )
    for index, category in enumerate(categories):
      if truth.kind == _PANOPTIC:
        at = f'{truth.path}, categories[{index}]'
        json_fields.take(category, 'isthing', at, json_fields.FLAG)
    name = os.path.splitext(os.path.basename(truth.path))[0]
    info = datasets.describe(name, categories, 2, truth.path)
  # Segments are told apart by their own ids: there may be any number of them.
  return info._replace(label_space=info.label_space._replace(label_divisor=2**24))


def _panoptic(truth, prediction, info, options, notes):
  """Measures panoptic predictions against a panoptic ground truth."""
  sides = [
    pairs_lib.open_files(file.path, file.content, masks, flag)
    for file, masks, flag in (
      (truth, options.masks, '--masks'),
      (prediction, options.prediction_masks, '--prediction_masks'),
    )
  ]
  images, left_out = pairs_lib.pair(*sides, info, only_predicted=options.only_predicted)
  notes.extend(left_out)
  scored = any(image.prediction.scores for image in images)
  settings = panoptic.Settings(
    info,
    all_crowds=options.all_crowds,
    listed_areas=options.listed_areas,
    with_instances=scored,
  )
  total = _measured(settings, images, options.num_workers)
  quality, boundary = (
    panoptic_quality.protocol_result(counts, info.label_space) for counts in total.quality
  )
  iou = mean_iou.MeanIoU(info.label_space)
  iou.set_state(total.pixels)
  return Numbers(
    len(images), quality, boundary, iou.result(), _precision(total) if scored else None
  )


def _measured(settings, images, num_workers):
  """Returns the counts of all images, which the workers share."""
  tasks = [
    images[start : start + _IMAGES_OF_A_TASK] for start in range(0, len(images), _IMAGES_OF_A_TASK)
  ]
  parts = parallel.in_order(
    functools.partial(panoptic.measure, settings), tasks, min(num_workers, len(tasks))
  )
  total = panoptic.measure(settings, [])

  def one_by_one():
    for task, part in zip(tasks, parts, strict=True):
      total.quality[:] += part.quality
      total.pixels[:] += part.pixels
      total.sizes.update(part.sizes)
      total.ground_truths.extend(part.ground_truths)
      total.detections.extend(part.detections)
      yield from task

  for _ in parallel.with_progress(one_by_one(), len(images), 'evaluating'):
    pass
  return total


def _precision(total):
  """Returns COCO's precision of instances, images in the order of their ids as pycocotools."""
  sizes = dict(sorted(total.sizes.items(), key=lambda item: _order(item[0])))
  truths = [{'id': number, **one} for number, one in enumerate(total.ground_truths, 1)]
  return instance_ap.average_precision(sizes, truths, total.detections)


def _order(image):
  return (0, int(image), '') if image.isdecimal() else (1, 0, image)


def _instances(truth, prediction, info, options, notes):
  """Measures the average precision where one of the two files has instances alone."""
  settings = panoptic.Settings(info, listed_areas=options.listed_areas)
  if truth.kind == _PANOPTIC:
    side = pairs_lib.open_files(truth.path, truth.content, options.masks, '--masks')
    images = pairs_lib.alone(side, info, is_truth=True)
    total = _measured(settings, images, options.num_workers)
  else:
    sizes, true_instances = instances.read_ground_truths(truth.path, truth.content, info)
    total = panoptic.measure(settings, [])._replace(sizes=sizes, ground_truths=true_instances)
  if prediction.kind == _RESULTS:
    # An image without any detection is none in such a file.
    found = total._replace(
      detections=instances.read_results(
        prediction.path, prediction.content, total.sizes, info, truth.path
      )
    )
  else:
    side = pairs_lib.open_files(
      prediction.path, prediction.content, options.prediction_masks, '--prediction_masks'
    )
    pairs_lib.check_categories(side.path, side.content, info)
    images = pairs_lib.alone(side, info, is_truth=False)
    common = [image for image in images if image.image_id in total.sizes]
    pairs_lib.check_images(
      truth.path,
      list(total.sizes),
      prediction.path,
      [image.image_id for image in images],
      may_miss=options.only_predicted,
    )
    surplus = [image.image_id for image in images if image.image_id not in total.sizes]
    if surplus:
      notes.append(pairs_lib.of_surplus(truth.path, surplus, len(images)))
    found = _measured(settings, common, options.num_workers)
    _check_sizes(total.sizes, found.sizes, prediction.path, truth.path)
  truths = [one for one in total.ground_truths if one['image_id'] in found.sizes]
  return Numbers(len(found.sizes), ap=_precision(found._replace(ground_truths=truths)))


def _check_sizes(true_sizes, sizes, path, true_path):
  for image, size in sizes.items():
    if true_sizes.get(image, size) != size:
      raise errors.UserError(
        f'{path}, image {image}: is {size[0]}x{size[1]} (height x width), but in {true_path} '
        f'{true_sizes[image][0]}x{true_sizes[image][1]}; must be equal.'
      )


def _table(numbers, info, options):
  """Returns the numbers as lines for people."""
  lines = [f'{numbers.num_images} images']
  if numbers.quality is not None:
    crowds = tables.ALL_CROWDS if options.all_crowds else tables.LAST_CROWD
    lines = [f'{numbers.num_images} images; predictions are excused by {crowds}']
    rows = {'all': numbers.quality.all, 'things': numbers.quality.things}
    rows |= {'stuff': numbers.quality.stuff, 'boundary PQ': numbers.boundary.all}
    lines += tables.quality_lines(rows)
    lines += tables.other_lines(numbers.iou, numbers.ap)
    lines += tables.class_lines(numbers.quality, numbers.iou, info.label_space, info.class_names)
  elif numbers.ap is not None:
    for tag, value in tables.precisions(numbers.ap).items():
      lines.append(f'{tag:24}' + ('     -' if value is None else f'{value:6.2f}'))
  return '\n'.join(lines)


def _as_json(numbers, info, options, notes: Sequence[str]) -> Mapping[str, Any]:
  """Returns the content of --output. Ratios are in percent."""
  content: dict[str, Any] = {
    'num_images': numbers.num_images,
    'ground_truth': options.ground_truth,
    'predictions': options.predictions,
    'notes': list(notes),
  }
  if numbers.quality is not None:
    content |= {
      'protocol': "panopticapi's counting",
      'crowds': tables.ALL_CROWDS if options.all_crowds else tables.LAST_CROWD,
      'areas': 'listed' if options.listed_areas else 'counted',
      **tables.qualities(numbers.quality),
      'boundary': {
        'protocol': 'the lesser of mask and boundary IoU, boundaries 2 % of the diagonal wide',
        **tables.qualities(numbers.boundary),
      },
      'mIoU': 100 * numbers.iou.mean,
      'per_class': [
        {**entry, 'boundary_PQ': 100 * pq}
        for entry, pq in zip(
          tables.per_class(numbers.quality, numbers.iou, info.label_space, info.class_names),
          numbers.boundary.pq[np.sort(info.label_space.class_order)],
          strict=True,
        )
      ],
    }
    originals = {index: original for original, index in info.dataset_ids.items()}
    for entry in content['per_class']:
      entry['id'] = originals.get(entry['id'])
  if numbers.ap is not None:
    content['AP'] = tables.precisions(numbers.ap)
  return content


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--ground_truth', required=True, help='JSON, panoptic or of instances.')
  parser.add_path('--masks', help='Directory of its PNGs. Default: its path without .json.')
  parser.add_path('--predictions', required=True, help='JSON, panoptic or detection results.')
  parser.add_path(
    '--prediction_masks', help='Directory of its PNGs. Default: its path without .json.'
  )
  parser.add_path(
    '--dataset',
    help=f'Classes: one of {", ".join(datasets.DATASETS)}, or a JSON file. Default: the categories '
    'of the ground truth.',
  )
  parser.add_argument(
    '--all_crowds',
    action='store_true',
    help='Let all crowd regions of a class in an image excuse predictions, not the last one alone.',
  )
  parser.add_argument(
    '--listed_areas',
    action='store_true',
    help='Take the areas of true segments from the JSON, as panopticapi does, whatever their PNGs '
    'hold (ADE20K).',
  )
  parser.add_argument(
    '--only_predicted',
    action='store_true',
    help='Leave out images of the ground truth that have no prediction.',
  )
  parser.add_path('--output', help='JSON file to write the numbers to.')
  parser.add_argument(
    '--num_workers',
    type=command_line.integer_from(1),
    default=parallel.usable_cores(),
    help='Processes. Default: one for each core.',
  )
  return command_line.run(lambda: evaluate(parser.parse_args(arguments)))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
