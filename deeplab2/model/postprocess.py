"""Masks and classes of the model -> one panoptic id per pixel.

Two passes share one upsampling of the mask logits. The panoptic pass, maskwise or pixelwise, drops
what is not confident; the semantic pass takes every pixel's strongest mask as it is. Their class
maps may therefore differ, and published mIoU uses the latter.

Maskwise merging, mask by mask from the most confident one, is that of kMaX-DeepLab (Yu et al.,
"k-means Mask Transformer", ECCV 2022); pixelwise merging is that of MaX-DeepLab (Wang et al.,
"MaX-DeepLab: End-to-End Panoptic Segmentation with Mask Transformers", CVPR 2021).
"""

from typing import NamedTuple

import tensorflow as tf

from deeplab2 import structures
from deeplab2.kernels import bands
from deeplab2.kernels import members
from deeplab2.kernels import patterns
from deeplab2.model.layers import shapes


class MaskwiseOptions(NamedTuple):
  """Thresholds and weights by which masks are ranked and pasted. Ratios in [0, 1]."""

  thing_confidence: float = 0.7  # A mask of a thing needs at least this class confidence,
  stuff_confidence: float = 0.7  # one of stuff this.
  overlap: float = 0.5  # More than this fraction of a mask must still be free when it is pasted.
  class_weight: float = 1.0  # Masks are sorted by class confidence ** class_weight
  mask_weight: float = 0.0  # * mask confidence ** mask_weight, most confident first.


class _Classes(NamedTuple):
  """The class of each slot: real classes only, void dropped without renormalizing."""

  channel: tf.Tensor  # [N] int32 class channel
  confidence: tf.Tensor  # [N] float32


