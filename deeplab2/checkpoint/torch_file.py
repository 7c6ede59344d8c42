"""Reads files of PyTorch's tensors, and executes nothing that is in them.

`.safetensors` holds bytes alone. `.pth` and `.pt` are pickles, which PyTorch reads without their
code (`weights_only`); it need not be installed for anything else here.
"""

import io
import re
import zipfile

import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files

_SAFETENSORS = '.safetensors'
_OF_TORCH = ('.pth', '.pt')
_PICKLES = ('.pkl', '.pickle')
# Where a checkpoint keeps its state dict, next to optimizers and others.
_STATE_DICTS = ('model', 'state_dict')
# Before, weights_only could be deceived (CVE-2025-32434).
_FIRST_VERSION = (2, 6)
CONVERSION = (
  'python -c "import sys, torch, safetensors.torch as s; '
  "d = torch.load(sys.argv[1], 'cpu', weights_only=True); "
  "s.save_file({k: v.contiguous().clone() for k, v in d.get('model', d).items()}, sys.argv[2])\" "
  'MODEL.pth MODEL.safetensors'
)


def is_torch(path: str) -> bool:
  """Says whether a path is one of PyTorch by its ending; nothing is read."""
  return path.lower().endswith((_SAFETENSORS, *_OF_TORCH, *_PICKLES))


def is_readable(path: str) -> bool:
  """Says whether a path is of a type that `read` reads, and there is something."""
  readable = path.lower().endswith((_SAFETENSORS, *_OF_TORCH))
  return readable and tf.io.gfile.exists(path)


def existing(path: str) -> str:
  """Returns `path`.

  Raises:
    UserError: there is no such file, or it is of a type that is never read.
  """
  if path.lower().endswith(_PICKLES):
    raise errors.UserError(
      f'{path}: a pickle, whose code reading it would execute; it is not read. If it was ported '
      'from a checkpoint of DeepLab2, give that one; else save its tensors as .safetensors.'
    )
  with files.explained(f'{path}: cannot be looked up'):
    if not tf.io.gfile.exists(path):
      raise errors.UserError(f'{path}: no such file.')
    if tf.io.gfile.isdir(path):
      raise errors.UserError(f'{path}: is a directory; must be a file of PyTorch.')
  return path


def read(path: str) -> dict[str, np.ndarray]:
  """Returns the tensors of a file by name, in memory.

  Args:
    path: ends in .safetensors, .pth or .pt. Of the latter two, a state dict, or a dict with one as
      `model` or `state_dict`.

  Raises:
    UserError: there is no such file, it is damaged or of another type, holds anything but tensors,
      or PyTorch is needed and not there.
  """
  existing(path)
  return _read_safetensors(path) if path.lower().endswith(_SAFETENSORS) else _read_torch(path)


def _read_safetensors(path):
  try:
    import safetensors.numpy
  except ImportError as error:
    raise errors.UserError(
      f'{path}: the library safetensors is needed to read it (pip install safetensors).'
    ) from error
  try:
    if '://' not in path:
      return safetensors.numpy.load_file(path)
    return safetensors.numpy.load(_bytes(path))
  except (safetensors.SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
    raise _damaged(path, error) from error


def _read_torch(path):
  try:
    import torch
  except ImportError as error:
    raise errors.UserError(
      f'{path}: PyTorch is needed to read it (pip install torch), or where it is installed, this '
      f'converts it: {CONVERSION}'
    ) from error
  if _version(torch.__version__) < _FIRST_VERSION:
    raise errors.UserError(
      f'{path}: PyTorch {torch.__version__} is installed, which may execute code in the file; '
      f'{".".join(map(str, _FIRST_VERSION))} or newer reads it.'
    )
  try:
    source = path if '://' not in path else _bytes(path)
    _check_sums(_opened(source))
    content = torch.load(_opened(source), map_location='cpu', weights_only=True)
  except Exception as error:  # What a damaged pickle leads to is not foreseeable.
    other = re.search(r'GLOBAL (\S+)', str(error))
    if other is None:
      raise _damaged(path, error) from error
    raise errors.UserError(
      f'{path}: holds objects of {other[1]}, which PyTorch does not load from files that may be '
      'of anybody. If you trust the file, save its tensors alone as .safetensors.'
    ) from error
  return {
    name: _as_array(tensor, name, torch, path)
    for name, tensor in _state_dict(content, path).items()
  }


def _check_sums(source):
  """Compares the checksums of all that a file holds, which PyTorch does not do.

  Raises:
    ValueError: one is wrong, or something is compressed, which PyTorch never does: a small file
      could hold more than fits into memory.
  """
  if not zipfile.is_zipfile(source):
    return  # Of PyTorch before 1.6, or damaged.
  with zipfile.ZipFile(source) as archive:
    for entry in archive.infolist():
      if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f'{entry.filename} in it is compressed')
    altered = archive.testzip()
  if altered is not None:
    raise ValueError(f'the checksum of {altered} is wrong')


def _state_dict(content, path):
  """Returns the state dict in what a file holds."""
  for name in _STATE_DICTS:
    if isinstance(content, dict) and isinstance(content.get(name), dict):
      content = content[name]
  if not isinstance(content, dict) or not content:
    raise errors.UserError(f'{path}: holds no tensors by name, but {type(content).__name__}.')
  return content


def _as_array(tensor, name, torch, path):
  if not isinstance(tensor, torch.Tensor):
    raise errors.UserError(
      f'{path}: {name} is no tensor, but {type(tensor).__name__}; the file must hold a state dict, '
      f'alone or as {" or ".join(map(repr, _STATE_DICTS))}.'
    )
  tensor = tensor.detach()
  return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _opened(source):
  """Returns what readers take: the path itself, or a file of the bytes."""
  return io.BytesIO(source) if isinstance(source, bytes) else source


def _bytes(path):
  with tf.io.gfile.GFile(path, 'rb') as file:
    return file.read()


def _version(text):
  return tuple(int(part) for part in re.findall(r'\d+', text)[:2])


def _damaged(path, error):
  return errors.UserError(
    f'{path}: not a readable file of PyTorch (truncated or damaged?): {files.reason(error)}.'
  )
