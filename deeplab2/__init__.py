"""Panoptic segmentation with kMaX-DeepLab and ReMaX on TensorFlow 2.

Importing the package before TensorFlow spares its users two things that TensorFlow does otherwise,
unless the environment asks for them: the lines about its build (and, without a GPU, an error for
that), and importing Keras 3, with scikit-learn and Matplotlib, next to the tf_keras that is used.
"""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2' if os.path.exists('/dev/nvidia0') else '3')
os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
