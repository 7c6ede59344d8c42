"""The output of an evaluation: log, JSON, drawn images, raw maps."""

from collections.abc import Callable, Mapping, Sequence
import math
import os
from typing import Any, Protocol

from absl import logging
import numpy as np
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.inference import drawing
from deeplab2.report import collector
from deeplab2.report import segments_file
from deeplab2.trainer import evaluated as evaluated_lib
from deeplab2.trainer import evaluator
from deeplab2.trainer import loss_means
from deeplab2.trainer import scores
from deeplab2.trainer import summaries as summaries_lib

SKIPPED = 'skipped_records'  # Tag of the number of corrupt records.
_NOTE = 'evaluated.json'


class Metric(Protocol):
  """Measures the images of one evaluation."""

  def update(self, image: evaluator.EvaluatedImage) -> None:
    """Adds one image, which has labels."""

  def result(self) -> Any:
    """Returns the result."""

  def state(self) -> Mapping[str, np.ndarray]:
    """Returns the state that `set_state` takes."""

  def set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Goes on from what `state` returned."""


class Report:
  """The metrics of an evaluation, its log, and its JSON file."""

  def __init__(
    self,
    info: datasets.DatasetInfo,
    directory: str,
    global_step: tf.Variable,
    *,
    with_ap: bool,
    detailed_ap: bool,
    evaluated: Mapping[str, Any] | None = None,
    training: Callable[[], Mapping[str, float]] = dict,
    with_segments: bool = False,
    finish: Callable[[str], None] | None = None,
  ):
    """Creates a report.

    Args:
      info: the dataset that the maps speak of.
      directory: where `metrics-<step>.json` is written; need not exist.
      global_step: of the model that is evaluated.
      with_ap: whether the average precision of instances is measured.
      detailed_ap: whether all of COCO's twelve numbers go to TensorBoard.
      evaluated: what is evaluated (see evaluated.py), its `checkpoint` included.
      training: returns the newest logs of the training that goes on meanwhile, by tag, if any.
      with_segments: whether what became of every segment is kept, beside the JSON file.
      finish: called at the end with the path of the JSON file.
    """
    self._info = info
    self._directory = directory
    self._with_segments = with_segments
    self._finish = finish
    self._global_step = global_step
    self._with_ap = with_ap
    self._detailed_ap = detailed_ap
    self._evaluated = dict(evaluated or {})
    self._training = training

  def metrics(self) -> dict[str, Metric]:
    """Returns the metrics of one evaluation, by name; `write` takes their results."""
    found: dict[str, Metric] = {
      'losses': loss_means.LossMeans(),
      'scores': scores.Scores(self._info.label_space, with_ap=self._with_ap),
    }
    if self._with_segments:
      found['segments'] = collector.Collector(self._info)
    return found

  def is_written(self) -> bool:
    """Returns whether there are numbers of the same evaluation at the model's step.

    Those that do not say what was evaluated, of older versions, count.
    """
    step = int(self._global_step.numpy())
    return any(
      content['step'] == step
      and (
        'evaluated' not in content
        or evaluated_lib.identity(content['evaluated']) == self._identity(step)
      )
      for _, content in read_files(self._directory)
    )

  def _identity(self, step):
    return evaluated_lib.identity({'checkpoint': f'ckpt-{step}', **self._evaluated})

  def write(self, results: Mapping[str, Any], num_corrupt: int = 0) -> dict[str, float]:
    """Logs and writes the results; returns the scalars for TensorBoard.

    Args:
      results: of `metrics`, by name.
      num_corrupt: number of records that were skipped.

    Raises:
      UserError: if the file cannot be written.
    """
    measured, numbers = results['losses'], results['scores']
    step = int(self._global_step.numpy())
    space, names = self._info.label_space, self._info.class_names
    logging.info('Evaluation of step %d: %s', step, scores.as_table(numbers, space, names))
    bad = [name for name, value in measured.items() if not math.isfinite(value)]
    if bad:
      logging.warning('Not finite, and null in the JSON file: %s', ', '.join(bad))
    content = {
      'step': step,
      'evaluated': {
        'checkpoint': f'ckpt-{step}',
        **self._evaluated,
        'num_images': numbers.num_images,
      },
      **scores.as_json(numbers, space, names),
      **{
        key: {
          name.removeprefix(prefix): None if name in bad else value
          for name, value in measured.items()
          if name.startswith(prefix)
        }
        for key, prefix in (('losses', loss_means.LOSSES), ('diagnostics', loss_means.DIAGNOSTICS))
      },
    }
    if num_corrupt:
      content[SKIPPED] = num_corrupt
    training = self._training()
    if training:
      content['training'] = dict(training)
    path = _path(self._directory, step, self._identity(step))
    files.write_json(path, content)
    if 'segments' in results:
      self._write_segments(segments_file.beside(path), content, results['segments'])
    if self._finish is not None:
      self._finish(path)
    return {**measured, **scores.as_scalars(numbers, detailed_ap=self._detailed_ap)}

  def _write_segments(self, path, content, lines):
    space = self._info.label_space
    classes = [
      {'id': i, 'name': self._info.class_names[i], 'isthing': i in space.thing_ids}
      for i in sorted(space.class_order)
    ]
    head = {name: content[name] for name in ('step', 'evaluated')}
    segments_file.write(path, {**head, 'dataset': self._info.name, 'classes': classes}, lines)


class Visualizer:
  """Writes the first images of every evaluation as PNG files and to TensorBoard.

  `<number>_panel.png` shows image, prediction and ground truth with class names. The others are
  DeepLab2's: `_image`, `_panoptic_prediction`, `_panoptic_label`,
  `_semantic_prediction`, `_semantic_label` and `_semantic_error` (white where the class is wrong).
  """

  def __init__(
    self,
    info: datasets.DatasetInfo,
    directory: str,
    summaries: summaries_lib.Summaries,
    num_images: int,
  ):
    """Creates a visualizer that overwrites the files of the evaluation before.

    Args:
      info: the dataset that the maps speak of.
      directory: for the PNG files; made if it is missing.
      summaries: of the evaluation.
      num_images: how many are drawn.
    """
    self._info = info
    self._directory = directory
    self._summaries = summaries
    self._num_images = num_images

  def update(self, image: evaluator.EvaluatedImage) -> None:
    """Draws an image if it is one of the first.

    Raises:
      UserError: if a file cannot be written.
    """
    if image.number >= self._num_images:
      return
    info, space = self._info, self._info.label_space
    panel = drawing.panel(image.image, image.maps.panoptic, image.ground_truth, info)
    self._summaries.image(f'images/{image.number:06d}', panel)
    semantic = image.maps.semantic
    drawn = {
      'panel': panel,
      'image': np.clip(image.image, 0, 255).astype(np.uint8),
      'panoptic_prediction': drawing.colorize(image.maps.panoptic, info),
      'semantic_prediction': drawing.colorize(semantic * space.label_divisor, info),
    }
    if image.ground_truth is not None:
      ground_truth = image.ground_truth // space.label_divisor
      wrong = (semantic != ground_truth) & (ground_truth != space.ignore_label)
      drawn.update(
        {
          'panoptic_label': drawing.colorize(image.ground_truth, info),
          'semantic_label': drawing.colorize(ground_truth * space.label_divisor, info),
          'semantic_error': 255 * wrong.astype(np.uint8),
        }
      )
    for name, pixels in drawn.items():
      path = os.path.join(self._directory, f'{image.number:06d}_{name}.png')
      files.write_whole(path, images.encode(pixels, 'png').data)


def _path(directory, step, identity):
  """Returns the file of an evaluation: another one where there are numbers of something else."""
  path = os.path.join(directory, f'metrics-{step}.json')
  another = os.path.join(directory, f'metrics-{step}-{evaluated_lib.digest(identity)}.json')
  if tf.io.gfile.exists(another):
    return another
  if not tf.io.gfile.exists(path):
    return path
  content = _read_file(path)
  if content is None or evaluated_lib.identity(content.get('evaluated', {})) == identity:
    return path
  logging.info('%s is of another evaluation and stays; this one goes to %s.', path, another)
  return another


def read_all(run: str, besides: Sequence[str] | None = None) -> dict[int, dict]:
  """Returns the metrics files that `Report` wrote in a run's directory by step, in its order.

  Where several sets of images (or ways to segment them) were evaluated, it is that of the most
  steps, the last of these in the order of their digests. Evaluations that do not say what they are
  of, from older versions, stand in where the set has none. Files that cannot be read are warned of
  and left out.

  Args:
    run: the directory.
    besides: file patterns; evaluations of exactly these (see `read_images`) are left out.
  """
  sets: dict[str, dict[int, dict]] = {}
  for _, content in read_files(os.path.join(run, 'eval')):
    evaluated = content.get('evaluated', {})
    if besides is not None and evaluated.get('file_pattern') == list(besides):
      continue
    of_set = sets.setdefault(evaluated.get('set') or '', {})
    of_set[content['step']] = content
  unnamed = sets.pop('', {})
  if not sets:
    return dict(sorted(unnamed.items()))
  chosen = max(sets, key=lambda name: (len(sets[name]), name))
  if len(sets) > 1:
    logging.warning(
      '%s: %d different sets or ways were evaluated; shown is %s (%s), that of the most steps.',
      run,
      len(sets),
      chosen,
      _named(next(iter(sets[chosen].values()))),
    )
  return dict(sorted({**unnamed, **sets[chosen]}.items()))


def read_images(run: str, file_pattern: Sequence[str]) -> dict[int, dict]:
  """Returns the metrics files of a run's evaluations of some images by step, in its order.

  Args:
    run: the directory.
    file_pattern: of the records that were evaluated, as the config had it.
  """
  found = {
    content['step']: content
    for _, content in read_files(os.path.join(run, 'eval'))
    if content.get('evaluated', {}).get('file_pattern') == list(file_pattern)
  }
  return dict(sorted(found.items()))


def _named(content):
  evaluated = content['evaluated']
  return f'{evaluated.get("dataset")}, {", ".join(evaluated.get("file_pattern", ()))}'


def read_files(directory):
  """Yields (path, content) of the metrics files of a directory that can be read, by name."""
  for name in files.matching(directory, r'metrics-.*\.json'):
    path = os.path.join(directory, name)
    content = _read_file(path)
    if content is not None:
      yield path, content


def _read_file(path):
  """Returns the content of a metrics file; None, and a warning, if it is not one."""
  try:
    content = files.read_json(path)
  except errors.UserError as error:
    logging.warning('%s It is left out.', error)
    return None
  if (
    not isinstance(content, dict)
    or type(content.get('step')) is not int
    or not isinstance(content.get('evaluated', {}), dict)
  ):
    logging.warning('%s: holds no numbers of an evaluation; left out.', path)
    return None
  return content


def directory_of_set(directory: str, evaluated: Mapping[str, Any]) -> str:
  """Returns where images of a set are written: `directory`, or where it has others, next to it.

  The file `evaluated.json` in it says which set that is. A directory without it is taken over.

  Raises:
    UserError: the directory cannot be written.
  """
  for path in (directory, f'{directory.rstrip("/")}-{evaluated["set"]}'):
    note = os.path.join(path, _NOTE)
    there = files.read_json(note) if tf.io.gfile.exists(note) else {}
    if not isinstance(there, dict) or there.get('set') in (None, evaluated['set']):
      break
  files.write_json(note, evaluated)
  return path
