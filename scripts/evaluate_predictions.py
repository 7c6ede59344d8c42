"""See deeplab2/evaluation/evaluate_predictions.py."""

import sys

from deeplab2.evaluation.evaluate_predictions import main

if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
