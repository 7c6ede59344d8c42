"""The floors of the house: who may import whom, and which libraries are used where."""
import ast
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]

# Lower never imports higher. The wings of one floor do not import one another.
FLOORS = {
    'errors': 1, 'structures': 1, 'resampling': 1, 'command_line': 1, 'files': 1, 'locks': 1,
    'randomness': 1,
    'config': 1, 'metrics': 1, 'checkpoint': 1,
    'data': 2, 'model': 2, 'loss': 2,
    'assemble': 3,
    'inference': 4,
    'trainer': 5,
}
# A command line in a room of a lower floor.
COMMAND_LINES = {'deeplab2/checkpoint/convert.py': 4}
WINGS = ('data', 'model', 'loss')
# Only these read options; all other code takes plain arguments.
OPTIONS_READERS = (
    'deeplab2/config/', 'deeplab2/assemble.py', 'deeplab2/trainer/train.py',
    'deeplab2/inference/predict.py', 'deeplab2/inference/export.py', 'scripts/')


def _files(*folders):
  found = []
  for folder in folders:
    found += [str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / folder).rglob('*.py')]
  return sorted(found)


PACKAGE = _files('deeplab2')
EVERYTHING = PACKAGE + _files('scripts', 'tests')


def _tree(file):
  return ast.parse((REPOSITORY / file).read_text(), file)


def _imports(file):
  """Returns the full names of everything that `file` imports, inside functions too."""
  package = list(pathlib.PurePath(file).parent.parts)
  names = set()
  for node in ast.walk(_tree(file)):
    if isinstance(node, ast.Import):
      names.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parts = package[:len(package) - node.level + 1] if node.level else []
      module = '.'.join([*parts, *([node.module] if node.module else [])])
      names.update(f'{module}.{alias.name}' for alias in node.names)
  return names


def _room(name):
  """Returns the part of the package that an imported name is of: deeplab2.model.heads -> model."""
  parts = name.split('.')
  return parts[1] if parts[0] == 'deeplab2' and len(parts) > 1 else None


def _modules(files):
  return [file.removesuffix('.py').replace('/', '.') for file in files]


def _room_of(file):
  parts = pathlib.PurePath(file).with_suffix('').parts
  return None if parts[1] == '__init__' else parts[1]


def test_imports_are_found():
  assert 'deeplab2.errors' in _imports('deeplab2/config/load.py')
  assert 'deeplab2.config.experiment.Config' in _imports('deeplab2/config/load.py')
  assert 'subprocess' in _imports('tests/test_floors.py')
  assert 'tests.config.configs' in _imports('tests/config/test_load.py')


@pytest.mark.parametrize('file', PACKAGE)
def test_lower_never_imports_higher(file):
  here = _room_of(file)
  for name in _imports(file):
    there = _room(name)
    if there is None:
      continue
    assert here is not None, f'{file} is the package itself and imports nothing, but {name}'
    assert there in FLOORS, f'{name} stands on no floor'
    floor = COMMAND_LINES.get(file, FLOORS[here])
    assert FLOORS[there] <= floor, f'{file} imports {name} from a higher floor'
    assert name not in _modules(COMMAND_LINES), f'{file} imports {name}, a command line'
    if here in WINGS and there in WINGS:
      assert here == there, f'{file} imports {name} from another wing'


@pytest.mark.parametrize('file', EVERYTHING)
def test_keras_goes_by_its_own_name(file):
  for name in _imports(file):
    assert name.split('.')[0] != 'keras', f'{file} imports {name}, which is Keras 3'
    assert not name.startswith('tensorflow.') or 'keras' not in name, f'{file} imports {name}'
  for node in ast.walk(_tree(file)):
    if isinstance(node, ast.Attribute) and node.attr == 'keras':
      root = node.value
      while isinstance(root, ast.Attribute):
        root = root.value
      assert not (isinstance(root, ast.Name) and root.id == 'tf'), (
          f'{file}:{node.lineno} names tf.keras, which is Keras 3; import tf_keras')


@pytest.mark.parametrize('file', PACKAGE)
def test_libraries_stay_in_their_rooms(file):
  libraries = {name.split('.')[0] for name in _imports(file)}
  if not file.startswith('deeplab2/trainer/'):
    assert not libraries & {'orbit', 'official'}
  if file not in ('deeplab2/metrics/instance_ap.py', 'deeplab2/data/coco_instances.py'):
    assert 'pycocotools' not in libraries


@pytest.mark.parametrize('file', PACKAGE)
def test_graphs_run_without_python(file):
  """Input runs on other machines (data/service.py), and models are exported."""
  for node in ast.walk(_tree(file)):
    if isinstance(node, ast.Attribute):
      assert node.attr not in ('py_function', 'numpy_function', 'from_generator'), (
          f'{file}:{node.lineno} puts Python into a graph')


@pytest.mark.parametrize('file', PACKAGE)
def test_options_are_read_by_few(file):
  if file.startswith(OPTIONS_READERS):
    return
  for name in _imports(file):
    assert not name.startswith('google.protobuf'), f'{file} imports {name}'
    assert not any(part.endswith('_pb2') for part in name.split('.')), f'{file} imports {name}'


def test_serving_needs_no_training_library():
  modules = [file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
             for file in _files('deeplab2/model', 'deeplab2/checkpoint', 'deeplab2/inference')]
  code = (f'import importlib, sys\n'
          f'for name in {modules}: importlib.import_module(name)\n'
          f'print(sorted({{"orbit", "official", "tensorflow_models"}} & set(sys.modules)))\n')
  done = subprocess.run([sys.executable, '-c', code], cwd=REPOSITORY, text=True,
                        capture_output=True, check=False, timeout=300)
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.splitlines()[-1] == '[]'
