"""Small panels of an evaluated image: the image, and three maps that are laid over it.

Maps are clear where there is nothing to say, so that a page can show more or less of the image
below. All are WebP; those of a photograph of COCO take some 20 kB together.
"""

from collections.abc import Mapping
import io

import numpy as np
import PIL.Image

from deeplab2 import structures
from deeplab2.data import datasets
from deeplab2.inference import drawing
from deeplab2.metrics import overlaps as overlaps_lib
from deeplab2.metrics import panoptic_quality

SIDE = 400  # Longest side in pixels; smaller images stay as they are.
NAMES = ('image', 'prediction', 'ground_truth', 'errors')

# Colours that people who do not tell red from green tell apart (Okabe and Ito).
ERRORS: Mapping[str, tuple[int, int, int]] = {
  'missed': (213, 94, 0),
  'false positive': (0, 114, 178),
  'both': (204, 121, 167),
  'outline': (240, 228, 66),
}
_MISSED, _EXTRA, _BOTH, _OUTLINE = range(1, 1 + len(ERRORS))


def draw(
  image: np.ndarray, prediction: np.ndarray, ground_truth: np.ndarray, info: datasets.DatasetInfo
) -> dict[str, bytes]:
  """Returns the panels by NAMES, as WebP files.

  Args:
    image: [h, w, 3] RGB 0..255, of the same view as the maps.
    prediction: [H, W] integer panoptic ids.
    ground_truth: [H, W] integer panoptic ids.
    info: numbering and colours of the classes.
  """
  height, width = prediction.shape
  scale = min(1.0, SIDE / max(height, width))
  size = max(1, round(height * scale)), max(1, round(width * scale))
  rows, columns = (
    ((np.arange(count) + 0.5) * length / count).astype(int)
    for count, length in zip(size, (height, width), strict=True)
  )
  small = PIL.Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).resize(
    size[::-1], PIL.Image.Resampling.BOX if scale < 1 else PIL.Image.Resampling.BICUBIC
  )
  place = (rows[:, np.newaxis], columns)
  found = error_map(prediction, ground_truth, info.label_space, place)
  palette = np.array([(0, 0, 0, 0), *((*color, 255) for color in ERRORS.values())], np.uint8)
  return {
    'image': _webp(small, quality=72),
    'prediction': _webp(_segments(prediction[place], info), lossless=True),
    'ground_truth': _webp(_segments(ground_truth[place], info), lossless=True),
    'errors': _webp(PIL.Image.fromarray(palette[found]), lossless=True),
  }


def error_map(
  prediction: np.ndarray, ground_truth: np.ndarray, space: structures.LabelSpace, place=...
) -> np.ndarray:
  """Returns [H, W] uint8: 0, or 1 + the place in ERRORS of what is wrong at the pixel.

  `missed` pixels are of a true segment without a match, `false positive` ones of a predicted one
  that counts as such, `both` of both. `outline` pixels are of a match in one map only. Pixels
  without a label, on crowd, or of segments that do not count are 0.

  Args:
    prediction: [H, W] integer panoptic ids.
    ground_truth: [H, W] integer panoptic ids.
    space: the numbering of both.
    place: the part of the map that is returned, as an index of NumPy; all of it by default.
  """
  found = overlaps_lib.overlaps(ground_truth, prediction)
  matching, _ = panoptic_quality.match(found, space)
  of_true = np.full(found.true_ids.size, -1)
  of_true[matching.matched_true] = matching.matched_predicted
  true = np.searchsorted(found.true_ids, ground_truth[place])
  predicted = np.searchsorted(found.predicted_ids, prediction[place])
  is_matched = np.zeros(found.predicted_ids.size, bool)
  is_matched[matching.matched_predicted] = True
  missed, extra = matching.missed[true], matching.extra[predicted]
  crowd = (found.true_ids % space.label_divisor == 0) & np.isin(
    found.true_ids // space.label_divisor, space.thing_ids
  )
  ignored = (crowd | (found.true_ids // space.label_divisor == space.ignore_label))[true]
  outline = of_true[true] != predicted
  outline &= (of_true[true] >= 0) | is_matched[predicted]
  errors = np.where(outline, _OUTLINE, 0).astype(np.uint8)
  errors[missed] = _MISSED
  errors[extra] = _EXTRA
  errors[missed & extra] = _BOTH
  errors[ignored] = 0
  return errors


def _segments(panoptic, info):
  """Returns a map in the colours of its segments, with white borders, clear without class."""
  colors = drawing.colorize(panoptic, info)
  space = info.label_space
  alpha = np.where(panoptic // space.label_divisor == space.ignore_label, 0, 255).astype(np.uint8)
  border = np.zeros(panoptic.shape, bool)
  border[:, 1:] |= panoptic[:, 1:] != panoptic[:, :-1]
  border[1:] |= panoptic[1:] != panoptic[:-1]
  colors[border], alpha[border] = 255, 255
  return PIL.Image.fromarray(np.dstack([colors, alpha]))


def _webp(image, **settings):
  buffer = io.BytesIO()
  image.save(buffer, 'WEBP', method=4, **settings)
  return buffer.getvalue()
