"""What an evaluation leaves behind: log, JSON, painted pictures, raw maps."""
from collections.abc import Callable, Mapping
import json
import math
import os

from absl import logging
import numpy as np
import PIL.Image
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.inference import drawing
from deeplab2.trainer import diagnostics
from deeplab2.trainer import evaluator
from deeplab2.trainer import scores

_LOSS = 'losses/eval_'


class Report:
  """Scores the pictures of an evaluation, logs the result and writes it to a JSON file."""

  def __init__(self, info: datasets.DatasetInfo, directory: str, global_step: tf.Variable, *,
               with_ap: bool, detailed_ap: bool,
               training: Callable[[], Mapping[str, float]] = dict):
    """Creates a report.

    Args:
      info: the dataset that the maps speak of.
      directory: where `metrics-<step>.json` is written; need not exist.
      global_step: of the model that is evaluated.
      with_ap: whether the average precision of instances is measured.
      detailed_ap: whether all of COCO's twelve numbers go to TensorBoard.
      training: returns the newest logs of the training that goes on beside, by tag, if any.
    """
    self._info = info
    self._directory = directory
    self._global_step = global_step
    self._with_ap = with_ap
    self._detailed_ap = detailed_ap
    self._training = training
    self._scores: scores.Scores | None = None

  def begin(self) -> None:
    """Forgets the evaluation before."""
    self._scores = scores.Scores(self._info.label_space, with_ap=self._with_ap)

  def add(self, index: int, picture: evaluator.Picture) -> None:
    """Adds one picture, which has labels."""
    del index
    self._scores.add(picture)

  def end(self, measured: Mapping[str, float]) -> Mapping[str, float]:
    """Logs and writes the result; returns the scalars for TensorBoard.

    Args:
      measured: mean losses and diagnostics of this evaluation by tag, and evaluator.SKIPPED.

    Raises:
      UserError: if the file cannot be written.
    """
    numbers, step = self._scores.result(), int(self._global_step.numpy())
    space, names = self._info.label_space, self._info.class_names
    logging.info('Evaluation of step %d: %s', step, scores.as_table(numbers, space, names))
    bad = [name for name, value in measured.items() if not math.isfinite(value)]
    if bad:
      logging.warning('Not finite, and null in the JSON file: %s', ', '.join(bad))
    content = {'step': step, **scores.as_json(numbers, space, names),
               **{key: {name.removeprefix(prefix): None if name in bad else value
                        for name, value in measured.items() if name.startswith(prefix)}
                  for key, prefix in (('losses', _LOSS), ('diagnostics', diagnostics.PREFIX))}}
    if evaluator.SKIPPED in measured:
      content[evaluator.SKIPPED] = int(measured[evaluator.SKIPPED])
    training = self._training()
    if training:
      content['training'] = dict(training)
    write_json(os.path.join(self._directory, f'metrics-{step}.json'), content)
    return scores.as_scalars(numbers, detailed_ap=self._detailed_ap)


class Painter:
  """Writes the first pictures of every evaluation as PNG files and to TensorBoard.

  Beside `<number>_panel.png` (picture, prediction and truth with class names) these are DeepLab2's
  `_image`, `_panoptic_prediction`, `_panoptic_label`, `_semantic_prediction`, `_semantic_label`
  and `_semantic_error` (white where the class is wrong).
  """

  def __init__(self, info: datasets.DatasetInfo, directory: str, global_step: tf.Variable,
               num_pictures: int):
    """Creates a painter that overwrites the files of the evaluation before."""
    self._info = info
    self._directory = directory
    self._global_step = global_step
    self._num_pictures = num_pictures

  def add(self, index: int, picture: evaluator.Picture) -> None:
    """Paints picture `index` if it is one of the first.

    Raises:
      UserError: if a file cannot be written.
    """
    if index >= self._num_pictures:
      return
    space, colors = self._info.label_space, self._info.colors
    panel = drawing.panel(picture.image, picture.maps.panoptic, picture.truth, space,
                          self._info.class_names, colors)
    tf.summary.image(f'pictures/{index:06d}', panel[np.newaxis], step=self._global_step)
    semantic = picture.maps.semantic
    painted = {
        'panel': panel,
        'image': np.clip(picture.image, 0, 255).astype(np.uint8),
        'panoptic_prediction': drawing.paint(picture.maps.panoptic, space, colors),
        'semantic_prediction': drawing.paint(semantic * space.label_divisor, space, colors),
    }
    if picture.truth is not None:
      truth = picture.truth // space.label_divisor
      wrong = (semantic != truth) & (truth != space.ignore_label)
      painted.update({
          'panoptic_label': drawing.paint(picture.truth, space, colors),
          'semantic_label': drawing.paint(truth * space.label_divisor, space, colors),
          'semantic_error': 255 * wrong.astype(np.uint8)})
    for name, pixels in painted.items():
      _write_png(os.path.join(self._directory, f'{index:06d}_{name}.png'), pixels)


def read_all(run: str) -> dict[int, dict]:
  """Returns what `Report` wrote for every evaluation of a run's folder, by step, in its order."""
  found = {}
  for path in tf.io.gfile.glob(os.path.join(run, 'eval', 'metrics-*.json')):
    with tf.io.gfile.GFile(path) as file:
      content = json.load(file)
    found[content['step']] = content
  return dict(sorted(found.items()))


def write_json(path: str, content: Mapping) -> None:
  """Writes a JSON file whole or not at all.

  Raises:
    UserError: if it cannot be written.
  """
  text = json.dumps(content, indent=1, allow_nan=False, default=float)
  try:
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.gfile.GFile(f'{path}.tmp', 'w') as file:
      file.write(text)
    tf.io.gfile.rename(f'{path}.tmp', path, overwrite=True)
  except (OSError, tf.errors.OpError) as error:
    raise errors.UserError(f'{path} cannot be written: {error}') from error


def _write_png(path, pixels):
  try:
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.gfile.GFile(path, 'wb') as file:
      PIL.Image.fromarray(pixels).save(file, 'png')
  except (OSError, tf.errors.OpError) as error:
    raise errors.UserError(f'{path} cannot be written: {error}') from error
