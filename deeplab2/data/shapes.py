"""A synthetic panoptic set: regions of texture (stuff) under overlapping figures (things).

Neither colour nor place tells the class: figures are told by their outline, regions by their
texture. Figures cover each other, cast light varies, pixels are noisy; a part of the images has
an unlabelled patch (void), a part a cluster of figures too small to count (crowd).
"""

import colorsys
from typing import NamedTuple
import zlib

import numpy as np
import PIL.Image

from deeplab2 import structures

_SIDES = (112, 160)  # Smallest and largest height and width.
_REGIONS = (2, 4)
_SMALLEST_REGION = 0.05  # Fraction of the image.
_FIGURES = (1, 4)
_RADII = (15.0, 40.0)
_VISIBLE = 0.6  # No figure is covered beyond this fraction of its pixels.
_VOID_RATE = 0.25
_CROWD_RATE = 0.1


class Outline(NamedTuple):
  """A figure with `points` corners at radius 1, and between any two a corner at radius `inner`."""

  points: int
  inner: float
  hole: float = 0.0  # Radius of the hole, as a fraction of the outer one.


# In the order of the thing classes of classes/shapes.json.
OUTLINES = (
  Outline(32, np.cos(np.pi / 32)),  # circle
  Outline(3, 0.5),  # triangle
  Outline(4, np.cos(np.pi / 4)),  # square
  Outline(5, 0.42),  # star
  Outline(32, np.cos(np.pi / 32), hole=0.55),  # ring
)


def generate(
  seed: int, split: str, index: int, space: structures.LabelSpace
) -> tuple[np.ndarray, np.ndarray]:
  """Returns image `index` of a split; the same arguments always give the same image.

  Args:
    seed: of the whole set.
    split: splits of one seed share no images.
    index: from 0.
    space: the ids of datasets.get('shapes').

  Returns:
    (image, label): uint8 [H, W, 3] RGB; int32 [H, W] panoptic ids, crowd as class with instance 0.
  """
  rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
  height, width = rng.integers(_SIDES[0], _SIDES[1] + 1, 2)
  image, label = _ground(rng, height, width, space)
  if rng.random() < _VOID_RATE:
    _add_void(rng, image, label, space)
  if rng.random() < _CROWD_RATE:
    _add_crowd(rng, image, label, space)
  _add_figures(rng, image, label, space)
  light = 1 + 0.2 * _noise(rng, height, width, 80)
  noise = rng.normal(0, rng.uniform(3, 10), image.shape)
  image = image * light[..., np.newaxis] + noise
  return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


def _ground(rng, height, width, space):
  """Fills the image with textured regions of different stuff classes; (image, label)."""
  count = rng.integers(_REGIONS[0], _REGIONS[1] + 1)
  y, x = np.mgrid[:height, :width]
  # Cells around random points, their borders bent by noise.
  points = rng.uniform(0, 1, (count, 2)) * (height, width)
  distance = np.stack([np.hypot(y - py, x - px) for py, px in points])
  distance += np.stack([14 * _noise(rng, height, width, 30) for _ in range(count)])
  areas = np.bincount(distance.argmin(0).ravel(), minlength=count)
  distance[areas < _SMALLEST_REGION * height * width] = np.inf  # Its neighbours take its place.
  cell = distance.argmin(0)
  image = np.zeros((height, width, 3))
  label = np.zeros((height, width), np.int32)
  for index, which in enumerate(rng.permutation(len(space.stuff_ids))[:count]):
    texture = _TEXTURES[which](rng, height, width) * rng.uniform(20, 45)
    region = cell == index
    image[region] = (_color(rng) + texture[..., np.newaxis])[region]
    label[region] = space.stuff_ids[which] * space.label_divisor
  return image, label


