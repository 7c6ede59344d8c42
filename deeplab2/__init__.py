"""Panoptic segmentation with kMaX-DeepLab and ReMaX on TensorFlow 2."""
