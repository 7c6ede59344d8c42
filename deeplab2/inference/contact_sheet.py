"""An image of what the model sees: records as stored, next to what the input makes of them."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from deeplab2 import structures
from deeplab2.data import datasets
from deeplab2.data import tfrecord
from deeplab2.inference import drawing

_PAPER, _INK = (255, 255, 255), (32, 32, 32)
_GAP = 12


def draw(
  pairs: Sequence[tuple[tfrecord.Record, structures.Sample]], info: datasets.DatasetInfo, side: int
) -> PIL.Image.Image:
  """Draws one row for each record and the sample of one image that was made of it.

  Args:
    pairs: at least one; samples with targets, batches of one.
    info: the dataset.
    side: longer side of each image drawn, in pixels.
  """
  rows = [_row(record, sample, info, side) for record, sample in pairs]
  whole = PIL.Image.new(
    'RGB', (max(row.width for row in rows), sum(row.height + _GAP for row in rows) - _GAP), _PAPER
  )
  top = 0
  for row in rows:
    whole.paste(row, (0, top))
    top += row.height + _GAP
  return whole


def _row(record, sample, info, side):
  """Draws an image and its label, and what the pipeline makes of them."""
  space = info.label_space
  name = record.name.numpy().decode(errors='replace')
  label, targets = record.label.numpy()[..., 0], sample.targets
  semantic, masks = targets.semantic[0].numpy(), targets.thing_id_mask[0].numpy()
  classes = targets.thing_id_class[0].numpy()
  seen = np.clip(np.round(sample.image[0].numpy()), 0, 255).astype(np.uint8)

  # Ids of maps that hold classes alone, or masks alone; there may be more masks than the divisor
  # allows.
  stuff = space._replace(thing_ids=(), label_divisor=1)
  things = space._replace(label_divisor=len(classes) + 1)
  thing_ids = np.where(
    masks >= 0, classes[masks] * things.label_divisor + masks + 1, things.void_id
  )

  def overlaid(image, ids, numbering):
    numbered = info._replace(label_space=numbering)
    return drawing.overlay(_fitted(image, side), _fitted(ids, side), numbered)

  stored = record.image.numpy()
  tiles = [
    (_fitted(stored, side), f'{name}: {_size(stored)} as stored'),
    (overlaid(stored, label, space), 'label as stored'),
    (_fitted(seen, side), f'{name}: {_size(seen)} as the model sees it'),
    (overlaid(seen, semantic, stuff), 'its classes (targets.semantic)'),
    (
      overlaid(seen, thing_ids, things),
      f'masks of its things: {(classes >= 0).sum()} (targets.thing_id_mask)',
    ),
  ]
  return _side_by_side(tiles, side)


def _size(image):
  return f'{image.shape[0]}x{image.shape[1]}'


def _fitted(values, side):
  """Returns an image or map resized so that its longer side is `side`: maps by nearest pixel."""
  scale = side / max(values.shape[:2])
  size = [max(1, round(length * scale)) for length in values.shape[:2]]
  if values.ndim == 3:
    image = PIL.Image.fromarray(values).resize(size[::-1], PIL.Image.Resampling.BICUBIC)
    return np.asarray(image)
  rows, columns = (
    np.minimum(((np.arange(n) + 0.5) * length / n).astype(int), length - 1)
    for n, length in zip(size, values.shape, strict=True)
  )
  return values[rows[:, np.newaxis], columns]


def _side_by_side(tiles, side):
  """Returns tiles in columns of `side` pixels, each with its caption right below it."""
  font = PIL.ImageFont.load_default(max(14, side // 32))
  line = round(1.6 * font.size)
  row = PIL.Image.new(
    'RGB',
    (len(tiles) * (side + _GAP) - _GAP, max(tile.shape[0] for tile, _ in tiles) + line),
    _PAPER,
  )
  draw = PIL.ImageDraw.Draw(row)
  for number, (tile, caption) in enumerate(tiles):
    left = number * (side + _GAP)
    row.paste(PIL.Image.fromarray(tile), (left + (side - tile.shape[1]) // 2, 0))
    while font.getlength(caption) > side:
      caption = f'{caption.rstrip("…")[:-1]}…'
    draw.text((left + side // 2, tile.shape[0] + line // 2), caption, _INK, font, anchor='mm')
  return row
