"""A tiny real model, loss and dataset for tests of the loop around them."""

import tensorflow as tf
import tf_keras

from deeplab2 import structures
from deeplab2.trainer import optimizer
from deeplab2.trainer import step as step_lib
from deeplab2.trainer import trainer as trainer_lib

SIZE = 5
CLASSES = 3


class TinyModel(tf_keras.Model):
  """Images -> semantic logits, with batch norm; `backbone` and the rest are two groups."""

  def __init__(self):
    super().__init__()
    self.backbone = tf_keras.Sequential(
      [
        tf_keras.layers.Conv2D(4, 3, padding='same', use_bias=False),
        tf_keras.layers.BatchNormalization(synchronized=True),
      ]
    )
    self.head = tf_keras.layers.Dense(CLASSES)

  def call(self, images, training=False):
    feature = self.backbone(images / 255.0, training=training)
    logits = self.head(tf.nn.relu(feature))
    masks = structures.MaskPrediction(logits, tf.reduce_mean(logits, axis=1), feature)
    return structures.Prediction(final=masks, semantic_logits=logits)


def loss(prediction, targets):
  """Cross entropy and a second term; as a diagnostic, the mean logit where the class is 0."""
  values = tf.nn.sparse_softmax_cross_entropy_with_logits(
    labels=targets.semantic, logits=prediction.semantic_logits
  )
  cross_entropy = tf.reduce_mean(values * targets.semantic_weight, axis=[1, 2])
  size = 0.01 * tf.reduce_mean(prediction.semantic_logits**2, axis=[1, 2, 3])
  losses = {'total_loss': cross_entropy + size, 'semantic_loss': cross_entropy, 'size_loss': size}
  where = tf.cast(targets.semantic == 0, tf.float32)
  logit = tf.reduce_sum(where * prediction.semantic_logits[..., 0], axis=[1, 2])
  return losses, {'logit_of_0': (logit, tf.reduce_sum(where, axis=[1, 2]))}


def sample(seed, batch=4, weight=1.0):
  """Returns a batch of random images and labels; `weight` scales the loss."""
  shape = [batch, SIZE, SIZE]
  targets = structures.Targets(
    semantic=tf.random.stateless_uniform(shape, [seed, 0], 0, CLASSES, tf.int32),
    thing_id_mask=tf.fill(shape, -1),
    thing_id_class=tf.fill([batch, 2], -1),
    semantic_weight=tf.fill(shape, tf.constant(weight, tf.float32)),
  )
  return structures.Sample(tf.random.stateless_uniform([*shape, 3], [seed, 1], 0, 255.0), targets)


def dataset(weights=(1.0,), batch=4):
  """Returns a repeated dataset of one batch per weight, each of its own images."""
  whole = None
  for seed, weight in enumerate(weights):
    one = tf.data.Dataset.from_tensors(sample(seed, batch, weight))
    whole = one if whole is None else whole.concatenate(one)
  return whole.repeat()


def groups(model, rate=0.01, name='adamw', multiplier=0.1):
  """Returns the two optimizers, of the head and of the backbone."""
  rest, backbone = optimizer.split(model.trainable_variables, model.backbone.trainable_variables)
  return (
    optimizer.create(name, optimizer.poly(rate, 100), 0.1, rest),
    optimizer.create(name, optimizer.poly(rate * multiplier, 100), 0.1, backbone),
  )


def trainer(batches, *, batch=4, name='adamw', loop_on_device=False, **settings):
  """Returns (trainer, model, global step), created in the current strategy's scope."""
  model = TinyModel()
  model(tf.zeros([1, SIZE, SIZE, 3]))
  step = tf.Variable(
    0, dtype=tf.int64, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
  )
  created_groups = groups(model, name=name)
  created = trainer_lib.Trainer(
    tf.distribute.get_strategy().experimental_distribute_dataset(batches),
    step=step_lib.Step(model=model, loss=loss, groups=created_groups, global_step=step, **settings),
    groups=created_groups,
    global_step=step,
    batch_size=batch,
    loop_on_device=loop_on_device,
  )
  return created, model, step


SPACE = structures.LabelSpace(num_classes=CLASSES, ignore_label=0, label_divisor=10, thing_ids=(1,))
RAW_SIZES = ((10, 7), (4, 4), (5, 9))
RESIZED_SIZES = ((5, 4), (5, 5), (3, 5))


def post_process(mask_logits, class_logits):
  """Makes a map out of the largest of three masks, whatever the classes."""
  del class_logits
  semantic = tf.argmax(mask_logits, axis=-1, output_type=tf.int32)
  things = tf.cast(semantic == 1, tf.int32)
  scores = tf.reduce_max(tf.nn.softmax(mask_logits), axis=-1)
  return structures.PanopticMap(
    semantic * SPACE.label_divisor + things, semantic + 1, semantic, scores, scores
  )


def eval_images():
  """Returns three evaluation images: (image [5, 5, 3], labels [5, 5], labels [H0, W0])."""
  images = []
  for seed, (height, width) in enumerate(RAW_SIZES):
    image = tf.random.stateless_uniform([SIZE, SIZE, 3], [seed, 7], 0, 255.0)
    raw = 10 * tf.random.stateless_uniform([height, width], [seed, 8], 0, CLASSES, tf.int32)
    crop = 10 * tf.random.stateless_uniform([SIZE, SIZE], [seed, 9], 0, CLASSES, tf.int32)
    images.append((image, crop, raw))
  return images


def eval_dataset(batch=1, labels=True):
  """Returns a dataset of the evaluation images, the last batch filled up."""
  images = eval_images()
  padding = -len(images) % batch
  blank = tf.zeros([SIZE, SIZE], tf.int32)
  images += [(tf.fill([SIZE, SIZE, 3], 127.5), blank, tf.zeros([1, 1], tf.int32))] * padding
  dataset = None
  for index, (image, crop, raw) in enumerate(images):
    real = index < len(RAW_SIZES)
    placement = structures.Placement(
      *(
        tf.constant(sizes[index] if real else (0, 0), tf.int32)
        for sizes in (RAW_SIZES, RESIZED_SIZES)
      )
    )
    sample_ = structures.Sample(
      image, placement=placement, name=tf.constant(f'image_{index}' if real else '')
    )
    if labels:
      targets = structures.Targets(
        crop // 10, tf.fill([SIZE, SIZE], -1), tf.fill([2], -1), tf.ones([SIZE, SIZE])
      )
      sample_ = sample_._replace(targets=targets, panoptic=crop, panoptic_raw=raw)
    one = tf.data.Dataset.from_tensors(sample_).map(lambda value: value)
    if labels:
      one = one.map(
        lambda s: s._replace(
          panoptic_raw=tf.ensure_shape(
            tf.py_function(lambda x: x, [s.panoptic_raw], tf.int32), [None, None]
          )
        )
      )
    dataset = one if dataset is None else dataset.concatenate(one)
  group = dataset.padded_batch if labels else dataset.batch
  return group(batch, drop_remainder=True)
