"""See deeplab2/commands/report.py."""

import sys

from deeplab2.commands.report import main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
