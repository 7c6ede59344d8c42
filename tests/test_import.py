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
