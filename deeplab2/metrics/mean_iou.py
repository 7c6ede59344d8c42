"""Mean intersection over union of semantic maps."""
from typing import NamedTuple

import numpy as np

from deeplab2 import structures


class MeanIoUResult(NamedTuple):
  """IoU in [0, 1]."""
  mean: float  # Over the classes that occur in truth or prediction; 0 if there is none.
  per_class: np.ndarray  # [num_classes] float64, 0 where a class does not occur.
  occurs: np.ndarray  # [num_classes] bool


class MeanIoU:
  """Accumulates a confusion matrix over pictures. Pixels without a true class do not count."""

  def __init__(self, label_space: structures.LabelSpace):
    self._space = label_space
    size = label_space.num_classes
    self._confusion = np.zeros([size, size], np.int64)  # [truth, prediction]

  def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
    """Adds one picture: maps [H, W] of dataset ids, the truth with ignored pixels.

    Raises:
      ValueError: if sizes differ, or an id is no class of the label space.
    """
    if truth.shape != prediction.shape:
      raise ValueError(f'Truth {truth.shape} and prediction {prediction.shape} differ in size.')
    size = self._space.num_classes
    counted = truth != self._space.ignore_label
    truth, prediction = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for classes, what in ((truth, 'truth'), (prediction, 'prediction')):
      if classes.size and not 0 <= classes.min() <= classes.max() < size:
        raise ValueError(f'The {what} has classes {classes.min()} to {classes.max()}; known are 0 '
                         f'to {size - 1}.')
    self._confusion += np.bincount(truth * size + prediction,
                                   minlength=size * size).reshape(size, size)

  def merge(self, other: 'MeanIoU') -> None:
    """Adds the pictures of another accumulator of the same label space."""
    if other._space != self._space:
      raise ValueError('Counts of different label spaces cannot be merged.')
    self._confusion += other._confusion

  def state(self) -> np.ndarray:
    """Returns what `set_state` takes: [num_classes, num_classes] int64."""
    return self._confusion.copy()

  def set_state(self, confusion: np.ndarray) -> None:
    """Goes on from what `state` returned."""
    self._confusion = confusion.reshape(self._confusion.shape).astype(np.int64)

  def result(self) -> MeanIoUResult:
    """Returns the IoU of all pictures so far."""
    hits = np.diag(self._confusion)
    unions = self._confusion.sum(0) + self._confusion.sum(1) - hits
    occurs = unions > 0
    per_class = np.divide(hits, unions, out=np.zeros(len(hits)), where=occurs)
    return MeanIoUResult(float(per_class[occurs].mean()) if occurs.any() else 0., per_class, occurs)
