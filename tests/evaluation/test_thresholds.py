"""Tables of images against the post-processing and the metric themselves."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import structures
from deeplab2.evaluation import thresholds as thresholds_lib
from deeplab2.metrics import panoptic_quality
from deeplab2.model import postprocess

_SPACE = structures.LabelSpace(6, 0, 100, (1, 2, 3))
_CROP = (33, 65)
_SLOTS = 12
_PIXEL_CONFIDENCE = 0.3
_SETTINGS = [
  thresholds_lib.Thresholds(*values)
  for values in ((0.0, 0.0, 0.0), (0.3, 0.5, 0.5), (0.6, 0.2, 0.8), (1.0, 1.0, 0.5))
]


def _logits(seed):
  generator = np.random.default_rng(seed)
  centers = generator.uniform(size=(_SLOTS, 2)) * (9, 17)
  rows, columns = np.mgrid[:9, :17]
  masks = 6 - np.hypot(rows[..., None] - centers[:, 0], columns[..., None] - centers[:, 1])
  masks += generator.normal(size=masks.shape)
  return masks.astype(np.float32), 2 * generator.normal(size=(_SLOTS, 6)).astype(np.float32)


def _merge(thresholds, limits):
  return postprocess.MaskwisePostprocess(
    _SPACE,
    _CROP,
    pixel_confidence=_PIXEL_CONFIDENCE,
    thing_area_limit=limits[0],
    stuff_area_limit=limits[1],
    options=postprocess.MaskwiseOptions(*thresholds, 1.0, 1.0),
  )


def _table(masks, classes, ground_truth, rows, columns):
  ranking, channels, confidences = _merge(_SETTINGS[0], (0, 0)).rank(
    tf.constant(masks), tf.constant(classes)
  )
  resized = tf.raw_ops.ResizeBilinear(images=masks[None], size=_CROP, align_corners=True)[0]
  members = tf.gather(tf.nn.softmax(resized) > _PIXEL_CONFIDENCE, ranking, axis=-1).numpy()
  class_ids = np.array(_SPACE.class_order)[channels.numpy()]
  return thresholds_lib.make_table(
    members, class_ids, confidences.numpy(), ground_truth, rows, columns
  )


@pytest.mark.parametrize('limits', [(0, 0), (60, 200)])
@pytest.mark.parametrize('seed', range(3))
def test_equal_to_post_processing_and_metric(seed, limits):
  masks, classes = _logits(seed)
  generator = np.random.default_rng(seed)
  rows = np.sort(generator.integers(0, 30, 40))  # The image is larger than its place in the crop.
  columns = np.sort(generator.integers(0, 60, 70))
  ids = np.array([0, 101, 102, 201, 300, 400, 500])
  blocks = ids[generator.integers(0, len(ids), (4, 7))]
  ground_truth = np.kron(blocks, np.ones((10, 10), np.int32))
  table = _table(masks, classes, ground_truth, rows, columns)
  assert table.areas.sum() == _CROP[0] * _CROP[1] and table.pair_areas.sum() == 40 * 70
  rule = thresholds_lib.Rule(_SPACE, *limits)
  seen = set()
  for thresholds in _SETTINGS:
    maps = _merge(thresholds, limits)(tf.constant(masks[None]), tf.constant(classes[None]))
    panoptic = maps.panoptic[0].numpy()
    found = rule.segment(table, thresholds)
    # Each set of pixels is one id, and ids have the areas of the map.
    values, areas = np.unique(panoptic, return_counts=True)
    by_id = np.bincount(found, table.areas)
    assert {value: by_id[value] for value in np.unique(found)} == dict(
      zip(values.tolist(), areas.tolist(), strict=True)
    )
    official, _ = panoptic_quality.PanopticQuality(_SPACE).update(
      ground_truth, panoptic[rows][:, columns]
    )
    np.testing.assert_allclose(rule.counts(table, thresholds), official, atol=1e-12)
    seen.add(tuple(values.tolist()))
  assert len(seen) > 2, 'thresholds matter here'


def test_search_moves_one_threshold_after_the_other():
  tried = []

  def quality(settings):
    tried.extend(settings)
    # The best overlap depends on the confidence of things: one round is not enough.
    return [
      -abs(one.thing_confidence - one.overlap) - 0.1 * abs(one.overlap - 0.7) - one.stuff_confidence
      for one in settings
    ]

  best = thresholds_lib.search(quality, thresholds_lib.Thresholds(0.4, 0.4, 0.5))
  assert best.stuff_confidence == 0.05
  assert best.thing_confidence == best.overlap
  assert all(0 <= value <= 1 for one in tried for value in one)


def test_what_is_best_stays():
  start = thresholds_lib.Thresholds(0.42, 0.38, 0.51)
  assert thresholds_lib.search(lambda settings: [0.0] * len(settings), start) == start


def test_counts_of_several_settings_and_images():
  masks, classes = _logits(0)
  ground_truth = np.full(_CROP, 101)
  table = _table(masks, classes, ground_truth, np.arange(33), np.arange(65))
  found = thresholds_lib.measure(thresholds_lib.Rule(_SPACE), (_SETTINGS[:2], [table] * 3))
  assert found.shape == (2, 3, 4, 6)
  np.testing.assert_array_equal(found[0, 0], found[0, 2])