class _Postprocess:
  """The part that both merging rules have in common: class head, area limits, panoptic ids."""

  def __init__(
    self,
    label_space: structures.LabelSpace,
    output_size: tuple[int, int],
    *,
    pixel_confidence: float,
    thing_area_limit: int = 0,
    stuff_area_limit: int = 0,
  ):
    """Creates a merging rule.

    Args:
      label_space: the numbering of classes and panoptic ids.
      output_size: (H, W) of the maps, the evaluation crop.
      pixel_confidence: a mask holds the pixels of more than this probability, among all masks in
        maskwise merging, among the confident ones in pixelwise.
      thing_area_limit: smallest thing in pixels of the output, padding included.
      stuff_area_limit: smallest stuff class in pixels of the output, padding included.
    """
    self._space = label_space
    self._output_size = tuple(output_size)
    self._pixel_confidence = pixel_confidence
    self._thing_area_limit = thing_area_limit
    self._stuff_area_limit = stuff_area_limit

  @property
  def settings(self) -> dict[str, float | str]:
    """The name of the rule and its thresholds, for programs that merge masks themselves."""
    return {
      'pixel_confidence': self._pixel_confidence,
      'thing_area_limit': self._thing_area_limit,
      'stuff_area_limit': self._stuff_area_limit,
    }

  def __call__(self, mask_logits: tf.Tensor, class_logits: tf.Tensor) -> structures.PanopticMap:
    """Merges masks into maps; see `with_segments`."""
    return self.with_segments(mask_logits, class_logits)[0]

  # Nothing here needs autograph, which would take most of the time of a first call.
  @tf.autograph.experimental.do_not_convert
  def with_segments(
    self, mask_logits: tf.Tensor, class_logits: tf.Tensor
  ) -> tuple[structures.PanopticMap, structures.Segments]:
    """Merges masks into maps.

    Args:
      mask_logits: [B, h, w, N] of known h, w and N. Stretched to the output size, whatever h, w.
      class_logits: [B, N, K + 1], class channels, void last.

    Returns:
      PanopticMap [B, H, W], and its Segments. Mask ids count from 1: ranks for maskwise, slots for
      pixelwise.

    Raises:
      ValueError: if the class axis does not fit the label space, or N mask ids do not fit below
        its label divisor.
    """
    slots, classes = mask_logits.shape[-1], class_logits.shape[-1]
    if classes != self._space.num_real_classes + 1:
      raise ValueError(
        f'Class logits have {classes} channels; the label space needs '
        f'{self._space.num_real_classes} classes and void.'
      )
    if slots >= self._space.label_divisor:
      raise ValueError(
        f'{slots} masks need a label divisor above {slots}, not {self._space.label_divisor}.'
      )
    signature = (
      structures.PanopticMap(tf.int32, tf.int32, tf.int32, tf.float32, tf.float32),
      structures.Segments(tf.int32, tf.float32),
    )

    def merge(logits):
      return self._one_image(tf.cast(logits[0], tf.float32), _classes(logits[1]))

    if mask_logits.shape[0] == 1:  # LiteRT runs a loop of one more slowly.
      one = merge((mask_logits[0], class_logits[0]))
      maps, segments = tf.nest.map_structure(lambda tensor: tensor[tf.newaxis], one)
    else:
      maps, segments = tf.map_fn(
        merge, (mask_logits, class_logits), fn_output_signature=signature, parallel_iterations=1
      )
    shape = [mask_logits.shape[0], *self._output_size]
    return (
      structures.PanopticMap(*(tf.ensure_shape(m, shape) for m in maps)),
      structures.Segments(*(tf.ensure_shape(s, [mask_logits.shape[0], slots]) for s in segments)),
    )

  def _one_image(self, logits_hwn, classes):
    """Returns PanopticMap and Segments of one image."""
    raise NotImplementedError

  def _class_ids(self, channels):
    return tf.gather(tf.constant(self._space.class_order, tf.int32), channels)

  def _panoptic_ids(self, channels_n, areas_n):
    """Returns the panoptic id [N + 1] of `no mask`, then of each mask with its class and area.

    A thing stands for itself; masks of one stuff class are one segment. Segments below their area
    limit (in pixels of the output) become void.
    """
    is_thing = channels_n < len(self._space.thing_ids)
    class_areas = tf.math.unsorted_segment_sum(areas_n, channels_n, self._space.num_real_classes)
    kept = tf.where(
      is_thing,
      areas_n >= self._thing_area_limit,
      tf.gather(class_areas, channels_n) >= self._stuff_area_limit,
    )
    instances = tf.where(is_thing, tf.range(1, tf.size(channels_n) + 1), 0)
    ids = self._class_ids(channels_n) * self._space.label_divisor + instances
    void = self._space.void_id
    return tf.concat([[void], tf.where(kept, ids, void)], 0)

  def _segments(self, ids_n, channels_n, areas_n, scores_n):
    """Returns the Segments of an image.

    Args:
      ids_n: [N] panoptic id of each mask, void for those that became no segment.
      channels_n: their classes.
      areas_n: their pixels, possibly none.
      scores_n: their scores.
    """
    order, num_classes = tf.range(tf.size(ids_n)), self._space.num_real_classes
    is_thing = channels_n < len(self._space.thing_ids)
    is_there = (areas_n > 0) & (ids_n != self._space.void_id)
    pixels = tf.cast(areas_n, tf.float32)
    class_scores = tf.math.divide_no_nan(
      tf.math.unsorted_segment_sum(pixels * scores_n, channels_n, num_classes),
      tf.math.unsorted_segment_sum(pixels, channels_n, num_classes),
    )
    firsts = tf.math.unsorted_segment_min(
      tf.where(is_there, order, tf.size(ids_n)), channels_n, num_classes
    )
    listed = is_there & (is_thing | (order == tf.gather(firsts, channels_n)))
    scores = tf.where(is_thing, scores_n, tf.gather(class_scores, channels_n))
    ranking = tf.argsort(tf.cast(listed, tf.int32), direction='DESCENDING', stable=True)
    return structures.Segments(
      ids=tf.gather(tf.where(listed, ids_n, self._space.void_id), ranking),
      scores=tf.gather(tf.where(listed, scores, 0.0), ranking),
    )


