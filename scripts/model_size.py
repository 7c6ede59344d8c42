"""Counts parameters and multiply-adds of a config's model; prints one line of JSON per config.

  python scripts/model_size.py --config_file=CONFIG [--config_file=...] [--set a.b=c ...]

`parameters` and `multiply_adds` are those of inference: of the variables that it reads (running
statistics of batch norms not counted), for one image at the evaluation crop, post-processing
left out. `multiply_adds` counts convolutions, matrix products and einsums, and `by_part` splits
both by the part of the model. `training_only_parameters` are those that only training has:
heads of the decoder's layers, the semantic branch, and with ReMask, its semantic heads.
"""

import json
import sys

from deeplab2 import command_line
from deeplab2 import model_size
from deeplab2.config import load


def main(arguments) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', action='append', required=True)
  parser.add_overrides()

  def run():
    options = parser.parse_args(arguments)
    for path in options.config_file:
      result = model_size.of_config(load.load(path, options.set))
      print(json.dumps({'config': path, 'set': options.set, **result}), flush=True)

  return command_line.run(run)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
