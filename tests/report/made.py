"""Runs as a training leaves them, of shapes and perturbed ground truth: no model is needed."""

import numpy as np
import tensorflow as tf

from deeplab2 import structures
from deeplab2.data import datasets
from deeplab2.data import shapes
from deeplab2.trainer import evaluator
from deeplab2.trainer import reports

INFO = datasets.get('shapes')
STEPS = (10, 20, 30)


def evaluated_image(number, error_rate, seed=0):
  """Returns a shapes image, segmented by giving a part of its segments another class or none."""
  image, label = shapes.generate(0, 'val', number, INFO.label_space)
  random = np.random.default_rng([seed, number])
  prediction, score = label.copy(), np.ones(label.shape, np.float32)
  for panoptic_id in np.unique(label).tolist():
    inside = label == panoptic_id
    is_wrong = random.random() < error_rate
    if is_wrong:
      class_id = int(random.integers(1, 10))
      is_thing = class_id in INFO.label_space.thing_ids
      prediction[inside] = class_id * 256 + (40 + panoptic_id % 7 if is_thing else 0)
    score[inside] = random.uniform(0.3, 0.7) if is_wrong else random.uniform(0.6, 1.0)
  # Every outline is off by two pixels.
  prediction, score = np.roll(prediction, 2, 1), np.roll(score, 2, 1)
  maps = structures.PanopticMap(
    prediction, prediction % 256, prediction // 256, score, np.ones_like(score)
  )
  return evaluator.EvaluatedImage(
    number, f'val_{number:06d}', image.astype(np.float32), maps, maps, label, label,
    {'total_loss': np.float32(error_rate)},
  )  # fmt: skip


def make_run(directory, error_rate=0.4, *, seed=0, images=30, keep=True, evaluated=None):
  """Writes evaluations at STEPS, of which the last keeps segments if `keep`, and training logs."""
  usual = {'set': 'a0b1', 'dataset': 'shapes', 'file_pattern': ['val-*'], 'files': 'f0'}
  evaluated = {**usual, **(evaluated or {})}
  with tf.summary.create_file_writer(str(directory / 'train')).as_default():
    for step in range(2, 31, 2):
      tf.summary.scalar('losses/train_total_loss', 100.0 / step, step=step)
      tf.summary.scalar('losses/train_semantic_loss', 10.0 / step, step=step)
      tf.summary.scalar('losses/train_aux_0semantic_loss', 1.0, step=step)
      tf.summary.scalar('learning_rate', 0.001 * (1 - step / 30), step=step)
  for step in STEPS:
    is_last = step == STEPS[-1]
    report = reports.Report(
      INFO,
      str(directory / 'eval'),
      tf.Variable(step, dtype=tf.int64, trainable=False),
      with_ap=False,
      detailed_ap=False,
      evaluated=evaluated,
      with_segments=keep and is_last,
    )
    metrics = report.metrics()
    for number in range(images if is_last else 4):
      for metric in metrics.values():
        metric.update(evaluated_image(number, error_rate * (60 - step) / 30, seed))
    report.write({name: metric.result() for name, metric in metrics.items()})
  return directory
