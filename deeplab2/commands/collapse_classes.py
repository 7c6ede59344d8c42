"""Collapses the classes of a dataset in COCO's panoptic format: many categories become few.

  deeplab2-collapse-classes --annotations=panoptic_train.json --dataset=few.json \
      --output=few_train.json [--mapping=mapping.json] [--masks=panoptic_train]

Writes few_train.json and few_train/*.png with the image ids of the annotations, which
deeplab2-data takes together with few.json, the description of the new classes (read if
the file exists, so that all splits have one). Without --mapping, the new classes are the
supercategories of the JSON (27 for COCO); it is a JSON file {"old name": "new name", ...} that has
every category of the annotations; null makes a category void.

Instances that become one class stay apart, their crowds become one crowd, and segments of stuff of
one new class in an image become one segment. A new class is of things or of stuff.

few_train.json is valid at any moment. Stopped at whatever point, the same command goes on with the
images that are missing or whose annotations have changed since.
"""

import argparse
from collections.abc import Mapping, Sequence
import hashlib
import json
import os
import sys
from typing import Any

import numpy as np

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2 import structures
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import json_fields
from deeplab2.data import labels
from deeplab2.data import panoptic_results
from deeplab2.data import parallel
from deeplab2.data import stretched


def new_names(
  categories: Sequence[Mapping[str, Any]], mapping: Mapping[str, Any] | None, where: str
) -> dict[int, str | None]:
  """Returns the name of the new class of each category by its id, None for void.

  Args:
    categories: of the annotations.
    mapping: old name -> new name or None; None for the categories' field `supercategory`.
    where: the file that says it, for error messages.

  Raises:
    UserError: a category has no new name, or the mapping names one that is not there.
  """
  if mapping is None:
    return {
      category['id']: json_fields.take(
        category, 'supercategory', f'{where}, category {category["name"]}', json_fields.NAME
      )
      for category in categories
    }
  names = [category['name'] for category in categories]
  for old, new in mapping.items():
    if old not in names:
      raise errors.UserError(f'{where}: {old!r} is no category of the annotations.')
    if new is not None and not (isinstance(new, str) and new):
      raise errors.UserError(f'{where}: {old!r}: {new!r} must be the name of a class, or null.')
  missing = [name for name in names if name not in mapping]
  if missing:
    raise errors.UserError(
      f'{where}: says nothing of {len(missing)} categories, first {missing[0]!r}; null makes one '
      'void.'
    )
  return {category['id']: mapping[category['name']] for category in categories}


def describe(
  name: str,
  categories: Sequence[Mapping[str, Any]],
  new_by_id: Mapping[int, str | None],
  label_divisor: int,
  where: str,
) -> datasets.DatasetInfo:
  """Describes the new classes, in the order of their first categories, numbered from 1.

  A class has the colour of its first category, if there is one.

  Args:
    name: of the dataset.
    categories: of the annotations.
    new_by_id: as of `new_names`.
    label_divisor: must exceed the instances of a new class in an image.
    where: the file, for error messages.

  Raises:
    UserError: a class would be of things and of stuff, or there is none.
  """
  found: dict[str, dict[str, Any]] = {}
  for category in categories:
    new = new_by_id[category['id']]
    if new is None:
      continue
    isthing = category.get('isthing', 1)
    described = found.setdefault(
      new,
      {
        'id': len(found) + 1,
        'name': new,
        'isthing': isthing,
        **{key: category[key] for key in ('color',) if key in category},
      },
    )
    if described['isthing'] != isthing:
      raise errors.UserError(
        f'{where}: the new class {new!r} would be of things and of stuff ({category["name"]!r} is '
        f'{"a thing" if isthing else "stuff"}, another of its categories is not).'
      )
  if not found:
    raise errors.UserError(f'{where}: leaves no class.')
  return datasets.describe(name, list(found.values()), label_divisor, where)


def class_table(
  old: datasets.DatasetInfo, new: datasets.DatasetInfo, new_by_id: Mapping[int, str | None]
) -> np.ndarray:
  """Returns the new dataset id of each old one, int32.

  Raises:
    UserError: the new dataset lacks a class.
  """
  table = np.full(old.label_space.num_classes, new.label_space.ignore_label, np.int32)
  ids = {name: index for index, name in enumerate(new.class_names)}
  for original, index in old.dataset_ids.items():
    name = new_by_id.get(original)
    if name is None:
      continue
    is_thing = index in old.label_space.thing_ids
    if name not in ids or (ids[name] in new.label_space.thing_ids) != is_thing:
      kind = 'things' if is_thing else 'stuff'
      raise errors.UserError(f'--dataset: {new.name} has no class {name!r} of {kind}.')
    table[index] = ids[name]
  return table


