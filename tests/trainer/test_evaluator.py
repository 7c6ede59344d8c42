"""The evaluation loop: which images it hands on, at which sizes, on how many replicas."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import randomness
from deeplab2.data import geometry
from deeplab2.inference import segmenter as segmenter_lib
from deeplab2.trainer import evaluator as evaluator_lib
from deeplab2.trainer import runtime
from tests.trainer import fakes


class _Counting:
  """A report that collects the images."""

  def __init__(self):
    self.collected = []

  def begin(self):
    self.collected.clear()

  def add(self, index, evaluated):
    self.collected.append((index, evaluated))

  def end(self, measured):
    del measured
    return {'count': float(len(self.collected))}


def _evaluator(dataset, loss=fakes.loss):
  """Returns (evaluator, model, collected images)."""
  model = fakes.TinyModel()
  model(tf.zeros([1, fakes.SIZE, fakes.SIZE, 3]))
  crop = (fakes.SIZE, fakes.SIZE)
  report = _Counting()
  created = evaluator_lib.Evaluator(
    lambda batches: runtime.distribute(dataset.skip(batches), fetch_to_device=False),
    model=model,
    loss=loss,
    segmenter=segmenter_lib.Segmenter(
      model, fakes.post_process, crop_size=crop, resize=geometry.Resize()
    ),
    callbacks=[],
    report=report,
  )
  return created, model, report.collected


@pytest.mark.parametrize('batch', [1, 2])
def test_every_image_once_at_both_sizes_without_padding_examples(batch):
  evaluator, model, collected = _evaluator(fakes.eval_dataset(batch))
  for _ in range(2):  # A second evaluation starts afresh.
    scalars = evaluator.evaluate(tf.constant(-1))
    assert scalars['count'] == 3
    assert [index for index, _ in collected] == [0, 1, 2]
  losses = []
  for (_, evaluated), (image, crop, raw), size, resized in zip(
    collected, fakes.eval_images(), fakes.RAW_SIZES, fakes.RESIZED_SIZES, strict=True
  ):
    prediction = model(image[tf.newaxis], training=False)
    expected = fakes.post_process(prediction.final.mask_logits, None)
    np.testing.assert_array_equal(evaluated.crop_maps.panoptic, expected.panoptic[0])
    # Nearest sample of the part that is not padding, corners on corners, halves upwards.
    rows, columns = (
      np.minimum(np.floor(np.arange(n) * ((m - 1) / (n - 1)) + 0.5), m - 1).astype(int)
      for n, m in zip(size, resized, strict=True)
    )
    np.testing.assert_array_equal(
      evaluated.maps.panoptic, expected.panoptic[0].numpy()[np.ix_(rows, columns)]
    )
    np.testing.assert_array_equal(evaluated.ground_truth, raw)
    np.testing.assert_array_equal(evaluated.crop_ground_truth, crop)
    np.testing.assert_array_equal(evaluated.image, image[: resized[0], : resized[1]])
    assert evaluated.raw_size == size
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=crop // 10, logits=prediction.semantic_logits[0]
    )
    losses.append(np.mean(cross_entropy))
  assert [evaluated.name for _, evaluated in collected] == ['image_0', 'image_1', 'image_2']
  assert scalars['losses/eval_semantic_loss'] == pytest.approx(np.mean(losses), rel=1e-5)


def test_sampled_losses_of_two_evaluations_are_equal_but_batches_differ():
  """So an evaluation that goes on where it was interrupted reports what it would have."""
  drawn = []

  def loss(prediction, targets):
    del targets
    noise = randomness.uniform([tf.shape(prediction.semantic_logits)[0]])
    return {'total_loss': noise}, {'noise': (noise, tf.ones_like(noise))}

  evaluator, _, _ = _evaluator(fakes.eval_dataset(), loss)
  for batches in (-1, -1, 1):
    drawn.append(evaluator.evaluate(tf.constant(batches))['losses/eval_total_loss'])
  assert drawn[0] == drawn[1] != drawn[2]


def test_first_batches_only():
  evaluator, _, collected = _evaluator(fakes.eval_dataset())
  evaluator.evaluate(tf.constant(2))
  assert [evaluated.name for _, evaluated in collected] == ['image_0', 'image_1']


def test_corrupt_records_are_counted_and_said(caplog):
  dataset = fakes.eval_dataset(2).map(
    lambda sample: sample._replace(
      name=tf.where(sample.name == '', 'some.tfrecord, record 3', sample.name)
    )
  )
  evaluator, _, collected = _evaluator(dataset)
  for _ in range(2):
    caplog.clear()
    scalars = evaluator.evaluate(tf.constant(-1))
    assert scalars['skipped_records'] == 1
    assert len(collected) == 3
    assert '1 corrupt records were skipped: the numbers are of the other 3.' in caplog.text


def test_nothing_but_corrupt_records_is_a_mistake():
  dataset = fakes.eval_dataset(2).map(
    lambda sample: sample._replace(
      name=tf.fill([2], 'some.tfrecord'),
      placement=tf.nest.map_structure(tf.zeros_like, sample.placement),
    )
  )
  evaluator, _, _ = _evaluator(dataset)
  with pytest.raises(errors.UserError, match='no image to evaluate: all 4 records are corrupt'):
    evaluator.evaluate(tf.constant(-1))


def test_images_without_labels():
  evaluator, _, collected = _evaluator(fakes.eval_dataset(labels=False), loss=None)
  assert set(evaluator.evaluate(tf.constant(-1))) == {'count', 'images_per_second'}
  assert len(collected) == 3
  assert collected[0][1].ground_truth is None and collected[0][1].crop_ground_truth is None
  assert collected[0][1].maps.panoptic.shape == fakes.RAW_SIZES[0]


_REPLICAS = """
import json
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.trainer import fakes
from tests.trainer import test_evaluator
found = []
weights = None
for strategy in (tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1']),
                 tf.distribute.OneDeviceStrategy('CPU:0')):
  with strategy.scope():
    evaluator, model, collected = test_evaluator._evaluator(fakes.eval_dataset(2))
  if weights is None:
    weights = model.get_weights()
  model.set_weights(weights)
  scalars = evaluator.evaluate(tf.constant(-1))
  found.append([scalars, [[i, p.name, p.maps.panoptic.tolist(), p.ground_truth.tolist()]
                          for i, p in collected]])
print(json.dumps(found))
"""


def test_two_replicas_evaluate_what_one_does():
  result = subprocess.run(
    [sys.executable, '-c', _REPLICAS],
    capture_output=True,
    text=True,
    check=False,
    env={
      **os.environ,
      'TF_CPP_MIN_LOG_LEVEL': '3',
      'PYTHONPATH': os.pathsep.join([os.getcwd(), *sys.path]),
    },
  )
  assert result.returncode == 0, result.stderr[-3000:]
  (two, two_images), (one, one_images) = json.loads(result.stdout.splitlines()[-1])
  assert two_images == one_images
  assert len(two_images) == 3
  for scalars in (two, one):
    assert scalars.pop('images_per_second') > 0
  assert two == pytest.approx(one)
