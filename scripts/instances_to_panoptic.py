"""Turns a COCO instances JSON into COCO's panoptic format; describes a dataset by its categories.

  python scripts/instances_to_panoptic.py --annotations=instances.json --dataset=my/dataset.json \
      --output=my/panoptic.json

Writes my/panoptic.json and my/panoptic/*.png, which scripts/build_tfrecords.py takes, with the
image ids of the instances. Where instances overlap, the smaller one is on top; crowds lie below all
others; pixels of none are void; instances that vanish are counted. --dataset is read if the file
exists, and else written from the categories of the JSON (of a panoptic JSON as well:
--describe_only does no more than that).

my/panoptic.json is valid at any moment. Stopped at whatever point, the same command goes on with
the images that are missing or whose annotations have changed since.
"""

import collections
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


def convert(
  path: str, content: dict, info: datasets.DatasetInfo, output: str, *, skip: bool, restart: bool
) -> None:
  """Writes the panoptic JSON and PNGs, and says what became of the instances.

  Args:
    path: of the instances, for messages.
    content: of the instances.
    info: the dataset.
    output: the panoptic JSON.
    skip: leave out annotations that are wrong.
    restart: start over.

  Raises:
    UserError: naming the file, the image and the annotation that is wrong.
  """
  images = _images(path, content)
  by_image, strays = _annotations_by_image(path, content, images, skip)
  entries = {_stem(image): image for image in images.values()}
  classes = hashlib.sha256(datasets.to_json(info).encode()).hexdigest()[:16]
  with panoptic_results.open_results(
    output, info, of={'classes': classes}, images=entries, restart=restart
  ) as results:
    all_notes = []
    for image in parallel.with_progress(images.values(), len(images), 'converting'):
      annotations = by_image.get(image['id'], [])
      stamp = hashlib.sha256(json.dumps([image, annotations]).encode()).hexdigest()
      notes = results.notes(_stem(image), stamp)
      if notes is None or (notes['left_out'] and not skip):
        size = (image['height'], image['width'])
        where = f'{path}, image {image["id"]}'
        drawn = coco_instances.label_of_instances(annotations, size, info, where, skip=skip)
        notes = {'left_out': drawn.left_out, 'empty': drawn.empty, 'covered': drawn.covered}
        results.add(_stem(image), stretched.unstretched(drawn.label), stamp, notes=notes)
      all_notes.append(notes)
  _report(strays, all_notes, len(content['annotations']))
  print(f'Wrote {len(images)} images to {output}.')


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
      print(
        f'{len(vanished)} of {count} instances {what} and are not in the result, first: '
        f'{vanished[0]}.',
        file=sys.stderr,
      )


def _images(path, content):
  """Returns the images by id; UserError if one is wrong, or two would become one."""
  images = coco_panoptic.read_images(content, path, sized=True)
  stems: dict[str, int | str] = {}
  for image_id, image in images.items():
    where = f'{path}, image {image_id}'
    name = os.path.basename(image['file_name'])
    size = (image['height'], image['width'])
    if not _can_name_a_file(name):
      raise errors.UserError(f'{where}: file_name is {name!r}, which cannot name a file.')
    if min(size) < 1 or size[0] * size[1] > _MOST_PIXELS:
      raise errors.UserError(
        f'{where}: height and width are {size}; must be positive numbers, at '
        f'most {_MOST_PIXELS} pixels.'
      )
    stem = _stem(image)
    if stems.setdefault(stem, image_id) != image_id:
      raise errors.UserError(
        f'{where}: the file name {image["file_name"]} and that of image '
        f'{stems[stem]} would become one, as {stem}.png.'
      )
  return images


def _can_name_a_file(name):
  return name and '\0' not in name and name == name.encode(errors='replace').decode()


def _annotations_by_image(path, content, images, skip):
  """Returns the annotations by image id, and what is wrong with those that are of no image."""
  by_image, strays = collections.defaultdict(list), []
  for number, annotation in enumerate(content['annotations']):
    try:
      image_id = json_fields.take(
        annotation, 'image_id', f'{path}, annotations[{number}]', json_fields.ID
      )
      if image_id not in images:
        raise errors.UserError(
          f'{path}, annotations[{number}]: is of image {image_id}, which is '
          "not in the list 'images'."
        )
    except errors.UserError as error:
      if not skip:
        raise
      strays.append(str(error))
      continue
    by_image[image_id].append(annotation)
  return by_image, strays


def _stem(image):
  """Returns the name of an image's PNG without its ending."""
  return os.path.splitext(os.path.basename(image['file_name']))[0]


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
      f'{options.annotations}: is a panoptic JSON already; give it to scripts/build_tfrecords.py.'
    )
  if not options.output.endswith('.json'):
    raise errors.UserError(f'--output={options.output}: must end in .json.')
  for flag in ('annotations', 'dataset'):
    if os.path.realpath(options.output) == os.path.realpath(getattr(options, flag)):
      raise errors.UserError(f'--output={options.output}: is --{flag}; would overwrite it.')


def main(arguments) -> int:
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
    '--restart', action='store_true', help='Start over where --output holds results already.'
  )
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
      convert(
        options.annotations,
        content,
        info,
        options.output,
        skip=options.on_error == 'skip',
        restart=options.restart,
      )

  return command_line.run(run)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
