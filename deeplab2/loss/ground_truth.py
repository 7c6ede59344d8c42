"""Targets -> masks, classes and areas on the grid of the mask logits.

Ground-truth masks are rows: T things (by thing id), then U stuff classes (ascending id). A pixel
belongs to at most one row, so one index per pixel says everything; no [B, P, R] array is kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2 import resampling
from deeplab2 import structures


class GroundTruth(NamedTuple):
  """The true masks of a batch. P pixels, row-major; R = T + U rows; K real classes."""

  semantic_bp: tf.Tensor  # int32 dataset ids
  is_labelled_bp: tf.Tensor  # bool, false on the ignore label
  is_instance_bp: tf.Tensor  # bool, true on things that are no crowd
  row_bp: tf.Tensor  # int32 row of the pixel's mask, -1 without one (void, crowd)
  area_br: tf.Tensor  # float32 pixels of each row
  channel_br: tf.Tensor  # int32 class channel of each row, -1 where the row is not valid

  @property
  def num_rows(self) -> int:
    """R."""
    return self.area_br.shape[1]

  @property
  def is_valid_br(self) -> tf.Tensor:
    """bool [B, R]: rows with at least one pixel on the grid and a class."""
    return self.channel_br >= 0

  @property
  def has_mask_bp(self) -> tf.Tensor:
    """bool [B, P]: pixels that belong to a mask."""
    return self.row_bp >= 0


def prepare(
  targets: structures.Targets, size: tuple[int, int], space: structures.LabelSpace
) -> GroundTruth:
  """Brings label maps to the grid of the mask logits by taking every s-th pixel.

  Instances and stuff that lose all their pixels become invalid rows.

  Args:
    targets: label maps of a batch.
    size: (h, w) of the mask logits.
    space: the numbering of classes.

  Raises:
    ValueError: if the label size is no whole multiple of `size` (see resampling.subsample).
  """
  semantic_bp = _flat(resampling.subsample(targets.semantic, size))
  thing_bp = _flat(resampling.subsample(targets.thing_id_mask, size))
  num_things = targets.thing_id_class.shape[1]
  is_instance_bp = thing_bp >= 0
  stuff_row_bp = positions(semantic_bp, space.stuff_ids, first=num_things)
  row_bp = tf.where(is_instance_bp & (thing_bp < num_things), thing_bp, stuff_row_bp)

  num_rows = num_things + len(space.stuff_ids)
  area_br = _areas(row_bp, num_rows)
  thing_channel_bt = positions(targets.thing_id_class, space.thing_ids)
  stuff_channel_u = len(space.thing_ids) + np.arange(len(space.stuff_ids), dtype=np.int32)
  stuff_channel_bu = tf.broadcast_to(stuff_channel_u, [tf.shape(row_bp)[0], len(space.stuff_ids)])
  channel_br = tf.concat([thing_channel_bt, stuff_channel_bu], axis=1)
  return GroundTruth(
    semantic_bp=semantic_bp,
    is_labelled_bp=semantic_bp != space.ignore_label,
    is_instance_bp=is_instance_bp,
    row_bp=row_bp,
    area_br=area_br,
    channel_br=tf.where(area_br > 0.5, channel_br, -1),
  )


def _areas(row_bp, num_rows):
  """Returns how often each row occurs, float32 [B, num_rows]; -1 is none."""
  # Not tf.math.bincount, whose size XLA does not know on GPUs.
  batch = row_bp.shape[0] or tf.shape(row_bp)[0]
  first_b = num_rows * tf.range(batch)
  segment_bp = tf.where(row_bp >= 0, row_bp + first_b[:, tf.newaxis], -1)
  ones_bp = tf.ones_like(row_bp, tf.float32)
  counts = tf.math.unsorted_segment_sum(ones_bp, segment_bp, batch * num_rows)
  return tf.reshape(counts, [batch, num_rows])


def positions(ids: tf.Tensor, known: Sequence[int], first: int = 0) -> tf.Tensor:
  """Returns first + (position in `known`) of each dataset id, -1 for the others; int32."""
  size = max(known, default=0) + 2
  table = np.full(size, -1, np.int32)
  table[list(known)] = first + np.arange(len(known))
  # Ids beyond the table, and negative ones, meet its last entry, which is -1.
  outside = (ids < 0) | (ids >= size)
  return tf.gather(table, tf.where(outside, size - 1, ids))


def _flat(maps):
  """[B, h, w] -> [B, P]."""
  height, width = maps.shape[1:3]
  return tf.reshape(maps, [-1, height * width])
