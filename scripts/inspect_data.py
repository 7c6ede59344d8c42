"""See deeplab2/commands/inspect_data.py."""

import sys

from deeplab2.commands.inspect_data import main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