class MaskwisePostprocess(_Postprocess):
  """Pastes whole masks, the most confident first, where enough of them is still free."""

  def __init__(self, *args, options: MaskwiseOptions, **kwargs):
    """Creates the rule; other arguments as of both rules.

    Args:
      *args: label space and output size.
      options: when a mask counts, and its place in the order.
      **kwargs: pixel confidence and area limits.
    """
    super().__init__(*args, **kwargs)
    self._options = options

  @property
  def settings(self):
    return {**super().settings, 'rule': 'maskwise', **self._options._asdict()}

  def _one_image(self, logits_hwn, classes):
    mask_scores = self._scores(logits_hwn, classes)
    ranking = _ranking(mask_scores)
    ranked = _Classes(*(tf.gather(part, ranking) for part in classes))
    needed = tf.where(
      ranked.channel < len(self._space.thing_ids),
      self._options.thing_confidence,
      self._options.stuff_confidence,
    )
    passing = ranked.confidence >= needed  # Of each rank, whether its mask may be pasted.
    ranks = patterns.ranks_to_paste(passing)
    winner, probability, columns = self._pixels(
      logits_hwn, tf.gather(ranking, ranks), tf.gather(passing, ranks)
    )
    columns = tf.reshape(columns, [-1, shapes.sizes(columns)[2]])
    rows, counts, row_of_pixel = patterns.distinct(columns)
    num_passing = tf.reduce_sum(tf.cast(passing, tf.int32))
    canvas = _paste(rows, counts, ranks, num_passing, self._options.overlap)
    areas = tf.math.unsorted_segment_sum(counts, canvas, tf.size(ranking) + 1)
    ids = self._panoptic_ids(ranked.channel, areas[1:])
    scores = tf.concat([[0.0], ranked.confidence], 0)
    detected = tf.reduce_any(
      classes.confidence >= min(self._options.thing_confidence, self._options.stuff_confidence)
    )

    def spread(by_canvas):
      by_pixel = tf.gather(by_canvas, canvas)
      if row_of_pixel is not None:
        by_pixel = tf.gather(by_pixel, row_of_pixel)
      return tf.reshape(by_pixel, self._output_size)

    maps = structures.PanopticMap(
      panoptic=spread(ids),
      # Free pixels carry the id of the best mask, as in DeepLab2.
      instance=spread(tf.maximum(tf.range(tf.size(ranking) + 1), 1)),
      semantic=self._class_ids(tf.gather(classes.channel, winner)),
      instance_scores=tf.where(detected, probability, 0.0),
      semantic_scores=spread(scores),
    )
    by_rank = tf.gather(mask_scores, ranking)
    return maps, self._segments(ids[1:], ranked.channel, areas[1:], by_rank)

  def rank(
    self, mask_logits: tf.Tensor, class_logits: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns in which order masks are pasted, whatever the thresholds.

    Args:
      mask_logits: [h, w, N] of one image.
      class_logits: [N, K + 1], class channels, void last.

    Returns:
      [N] int32 the slot of each rank, [N] int32 the channel of its class, [N] float32 its
      confidence.
    """
    classes = _classes(class_logits)
    ranking = _ranking(self._scores(tf.cast(mask_logits, tf.float32), classes))
    return ranking, *(tf.gather(part, ranking) for part in classes)

  def _scores(self, logits_hwn, classes):
    """Returns the scores [N] of the slots by which their masks are ranked."""
    scores = classes.confidence**self._options.class_weight
    if self._options.mask_weight:
      scores *= _mask_confidence(logits_hwn, self._pixel_confidence) ** self._options.mask_weight
    return scores

  def _pixels(self, logits_hwn, slots_m, usable_m):
    """Returns the inputs of pasting for every pixel.

    Args:
      logits_hwn: mask logits on the grid.
      slots_m: the slots to paste, M of them.
      usable_m: whether each may be.

    Returns:
      [H, W] int32 strongest slot, [H, W] float32 its probability, and [H, W, C] int32: the usable
      masks among `slots_m` that hold the pixel, mask m being bit m % 24 of column m // 24.
    """
    num_slots, num_masks = logits_hwn.shape[-1], shapes.sizes(slots_m)[0]
    order, bits = tf.range(num_masks), patterns.BITS
    # Probabilities need all slots, but only those that may be pasted have a bit.
    weights_nc = tf.scatter_nd(
      tf.stack([slots_m, order // bits], 1),
      tf.where(usable_m, 2.0 ** tf.cast(order % bits, tf.float32), 0.0),
      [num_slots, (num_masks + bits) // bits],
    )

    def pixels(band_rwn):
      winner, probability, columns = members.members(band_rwn, self._pixel_confidence, weights_nc)
      return winner, probability, tf.cast(columns, tf.int32)

    return bands.map_resized(
      pixels, logits_hwn, self._output_size, (tf.int32, tf.float32, tf.int32)
    )


class PixelwisePostprocess(_Postprocess):
  """Gives every pixel to its strongest confident mask."""

  def __init__(self, *args, class_confidence: float, **kwargs):
    """Creates the rule; other arguments as of both rules.

    Args:
      *args: label space and output size.
      class_confidence: masks of at least this class confidence take part.
      **kwargs: pixel confidence and area limits.
    """
    super().__init__(*args, **kwargs)
    self._class_confidence = class_confidence

  @property
  def settings(self):
    return {**super().settings, 'rule': 'pixelwise', 'class_confidence': self._class_confidence}

  def _one_image(self, logits_hwn, classes):
    kept = classes.confidence >= self._class_confidence

    def pixels(band_rwn):
      winner = tf.argmax(band_rwn, axis=-1, output_type=tf.int32)
      kept_logits = tf.where(kept, band_rwn, -99999.0)
      kept_winner = tf.argmax(kept_logits, axis=-1, output_type=tf.int32)
      probability = tf.gather(tf.nn.softmax(kept_logits), kept_winner, batch_dims=2)
      is_top = tf.reduce_max(band_rwn, axis=-1) == tf.reduce_max(kept_logits, axis=-1)
      confident = (probability > self._pixel_confidence) & is_top
      return winner, kept_winner, probability, confident

    winner, slot, probability, confident = bands.map_resized(
      pixels, logits_hwn, self._output_size, (tf.int32, tf.int32, tf.float32, tf.bool)
    )
    detected = tf.reduce_any(kept)
    canvas = tf.where(confident & detected, slot + 1, 0)
    areas = tf.math.unsorted_segment_sum(
      tf.ones([tf.size(canvas)], tf.int32), tf.reshape(canvas, [-1]), tf.size(kept) + 1
    )
    ids = self._panoptic_ids(classes.channel, areas[1:])
    maps = structures.PanopticMap(
      panoptic=tf.gather(ids, canvas),
      instance=tf.where(detected, slot + 1, 1),
      semantic=self._class_ids(tf.gather(classes.channel, winner)),
      instance_scores=tf.where(detected, probability, 0.0),
      semantic_scores=tf.where(detected, tf.gather(classes.confidence, slot), 0.0),
    )
    return maps, self._segments(ids[1:], classes.channel, areas[1:], classes.confidence)


def _classes(class_logits_nk):
  """Returns the most probable real class of each slot, and its probability among all with void."""
  real = tf.nn.softmax(tf.cast(class_logits_nk, tf.float32))[:, :-1]
  return _Classes(tf.argmax(real, -1, output_type=tf.int32), tf.reduce_max(real, -1))


def _ranking(scores_n):
  """Returns the slot [N] of each rank by descending score; of equal ones, the lower first."""
  return tf.argsort(scores_n, direction='DESCENDING', stable=True)


def _mask_confidence(logits_hwn, pixel_confidence):
  """Returns the mean probability [N] of each mask over its own pixels of the grid, 0 if empty."""
  probability = tf.nn.softmax(logits_hwn)
  inside = probability > pixel_confidence
  # Row by row first: one sum over all pixels would lose more to rounding.
  totals_hn = tf.reduce_sum(tf.where(inside, probability, 0.0), 1)
  counts_hn = tf.reduce_sum(tf.cast(inside, tf.float32), 1)
  return tf.math.divide_no_nan(tf.reduce_sum(totals_hn, 0), tf.reduce_sum(counts_hn, 0))


def _paste(patterns_uc, counts_u, ranks_m, num_passing, overlap):
  """Pastes masks in order of rank, each if more than `overlap` of it is free.

  Pixels that lie in the same masks fare alike, so they may be given as one row with a count
  (kernels/patterns.py). All operations are of floats that hold integers: LiteRT has no bitwise
  ones, and XNNPACK computes in floats alone.

  Args:
    patterns_uc: [U, C] int32, bit m of a row says that mask m holds these pixels.
    counts_u: [U] int32 pixels of each row; their sum is below 2**24.
    ranks_m: [M] int32 rank of each mask among all, ascending in the masks that have bits.
    num_passing: int32, this number of masks at the beginning may have bits.
    overlap: fraction of a mask in [0, 1].

  Returns:
    [U] int32: 1 + rank of the mask that the pixels of a row belong to, 0 for none.
  """
  counts_u = tf.cast(counts_u, tf.float32)
  columns_cu = tf.transpose(tf.cast(patterns_uc, tf.float32))
  ids_m = tf.cast(ranks_m + 1, tf.float32)

  def paste(m, bits_u, canvas_u, vacant_u):
    # The lowest bit is of mask m. The next column begins when all bits of this one are used up.
    column = m // patterns.BITS
    bits_u = tf.cond(m % patterns.BITS == 0, lambda: tf.gather(columns_cu, column), lambda: bits_u)
    rest_u = tf.floor(bits_u * 0.5)
    inside_u = (bits_u - 2.0 * rest_u) * counts_u
    free_u = inside_u * vacant_u
    area, free_area = tf.reduce_sum(inside_u), tf.reduce_sum(free_u)
    pasted = tf.cast(free_area > area * overlap, tf.float32)
    taken_u = tf.minimum(free_u, 1.0) * pasted
    return m + 1, rest_u, canvas_u + taken_u * ids_m[m], vacant_u - taken_u

  nothing = tf.zeros_like(counts_u)
  _, _, canvas_u, _ = tf.while_loop(
    lambda m, *_: m < num_passing, paste, (0, nothing, nothing, nothing + 1.0)
  )
  return tf.cast(canvas_u, tf.int32)
