"""See deeplab2/commands/instances_to_panoptic.py."""

import sys

from deeplab2.commands.instances_to_panoptic import main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
