"""Measures one part of the system; the last line printed is one JSON object.

  python scripts/benchmark.py input    --config_file=CONFIG --records='FILES*' [--set a.b=c ...]
  python scripts/benchmark.py train    --config_file=CONFIG [--set a.b=c ...]
  python scripts/benchmark.py infer    --config_file=CONFIG [--set a.b=c ...]
  python scripts/benchmark.py eval     --config_file=CONFIG [--set a.b=c ...]
  python scripts/benchmark.py matching --config_file=CONFIG [--set a.b=c ...]

`input` measures a picture through the training pipeline; `train` a whole step (forward, losses,
backward, update) on a made batch; `infer` the network, the post-processing and both together on
one made picture; `eval` one update of panoptic quality; `matching` one assignment.

`cpu_ms` is the process time of all threads and hardly depends on what else the machine does;
`wall_ms` does. `first_call_s` holds tracing and the first run. `peak_mb` is the peak resident
memory of the process, TensorFlow itself (about 500 MB) included.
"""
import argparse
import json
import resource
import statistics
import sys
import time

import numpy as np
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import errors
from deeplab2 import structures
from deeplab2.config import load
from deeplab2.data import targets as data_targets
from deeplab2.loss import matching
from deeplab2.metrics import panoptic_quality


def measure(run, repeats: int) -> dict:
  """Calls `run` once, then `repeats` times; returns times in ms, first call in s, peak in MB."""
  started = time.perf_counter()
  run()
  first_call = time.perf_counter() - started
  wall, cpu = [], []
  for _ in range(repeats):
    wall_started, cpu_started = time.perf_counter(), time.process_time()
    run()
    wall.append(1e3 * (time.perf_counter() - wall_started))
    cpu.append(1e3 * (time.process_time() - cpu_started))
  return {
      'wall_ms_median': round(statistics.median(wall), 3),
      'wall_ms_min': round(min(wall), 3),
      'cpu_ms_median': round(statistics.median(cpu), 3),
      'peak_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
      'first_call_s': round(first_call, 2),
  }


def made_labels(label_space: structures.LabelSpace, size, segments: int, seed: int) -> np.ndarray:
  """Returns an int32 panoptic map [H, W] of `segments` Voronoi cells, two thirds of them things."""
  generator = np.random.default_rng(seed)
  height, width = size
  centers = generator.uniform(size=(segments, 2)) * (height, width)
  rows, columns = np.mgrid[:height, :width]
  distance = (rows[..., None] - centers[:, 0])**2 + (columns[..., None] - centers[:, 1])**2
  cell = np.argmin(distance, axis=-1)
  ids, used = [], {}
  for index in range(segments):
    if index % 3 or not label_space.stuff_ids:
      class_id = int(generator.choice(label_space.thing_ids))
      used[class_id] = used.get(class_id, 0) + 1
      ids.append(class_id * label_space.label_divisor + used[class_id])
    else:
      ids.append(int(generator.choice(label_space.stuff_ids)) * label_space.label_divisor)
  return np.asarray(ids, np.int32)[cell]
