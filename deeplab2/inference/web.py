"""`export --format=web`: a page that segments images, videos and the webcam in the browser.

The page (directory `web` of the repository, no build step) runs the model by LiteRT.js, whose files
are in `web/vendor` as they were published, but for their compression: the site is complete, and
neither npm nor a network is needed to export or to open it. Any server of files serves it:

  python -m http.server --directory=SITE
"""

import argparse
from collections.abc import Callable, Iterator
import json
import lzma
import os
import pathlib
import shutil
import tempfile

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import datasets
from deeplab2.inference import litert_export
from deeplab2.inference import litert_file
from deeplab2.inference import segmenter as segmenter_lib

_MODEL, _ABOUT, _PAGE = 'model/model.tflite', 'model/model.json', 'index.html'
_COMPRESSED = '.xz'
# Of the installed package, and of a checkout.
_SOURCES = (pathlib.Path(__file__).parents[1] / 'web', pathlib.Path(__file__).parents[2] / 'web')


def export(options: argparse.Namespace, restored: Callable[[], segmenter_lib.Restored]) -> None:
  """Writes a site with the model of a checkpoint.

  Args:
    options: the parsed flags.
    restored: makes the segmenter.

  Raises:
    UserError: a flag is wrong, the place is taken, or the model cannot be converted.
  """
  if options.outputs is not None:
    raise errors.UserError(
      f'--outputs={options.outputs}: the page needs panoptic maps; leave it out for --format=web.'
    )
  check_place(options.export_path, overwrite=options.overwrite)
  calibration = litert_export.check(options)
  model = restored()
  segmenter = model.segmenter
  converted = litert_export.converted(model, 'crop', options.quantize, calibration)
  settings = litert_file.Settings(
    'crop', options.quantize, segmenter.crop_size, segmenter.resize, segmenter.merging
  )
  title = model.config.options.experiment_name or model.info.name
  write(options.export_path, converted, settings, model.info, title)
  print(f'Serve it: python -m http.server --directory={options.export_path}')


def check_place(path: str, *, overwrite: bool) -> None:
  """Raises UserError unless `path` is free, an empty directory, or, to overwrite, a site."""
  if not os.path.lexists(path) or (os.path.isdir(path) and not os.listdir(path)):
    return
  if not os.path.isdir(path):
    raise errors.UserError(f'{path}: is a file; must be a directory.')
  if not all(os.path.exists(os.path.join(path, name)) for name in (_ABOUT, _PAGE)):
    raise errors.UserError(
      f'{path}: holds something else than a site, which would be lost; choose another directory.'
    )
  if not overwrite:
    raise errors.UserError(
      f'{path}: holds a site; give --overwrite to replace it, or another directory.'
    )


def write(
  path: str,
  model: bytes,
  settings: litert_file.Settings,
  info: datasets.DatasetInfo,
  title: str,
) -> None:
  """Writes the page and a model, whole or not at all; a site that was there is replaced.

  Args:
    path: directory, see `check_place`.
    model: that litert.convert returns for 'crop', or litert.quantize from that.
    settings: how it is used.
    info: the classes.
    title: name of the model.

  Raises:
    UserError: it cannot be written, or the page is not installed.
  """
  path = path.rstrip('/')
  parent = os.path.dirname(path) or '.'
  with files.explained(f'{path}: the site cannot be written there'):
    os.makedirs(parent, exist_ok=True)
    aside = tempfile.mkdtemp(prefix='.site-', dir=parent)
    try:
      for name, content in _contents(model, settings, info, title):
        place = os.path.join(aside, name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        pathlib.Path(place).write_bytes(content)
      os.chmod(aside, 0o755)
      if os.path.isdir(path):
        shutil.rmtree(path)
      os.rename(aside, path)
    finally:
      shutil.rmtree(aside, ignore_errors=True)


def _contents(model, settings, info, title) -> Iterator[tuple[str, bytes]]:
  """Yields path and content of every file of a site."""
  source = next((place for place in _SOURCES if (place / _PAGE).exists()), None)
  if source is None:
    raise errors.UserError(f'{_SOURCES[0]}: the page is missing; install deeplab2-remax again.')
  dependencies = []
  for place in sorted(source.rglob('*')):
    if not place.is_file():
      continue
    name, content = str(place.relative_to(source)), place.read_bytes()
    if name.endswith(_COMPRESSED):
      name, content = name.removesuffix(_COMPRESSED), lzma.decompress(content)
    if place.name == 'package.json':
      package = json.loads(content)
      dependencies.append({key: package[key] for key in ('name', 'version', 'license')})
    yield name, content
  yield _MODEL, model
  yield _ABOUT, json.dumps(_about(settings, info, title, dependencies), indent=1).encode()


def _about(settings, info, title, dependencies):
  """Returns what the page knows of its model."""
  space = info.label_space
  return {
    'title': title,
    'dataset': info.name,
    'quantize': settings.quantize,
    'crop_size': settings.crop_size,
    **settings.resize._asdict(),
    'label_divisor': space.label_divisor,
    'void_id': space.void_id,
    'classes': [
      {'name': name, 'color': color, 'is_thing': index in space.thing_ids}
      for index, (name, color) in enumerate(zip(info.class_names, info.colors, strict=True))
    ],
    'dependencies': dependencies,
  }
