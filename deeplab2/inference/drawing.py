"""Panoptic maps as images for people: colored segments, their names, a legend.

Every class has its colour and every instance a shade of it. What belongs to no class stays grey.
Small images are enlarged until names can be read.
"""

import colorsys
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from deeplab2.data import datasets
from deeplab2.data import stretched

# Maps with a longer side are better drawn smaller: the memory for drawing grows with the pixels.
LARGEST_SIDE = 4096
_SMALLEST_SIDE = 480  # The longer side of a drawn map is at least about this many pixels.
_OPACITY = 0.55
_GREY = 0.5  # Brightness of what belongs to no class.
_PAPER, _INK = (255, 255, 255), (32, 32, 32)
# How much of a name must lie on its segment.
_NAME_INSIDE = 0.5
_STRIP_ROWS = 256


class _Segment(NamedTuple):
  """A segment of a map."""

  name: str
  color: np.ndarray  # [3] float64, 0..255
  area: int
  is_thing: bool


def overlay(image: np.ndarray, panoptic: np.ndarray, info: datasets.DatasetInfo) -> np.ndarray:
  """Draws a panoptic map over its image, with names on the segments and a legend below.

  Args:
    image: [h, w, 3] RGB 0..255; brought to the map's size if it has another one.
    panoptic: [H, W] integer panoptic ids.
    info: numbering, names and colors of the classes.

  Returns:
    [H', W', 3] uint8, the map at a whole multiple of its size and the legend.
  """
  scale = _scale(panoptic.shape)
  segments, index = _segments(panoptic, info)
  mixed_rows = _drawn(_enlarged(image, panoptic.shape, scale), index, segments, scale)
  return np.asarray(_below(mixed_rows, _legend(segments, mixed_rows.width, _font(mixed_rows.size))))


def video_frame(image: np.ndarray, panoptic: np.ndarray, info: datasets.DatasetInfo) -> np.ndarray:
  """Draws a panoptic map over a frame of a video, with names on the segments.

  All frames of a size are drawn at the same size, and the shade of a thing follows from its
  instance number alone.

  Args:
    image: [h, w, 3] RGB 0..255; brought to the map's size if it has another one.
    panoptic: [H, W] integer panoptic ids, whose numbers are those of things in the video.
    info: numbering, names and colors of the classes.

  Returns:
    [H', W', 3] uint8, the map at a whole multiple of its size.
  """
  scale = _scale(panoptic.shape)
  segments, index = _segments(panoptic, info, by_number=True)
  return np.asarray(_drawn(_enlarged(image, panoptic.shape, scale), index, segments, scale))


