"""The layers of the package: which part may import which, and where libraries are used."""

import ast
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[1]

# A part imports parts of its own layer or a lower one. PEERS do not import one another.
LAYERS = {
  'errors': 1,
  'structures': 1,
  'resampling': 1,
  'kernels': 1,
  'command_line': 1,
  'files': 1,
  'locks': 1,
  'randomness': 1,
  'config': 1,
  'metrics': 1,
  'checkpoint': 1,
  'data': 2,
  'model': 2,
  'loss': 2,
  'assemble': 3,
  'model_size': 4,
  'inference': 4,
  'evaluation': 4,
  'report': 5,
  'trainer': 5,
  'commands': 5,
}
# A command line that lives in a part of a lower layer.
COMMAND_LINES = {'deeplab2/checkpoint/convert.py': 4}
# What the package itself offers, imported when it is asked for.
PUBLIC = (
  'deeplab2.errors.UserError',
  'deeplab2.inference.loading',
  'deeplab2.inference.model.Model',
  'deeplab2.inference.result.Result',
)
PEERS = ('data', 'model', 'loss')
# Only these read options; all other code takes plain arguments.
OPTIONS_READERS = (
  'deeplab2/config/',
  'deeplab2/assemble.py',
  'deeplab2/trainer/train.py',
  'deeplab2/inference/predict.py',
  'deeplab2/inference/export.py',
  'deeplab2/commands/',
  'deeplab2/trainer/event_files.py',  # TensorBoard's protocol buffers.
  'scripts/',
)


def _files(*directories):
  found = []
  for directory in directories:
    found += [str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / directory).rglob('*.py')]
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
      parts = package[: len(package) - node.level + 1] if node.level else []
      module = '.'.join([*parts, *([node.module] if node.module else [])])
      names.update(f'{module}.{alias.name}' for alias in node.names)
  return names


def _part(name):
  """Returns the part of the package that an imported name is of: deeplab2.model.heads -> model."""
  parts = name.split('.')
  return parts[1] if parts[0] == 'deeplab2' and len(parts) > 1 else None


def _part_of_file(file):
  parts = pathlib.PurePath(file).with_suffix('').parts
  return None if parts[1] == '__init__' else parts[1]


def _module(file):
  return file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def _attributes(file):
  return [node for node in ast.walk(_tree(file)) if isinstance(node, ast.Attribute)]


def test_imports_are_found():
  assert 'deeplab2.errors' in _imports('deeplab2/config/load.py')
  assert 'deeplab2.config.experiment.Config' in _imports('deeplab2/config/load.py')
  assert 'subprocess' in _imports('tests/test_layers.py')
  assert 'tests.config.configs' in _imports('tests/config/test_load.py')


def test_lower_layers_never_import_higher_ones():
  command_lines = [_module(file) for file in COMMAND_LINES]
  for file in PACKAGE:
    here = _part_of_file(file)
    for name in _imports(file):
      there = _part(name)
      if there is None:
        continue
      if here is None:
        assert name.startswith(PUBLIC), f'{file} is the package itself and imports {name}'
        continue
      assert there in LAYERS, f'{name} is in no layer'
      layer = COMMAND_LINES.get(file, LAYERS[here])
      assert LAYERS[there] <= layer, f'{file} imports {name} from a higher layer'
      assert name not in command_lines, f'{file} imports {name}, a command line'
      if here in PEERS and there in PEERS:
        assert here == there, f'{file} imports {name}, a peer'


def test_keras_is_imported_as_tf_keras():
  for file in EVERYTHING:
    for name in _imports(file):
      assert name.split('.')[0] != 'keras', f'{file} imports {name}, which is Keras 3'
      assert not name.startswith('tensorflow.') or 'keras' not in name, f'{file} imports {name}'
    for node in _attributes(file):
      root = node.value
      while isinstance(root, ast.Attribute):
        root = root.value
      assert not (node.attr == 'keras' and isinstance(root, ast.Name) and root.id == 'tf'), (
        f'{file}:{node.lineno} names tf.keras, which is Keras 3; import tf_keras'
      )


def test_libraries_are_used_where_they_belong():
  for file in PACKAGE:
    libraries = {name.split('.')[0] for name in _imports(file)}
    if not file.startswith('deeplab2/trainer/'):
      assert not libraries & {'orbit', 'official'}, file
    if file not in ('deeplab2/metrics/instance_ap.py', 'deeplab2/data/coco_instances.py'):
      assert 'pycocotools' not in libraries, file
    if not file.startswith('deeplab2/inference/video'):
      assert 'av' not in libraries, f'{file} needs PyAV, which is optional'


def test_graphs_run_without_python():
  """Input runs on other machines (data/service.py), and models are exported."""
  for file in PACKAGE:
    for node in _attributes(file):
      assert node.attr not in ('py_function', 'numpy_function', 'from_generator'), (
        f'{file}:{node.lineno} puts Python into a graph'
      )


def test_only_some_modules_read_options():
  for file in PACKAGE:
    if not file.startswith(OPTIONS_READERS):
      for name in _imports(file):
        assert not name.startswith('google.protobuf'), f'{file} imports {name}'
        assert not any(part.endswith('_pb2') for part in name.split('.')), f'{file} imports {name}'


def test_serving_needs_no_training_library():
  modules = [
    _module(file) for file in _files('deeplab2/model', 'deeplab2/checkpoint', 'deeplab2/inference')
  ]
  code = (
    f'import importlib, sys\n'
    f'for name in {modules}: importlib.import_module(name)\n'
    f'print(sorted({{"orbit", "official", "tensorflow_models"}} & set(sys.modules)))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=REPOSITORY,
    text=True,
    capture_output=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.splitlines()[-1] == '[]'
