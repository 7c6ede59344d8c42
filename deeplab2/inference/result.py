"""What a model finds in one image: segments, maps and drawings, whatever program ran the model."""

from collections.abc import Mapping
import functools
import io
from typing import Any, TypedDict

import numpy as np
import PIL.Image

from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import stretched
from deeplab2.inference import drawing


class Segment(TypedDict):
  """A thing, or all of one stuff class, in an image."""

  id: int  # Its pixels are `result.panoptic == id`.
  class_id: int  # As in `result.semantic`: dataset id, from 0.
  class_name: str
  is_thing: bool
  score: float | None  # 0..1, see Result. None if the model does not tell.
  area: int  # Pixels.
  bbox: list[int]  # [x, y, width, height] in pixels, as in COCO.


class Result:
  """The panoptic segmentation of one image.

  The score of a segment is the one by which its mask was ranked when masks were merged: class
  confidence to the power of `reorder_class_weight`, times mask confidence to that of
  `reorder_mask_weight` (evaluator_options.maskwise_postprocessing); for pixelwise post-processing,
  the class confidence. Of a stuff segment that several masks make up it is the mean over its
  pixels. Models that were exported without it have no scores.

  In notebooks a result is shown as its overlay.
  """

  def __init__(
    self,
    image: np.ndarray,
    panoptic: np.ndarray | stretched.StretchedMap,
    info: datasets.DatasetInfo,
    *,
    semantic: np.ndarray | stretched.StretchedMap | None = None,
    scores: Mapping[int, float] | None = None,
  ):
    """Creates a result.

    Args:
      image: uint8 [H, W, 3] RGB.
      panoptic: [H, W] ids, class_id * label_divisor + instance.
      info: the dataset.
      semantic: [H, W] dataset ids of the semantic pass. None takes the classes of `panoptic`.
      scores: 0..1 by panoptic id. None if the model does not tell.

    Raises:
      ValueError: a map is not of the image's size.
    """
    maps = [_as_stretched(one) for one in (panoptic, semantic) if one is not None]
    for one in maps:
      if one.shape != image.shape[:2]:
        raise ValueError(f'A map of {one.shape} is not of the image, {image.shape[:2]}.')
    self.image = image
    self.info = info
    self._panoptic = maps[0]
    self._semantic = maps[1] if semantic is not None else None
    self._scores = scores

  @functools.cached_property
  def panoptic(self) -> np.ndarray:
    """[H, W] int32 panoptic ids at the image's size: class_id * label_divisor + instance.

    Things count instances from 1; stuff has instance 0. Pixels without a segment have
    `info.label_space.void_id`.
    """
    return self._panoptic.whole().astype(np.int32, copy=False)

  @functools.cached_property
  def semantic(self) -> np.ndarray:
    """[H, W] int32 class ids at the image's size.

    They are those of the semantic pass, which gives every pixel the class of its strongest mask
    and knows no void. Of a model without a semantic pass, they are the classes of `panoptic`.
    """
    if self._semantic is None:
      return self.panoptic // self.info.label_space.label_divisor
    return self._semantic.whole().astype(np.int32, copy=False)

  @functools.cached_property
  def segments(self) -> list[Segment]:
    """The segments of `panoptic`, the largest first."""
    space = self.info.label_space
    ids = self._panoptic.ids()
    areas, boxes = self._panoptic.measure(ids)
    scores = self._scores or {}
    found = []
    for panoptic_id, area, box in zip(ids.tolist(), areas.tolist(), boxes, strict=True):
      class_id = panoptic_id // space.label_divisor
      if class_id != space.ignore_label:
        found.append(
          Segment(
            id=panoptic_id,
            class_id=class_id,
            class_name=self.info.class_names[class_id],
            is_thing=class_id in space.thing_ids,
            score=scores.get(panoptic_id),
            area=area,
            bbox=box,
          )
        )
    return sorted(found, key=lambda segment: (-segment['area'], segment['id']))

  def overlay(self) -> PIL.Image.Image:
    """Returns the image with its segments coloured and named, and a legend below.

    Small images are enlarged until names can be read; larger ones than 4096 pixels are reduced.
    """
    reduced = self._panoptic.reduced(drawing.LARGEST_SIDE)
    return PIL.Image.fromarray(drawing.overlay(self.image, reduced, self.info))

  def to_coco(self, image_id: int | str) -> dict[str, Any]:
    """Returns the entry of `annotations` in a COCO panoptic JSON.

    Args:
      image_id: of the image.

    Returns:
      {'image_id', 'file_name', 'segments_info'}: the latter with ids as in `coco_png`, which is to
      be saved under the file name, and category ids in the dataset's original numbering.
    """
    return {
      'image_id': image_id,
      'file_name': f'{image_id}.png',
      'segments_info': self._coco.segments_info,
    }

  def coco_png(self) -> PIL.Image.Image:
    """Returns the RGB image that goes with `to_coco`: segment id = R + 256 G + 65536 B, 0 void."""
    return PIL.Image.fromarray(self._coco.rgb(self.panoptic))

  @functools.cached_property
  def _coco(self):
    return coco_panoptic.encoding(self._panoptic, self.info)

  def _repr_png_(self) -> bytes:
    """Returns the overlay as PNG, for notebooks."""
    buffer = io.BytesIO()
    self.overlay().save(buffer, 'PNG')
    return buffer.getvalue()

  def __repr__(self):
    """Returns size, and number of segments of each class, the largest first."""
    counts: dict[str, int] = {}
    for segment in self.segments:
      counts[segment['class_name']] = counts.get(segment['class_name'], 0) + 1
    listed = ', '.join(f'{name} x{n}' if n > 1 else name for name, n in counts.items())
    height, width = self._panoptic.shape
    return f'<Result {height}x{width}: {listed or "no segments"}>'


def _as_stretched(panoptic):
  return (
    panoptic
    if isinstance(panoptic, stretched.StretchedMap)
    else stretched.unstretched(np.asarray(panoptic))
  )