def panel(
  image: np.ndarray,
  prediction: np.ndarray,
  ground_truth: np.ndarray | None,
  info: datasets.DatasetInfo,
) -> np.ndarray:
  """Draws image, prediction and ground truth side by side, with titles and one legend.

  Args:
    image: [h, w, 3] RGB 0..255; brought to the map's size if it has another one.
    prediction: [H, W] integer panoptic ids.
    ground_truth: [H, W] integer panoptic ids, or None to leave it out.
    info: numbering, names and colors of the classes.

  Returns:
    [H', W', 3] uint8.
  """
  scale = _scale(prediction.shape)
  base = _enlarged(image, prediction.shape, scale)
  font = _font(base.size)
  columns, listed = [_titled('image', base, font)], []
  for title, panoptic in (('prediction', prediction), ('ground truth', ground_truth)):
    if panoptic is not None:
      segments, index = _segments(panoptic, info)
      columns.append(_titled(title, _drawn(base, index, segments, scale), font))
      listed += [segment._replace(is_thing=False) for segment in segments]
  gap = max(4, base.width // 100)
  canvas = PIL.Image.new(
    'RGB', (sum(c.width + gap for c in columns) - gap, columns[0].height), _PAPER
  )
  for number, column in enumerate(columns):
    canvas.paste(column, (number * (column.width + gap), 0))
  return np.asarray(_below(canvas, _legend(listed, canvas.width, font)))


def colorize(panoptic: np.ndarray, info: datasets.DatasetInfo) -> np.ndarray:
  """Returns a panoptic map [H, W] as flat colours [H, W, 3] uint8, black where it has no class."""
  segments, index = _segments(panoptic, info)
  palette = np.array([segment.color for segment in segments] + [np.zeros(3)])
  return palette.round().astype(np.uint8)[index]


def _segments(panoptic, info, by_number=False):
  """Returns the segments, and the map [H, W] of indices into them, -1 where there is none.

  Things are shaded by their instance numbers, or by their order in this map.
  """
  space = info.label_space
  unstretched = stretched.unstretched(np.asarray(panoptic))
  ids = unstretched.ids()
  areas, _ = unstretched.measure(ids)
  segments, number_of = [], np.full(ids.size, -1, np.int32)
  seen = {}
  for position, (panoptic_id, area) in enumerate(zip(ids.tolist(), areas.tolist(), strict=True)):
    class_id, instance = divmod(panoptic_id, space.label_divisor)
    if class_id == space.ignore_label:
      continue
    number_of[position] = len(segments)
    is_thing = class_id in space.thing_ids
    name, order = info.class_names[class_id], 0
    if is_thing and instance == 0:
      name += ' (crowd)'
    elif is_thing:
      order = seen[class_id] = seen.get(class_id, -1) + 1
      if by_number:
        order = instance - 1
    segments.append(_Segment(name, _shade(info.colors[class_id], order), area, is_thing))
  index = np.concatenate(
    [number_of[np.searchsorted(ids, strip)] for _, strip in unstretched.strips()]
  )
  return segments, index


def _shade(color, order):
  """Returns the shade of a class colour for its instance number `order`; 0 is the colour itself."""
  if order == 0:
    return np.array(color, np.float64)
  hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
  # Multiples of the golden ratio spread evenly however many there are.
  spread = order * 0.618034 % 1
  hue += 0.1 * (order * 0.754878 % 1 - 0.5)
  lightness = 0.3 + 0.5 * ((lightness - 0.3) / 0.5 + spread) % 0.5
  return 255 * np.array(colorsys.hls_to_rgb(hue % 1, lightness, max(saturation, 0.35)))


def _scale(size):
  """Returns the integer by which a map of `size` is enlarged."""
  return max(1, -(-_SMALLEST_SIDE // max(size)))


def _enlarged(image, size, scale):
  """Returns the image at `scale` times `size` (height, width)."""
  if image.dtype != np.uint8:
    image = np.clip(image, 0, 255).astype(np.uint8)
  canvas = PIL.Image.fromarray(image)
  target = (size[1] * scale, size[0] * scale)
  return canvas if canvas.size == target else canvas.resize(target, PIL.Image.Resampling.BICUBIC)


def _font(size):
  """Returns a font that can be read on a canvas of `size`."""
  return PIL.ImageFont.load_default(max(12, max(size) // 45))


def _drawn(image, index, segments, scale):
  """Returns `image` with segments colored, outlined and named."""
  index = index.repeat(scale, 0).repeat(scale, 1)
  # Only light and shade of the image: its own colours would mix with those of the classes.
  grey = np.asarray(image.convert('L'))
  mixes = _mixes(segments)
  outlines = _outlines(index, max(1, round(max(image.size) / 640)))
  mixed_rows = np.empty([*index.shape, 3], np.uint8)
  for top in range(0, index.shape[0], _STRIP_ROWS):
    rows = slice(top, top + _STRIP_ROWS)
    # Pixels of no segment have index -1, the last row of the table.
    places = index[rows] % (len(segments) + 1) * 256 + grey[rows]
    mixed_rows[rows] = mixes.take(places, 0)
    mixed_rows[rows][outlines[rows]] = 255
  drawn = PIL.Image.fromarray(mixed_rows)
  _write_names(drawn, index, segments)
  return drawn


def _mixes(segments):
  """Returns [(n + 1) 256, 3] uint8: a segment's colour over each grey; the last is of none."""
  palette = np.array([segment.color for segment in segments] + [np.zeros(3)], np.float32)
  opacities = np.array([_OPACITY] * len(segments) + [1 - _GREY], np.float32)[:, None, None]
  greys = np.arange(256, dtype=np.float32)[:, np.newaxis]
  mixed = opacities * palette[:, np.newaxis] + (1 - opacities) * greys
  return mixed.round().astype(np.uint8).reshape(-1, 3)


def _outlines(index, width):
  """Returns [H, W] bool, True along the borders between segments."""
  edges = np.zeros(index.shape, bool)
  edges[:, :-1] |= index[:, 1:] != index[:, :-1]
  edges[:-1] |= index[1:] != index[:-1]
  thick = edges.copy()
  for step in range(1, width):
    thick[:, step:] |= edges[:, :-step]
    thick[step:] |= edges[:-step]
  return thick


def _write_names(image, index, segments):
  """Writes names where they lie on their own segment and on no other name."""
  draw, font = PIL.ImageDraw.Draw(image, 'RGBA'), _font(image.size)
  step = 4
  coarse = index[::step, ::step]
  taken = np.zeros(coarse.shape, bool)
  # Small segments have little choice, so they come first.
  for number in sorted(range(len(segments)), key=lambda n: segments[n].area):
    segment = segments[number]
    width, height = round(font.getlength(segment.name) + 0.6 * font.size), round(1.4 * font.size)
    box = (-(-height // step), -(-width // step))
    if box[0] > coarse.shape[0] or box[1] > coarse.shape[1]:
      continue
    inside = _box_sums(coarse == number, box) / (box[0] * box[1])
    inside[_box_sums(taken, box) > 0] = 0
    row, column = _best_place(inside)
    if inside[row, column] < _NAME_INSIDE:
      continue
    taken[row : row + box[0], column : column + box[1]] = True
    x, y = column * step, row * step
    draw.rounded_rectangle((x, y, x + width, y + height), height // 5, (*_INK, 150))
    draw.text((x + width // 2, y + height // 2), segment.name, (255, 255, 255), font, anchor='mm')


def _best_place(inside):
  """Returns the position of the largest value, amid all of them that are as large."""
  rows, columns = np.nonzero(inside >= inside.max() - 1e-6)
  nearest = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
  return rows[nearest], columns[nearest]


def _box_sums(mask, box):
  """Returns the sum of `mask` in the box at every position where it fits."""
  total = np.pad(mask.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
  rows, columns = box
  return (
    total[rows:, columns:]
    - total[:-rows, columns:]
    - total[rows:, :-columns]
    + total[:-rows, :-columns]
  )


def _legend(segments, width, font):
  """Returns a strip of `width` that lists the classes of `segments`, the largest first."""
  areas, colors, counts = {}, {}, {}
  for segment in segments:
    areas[segment.name] = areas.get(segment.name, 0) + segment.area
    colors.setdefault(segment.name, segment.color)
    counts[segment.name] = counts.get(segment.name, 0) + segment.is_thing
  line = round(1.6 * font.size)
  places, x, y = [], line // 2, line // 4
  for name in sorted(areas, key=lambda name: -areas[name]):
    text = f'{name} x{counts[name]}' if counts[name] > 1 else name
    needed = round(line + font.getlength(text) + line / 2)
    if x + needed > width and x > line:
      x, y = line // 2, y + line
    places.append((x, y, text, colors[name]))
    x += needed
  strip = PIL.Image.new('RGB', (width, y + line + line // 4), _PAPER)
  draw = PIL.ImageDraw.Draw(strip)
  for x, y, text, color in places:
    swatch = (x, y + line // 5, x + line * 3 // 5, y + line * 4 // 5)
    draw.rectangle(swatch, tuple(int(channel) for channel in color), _INK)
    draw.text((x + line * 4 // 5, y + line // 2), text, _INK, font, anchor='lm')
  return strip


def _titled(title, image, font):
  """Returns `image` under its title."""
  line = round(1.6 * font.size)
  titled = PIL.Image.new('RGB', (image.width, image.height + line), _PAPER)
  PIL.ImageDraw.Draw(titled).text((image.width // 2, line // 2), title, _INK, font, anchor='mm')
  titled.paste(image, (0, line))
  return titled


def _below(image, strip):
  """Returns `strip` below `image`."""
  whole = PIL.Image.new('RGB', (image.width, image.height + strip.height), _PAPER)
  whole.paste(image, (0, 0))
  whole.paste(strip, (0, image.height))
  return whole
