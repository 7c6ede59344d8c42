"""See deeplab2/evaluation/evaluate_predictions.py."""

import sys

from deeplab2.evaluation import evaluate_predictions

if __name__ == '__main__':
  sys.exit(evaluate_predictions.main(sys.argv[1:]))
