"""Panoptic segmentation with kMaX-DeepLab and ReMaX on TensorFlow 2.

Importing the package before TensorFlow changes three defaults of TensorFlow's, unless the
environment has set them: it does not print the lines about its build (and, without a GPU, an error
for that), it takes the memory of GPUs as it needs it and not all at once, and it loads tf_keras,
which the package uses, and not Keras 3 with scikit-learn and Matplotlib as well.
"""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2' if os.path.exists('/dev/nvidia0') else '3')
os.environ.setdefault('TF_FORCE_GPU_ALLOW_GROWTH', 'true')
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
