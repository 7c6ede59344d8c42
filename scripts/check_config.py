"""See deeplab2/commands/check_config.py."""

import sys

from deeplab2.commands.check_config import main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
