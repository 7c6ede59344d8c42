"""What a .tflite file says of itself: its classes, what it takes and gives, whether it is whole.

It is in a ZIP archive behind the model, as LiteRT's metadata have their associated files. Programs
for LiteRT do not look there; `unzip model.tflite` takes the files out:

  dataset.json  the classes (data/datasets.py)
  labels.txt    their names, one a line, for programs that want no more
  model.json    {version, outputs, quantize, crop_size, min_size, max_size, factor, merging, size,
                sha256}: fields of Settings, of geometry.Resize, and of the model in front of it
"""

import hashlib
import io
import json
from typing import Any, NamedTuple
import zipfile

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import datasets
from deeplab2.data import geometry

ENDING = '.tflite'

_VERSION = 1
_IDENTIFIER = slice(4, 8), b'TFL3'  # Of files with LiteRT's schema.
_DATASET, _LABELS, _MODEL = 'dataset.json', 'labels.txt', 'model.json'


class Settings(NamedTuple):
  """How a model is used."""

  outputs: str  # A key of litert.GRAPHS.
  quantize: str  # One of litert.QUANTIZE.
  crop_size: tuple[int, int]  # (H, W) of the network.
  resize: geometry.Resize  # How images are brought into it.
  merging: dict[str, Any]  # Settings of the post-processing (model/postprocess.py).


class Described(NamedTuple):
  """What the file of a model says."""

  settings: Settings
  info: datasets.DatasetInfo
  fingerprint: str  # Another one for other weights or other classes.


def write(path: str, model: bytes, settings: Settings, info: datasets.DatasetInfo) -> None:
  """Writes a model with its description; UserError if it cannot be written."""
  files.write_whole(path, _with_archive(model, settings, info))


def _with_archive(model, settings, info):
  described = {
    'version': _VERSION,
    'outputs': settings.outputs,
    'quantize': settings.quantize,
    'crop_size': settings.crop_size,
    **settings.resize._asdict(),
    'merging': settings.merging,
    'size': len(model),
    'sha256': hashlib.sha256(model).hexdigest(),
  }
  buffer = io.BytesIO(model)
  with zipfile.ZipFile(buffer, 'a') as archive:
    for name, text in (
      (_DATASET, datasets.to_json(info)),
      (_LABELS, ''.join(f'{name}\n' for name in info.class_names)),
      (_MODEL, json.dumps(described, indent=1)),
    ):
      archive.writestr(zipfile.ZipInfo(name), text.encode())  # The same bytes at any time.
  return buffer.getvalue()


def read(path: str) -> Described:
  """Reads what a file says of itself, and checks that its model is the one that was exported.

  Raises:
    UserError: there is no such file, it is no model of `export --format=litert`, or it is damaged.
  """
  data = read_bytes(path)
  if data[_IDENTIFIER[0]] != _IDENTIFIER[1]:
    raise errors.UserError(f'{path}: is no LiteRT model, which have "TFL3" in bytes 4 to 8.')
  try:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      texts = {name: _member(archive, name).decode() for name in (_DATASET, _MODEL)}
  except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, NotImplementedError) as error:
    raise errors.UserError(
      f'{path}: the classes of the model are not in the file (it was cut, or is not of '
      'deeplab2.inference.export); export it again.'
    ) from error
  try:
    described = json.loads(texts[_MODEL])
    smallest, largest = (_size(described[key]) for key in ('min_size', 'max_size'))
    settings = Settings(
      described['outputs'],
      described['quantize'],
      tuple(described['crop_size']),
      geometry.Resize(smallest, largest, described['factor']),
      described['merging'],
    )
    model = data[: described['size']]
    is_whole = hashlib.sha256(model).hexdigest() == described['sha256']
    is_known = described['version'] == _VERSION
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(
      f'{path}: its description cannot be read ({files.reason(error)}); export it again.'
    ) from error
  if not is_whole or not is_known:
    raise errors.UserError(
      f'{path}: '
      + ('is of a later version of this program.' if is_whole else 'is damaged; export it again.')
    )
  info = datasets.parse(texts[_DATASET], f'{path}/{_DATASET}')
  fingerprint = hashlib.sha256((described['sha256'] + texts[_DATASET]).encode()).hexdigest()[:16]
  return Described(settings, info, fingerprint)


def _member(archive, name):
  """Returns a file of the archive; as `write` stores it, it cannot grow beyond the archive."""
  if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
    raise zipfile.BadZipFile(f'{name} is compressed')
  return archive.read(name)


def _size(value):
  return None if value is None else tuple(value)


def read_bytes(path: str) -> bytes:
  """Returns the content of a file; UserError if it cannot be read."""
  try:
    with open(path, 'rb') as file:
      return file.read()
  except FileNotFoundError as error:
    raise errors.UserError(f'{path}: no such file.') from error
  except OSError as error:
    raise errors.UserError(f'{path}: cannot be read ({files.reason(error)}).') from error
