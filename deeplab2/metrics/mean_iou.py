"""Mean intersection over union of semantic maps."""

from typing import NamedTuple

import numpy as np

from deeplab2 import structures


class MeanIoUResult(NamedTuple):
  """IoU in [0, 1]."""

  mean: float  # Over the classes that occur really or prediction; 0 if there is none.
  per_class: np.ndarray  # [num_classes] float64, 0 where a class does not occur.
  occurs: np.ndarray  # [num_classes] bool


class MeanIoU:
  """Accumulates a confusion matrix over images. Pixels without a true class do not count."""

  def __init__(self, label_space: structures.LabelSpace):
    self._space = label_space
    size = label_space.num_classes
    # [ground truth, prediction], the last prediction being none.
    self._confusion = np.zeros([size, size + 1], np.int64)

  def update(self, ground_truth: np.ndarray, prediction: np.ndarray) -> None:
    """Adds one image: maps [H, W] of dataset ids, the ground truth with ignored pixels.

    Raises:
      ValueError: if sizes differ, or an id is no class of the label space.
    """
    if ground_truth.shape != prediction.shape:
      raise ValueError(
        f'Ground truth {ground_truth.shape} and prediction {prediction.shape} differ in size.'
      )
    size = self._space.num_classes
    counted = ground_truth != self._space.ignore_label
    ground_truth, prediction = (
      ground_truth[counted].astype(np.int64),
      prediction[counted].astype(np.int64),
    )
    for classes, what in ((ground_truth, 'ground truth'), (prediction, 'prediction')):
      if classes.size and not 0 <= classes.min() <= classes.max() < size:
        raise ValueError(
          f'The {what} has classes {classes.min()} to {classes.max()}; known are 0 to {size - 1}.'
        )
    self._confusion[:, :size] += np.bincount(
      ground_truth * size + prediction, minlength=size * size
    ).reshape(size, size)

  def update_areas(
    self, ground_truth: np.ndarray, prediction: np.ndarray, areas: np.ndarray
  ) -> None:
    """Adds pairs of a true and a predicted class, and the number of pixels [n] of each.

    Args:
      ground_truth: [n] dataset ids; pairs of the ignore label do not count.
      prediction: [n] dataset ids; the ignore label for pixels without a predicted class, which
        their true class misses.
      areas: [n] number of pixels.
    """
    ignore = self._space.ignore_label
    counted = ground_truth != ignore
    missing = prediction == ignore
    predicted = np.where(missing, self._space.num_classes, prediction)[counted]
    np.add.at(self._confusion, (ground_truth[counted], predicted), areas[counted].astype(np.int64))

  def state(self) -> np.ndarray:
    """Returns what `set_state` takes: [num_classes, num_classes + 1] int64."""
    return self._confusion.copy()

  def set_state(self, confusion: np.ndarray) -> None:
    """Goes on from what `state` returned."""
    self._confusion = confusion.reshape(self._confusion.shape).astype(np.int64)

  def result(self) -> MeanIoUResult:
    """Returns the IoU of all images so far."""
    hits = np.diag(self._confusion)
    unions = self._confusion.sum(0)[:-1] + self._confusion.sum(1) - hits
    occurs = unions > 0
    per_class = np.divide(hits, unions, out=np.zeros(len(hits)), where=occurs)
    return MeanIoUResult(
      float(per_class[occurs].mean()) if occurs.any() else 0.0, per_class, occurs
    )
