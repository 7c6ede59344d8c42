"""The evaluation loop: which images it hands on, at which sizes, on how many replicas."""

import json
import os
import subprocess
import sys
import threading
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import randomness
from deeplab2.data import geometry
from deeplab2.inference import segmenter as segmenter_lib
from deeplab2.trainer import evaluation
from deeplab2.trainer import evaluator
from deeplab2.trainer import loss_means
from deeplab2.trainer import runtime
from tests.trainer import fakes


class _Collecting:
  """A report whose metric collects the images."""

  def __init__(self):
    self.collected = []

  def metrics(self):
    self.collected.clear()
    return {'images': self, 'losses': loss_means.LossMeans()}

  def update(self, image):
    self.collected.append(image)

  def result(self):
    return len(self.collected)

  def write(self, results, num_corrupt):
    del num_corrupt
    return {'count': float(results['images']), **results['losses']}


def _evaluation(dataset, loss=fakes.loss, num_steps=-1, **settings):
  """Returns (evaluation, model, collected images)."""
  model = fakes.TinyModel()
  model(tf.zeros([1, fakes.SIZE, fakes.SIZE, 3]))
  crop = (fakes.SIZE, fakes.SIZE)
  report = _Collecting()
  created = evaluation.Evaluation(
    evaluator.Evaluator(
      lambda batches: runtime.distribute(dataset.skip(batches), fetch_to_device=False),
      model=model,
      loss=loss,
      segmenter=segmenter_lib.Segmenter(
        model, fakes.post_process, crop_size=crop, resize=geometry.Resize()
      ),
    ),
    unfinished=lambda: mock.Mock(load=lambda: None),
    summaries=mock.Mock(),
    num_steps=num_steps,
    **{'report': report, 'writers': [], **settings},
  )
  return created, model, report.collected


@pytest.mark.parametrize('batch', [1, 2])
def test_every_image_once_at_both_sizes_without_padding_examples(batch):
  loop, model, collected = _evaluation(fakes.eval_dataset(batch))
  for _ in range(2):  # A second evaluation starts afresh.
    scalars = loop.run()
    assert scalars['count'] == 3
    assert [image.number for image in collected] == [0, 1, 2]
  losses = []
  for evaluated, (image, crop, raw), size, resized in zip(
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
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=crop // 10, logits=prediction.semantic_logits[0]
    )
    losses.append(np.mean(cross_entropy))
  assert [evaluated.name for evaluated in collected] == ['image_0', 'image_1', 'image_2']
  assert scalars['losses/eval_semantic_loss'] == pytest.approx(np.mean(losses), rel=1e-5)


def test_sampled_losses_of_two_evaluations_are_equal_but_batches_differ():
  """So an evaluation that goes on where it was interrupted reports what it would have."""
  drawn = []

  def loss(prediction, targets):
    del targets
    noise = randomness.uniform([tf.shape(prediction.semantic_logits)[0]])
    return {'total_loss': noise}, {'noise': (noise, tf.ones_like(noise))}

  dataset = fakes.eval_dataset()
  for loop in [_evaluation(dataset, loss)[0]] * 2 + [_evaluation(dataset, loss, num_steps=1)[0]]:
    drawn.append(loop.run()['losses/eval_total_loss'])
  assert drawn[0] == drawn[1] != drawn[2]


def test_first_batches_only():
  loop, _, collected = _evaluation(fakes.eval_dataset(), num_steps=2)
  loop.run()
  assert [evaluated.name for evaluated in collected] == ['image_0', 'image_1']


def test_corrupt_records_are_counted_and_said(caplog):
  dataset = fakes.eval_dataset(2).map(
    lambda sample: sample._replace(
      name=tf.where(sample.name == '', 'some.tfrecord, record 3', sample.name)
    )
  )
  loop, _, collected = _evaluation(dataset)
  for _ in range(2):
    caplog.clear()
    scalars = loop.run()
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
  loop, _, _ = _evaluation(dataset)
  with pytest.raises(errors.UserError, match='no image to evaluate: all 4 records are corrupt'):
    loop.run()


def test_images_without_labels():
  images = []
  loop, _, _ = _evaluation(
    fakes.eval_dataset(labels=False), loss=None, report=None, writers=[images.append]
  )
  assert set(loop.run()) == {'images_per_second'}
  assert len(images) == 3
  assert images[0].ground_truth is None and images[0].crop_ground_truth is None
  assert images[0].maps.panoptic.shape == fakes.RAW_SIZES[0]


def test_a_failing_writer_gets_nothing_more_but_all_is_measured(caplog):
  written = []

  def fail(image):
    if image.number == 1:
      raise errors.UserError('The disk is full.')

  loop, _, collected = _evaluation(fakes.eval_dataset(), writers=[fail, written.append])
  with pytest.raises(errors.UserError, match='The disk is full'):
    loop.run()
  assert [image.number for image in collected] == [0, 1, 2]
  assert [image.number for image in written] == [0]
  assert 'the evaluation goes on' in caplog.text
  loop._summaries.scalars.assert_called_once()


def test_images_before_a_record_that_cannot_be_read_are_measured():
  def refuse(sample):
    with tf.control_dependencies([tf.debugging.assert_none_equal(sample.name, 'image_2')]):
      return sample._replace(image=tf.identity(sample.image))

  loop, _, collected = _evaluation(fakes.eval_dataset().map(refuse))
  with pytest.raises(tf.errors.InvalidArgumentError):
    loop.run()
  assert [image.number for image in collected] == [0, 1]


def test_devices_are_at_most_two_batches_ahead():
  computed, wait = [], threading.Event()

  def numbers():
    for number in range(9):
      computed.append(number)
      if number == 2:
        wait.set()
      yield number

  items = evaluator._ahead(numbers())
  assert next(items) == 0
  assert wait.wait(60)  # Without being asked for.
  time.sleep(0.1)
  assert computed == [0, 1, 2]
  assert next(items) == 1
  items.close()
  assert len(computed) <= 4
  before = len(computed)
  time.sleep(0.1)
  assert len(computed) == before  # An evaluation that ends early leaves no thread at work.


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
    loop, model, collected = test_evaluator._evaluation(fakes.eval_dataset(2))
  if weights is None:
    weights = model.get_weights()
  model.set_weights(weights)
  scalars = loop.run()
  found.append([scalars, [[p.number, p.name, p.maps.panoptic.tolist(), p.ground_truth.tolist()]
                          for p in collected]])
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
