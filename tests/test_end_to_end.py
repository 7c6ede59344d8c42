"""The whole way on tiny sizes: build data, train, evaluate, export, predict - with one map."""
import json
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2.checkpoint import restore
from deeplab2.config import load
from deeplab2.data import coco_panoptic
from deeplab2.inference import predict

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = ROOT / 'configs/shapes/kmax_mobilenet_v3_small.textproto'
NAME = 'shapes_kmax_mobilenet_v3_small'


def run(*arguments, env, code=0):
  """Runs a command of the package in its own process; returns its output."""
  result = subprocess.run([sys.executable, *map(str, arguments)], env=env, capture_output=True,
                          text=True, cwd=ROOT, check=False)
  assert result.returncode == code, result.stdout + result.stderr
  return result.stdout + result.stderr
