"""Runs a LiteRT model on noise; prints times and memory as one JSON object.

  python scripts/run_litert.py --model=MODEL.tflite [--size=H,W] [--threads=1] [--repeats=5]

Imports NumPy and ai-edge-litert alone: `peak_mb` is what a program needs that runs the model.
"""

import argparse
import json
import statistics
import sys
import time

from ai_edge_litert import interpreter as litert
import numpy as np


def measure(path: str, size: tuple[int, int], threads: int, repeats: int) -> dict[str, float]:
  """Returns times of one image in ms, of loading in s, and peak memories of the process in MB."""
  before = _peak_mb()
  started = time.perf_counter()
  interpreter = litert.Interpreter(model_path=path, num_threads=threads)
  (described,) = interpreter.get_input_details()
  interpreter.resize_tensor_input(described['index'], [1, *size, 3])
  interpreter.allocate_tensors()
  image = np.random.default_rng(0).integers(0, 256, [1, *size, 3]).astype(described['dtype'])
  interpreter.set_tensor(described['index'], image)
  interpreter.invoke()
  loaded = time.perf_counter() - started
  wall, cpu = [], []
  for _ in range(repeats):
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    interpreter.invoke()
    wall.append(1e3 * (time.perf_counter() - wall_start))
    cpu.append(1e3 * (time.process_time() - cpu_start))
  return {
    'wall_ms_median': round(statistics.median(wall), 2),
    'wall_ms_min': round(min(wall), 2),
    'cpu_ms_median': round(statistics.median(cpu), 2),
    'first_call_s': round(loaded, 2),
    'peak_mb': round(_peak_mb()),
    'python_mb': round(before),
  }


def _peak_mb():
  # Not getrusage: a process inherits the peak of the one that started it.
  with open('/proc/self/status', encoding='ascii') as status:
    return next(int(line.split()[1]) for line in status if line.startswith('VmHWM')) / 1024


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--model', required=True)
  parser.add_argument('--size', default='641,641', help='Height and width of the image.')
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--repeats', type=int, default=5)
  options = parser.parse_args(arguments)
  height, width = map(int, options.size.split(','))
  print(json.dumps(measure(options.model, (height, width), options.threads, options.repeats)))
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
