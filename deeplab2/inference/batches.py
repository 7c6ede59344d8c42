"""Images on their way through a model, in order: those that were read, segmented or left out."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import labels
from deeplab2.data import stretched
from deeplab2.inference import saved_model


class Item(NamedTuple):
  """An image on its way."""

  source: Any  # The caller's.
  name: str  # For messages.
  pixels: Any = None  # np.ndarray, uint8 [H, W, 3]
  panoptic: Any = None  # stretched.StretchedMap, ids of the dataset.
  error: errors.UserError | None = None  # Why it is left out.

  def num_bytes(self) -> int:
    """Returns the memory that the pixels take."""
    return 0 if self.pixels is None else self.pixels.nbytes


def takes_batches(model: saved_model.Exported) -> bool:
  """Returns whether a model segments several images at once; those of earlier versions do not."""
  return hasattr(model.functions, 'fit') and hasattr(model.functions, 'in_crop')


def segmented(
  model: saved_model.Exported, items: Iterable[Item], batch_size: int
) -> Iterator[Item]:
  """Yields all items in order, those with pixels and no map yet with the map of the model.

  Args:
    model: the model.
    items: any of them may be left out already, or have its map.
    batch_size: how many images the model gets at a time.

  Raises:
    UserError: the model does not fit its own classes, or cannot segment several images at once.
  """
  waiting: list[Item] = []
  num_images = 0
  for item in items:
    waiting.append(item)
    num_images += _is_open(item)
    if num_images == batch_size or not num_images:
      yield from _of_batch(model, waiting)
      waiting, num_images = [], 0
  yield from _of_batch(model, waiting)


def _is_open(item):
  return item.error is None and item.panoptic is None


def _of_batch(model, items):
  """Returns items with the maps of those that have none."""
  batch = [item for item in items if _is_open(item)]
  try:
    maps = iter(_maps(model, [item.pixels for item in batch]))
  except tf.errors.OpError as error:
    if len(batch) > 1:
      raise errors.UserError(
        f'{batch[0].name}: the model cannot segment it and the next {len(batch) - 1} at once '
        f'({files.reason(error)}); take a smaller --batch_size.'
      ) from error
    reason = files.reason(error)
    failure = errors.UserError(f'{batch[0].name}: the model cannot segment it ({reason}).')
    return [item._replace(error=failure) if _is_open(item) else item for item in items]
  return [_with_map(model, item, next(maps)) if _is_open(item) else item for item in items]


def _maps(model, images):
  """Returns the panoptic maps of images of any sizes, from one call of the network."""
  if len(images) < 2:
    return [model.panoptic(image) for image in images]
  fitted = [model.functions.fit(image) for image in images]
  stacked = tf.stack([each['fitted'] for each in fitted])
  return [
    stretched.StretchedMap(values, each['rows'].numpy(), each['columns'].numpy())
    for values, each in zip(
      model.functions.in_crop(stacked)['panoptic'].numpy(), fitted, strict=True
    )
  ]


def _with_map(model, item, panoptic):
  problem = labels.find_problem(panoptic.ids(), model.info.label_space)
  if problem:
    problem = f'{item.name}: the model does not fit its own classes: {problem}'
    return item._replace(error=errors.UserError(problem))
  return item._replace(panoptic=panoptic)