def collapse(
  panoptic: np.ndarray,
  table: np.ndarray,
  old: structures.LabelSpace,
  new: structures.LabelSpace,
  where: str,
) -> np.ndarray:
  """Returns a label map of the new classes, [H, W] int32.

  Instances of a new class are numbered from 1 in the order of their old ids; crowds keep 0.

  Args:
    panoptic: [H, W] ids of the old dataset.
    table: new dataset id of each old one.
    old: numbering of `panoptic`.
    new: numbering of the result.
    where: file and image, for error messages.

  Raises:
    UserError: a new class has more instances than its label divisor can number.
  """
  ids, place = np.unique(panoptic, return_inverse=True)
  old_classes, old_instances = labels.split(ids, old)
  new_ids = np.full(ids.shape, new.void_id, np.int32)
  counts: dict[int, int] = {}
  for index, (old_class, old_instance) in enumerate(zip(old_classes, old_instances, strict=True)):
    new_class = new.ignore_label if old_class == old.ignore_label else int(table[old_class])
    if new_class == new.ignore_label:
      continue
    number = 0
    if old_instance:
      number = counts[new_class] = counts.get(new_class, 0) + 1
    if number >= new.label_divisor:
      raise errors.UserError(
        f'{where}: {number} instances of new class {new_class}; the label divisor '
        f'{new.label_divisor} allows fewer.'
      )
    new_ids[index] = new_class * new.label_divisor + number
  return new_ids[place].reshape(panoptic.shape)


def convert(options: argparse.Namespace) -> None:
  """Writes the annotations and the description.

  Raises:
    UserError: a flag, the annotations or the mapping is wrong, or a file cannot be written.
  """
  if not options.output.endswith('.json'):
    raise errors.UserError(f'--output={options.output}: must end in .json.')
  for flag in ('annotations', 'dataset'):
    if os.path.realpath(options.output) == os.path.realpath(getattr(options, flag)):
      raise errors.UserError(f'--output={options.output}: is --{flag}; would overwrite it.')
  path = options.annotations
  content = json_fields.read_lists(
    path, ('images', 'annotations', 'categories'), 'a COCO panoptic JSON is needed'
  )
  categories = content['categories']
  # The source's description checks the categories, too.
  old = datasets.describe('source', categories, options.label_divisor, path)
  mapping, where = None, path
  if options.mapping:
    mapping, where = files.read_json(options.mapping), options.mapping
    if not isinstance(mapping, dict):
      raise errors.UserError(f'{where}: must be {{"old name": "new name", ...}}.')
  new_by_id = new_names(categories, mapping, where)
  new = _dataset(options, categories, new_by_id, where)
  table = class_table(old, new, new_by_id)

  entries = coco_panoptic.read_images(content, path, sized=False)
  annotations = coco_panoptic.read_annotations(path, old)
  images = {}
  for stem, annotation in annotations.items():
    if annotation.image_id not in entries:
      raise errors.UserError(
        f"{path}: annotates image {annotation.image_id}, which is not in the list 'images'."
      )
    images[stem] = entries[annotation.image_id]
  masks = options.masks or path.removesuffix('.json')
  rule = json.dumps([sorted(new_by_id.items()), datasets.to_json(new)])
  with panoptic_results.open_results(
    options.output,
    new,
    of={'classes': hashlib.sha256(rule.encode()).hexdigest()[:16]},
    images=images,
    overwrite=options.overwrite,
  ) as results:
    for stem, annotation in parallel.with_progress(
      annotations.items(), len(annotations), 'collapsing'
    ):
      png = os.path.join(masks, annotation.file_name)
      segments = hashlib.sha256(json.dumps(annotation.segments).encode()).hexdigest()
      stamp = [segments, *panoptic_results.file_stamp(png)]
      if results.notes(stem, stamp) is None:
        label = coco_panoptic.read_label(png, annotation, old, treat_crowd_as_ignore=False)
        collapsed = collapse(label, table, old.label_space, new.label_space, png)
        results.add(stem, stretched.unstretched(collapsed), stamp)
  print(
    f'Wrote {len(annotations)} images with {len(new.dataset_ids)} classes (of {len(categories)}) '
    f'to {options.output}.'
  )


def _dataset(options, categories, new_by_id, where):
  """Reads the description of the new classes, or makes it."""
  if os.path.exists(options.dataset):
    return datasets.load(options.dataset)
  name = os.path.splitext(os.path.basename(options.dataset))[0]
  new = describe(name, categories, new_by_id, options.label_divisor, where)
  files.write_whole(options.dataset, datasets.to_json(new).encode())
  print(f'Described {len(new.dataset_ids)} classes in {options.dataset}.')
  return new


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--annotations', required=True, help='COCO panoptic JSON.')
  parser.add_path('--masks', help='Directory of its PNGs. Default: the path without .json.')
  parser.add_path('--dataset', required=True, help='Description of the new classes.')
  parser.add_path('--output', required=True, help='Panoptic JSON to write.')
  parser.add_path('--mapping', help='JSON: old name -> new name. Default: the supercategories.')
  parser.add_argument(
    '--label_divisor',
    type=int,
    default=1000,
    help='Of a description that is made: more than the instances of a new class in an image.',
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='Start over where --output holds results already.'
  )
  parser.add_old_name('--restart', '--overwrite')
  return command_line.run(lambda: convert(parser.parse_args(arguments)))


if __name__ == '__main__':
  sys.exit(main())
