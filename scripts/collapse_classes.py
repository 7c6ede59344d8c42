"""See deeplab2/commands/collapse_classes.py."""

import sys

from deeplab2.commands.collapse_classes import main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
