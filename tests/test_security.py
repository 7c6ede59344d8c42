"""What SECURITY.md says of the source: nothing in it runs code or unpacks files from its input."""

import ast
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
FILES = sorted(
  str(path.relative_to(REPOSITORY))
  for directory in ('deeplab2', 'scripts')
  for path in (REPOSITORY / directory).rglob('*.py')
)

_MODULES = {
  'pickle',
  'cPickle',
  '_pickle',
  'marshal',
  'shelve',
  'dill',
  'joblib',
  'cloudpickle',
  'jsonpickle',
  'yaml',
  'ruamel',
  'tarfile',
  'zipfile',
  'code',
  'codeop',
  'imp',
  'runpy',
  'xml',
  'lxml',
  'commands',
  'pty',
}
# Called by their own name.
_BUILTINS = {'eval', 'exec', 'compile', '__import__', 'execfile'}
# Called as something's attribute: `module.name`, or `.name` of anything.
_FUNCTIONS = {
  'os.system',
  'os.popen',
  'os.execv',
  'os.execl',
  'os.execvp',
  'os.spawnv',
  'os.spawnl',
  'subprocess.getoutput',
  'subprocess.getstatusoutput',
  'asyncio.create_subprocess_shell',
  'tempfile.mktemp',
  'shutil.unpack_archive',
  'ast.parse',
  'builtins.eval',
  'builtins.exec',
  'builtins.compile',
}
_METHODS = {
  'extract',
  'extractall',
  'unsafe_load',
  'full_load',
  'read_pickle',
  'py_function',
  'py_func',
  'numpy_function',
}
# Archives from which nothing is unpacked: checksums are compared, or uncompressed members read,
# which are no larger than the file.
_ARCHIVES = {'deeplab2/checkpoint/torch_file.py', 'deeplab2/inference/litert_file.py'}
# Modules are imported by a name that no input holds: those of the command lines, and of an extra.
_DYNAMIC_IMPORTS = {'scripts/campaign/processes.py', 'deeplab2/inference/litert.py'}


def _name(node):
  """Returns 'a.b.c' of an expression of names and attributes, '' of another one."""
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute):
    before = _name(node.value)
    return f'{before}.{node.attr}' if before else ''
  return ''


def problems(source: str, file: str = '') -> list[str]:
  """Returns what is not allowed in `source`, one line each."""
  found = []
  for node in ast.walk(ast.parse(source)):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level and not _is_error(node):
      names = [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
      if any(name in _FUNCTIONS for name in names):
        found.append(f'{node.lineno}: imports {names[-1]}')
    for name in names:
      checked = name == 'zipfile' and file in _ARCHIVES
      if name == 'torch.load' or name.partition('.')[0] in _MODULES and not checked:
        found.append(f'{node.lineno}: imports {name}')
    if isinstance(node, ast.Call):
      found += [f'{node.lineno}: {problem}' for problem in _of_call(node, file)]
  return found


def _is_error(node):
  """Returns whether an import is of an error alone, which NumPy's reader raises."""
  return node.module == 'zipfile' and [alias.name for alias in node.names] == ['BadZipFile']


def _of_call(node, file):
  """Yields what is not allowed about a call."""
  name = _name(node.func)
  last = node.func.attr if isinstance(node.func, ast.Attribute) else name
  keywords = {keyword.arg: keyword.value for keyword in node.keywords}
  if isinstance(node.func, ast.Name) and name in _BUILTINS or name in _FUNCTIONS:
    yield f'calls {name}'
  if name == 'torch.load' and not _is(keywords.get('weights_only'), True):
    yield 'calls torch.load without weights_only=True'
  if last in _METHODS:
    yield f'calls .{last}'
  if 'shell' in keywords and not _is(keywords['shell'], False):
    yield 'gives shell='
  if 'allow_pickle' in keywords and not _is(keywords['allow_pickle'], False):
    yield 'gives allow_pickle='
  if last == 'import_module' and file not in _DYNAMIC_IMPORTS:
    yield 'imports a module by a name that is made'
  if name in ('np.load', 'numpy.load') and len(node.args) > 1:
    yield 'calls np.load with more than the file, which may be allow_pickle'


def _is(node, value):
  return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize(
  'source',
  [
    'import pickle',
    'from pickle import loads',
    'import marshal as m',
    'import yaml',
    'from zipfile import ZipFile',
    'import xml.etree.ElementTree',
    'def f():\n  import shelve',
    'eval("1")',
    'exec(text)',
    'compile(text, "", "exec")',
    '__import__(name)',
    'os.system("ls")',
    'os.popen("ls")',
    'from os import system',
    'subprocess.run("ls", shell=True)',
    'subprocess.run("ls", shell=flag)',
    'archive.extractall("x")',
    'archive.extract("x")',
    'shutil.unpack_archive(x)',
    'np.load(x, allow_pickle=True)',
    'np.load(x, allow_pickle=flag)',
    'np.load(x, None, True)',
    'importlib.import_module(name)',
    'torch.load(x)',
    'torch.load(x, weights_only=False)',
    'torch.load(x, weights_only=flag)',
    'from torch import load',
    'tf.py_function(f, [], tf.int32)',
  ],
)
def test_the_search_finds(source):
  assert problems(source)


@pytest.mark.parametrize(
  'source',
  [
    're.compile("x")',
    'json.loads(text)',
    'np.load(x)',
    'np.load(x, allow_pickle=False)',
    'subprocess.run(["ls"], shell=False)',
    'import importlib.resources',
    'model.eval()',
    'import zlib',
    'from zipfile import BadZipFile',
    'config.load(path, overrides)',
    'torch.load(x, map_location="cpu", weights_only=True)',
  ],
)
def test_the_search_passes_over(source):
  assert not problems(source)


@pytest.mark.parametrize('file', FILES)
def test_no_input_becomes_code_and_no_archive_is_unpacked(file):
  if file.endswith('_pb2.py'):
    return  # Made by protoc; its descriptors are constants of its own.
  found = problems((REPOSITORY / file).read_text(encoding='utf-8'), file)
  assert not found, f'{file}: {"; ".join(found)}'


def test_security_names_this_test_and_the_campaign():
  text = (REPOSITORY / 'SECURITY.md').read_text(encoding='utf-8')
  for path in ('tests/test_security.py', 'tests/test_torture.py', 'scripts/torture.py'):
    assert path in text and (REPOSITORY / path).is_file()
