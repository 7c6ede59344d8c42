"""Writes the report of an evaluated run, or of several side by side, as one HTML file.

  deeplab2-report RUNS/<experiment_name>
  deeplab2-report RUN OTHER_RUN --output=comparison.html

The file needs no network. What it shows, and of which evaluation: docs/report.md.
"""

import sys

from deeplab2 import command_line
from deeplab2.report import write


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_argument(
    'runs', nargs='+', type=command_line.path, metavar='RUN', help='Directory of a run.'
  )
  parser.add_path('--output', help='HTML file to write; by default report.html in the first run.')

  def report():
    parsed = parser.parse_args(arguments)
    print(write.write(parsed.runs, parsed.output))

  return command_line.run(report)


if __name__ == '__main__':
  sys.exit(main())
