"""Panels of an image, and which of its pixels are wrong."""

import io

import numpy as np
import PIL.Image
import pytest

from deeplab2 import structures
from deeplab2.report import thumbnails
from tests.report import made

SPACE = structures.LabelSpace(num_classes=5, ignore_label=0, label_divisor=10, thing_ids=(1, 2))


def test_errors_of_pixels_by_hand():
  missed, extra, both, outline = range(1, 5)
  found = thumbnails.error_map(
    np.array([[30, 30, 30, 30, 21, 21, 21, 12, 0]]),
    np.array([[30, 30, 30, 11, 11, 11, 0, 10, 30]]),
    SPACE,
  )
  # Stuff 30 matches with 3 of 5 pixels; 11 is missed: under 30, then under a false positive. Void
  # and crowd are never wrong. The last pixel is of the match in the ground truth alone.
  assert list(thumbnails.ERRORS) == ['missed', 'false positive', 'both', 'outline']
  assert found.tolist() == [[0, 0, 0, missed, both, both, 0, 0, outline]]
  # A false positive on a match that lies elsewhere.
  found = thumbnails.error_map(np.array([[30, 30, 30, 40]]), np.array([[30, 30, 30, 30]]), SPACE)
  assert found.tolist() == [[0, 0, 0, extra]]


def _opened(content):
  with PIL.Image.open(io.BytesIO(content)) as image:
    assert image.format == 'WEBP'
    return np.asarray(image.convert('RGBA'))


@pytest.mark.parametrize(('size', 'expected'), [((12, 8), (12, 8)), ((900, 640), (400, 284))])
def test_panels_are_small_and_of_one_size(size, expected):
  space = made.INFO.label_space
  panoptic = np.full(size, 6 * 256, np.int32)  # Sky.
  panoptic[: size[0] // 2] = 1 * 256 + 1  # A circle.
  panoptic[:, :2] = space.void_id
  panels = thumbnails.draw(np.full([*size, 3], 90.0), panoptic, panoptic, made.INFO)
  assert tuple(panels) == thumbnails.NAMES
  opened = {name: _opened(content) for name, content in panels.items()}
  assert {image.shape for image in opened.values()} == {(*expected, 4)}
  assert np.abs(opened['image'][..., :3].astype(int) - 90).max() <= 3
  # Colours of the dataset; clear where there is no class; white between.
  assert opened['prediction'][1, -1].tolist() == [220, 20, 60, 255]
  assert opened['ground_truth'][-1, -1].tolist() == [70, 130, 180, 255]
  if size == expected:
    assert (opened['prediction'][:, 0, 3] == 0).all()
    assert opened['prediction'][6, 5].tolist() == [255, 255, 255, 255]
  assert (opened['errors'][..., 3] == 0).all()


def test_view_of_another_size_than_the_maps():
  """The image as the model saw it, the maps at the image's own size."""
  panoptic = np.full((40, 60), 6 * 256, np.int32)
  panels = thumbnails.draw(np.zeros([21, 31, 3], np.float32), panoptic, panoptic, made.INFO)
  assert {_opened(content).shape for content in panels.values()} == {(40, 60, 4)}
