"""Turns a COCO instances JSON into COCO's panoptic format; describes a dataset by its categories.

  deeplab2-instances-to-panoptic --annotations=instances.json --dataset=my/dataset.json \
      --output=my/panoptic.json

Writes my/panoptic.json and my/panoptic/*.png, which deeplab2-data takes, with the
image ids of the instances. Where instances overlap, the smaller one is on top; crowds lie below all
others; pixels of none are void; instances that vanish are counted. --dataset is read if the file
exists, and else written from the categories of the JSON (of a panoptic JSON as well:
--describe_only does no more than that).

my/panoptic.json is valid at any moment. Stopped at whatever point, the same command goes on with
the images that are missing or whose annotations have changed since.
"""

import argparse
import hashlib
import json
import os
import sys

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import coco_instances
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import json_fields
from deeplab2.data import panoptic_results
from deeplab2.data import parallel
from deeplab2.data import stretched

# The most that the decoder of images takes.
_MOST_PIXELS = 178_956_970


def convert(options: argparse.Namespace, content: dict, info: datasets.DatasetInfo) -> None:
  """Writes the panoptic JSON and PNGs, and says what became of the instances.

  Args:
    options: the parsed flags.
    content: of the instances.
    info: the dataset.

  Raises:
    UserError: naming the file, the image and the annotation that is wrong.
  """
  path, skip = options.annotations, options.on_error == 'skip'
  images = _images_by_stem(path, content)
  by_image, strays = _annotations_by_image(path, content, images, skip)
  classes = hashlib.sha256(datasets.to_json(info).encode()).hexdigest()[:16]
  with panoptic_results.open_results(
    options.output, info, of={'classes': classes}, images=images, overwrite=options.overwrite
  ) as results:
    all_notes = []
    for stem, image in parallel.with_progress(images.items(), len(images), 'converting'):
      annotations = by_image[image['id']]
      stamp = hashlib.sha256(json.dumps([image, annotations]).encode()).hexdigest()
      notes = results.notes(stem, stamp)
      if notes is None or (notes['left_out'] and not skip):
        size = (image['height'], image['width'])
        where = f'{path}, image {image["id"]}'
        drawn = coco_instances.label_of_instances(annotations, size, info, where, skip=skip)
        notes = {'left_out': drawn.left_out, 'empty': drawn.empty, 'covered': drawn.covered}
        results.add(stem, stretched.unstretched(drawn.label), stamp, notes=notes)
      all_notes.append(notes)
  _report(strays, all_notes, len(content['annotations']))
  print(f'Wrote {len(images)} images to {options.output}.')


def _report(strays, all_notes, count):
  """Says which annotations are not in the result."""
  left_out = strays + [message for notes in all_notes for message in notes['left_out']]
  for message in left_out:
    print(f'left out: {message}', file=sys.stderr)
  if left_out:
    print(f'{len(left_out)} of {count} annotations were left out.', file=sys.stderr)
  for key, what in (('empty', 'have no pixel'), ('covered', 'are covered by others completely')):
    vanished = [at for notes in all_notes for at in notes[key]]
    if vanished:
      said = f'{len(vanished)} of {count} instances {what} and are not in the result'
      print(f'{said}, first: {vanished[0]}.', file=sys.stderr)


def _images_by_stem(path, content):
  """Returns the images by the names of their PNGs; UserError if one is wrong, or two become one."""
  images: dict[str, dict] = {}
  for image_id, image in coco_panoptic.read_images(content, path, sized=True).items():
    where = f'{path}, image {image_id}'
    name = os.path.basename(image['file_name'])
    size = (image['height'], image['width'])
    if not name or '\0' in name or name != name.encode(errors='replace').decode():
      raise errors.UserError(f'{where}: file_name is {name!r}, which cannot name a file.')
    if min(size) < 1 or size[0] * size[1] > _MOST_PIXELS:
      raise errors.UserError(
        f'{where}: height and width are {size}; must be positive numbers, at '
        f'most {_MOST_PIXELS} pixels.'
      )
    stem = os.path.splitext(name)[0]
    if images.setdefault(stem, image) is not image:
      raise errors.UserError(
        f'{where}: the file name {image["file_name"]} and that of image '
        f'{images[stem]["id"]} would become one, as {stem}.png.'
      )
  return images


def _annotations_by_image(path, content, images, skip):
  """Returns the annotations by image id, and what is wrong with those that are of no image."""
  by_image, strays = {image['id']: [] for image in images.values()}, []
  for number, annotation in enumerate(content['annotations']):
    where = f'{path}, annotations[{number}]'
    try:
      image_id = json_fields.take(annotation, 'image_id', where, json_fields.ID)
      if image_id not in by_image:
        raise errors.UserError(
          f"{where}: is of image {image_id}, which is not in the list 'images'."
        )
      by_image[image_id].append(annotation)
    except errors.UserError as error:
      if not skip:
        raise
      strays.append(str(error))
  return by_image, strays


def _dataset(options, content):
  """Reads the description of the dataset, or makes it."""
  if os.path.exists(options.dataset):
    return datasets.load(options.dataset)
  name = os.path.splitext(os.path.basename(options.dataset))[0]
  info = datasets.describe(name, content['categories'], options.label_divisor, options.annotations)
  files.write_whole(options.dataset, datasets.to_json(info).encode())
  print(f'Described {len(content["categories"])} categories in {options.dataset}.')
  return info


def _check_output(options, content):
  if not options.output:
    raise errors.UserError('--output is missing: the panoptic JSON to write.')
  if any(
    'segments_info' in entry for entry in content['annotations'][:1] if isinstance(entry, dict)
  ):
    raise errors.UserError(
      f'{options.annotations}: is a panoptic JSON already; give it to deeplab2-data.'
    )
  if not options.output.endswith('.json'):
    raise errors.UserError(f'--output={options.output}: must end in .json.')
  for flag in ('annotations', 'dataset'):
    if os.path.realpath(options.output) == os.path.realpath(getattr(options, flag)):
      raise errors.UserError(f'--output={options.output}: is --{flag}; would overwrite it.')


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--annotations', required=True, help='COCO JSON.')
  parser.add_path('--dataset', required=True, help='Description of the dataset, see docs/data.md.')
  parser.add_path('--output', help='Panoptic JSON to write.')
  parser.add_argument(
    '--label_divisor',
    type=int,
    default=1000,
    help='Of a description that is made: more than the instances of a class in a image.',
  )
  parser.add_argument(
    '--on_error',
    choices=('stop', 'skip'),
    default='stop',
    help='What to do at an annotation that is wrong: stop, or leave it out, name it and go on.',
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='Start over where --output holds results already.'
  )
  parser.add_old_name('--restart', '--overwrite')
  parser.add_argument('--describe_only', action='store_true', help='Write --dataset alone.')

  def run():
    options = parser.parse_args(arguments)
    content = json_fields.read_lists(
      options.annotations,
      ('images', 'annotations', 'categories'),
      'a COCO JSON of annotations is needed',
    )
    if not options.describe_only:
      _check_output(options, content)
    info = _dataset(options, content)
    if not options.describe_only:
      convert(options, content, info)

  return command_line.run(run)


if __name__ == '__main__':
  sys.exit(main())
