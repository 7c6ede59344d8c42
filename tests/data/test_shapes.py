"""Tests for deeplab2.data.shapes."""

import numpy as np
import pytest

from deeplab2.data import datasets
from deeplab2.data import labels
from deeplab2.data import shapes

_SPACE = datasets.get('shapes').label_space


@pytest.fixture(name='samples', scope='module')
def _samples():
  return [shapes.generate(0, 'val', index, _SPACE) for index in range(60)]


def test_same_arguments_same_image(samples):
  image, label = shapes.generate(0, 'val', 7, _SPACE)
  np.testing.assert_array_equal(image, samples[7][0])
  np.testing.assert_array_equal(label, samples[7][1])


@pytest.mark.parametrize('arguments', [(1, 'val', 7), (0, 'train', 7), (0, 'val', 8)])
def test_seed_split_and_index_matter(samples, arguments):
  image, _ = shapes.generate(*arguments, _SPACE)
  assert image.shape != samples[7][0].shape or (image != samples[7][0]).mean() > 0.5


def test_images_and_labels_fit_the_schema(samples):
  for image, label in samples:
    assert image.dtype == np.uint8 and label.dtype == np.int32
    assert image.shape == label.shape + (3,)
    assert all(112 <= side <= 160 for side in label.shape)
    assert labels.find_problem(label, _SPACE) is None


def test_the_set_holds_all_that_a_panoptic_set_can_hold(samples):
  ids = [np.unique(label) for _, label in samples]
  classes = np.concatenate([np.unique(i // 256) for i in ids])
  # Every class on at least a tenth of the images.
  assert all((classes == index).sum() >= 6 for index in range(1, 10))
  assert any((label == 0).any() for _, label in samples)  # void
  assert any(labels.crowd_mask(label, _SPACE).any() for _, label in samples)
  # Several instances of one class in an image.
  assert any((np.unique(i[i % 256 > 0] // 256, return_counts=True)[1] > 1).any() for i in ids)


def test_instances_are_numbered_without_gaps_and_stay_visible(samples):
  for _, label in samples:
    for class_id in _SPACE.thing_ids:
      values, areas = np.unique(label[label // 256 == class_id], return_counts=True)
      areas = areas[values % 256 > 0]
      values = values[values % 256 > 0]
      np.testing.assert_array_equal(values % 256, np.arange(1, len(values) + 1))
      assert (areas >= 24).all()  # 40 % of the smallest figure.


def test_areas_of_the_outlines():
  """Covered area of the figures against the textbook's, at radius 40."""

  def area(outline):
    alphas = [
      shapes.figure_alpha(np.random.default_rng(seed), 160, 160, outline, 40.0, (80.0, 80.0))
      for seed in range(4)
    ]
    return np.mean([alpha.sum() for alpha in alphas])

  circle, triangle, square, star, ring = shapes.OUTLINES
  disc = np.pi * 40**2
  assert area(circle) == pytest.approx(disc, rel=0.02)
  assert area(triangle) == pytest.approx(3 * np.sqrt(3) / 4 * 40**2, rel=0.02)
  assert area(square) == pytest.approx(2 * 40**2, rel=0.02)
  # Ten triangles between centre, tip and inner corner, 36 degrees apart.
  assert area(star) == pytest.approx(10 * 0.5 * 40 * 0.42 * 40 * np.sin(np.pi / 5), rel=0.02)
  assert area(ring) == pytest.approx(disc * (1 - 0.55**2), rel=0.03)


def test_colour_alone_does_not_tell_the_class(samples):
  """The mean colour of a class over many segments is about the same for all classes."""
  means = {}
  for image, label in samples:
    for value in np.unique(label[label >= 256]):
      means.setdefault(value // 256, []).append(image[label == value].mean(0))
  centres = {index: np.mean(colours, 0) for index, colours in means.items()}
  spread = np.mean([np.std(colours, 0) for colours in means.values()])
  for index, centre in centres.items():
    error = spread / np.sqrt(len(means[index]))
    assert np.abs(centre - np.mean(list(centres.values()), 0)).max() < 4 * error + 5
