"""See deeplab2/commands/plot_run.py."""

import sys

from deeplab2.commands.plot_run import main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
