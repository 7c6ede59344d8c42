"""Files of PyTorch: a real checkpoint of it, every form of content, and what is refused.

What needs PyTorch is skipped where it is not installed.
"""

import builtins
import os
import re
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from deeplab2.checkpoint import torch_file
from deeplab2.checkpoint import torch_keys
from deeplab2.data import datasets
from tests import conftest
from tests.checkpoint import files
from tests.checkpoint import torch_files
from tests.goldens import fill

_SAMPLE = str(conftest.GOLDENS / 'torch_cityscapes_r50.pth')
_TENSORS = {'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3), 'n': np.array(7)}


@pytest.fixture
def torch():
  return pytest.importorskip('torch')


@pytest.fixture
def safe():
  """Returns the NumPy interface of safetensors."""
  return pytest.importorskip('safetensors.numpy')


def _check(found):
  assert found.keys() == _TENSORS.keys()
  for name, tensor in _TENSORS.items():
    np.testing.assert_array_equal(found[name], tensor)
    assert found[name].dtype == tensor.dtype


def test_safetensors(safe, tmp_path):
  path = str(tmp_path / 'a[1].safetensors')
  safe.save_file(_TENSORS, path)
  _check(torch_file.read(path))


def test_a_checkpoint_of_detectron2(torch):
  """With strides, offsets and counters as they are in it."""
  del torch
  tensors = torch_file.read(_SAMPLE)
  known = {key: row for key, *row in torch_files.rows('cityscapes_r50')}
  assert len(tensors) == 101
  space = datasets.get('cityscapes_panoptic').label_space
  for key, tensor in tensors.items():
    if torch_keys.is_counter(key):
      assert tensor == 150000 and tensor.dtype == np.int64
      continue
    released_key, _, shape = known[key]
    assert tensor.shape == shape and tensor.dtype == np.float32
    ours = torch_keys.in_our_layout(released_key, tensor, space)
    np.testing.assert_array_equal(ours, fill.value(released_key, ours.shape), key)


@pytest.mark.parametrize('ending', ['pth', 'pt'])
@pytest.mark.parametrize('wrapped', ['', 'model', 'state_dict'])
def test_forms_of_content(torch, tmp_path, ending, wrapped):
  content = {name: torch.from_numpy(tensor) for name, tensor in _TENSORS.items()}
  if wrapped:
    content = {wrapped: content, 'iteration': 7}
  torch.save(content, tmp_path / f'x.{ending}')
  _check(torch_file.read(str(tmp_path / f'x.{ending}')))


def test_parameters_and_half_precision(torch, tmp_path):
  values = torch.tensor([1.5, -2.0])
  torch.save(
    {'p': torch.nn.Parameter(values), 'h': values.half(), 'b': values.bfloat16()}, tmp_path / 'x.pt'
  )
  for tensor in torch_file.read(str(tmp_path / 'x.pt')).values():
    np.testing.assert_array_equal(tensor, np.float32([1.5, -2.0]))


@pytest.mark.parametrize(
  'content, words',
  [
    ([1, 2], 'holds no tensors by name, but list'),
    ({}, 'holds no tensors by name, but dict'),
    ({'model': {'a': 3}}, 'a is no tensor, but int; the file must hold a state dict, alone or as'),
  ],
)
def test_other_content(torch, tmp_path, content, words):
  path = str(tmp_path / 'x.pth')
  torch.save(content, path)
  files.refused(lambda: torch_file.read(path), path, words)


class _Code:
  """Leaves a file behind wherever it is unpickled."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return os.mkdir, (self._path,)


def test_no_code_is_executed(torch, tmp_path):
  path, trace = str(tmp_path / 'x.pth'), tmp_path / 'executed'
  torch.save({'model': {'a': torch.zeros(1)}, 'trainer': _Code(str(trace))}, path)
  files.refused(lambda: torch_file.read(path), path, 'holds objects of', 'mkdir', '.safetensors')
  assert not trace.exists()


def test_an_older_torch_is_not_trusted(torch, monkeypatch):
  monkeypatch.setattr(torch, '__version__', '2.5.1+cpu')
  files.refused(lambda: torch_file.read(_SAMPLE), 'PyTorch 2.5.1+cpu is installed', '2.6 or newer')


def _damaged(content):
  """Yields (name, bytes) of damaged forms of a file."""
  yield 'empty', b''
  yield 'cut', content[: len(content) // 2]
  yield 'text', b'hello, this is no file of tensors'
  middle = len(content) // 2
  yield 'altered', content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def test_damaged_files_of_torch(torch, tmp_path):
  del torch
  with open(_SAMPLE, 'rb') as file:
    content = file.read()
  for name, data in _damaged(content):
    path = tmp_path / f'{name}.pth'
    path.write_bytes(data)
    files.refused(
      lambda path=path: torch_file.read(str(path)), f'{name}.pth', 'not a readable file'
    )


def test_an_altered_number_is_found(torch, tmp_path):
  """By its checksum, which PyTorch does not look at."""
  tensor = torch.arange(1000, dtype=torch.float32)
  path = tmp_path / 'x.pth'
  torch.save({'a': tensor}, path)
  content = path.read_bytes()
  place = content.index(tensor.numpy().tobytes()) + 2000
  path.write_bytes(content[:place] + b'\xff' + content[place + 1 :])
  files.refused(lambda: torch_file.read(str(path)), 'x.pth', 'the checksum of x/data/0 is wrong')


def test_a_compressed_file_is_not_unpacked(torch, tmp_path):
  del torch
  path = tmp_path / 'x.pth'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('x/data.pkl', b'0' * 10**6)
  files.refused(lambda: torch_file.read(str(path)), 'x.pth', 'x/data.pkl in it is compressed')


def test_damaged_safetensors(safe, tmp_path):
  content = safe.save(_TENSORS)
  for name, data in _damaged(content):
    path = tmp_path / f'{name}.safetensors'
    path.write_bytes(data)
    files.refused(lambda path=path: torch_file.read(str(path)), f'{name}.safe', 'not a readable')


@pytest.mark.parametrize(
  'library, name, words',
  [
    ('torch', 'x.pth', ['PyTorch', 'pip install torch', torch_file.CONVERSION]),
    ('safetensors', 'x.safetensors', ['pip install safetensors']),
  ],
)
def test_without_libraries(monkeypatch, tmp_path, library, name, words):
  """The line says what to install, or how to do without."""
  real = builtins.__import__

  def without(module, *arguments, **keywords):
    if module.partition('.')[0] == library:
      raise ImportError(module)
    return real(module, *arguments, **keywords)

  (tmp_path / name).touch()
  monkeypatch.setattr(builtins, '__import__', without)
  files.refused(lambda: torch_file.read(str(tmp_path / name)), name, *words)


def test_the_conversion_works(torch, safe, tmp_path):
  del torch, safe
  path = str(tmp_path / 'x.safetensors')
  command = torch_file.CONVERSION.replace('MODEL.pth', _SAMPLE).replace('MODEL.safetensors', path)
  python, *arguments = shlex.split(command)
  assert python == 'python'
  subprocess.run([sys.executable, *arguments], check=True, timeout=120)
  before, after = torch_file.read(_SAMPLE), torch_file.read(path)
  assert before.keys() == after.keys()
  for name, tensor in before.items():
    np.testing.assert_array_equal(tensor, after[name])


@pytest.mark.parametrize('ending', ['pkl', 'pickle', 'PKL'])
def test_a_pickle_is_not_read(tmp_path, ending):
  path = tmp_path / f'R-50.{ending}'
  path.write_bytes(b'\x80\x04.')
  for call in (torch_file.read, torch_file.existing):
    files.refused(lambda call=call: call(str(path)), str(path), 'a pickle', 'it is not read')


def test_missing_files_and_directories(tmp_path):
  (tmp_path / 'x.pth').mkdir()
  files.refused(lambda: torch_file.read(str(tmp_path / 'no.pth')), 'no.pth: no such file')
  files.refused(lambda: torch_file.read(str(tmp_path / 'x.pth')), 'x.pth: is a directory')


def test_endings():
  for name in ('a.pth', 'a.PT', 'b.safetensors', 'c.pkl'):
    assert torch_file.is_torch(name)
  for name in ('ckpt-7', 'a.pth.index', 'model.h5', 'pth'):
    assert not torch_file.is_torch(name)


def test_the_conversion_is_documented():
  assert re.fullmatch(r'python -c ".*" MODEL\.pth MODEL\.safetensors', torch_file.CONVERSION)
  assert torch_file.CONVERSION in (conftest.GOLDENS.parents[1] / 'docs/pytorch.md').read_text()
