"""What drawn maps show, pixel by pixel."""

import numpy as np
import pytest

from deeplab2 import structures
from deeplab2.data import datasets
from deeplab2.data import stretched
from deeplab2.inference import drawing

_SPACE = structures.LabelSpace(4, 0, 256, (1, 2))
_NAMES = ('void', 'cat', 'dog', 'sky')
_COLORS = ((0, 0, 0), (200, 20, 60), (0, 160, 40), (70, 130, 180))
_INFO = datasets.DatasetInfo('any', _SPACE, _NAMES, _COLORS, (0, 1, 2, 3), 0, {}, {})


def _map(height=96, width=128):
  """Sky above two cats, a dog and an unlabelled corner."""
  panoptic = np.full([height, width], 3 * 256, np.int32)
  half, third = height // 2, width // 3
  panoptic[half:, :third] = 257
  panoptic[half:, third : 2 * third] = 258
  panoptic[half:, 2 * third :] = 513
  panoptic[-height // 4 :, -width // 4 :] = 0
  return panoptic


def _draw(function, *maps, image=None):
  image = np.full([*maps[0].shape, 3], 100, np.uint8) if image is None else image
  return function(image, *maps, _INFO)


def test_paint_gives_classes_their_colour_and_instances_a_shade():
  colored = drawing.colorize(_map(8, 12), _INFO)
  assert colored.dtype == np.uint8
  assert tuple(colored[0, 0]) == _COLORS[3]
  assert tuple(colored[7, 0]) == _COLORS[1]
  assert tuple(colored[4, 11]) == _COLORS[2]
  assert tuple(colored[7, 11]) == (0, 0, 0)
  second_cat = colored[7, 5].astype(int)
  assert np.abs(second_cat - _COLORS[1]).max() > 40
  assert np.abs(second_cat - _COLORS[1]).sum() < np.abs(second_cat - _COLORS[2]).sum()


def test_many_instances_differ():
  panoptic = 257 + np.arange(24)[np.newaxis]
  colored = drawing.colorize(panoptic, _INFO)[0].astype(int)
  distances = np.abs(colored[:, np.newaxis] - colored).sum(-1) + 1000 * np.eye(24, dtype=int)
  assert distances.min() >= 9


def test_overlay_blends_colours_and_leaves_void_grey():
  drawn = _draw(drawing.overlay, _map(960, 1280))
  assert drawn.dtype == np.uint8
  assert drawn.shape[1] == 1280 and drawn.shape[0] > 960, 'a legend below, nothing enlarged'
  np.testing.assert_allclose(drawn[5, 5], 0.55 * np.array(_COLORS[3]) + 0.45 * 100, atol=1)
  np.testing.assert_allclose(drawn[950, 1270], [50, 50, 50], atol=1)
  assert tuple(drawn[600, 425]) == (255, 255, 255) or tuple(drawn[600, 426]) == (255, 255, 255)


def test_names_are_written_on_their_segments_only_where_they_fit():
  panoptic = np.full([480, 640], 768, np.int32)
  panoptic[200:206, 300:306] = 257
  drawn = _draw(drawing.overlay, panoptic)[:480]
  expected = np.array(0.55 * np.array(_COLORS[3]) + 0.45 * 100)
  touched = np.abs(drawn - expected).max(-1) > 2
  touched[198:208, 298:308] = False
  rows, columns = np.nonzero(touched)
  assert 20 < np.ptp(columns) < 60 and 8 < np.ptp(rows) < 30, 'one name, that of the sky'
  assert drawn[touched].max() > 240, 'white letters'


def test_small_maps_are_enlarged_by_a_integer():
  drawn = _draw(drawing.overlay, _map(96, 128))
  assert drawn.shape[1] == 4 * 128
  drawn = drawn[: 4 * 96].astype(int)
  cells = drawn[4:40, 4:40].reshape(9, 4, 9, 4, 3)
  np.testing.assert_array_equal(cells, np.broadcast_to(cells[:, :1, :, :1], cells.shape))


def test_the_image_is_brought_to_the_size_of_the_map():
  drawn = _draw(drawing.overlay, _map(480, 640), image=np.zeros([12, 16, 3], np.float32))
  np.testing.assert_allclose(drawn[5, 5], 0.55 * np.array(_COLORS[3]), atol=1)


def test_panel_puts_image_prediction_and_ground_truth_side_by_side():
  image = np.zeros([480, 640, 3], np.uint8)
  image[..., 0] = 255
  ground_truth = np.full([480, 640], 513, np.int32)
  drawn = _draw(drawing.panel, _map(480, 640), ground_truth, image=image)
  two = _draw(drawing.panel, _map(480, 640), None, image=image)
  gap = drawn.shape[1] - two.shape[1] - 640
  assert two.shape[1] == 2 * 640 + gap and gap > 0
  middle = drawn[60]
  assert tuple(middle[10]) == (255, 0, 0)
  blue, green = middle[640 + gap + 10].astype(int), middle[2 * (640 + gap) + 10].astype(int)
  assert blue.argmax() == 2 and green.argmax() == 1


@pytest.mark.parametrize('function', [drawing.overlay, drawing.panel])
def test_a_map_without_any_segment_can_be_drawn(function):
  maps = [np.zeros([30, 50], np.int32)] * (2 if function is drawing.panel else 1)
  drawn = _draw(function, *maps)
  assert drawn.ndim == 3 and drawn.shape[1] >= 480


def test_crowd_is_named_apart():
  panoptic = np.array([[256, 257, 258, 768]])
  segments, index = drawing._segments(panoptic, _INFO)
  assert [segment.name for segment in segments] == ['cat (crowd)', 'cat', 'cat', 'sky']
  assert index.tolist() == [[0, 1, 2, 3]]


def test_strips_change_nothing(monkeypatch):
  rng = np.random.RandomState(0)
  image = rng.randint(0, 255, (131, 77, 3), np.uint8)
  panoptic = rng.choice([0, 257, 258, 513, 768], (13, 11)).repeat(11, 0).repeat(7, 1)[:131]
  whole = _draw(drawing.overlay, panoptic, image=image)
  monkeypatch.setattr(drawing, '_STRIP_ROWS', 7)
  monkeypatch.setattr(stretched, '_STRIP_PIXELS', 100)
  np.testing.assert_array_equal(_draw(drawing.overlay, panoptic, image=image), whole)
