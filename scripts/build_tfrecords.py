"""See deeplab2/commands/build_tfrecords.py."""

import sys

from deeplab2.commands.build_tfrecords import main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
