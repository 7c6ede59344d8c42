"""See deeplab2/evaluation/tune_thresholds.py."""

import sys

from deeplab2.evaluation import tune_thresholds

if __name__ == '__main__':
  sys.exit(tune_thresholds.main(sys.argv[1:]))
