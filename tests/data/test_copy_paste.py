"""Copy-paste against DeepLab2's goldens; its draw by its distribution."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.data import copy_paste
from deeplab2.data import datasets

_DATASETS = ('coco', 'cityscapes', 'ade20k')
_TRIPLES = [
  ('all', 'all', 'none'),
  ('all', 'none', 'none'),
  ('none', 'all', 'none'),
  ('all', 'all', 'all'),
  ('none', 'none', 'none'),
  ('all', 'random', 'none'),
  ('random', 'random', 'none'),
  ('random', 'random', 'random'),
]


def _drawn(golden, dataset):
  """Returns what the golden's draw kept before the options."""
  number, order = int(golden[f'{dataset}_keep']), golden[f'{dataset}_perm']
  return (np.arange(len(order)) < number)[order]


@pytest.mark.parametrize('options', _TRIPLES, ids='-'.join)
@pytest.mark.parametrize('dataset', _DATASETS)
def test_golden(golden, monkeypatch, dataset, options):
  golden = golden('data_copy_paste')
  space = datasets.get(f'{dataset}_panoptic').label_space
  monkeypatch.setattr(copy_paste, 'drawn', lambda count, seed: tf.constant(_drawn(golden, dataset)))
  image, label = copy_paste.paste(
    tf.cast(golden['image'], tf.float32),
    tf.constant(golden[f'{dataset}_label'][..., 0]),
    tf.constant(golden['paste_image']),
    tf.constant(golden[f'{dataset}_paste_label'][..., 0]),
    name=tf.constant('made'),
    space=space,
    settings=copy_paste.CopyPaste(0.5, *options),
    seed=tf.constant([0, 0], tf.int64),
  )
  stored = golden[f'{dataset}_{"_".join(options)}_label'][..., 0]
  np.testing.assert_array_equal(label, stored)
  if f'{dataset}_{"_".join(options)}_image' in golden:
    np.testing.assert_array_equal(image, golden[f'{dataset}_{"_".join(options)}_image'])
  # Where the label is the image's own, so is the image.
  is_own = stored == golden[f'{dataset}_label'][..., 0]
  np.testing.assert_array_equal(image.numpy()[~is_own], golden['paste_image'][~is_own])


def test_padding_is_never_pasted(golden):
  golden = golden('data_copy_paste')
  space = datasets.get('coco_panoptic').label_space
  ids = tf.constant(golden['coco_paste_unique_ids'])
  assert copy_paste.padding_id(space) in ids.numpy()
  is_kept = copy_paste.kept(
    ids, tf.ones_like(ids, tf.bool), space, copy_paste.CopyPaste(0.5, 'all', 'all', 'all')
  )
  np.testing.assert_array_equal(is_kept, ids != copy_paste.padding_id(space))


@pytest.mark.parametrize('own, other', [(128, 1), (1, 200)])
def test_too_many_instances_to_keep_them_apart(own, other):
  space = datasets.get('coco_panoptic').label_space
  with pytest.raises(tf.errors.InvalidArgumentError, match='Image made: .*must be below 128'):
    copy_paste.paste(
      tf.zeros([2, 2, 3]),
      tf.fill([2, 2], 256 + own),
      tf.zeros([2, 2, 3]),
      tf.fill([2, 2], 256 + other),
      name=tf.constant('made'),
      space=space,
      settings=copy_paste.CopyPaste(0.5),
      seed=tf.constant([0, 0], tf.int64),
    )


def test_draw():
  count, runs = 4, 3000
  draws = np.stack(
    [copy_paste.drawn(tf.constant(count), tf.constant([7, run], tf.int64)) for run in range(runs)]
  )
  # n is uniform in 0..4: each thing is kept in 1/2, two in 1/3, none in 1/5. Five standard errors.
  for ratio, expected in (
    (draws[:, 2].mean(), 1 / 2),
    ((draws[:, 0] & draws[:, 3]).mean(), 1 / 3),
    ((~draws.any(axis=1)).mean(), 1 / 5),
    (draws.all(axis=1).mean(), 1 / 5),
  ):
    assert ratio == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / runs))
