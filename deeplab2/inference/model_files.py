"""The files of an exported model: whether they are still those that were exported.

TensorFlow reads a damaged SavedModel as far as it can: a changed bit is a crash of the process, or
other weights. So an export lists its files with size and SHA-256 in `assets.extra/files.json`, and
they are compared before TensorFlow sees them.
"""

import hashlib
import json
import os

import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files

LIST_FILE = os.path.join('assets.extra', 'files.json')
_VERSION = 1
_BLOCK = 2**24


def write_list(directory: str) -> None:
  """Lists all files of a model that was written just now; OSError or OpError if that fails."""
  listed = {path: _describe(os.path.join(directory, path)) for path in _walk(directory)}
  files.write_json(os.path.join(directory, LIST_FILE), {'version': _VERSION, 'files': listed})


def check(directory: str) -> str:
  """Compares the files of a model with their list.

  Returns:
    A fingerprint of the model, in hexadecimal: another one for other weights or other classes. Of
    models that were exported without a list, it lists the files as they are.

  Raises:
    UserError: a file is missing or is not what was exported.
  """
  list_path = os.path.join(directory, LIST_FILE)
  try:
    if not tf.io.gfile.exists(list_path):
      found = {path: _describe(os.path.join(directory, path)) for path in _walk(directory)}
      return _fingerprint(found)
    content = files.read_json(list_path)
    listed = content.get('files') if isinstance(content, dict) else None
    if not isinstance(listed, dict) or content.get('version') != _VERSION:
      raise errors.UserError(
        f'{list_path}: is not the list of files of an exported model; export it again.'
      )
    for path, expected in listed.items():
      full = os.path.join(directory, path)
      if not tf.io.gfile.exists(full):
        raise errors.UserError(f'{full}: is missing from the exported model; export it again.')
      if _describe(full) != expected:
        raise errors.UserError(
          f'{full}: is damaged, as it is not the file that was exported; export the model again.'
        )
    return _fingerprint(listed)
  except (OSError, ValueError, tf.errors.OpError) as error:
    raise errors.UserError(
      f'{directory}: the exported model cannot be read ({files.reason(error)}).'
    ) from error


def _walk(directory):
  """Returns the paths of the files below a directory, relative to it, sorted."""
  paths = [
    os.path.join(found, name) for found, _, names in tf.io.gfile.walk(directory) for name in names
  ]
  return sorted(os.path.relpath(path, directory) for path in paths)


def _describe(path):
  """Returns size in bytes and SHA-256 of a file."""
  digest, size = hashlib.sha256(), 0
  with tf.io.gfile.GFile(path, 'rb') as file:
    while block := file.read(_BLOCK):
      digest.update(block)
      size += len(block)
  return {'size': size, 'sha256': digest.hexdigest()}


def _fingerprint(listed):
  return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()[:16]
