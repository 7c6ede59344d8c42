"""Masks and classes of the network -> one panoptic id per pixel, in NumPy.

What model/postprocess.py computes in TensorFlow, for programs that run the network elsewhere. Both
give the same maps, but for pixels whose probabilities differ by rounding.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from deeplab2 import structures

_BAND = 32  # Rows of the map at a time: all slots at all pixels would be much memory.


class Merged(NamedTuple):
  """The maps of one image in the crop."""

  panoptic: np.ndarray  # [H, W] int32
  semantic: np.ndarray  # [H, W] int32 dataset ids, never void
  scores: dict[int, float]  # By panoptic id, as structures.Segments has them.


def merge(
  mask_logits: np.ndarray,
  class_logits: np.ndarray,
  output_size: tuple[int, int],
  space: structures.LabelSpace,
  settings: Mapping[str, Any],
) -> Merged:
  """Merges the masks of one image.

  Args:
    mask_logits: [h, w, N] float32.
    class_logits: [N, K + 1] float32, void last.
    output_size: (H, W) of the maps.
    space: the numbering of classes and panoptic ids.
    settings: `settings` of a rule of model/postprocess.py.
  """
  classes = _softmax(class_logits)[:, :-1]
  channels, confidences = classes.argmax(-1), classes.max(-1)
  merge_by = _by_masks if settings['rule'] == 'maskwise' else _by_pixels
  canvas, winner, ranking, scores = merge_by(
    mask_logits, confidences, channels < len(space.thing_ids), output_size, settings
  )
  # From here on by rank.
  order = np.array(space.class_order, np.int32)
  semantic = order[channels[winner]]
  channels, scores = channels[ranking], scores[ranking]
  areas = np.bincount(canvas.ravel(), minlength=ranking.size + 1)[1:]
  class_areas = np.bincount(channels, areas, space.num_real_classes)[channels]
  is_thing = channels < len(space.thing_ids)
  is_kept = np.where(
    is_thing, areas >= settings['thing_area_limit'], class_areas >= settings['stuff_area_limit']
  )
  instances = np.where(is_thing, np.arange(1, ranking.size + 1), 0)
  ids = np.where(is_kept, order[channels] * space.label_divisor + instances, space.void_id)
  found = {}
  for panoptic_id in np.unique(ids[areas > 0]).tolist():
    if panoptic_id != space.void_id:
      masks = ids == panoptic_id
      found[panoptic_id] = float(np.average(scores[masks], weights=areas[masks]))
  panoptic = np.concatenate([[space.void_id], ids]).astype(np.int32)[canvas]
  return Merged(panoptic, semantic, found)


def _by_masks(logits_hwn, confidences_n, is_thing_n, output_size, settings):
  """Pastes whole masks, the most confident first.

  Returns:
    What each pixel belongs to [H, W] (1 + rank, 0 for none), its strongest slot [H, W], the slot of
    each rank [N], and the score of each slot [N].
  """
  scores = confidences_n ** np.float32(settings['class_weight'])
  if settings['mask_weight']:
    probability = _softmax(logits_hwn)
    inside = probability > np.float32(settings['pixel_confidence'])
    totals = np.where(inside, probability, np.float32(0)).sum(1, dtype=np.float32).sum(0)
    mean = totals / np.maximum(inside.sum((0, 1)), 1).astype(np.float32)
    scores = scores * mean ** np.float32(settings['mask_weight'])
  ranking = np.argsort(-scores, kind='stable')
  needed = np.where(is_thing_n, settings['thing_confidence'], settings['stuff_confidence'])
  ranks = np.flatnonzero((confidences_n >= needed.astype(np.float32))[ranking])
  inside_hwm, winner = _pixels(
    logits_hwn,
    output_size,
    lambda band: (_softmax(band) > np.float32(settings['pixel_confidence']))[..., ranking[ranks]],
  )
  canvas = np.zeros(output_size, np.int32)
  for index, rank in enumerate(ranks):
    inside = inside_hwm[..., index]
    free = inside & (canvas == 0)
    if free.sum() > np.float32(inside.sum()) * np.float32(settings['overlap']):
      canvas[free] = rank + 1
  return canvas, winner, ranking, scores


def _by_pixels(logits_hwn, confidences_n, is_thing_n, output_size, settings):
  """As `_by_masks`: every pixel goes to its strongest confident mask. Ranks are slots."""
  del is_thing_n
  kept = confidences_n >= np.float32(settings['class_confidence'])

  def band(logits):
    kept_logits = np.where(kept, logits, np.float32(-99999.0))
    slot = kept_logits.argmax(-1)
    probability = np.take_along_axis(_softmax(kept_logits), slot[..., np.newaxis], -1)[..., 0]
    confident = probability > np.float32(settings['pixel_confidence'])
    confident &= logits.max(-1) == kept_logits.max(-1)
    return np.where(confident & kept.any(), slot + 1, 0)

  canvas, winner = _pixels(logits_hwn, output_size, band)
  return canvas, winner, np.arange(kept.size), confidences_n


def _pixels(logits_hwn, output_size, function):
  """Returns `function` of the logits at the output size, and their strongest slot [H, W]."""
  results, winners = [], []
  for logits in _resized(logits_hwn, output_size):
    results.append(function(logits))
    winners.append(logits.argmax(-1))
  return np.concatenate(results), np.concatenate(winners)


def _resized(image_hwn, size) -> Iterator[np.ndarray]:
  """Yields bands of rows of an image resized to `size`, bilinear with corners on corners."""
  left, right, across = _neighbours(image_hwn.shape[1], size[1])
  first = image_hwn[:, left]
  wide = first + (image_hwn[:, right] - first) * across[:, np.newaxis]
  top, bottom, down = _neighbours(image_hwn.shape[0], size[0])
  for start in range(0, size[0], _BAND):
    rows = slice(start, start + _BAND)
    above = wide[top[rows]]
    yield above + (wide[bottom[rows]] - above) * down[rows, np.newaxis, np.newaxis]


def _neighbours(size, new_size):
  """Returns the samples that bilinear resizing mixes: lower and upper, and the upper's share."""
  step = np.float32(size - 1) / np.float32(max(new_size - 1, 1))
  position = np.arange(new_size, dtype=np.float32) * step
  lower = np.floor(position).astype(int)
  return lower, np.minimum(lower + 1, size - 1), position - np.floor(position)


def _softmax(logits):
  exponentials = np.exp(logits - logits.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)