def _add_void(rng, image, label, space):
  """Covers a patch with a mosaic of colours and takes its label away."""
  height, width = label.shape
  mosaic = rng.uniform(0, 255, (height // 4 + 1, width // 4 + 1, 3))
  mosaic = mosaic.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
  mask = (
    figure_alpha(
      rng, height, width, OUTLINES[0], rng.uniform(10, 22), rng.uniform(0, 1, 2) * (height, width)
    )
    > 0.5
  )
  image[mask] = mosaic[mask]
  label[mask] = space.void_id


def _add_crowd(rng, image, label, space):
  """Scatters small figures of one class over a patch and labels it as crowd."""
  height, width = label.shape
  which = rng.integers(len(space.thing_ids))
  middle = rng.uniform(0.2, 0.8, 2) * (height, width)
  for _ in range(rng.integers(25, 40)):
    alpha = figure_alpha(
      rng, height, width, OUTLINES[which], rng.uniform(3, 5), middle + rng.normal(0, 12, 2)
    )
    _draw(image, alpha, _color(rng))
    label[alpha > 0.5] = space.thing_ids[which] * space.label_divisor


def _add_figures(rng, image, label, space):
  """Draws figures from back to front; one that would hide another too far is left out."""
  height, width = label.shape
  instances = {class_id: 0 for class_id in space.thing_ids}
  full_areas = {}
  y, x = np.mgrid[:height, :width]
  for _ in range(rng.integers(_FIGURES[0], _FIGURES[1] + 1)):
    which = rng.integers(len(space.thing_ids))
    class_id = space.thing_ids[which]
    # Uniform in the logarithm: as many small figures as large ones.
    radius = np.exp(rng.uniform(*np.log(_RADII)))
    middle = rng.uniform(0.08, 0.92, 2) * (height, width)
    alpha = figure_alpha(rng, height, width, OUTLINES[which], radius, middle)
    slope = rng.normal(0, 0.3, 2)
    shade = 1 + np.clip(
      ((y - middle[0]) * slope[0] + (x - middle[1]) * slope[1]) / radius, -0.4, 0.4
    )
    color = _color(rng) * shade[..., np.newaxis]
    mask = alpha > 0.5
    before = dict(zip(*np.unique(label, return_counts=True), strict=True))
    after = dict(zip(*np.unique(label[~mask], return_counts=True), strict=True))
    if mask.sum() < 60 or any(
      after.get(value, 0) < _VISIBLE * full_areas[value] for value in before if value in full_areas
    ):
      continue
    instances[class_id] += 1
    value = class_id * space.label_divisor + instances[class_id]
    full_areas[value] = mask.sum()
    _draw(image, alpha, color)
    label[mask] = value


def figure_alpha(rng, height, width, outline, radius, middle):
  """Returns how far each pixel is covered by a figure, 0..1, turned and stretched at random."""
  turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18)
  axis = rng.uniform(0, np.pi)
  y, x = np.mgrid[:height, :width] - np.reshape(middle, (2, 1, 1))
  along = np.cos(axis) * x + np.sin(axis) * y
  across = np.cos(axis) * y - np.sin(axis) * x
  rho = np.hypot(along / stretch, across * stretch)
  # Polar angle within half of one point, folded: 0 at its tip, `half` at the inner corner.
  half = np.pi / outline.points
  angle = (np.arctan2(across * stretch, along / stretch) + turn) % (2 * half)
  angle = np.minimum(angle, 2 * half - angle)
  # The straight line from the tip (1, 0) to the inner corner (inner, half), in polar form.
  edge = outline.inner * np.sin(half) / (np.sin(angle) + outline.inner * np.sin(half - angle))
  alpha = np.clip(radius * edge - rho + 0.5, 0, 1)
  if outline.hole:
    alpha *= np.clip(rho - radius * outline.hole + 0.5, 0, 1)
  return alpha


def _draw(image, alpha, color):
  """Blends `color` over `image` in place."""
  image += alpha[..., np.newaxis] * (color - image)


def _color(rng):
  """Returns a random colour [3], neither grey nor at the ends of the range."""
  color = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.25, 0.9), rng.uniform(0.4, 0.95))
  return 255 * np.array(color)


def _noise(rng, height, width, cell):
  """Returns smooth noise [height, width], about -1..1; `cell` pixels (y, x) a bump."""
  cell_y, cell_x = np.broadcast_to(cell, 2)
  grid = rng.uniform(-1, 1, (int(height / cell_y) + 3, int(width / cell_x) + 3))
  size = (int(grid.shape[1] * cell_x), int(grid.shape[0] * cell_y))
  smooth = PIL.Image.fromarray(grid.astype(np.float32)).resize(size, PIL.Image.Resampling.BICUBIC)
  return np.asarray(smooth)[:height, :width].astype(np.float64)


def _sky(rng, height, width):
  """Soft clouds, brighter on one side."""
  slope = np.linspace(-1, 1, height)[:, np.newaxis] * rng.choice([-1, 1])
  return 0.6 * slope + 0.6 * _noise(rng, height, width, 45)


def _water(rng, height, width):
  """Waves running across."""
  phase = np.arange(height)[:, np.newaxis] / rng.uniform(6, 11)
  phase = phase + 0.5 * _noise(rng, height, width, 25)
  return np.sin(2 * np.pi * phase)


def _grass(rng, height, width):
  """Thin blades standing side by side."""
  return 1.5 * _noise(rng, height, width, (14, 3))


def _sand(rng, height, width):
  """Fine grains."""
  return 1.5 * np.sign(_noise(rng, height, width, 4)) * rng.uniform(0.3, 1, (height, width))


# In the order of the stuff classes of classes/shapes.json.
_TEXTURES = (_sky, _water, _grass, _sand)
