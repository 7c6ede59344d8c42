"""Turns a COCO instances JSON into COCO's panoptic format; describes a dataset by its categories.

  python scripts/instances_to_panoptic.py --annotations=instances.json --dataset=my/dataset.json \
      --output=my/panoptic.json

Writes my/panoptic.json and my/panoptic/*.png, which scripts/build_tfrecords.py takes. Where
instances overlap, the smaller one is on top; crowds lie below all others; pixels of none are void.
--dataset is read if the file exists, and else written from the categories of the JSON (of a
panoptic JSON as well: --describe_only does no more than that).
"""
import collections
import json
import os
import sys

import tqdm

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2.data import coco_instances
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets


def convert(path: str, content: dict, info: datasets.DatasetInfo, output: str) -> int:
  """Writes the panoptic JSON and PNGs; returns the number of pictures.

  Raises:
    UserError: naming the file, the picture and the annotation that is wrong.
  """
  by_picture: dict = {}
  for number, annotation in enumerate(content['annotations']):
    image_id = coco_panoptic.field(
        annotation, 'image_id', f'{path}, annotations[{number}]', 'whole number or text')
    by_picture.setdefault(image_id, []).append(annotation)
  known = {coco_panoptic.field(picture, 'id', f'{path}, images[{number}]', 'whole number or text')
           for number, picture in enumerate(content['images'])}
  for what, values in (('id', [picture['id'] for picture in content['images']]),
                       ('file name', [_stem(picture) for picture in content['images']])):
    value, count = max(collections.Counter(values).items(), key=lambda item: item[1],
                       default=(None, 1))
    if count > 1:
      raise errors.UserError(f"{path}: {count} entries of 'images' have the {what} {value}, and "
                             'would become one.')
  for image_id in by_picture:
    if image_id not in known:
      raise errors.UserError(f'{path}: annotations are of image {image_id}, which is not in the '
                             "list 'images'.")
  writer = coco_panoptic.Writer(os.path.splitext(output)[0], info)
  for picture in tqdm.tqdm(content['images'], unit=' picture', mininterval=1.0):
    where = f'{path}, image {picture["id"]}'
    name = os.path.basename(coco_panoptic.field(picture, 'file_name', where, 'text'))
    size = tuple(coco_panoptic.field(picture, key, where, 'whole number')
                 for key in ('height', 'width'))
    if not name or min(size) < 1:
      raise errors.UserError(f'{where}: file_name is {name!r}, height and width are {size}; must '
                             'be a name and positive numbers.')
    label = coco_instances.label_of_instances(
        by_picture.get(picture['id'], ()), size, info, where)
    writer.add(os.path.splitext(name)[0], label, name)
  writer.save(output)
  return len(content['images'])


def _stem(picture):
  """Returns the name of a picture's PNG; 001 and 1 are one, as they would be one image id."""
  name = picture.get('file_name')
  stem = os.path.splitext(os.path.basename(name))[0] if isinstance(name, str) else str(name)
  return int(stem) if stem.isdecimal() else stem


def _read(path):
  """Returns the content of a COCO JSON; UserError unless it has pictures and categories."""
  try:
    with open(path, encoding='utf-8') as file:
      content = json.load(file)
  except (OSError, ValueError, RecursionError) as error:
    raise errors.UserError(f'{path}: cannot be read as JSON ({error}).') from error
  for key in ('images', 'annotations', 'categories'):
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
      raise errors.UserError(f'{path}: has no list {key!r}; a COCO JSON of annotations is needed.')
  return content


def _dataset(options, content):
  """Reads the description of the dataset, or makes it."""
  if os.path.exists(options.dataset):
    return datasets.load(options.dataset)
  name = os.path.splitext(os.path.basename(options.dataset))[0]
  info = datasets.describe(name, content['categories'], options.label_divisor, options.annotations)
  try:
    with open(options.dataset, 'w', encoding='utf-8') as file:
      file.write(datasets.to_json(info))
  except OSError as error:
    raise errors.UserError(f'{options.dataset}: cannot be written ({error.strerror}).') from error
  print(f'Described {len(content["categories"])} categories in {options.dataset}.')
  return info


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_argument('--annotations', required=True, help='COCO JSON.')
  parser.add_argument('--dataset', required=True,
                      help='Description of the dataset, see docs/data.md.')
  parser.add_argument('--output', help='Panoptic JSON to write.')
  parser.add_argument('--label_divisor', type=int, default=1000,
                      help='Of a description that is made: more than the instances of a class in a '
                      'picture.')
  parser.add_argument('--describe_only', action='store_true', help='Write --dataset alone.')

  def run():
    options = parser.parse_args(arguments)
    content = _read(options.annotations)
    info = _dataset(options, content)
    if options.describe_only:
      return
    if not options.output:
      raise errors.UserError('--output is missing: the panoptic JSON to write.')
    if any('segments_info' in entry for entry in content['annotations'][:1]
           if isinstance(entry, dict)):
      raise errors.UserError(f'{options.annotations}: is a panoptic JSON already; give it to '
                             'scripts/build_tfrecords.py.')
    if not options.output.endswith('.json'):
      raise errors.UserError(f'--output={options.output}: must end in .json.')
    if os.path.exists(options.output) and os.path.samefile(options.output, options.annotations):
      raise errors.UserError(f'--output={options.output}: is --annotations; would overwrite it.')
    try:
      number = convert(options.annotations, content, info, options.output)
    except OSError as error:
      raise errors.UserError(
          f'--output={options.output}: cannot be written ({error.strerror or error}).') from error
    print(f'Wrote {number} pictures to {options.output}.')

  return command_line.run(run)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
