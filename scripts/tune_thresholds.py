"""See deeplab2/evaluation/tune_thresholds.py."""

import sys

from deeplab2.evaluation.tune_thresholds import main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
