"""What importing the package does to TensorFlow's defaults."""

import os
import subprocess
import sys

_NAMES = ('TF_CPP_MIN_LOG_LEVEL', 'TF_FORCE_GPU_ALLOW_GROWTH', 'TF_USE_LEGACY_KERAS')
_CODE = """
import os, sys
import deeplab2.inference.segmenter
import tensorflow as tf
tf.constant(1.0)
print({'keras', 'sklearn'} & set(sys.modules), *map(os.environ.get, sys.argv[1:]))
"""


def _run(**environment):
  kept = {name: value for name, value in os.environ.items() if name not in _NAMES}
  return subprocess.run(
    [sys.executable, '-c', _CODE, *_NAMES],
    env={**kept, **environment, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    capture_output=True,
    text=True,
    check=True,
  )


def test_no_banner_no_second_keras_and_gpu_memory_as_needed():
  done = _run()
  assert done.stderr == ''
  assert done.stdout.startswith('set() ') and done.stdout.endswith(' true 1\n')


def test_the_environment_has_precedence():
  done = _run(TF_FORCE_GPU_ALLOW_GROWTH='false', TF_CPP_MIN_LOG_LEVEL='1')
  assert done.stdout == 'set() 1 false 1\n'


def test_the_package_alone_imports_no_tensorflow_and_loading_no_training_library(tmp_path):
  code = """
import sys, deeplab2
assert {'load', 'Model', 'Result', 'UserError'} <= set(dir(deeplab2))
assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules
try:
  deeplab2.load(sys.argv[1])
except deeplab2.UserError as error:
  print(error)
assert deeplab2.Result.__module__ == 'deeplab2.inference.result'
assert deeplab2.Model.__module__ == 'deeplab2.inference.model'
assert not hasattr(deeplab2, 'nothing')
print({'orbit', 'official', 'tensorflow_models', 'pycocotools', 'matplotlib'} & set(sys.modules))
"""
  done = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path / 'none')],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    capture_output=True,
    text=True,
    check=True,
  )
  assert f'{tmp_path}/none: no such model; give the directory' in done.stdout
  assert done.stdout.endswith('set()\n'), done.stdout
