"""Averages over copies of an image, against NumPy, mask by mask."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import structures
from deeplab2.inference import augmentation

_SLOTS = 5
_SIZE = 33


def _softmax(logits):
  shifted = np.exp(logits - logits.max(-1, keepdims=True))
  return shifted / shifted.sum(-1, keepdims=True)


def _prediction(seed, blobs, noise=0.5, classes=(0, 1, 2, 3, 0)):
  """Returns logits [h, w, N] with a blob for each slot, and class logits [N, 4], void last."""
  generator = np.random.default_rng(seed)
  rows, columns = np.mgrid[:9, :9]
  distance = np.hypot(rows[..., None] - blobs[:, 0], columns[..., None] - blobs[:, 1])
  masks = 4 - 2 * distance + noise * generator.normal(size=(9, 9, _SLOTS))
  class_logits = 3 * np.eye(4)[list(classes)] + generator.uniform(size=(_SLOTS, 4))
  return masks.astype(np.float32), class_logits.astype(np.float32)


_BLOBS = np.array([[1, 1], [1, 7], [7, 1], [7, 7], [4, 4]])


def _partners(own, others):
  """Returns {slot: slot of others} by their winners and classes, pair by pair."""
  winners, other_winners = own[0].argmax(-1), others[0].argmax(-1)
  found = {}
  for slot in range(_SLOTS):
    for other in range(_SLOTS):
      one, two = winners == slot, other_winners == other
      if own[1][slot].argmax() != others[1][other].argmax():
        continue
      if (one & two).sum() > 0.5 * max((one | two).sum(), 1):
        found[slot] = other
  return found


def test_equal_to_numpy_mask_by_mask():
  order = [3, 1, 0, 4, 2]
  own = [_prediction(seed, _BLOBS) for seed in (0, 1)]
  moved = _BLOBS[order].copy()
  moved[order.index(4)] = 1, 7  # Two at one place, none at the other.
  classes = [(0, 1, 2, 3, 0)[slot] for slot in order]
  classes[order.index(2)] = 0  # Another class.
  flipped = [_prediction(seed, moved, classes=classes) for seed in (2, 3)]

  def infer(images):
    np.testing.assert_array_equal(images, np.arange(_SIZE)[None, None, ::-1, None] * _ones())
    # The copy is mirrored, and so are its masks.
    return structures.MaskPrediction(
      tf.constant(np.stack([masks[:, ::-1] for masks, _ in flipped])),
      tf.constant(np.stack([classes for _, classes in flipped])),
      None,
    )

  average = augmentation.Augmentation(infer, augmentation.views((), flip=True))
  images = tf.constant(np.arange(_SIZE)[None, None, :, None] * _ones())
  final = structures.MaskPrediction(
    *(tf.constant(np.stack(part)) for part in zip(*own, strict=True)), None
  )
  masks, classes, _, _ = average(images, final)
  for image, ((own_masks, own_classes), (other_masks, other_classes)) in enumerate(
    zip(own, flipped, strict=True)
  ):
    partners = _partners((own_masks, own_classes), (other_masks, other_classes))
    assert 1 <= len(partners) < _SLOTS - 1, 'some have a partner, some have none'
    expected_masks, expected_classes = _softmax(own_masks), _softmax(own_classes)
    for slot, other in partners.items():
      expected_masks[..., slot] += _softmax(other_masks)[..., other]
      expected_masks[..., slot] /= 2
      expected_classes[slot] = (expected_classes[slot] + _softmax(other_classes)[other]) / 2
    np.testing.assert_allclose(np.exp(masks[image]), expected_masks, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.exp(classes[image]), expected_classes, rtol=1e-5, atol=1e-7)


def _ones():
  return np.ones((2, _SIZE, _SIZE, 3), np.float32)


def test_copies_that_see_the_same_change_nothing():
  """Whatever the order of the slots; in a graph, and at another size."""
  masks, classes = _prediction(0, _BLOBS, noise=0.0)
  order = np.random.default_rng(1).permutation(_SLOTS)
  sizes = []

  def infer(images):
    sizes.append(tuple(images.shape[1:3]))
    resized = tf.raw_ops.ResizeBilinear(
      images=tf.constant(masks[None]), size=[17, 17], align_corners=True
    )
    return structures.MaskPrediction(
      tf.gather(resized, order, axis=-1), tf.gather(classes, order)[None], None
    )

  average = tf.function(
    augmentation.Augmentation(infer, augmentation.views((1.0, 2.0), flip=False))
  )
  final = structures.MaskPrediction(tf.constant(masks[None]), tf.constant(classes[None]), None)
  found = average(tf.zeros([1, _SIZE, _SIZE, 3]), final)
  assert sizes == [(65, 65)]
  np.testing.assert_allclose(tf.nn.softmax(found.mask_logits)[0], _softmax(masks), atol=1e-6)
  np.testing.assert_allclose(tf.nn.softmax(found.class_logits)[0], _softmax(classes), atol=1e-6)


@pytest.mark.parametrize(
  'scales, flip, expected',
  [
    ((), False, []),
    ((1.0,), False, []),
    ((), True, [(1.0, True)]),
    ((0.5, 1.0, 0.5), True, [(1.0, True), (0.5, False), (0.5, True)]),
  ],
)
def test_views(scales, flip, expected):
  assert list(augmentation.views(scales, flip=flip)) == expected


def test_sizes_are_of_the_form_that_the_model_takes():
  assert augmentation.View(0.75).size((129, 641)) == (97, 481)
  assert augmentation.View(1.25).size((641, 1281)) == (801, 1601)
  assert augmentation.View(0.1).size((65, 129)) == (33, 33)
