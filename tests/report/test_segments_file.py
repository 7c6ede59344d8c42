"""The file of segments: written, read back, and refused by line where it is none."""

import json

import numpy as np
import pytest

from deeplab2 import errors
from deeplab2.metrics import segments
from deeplab2.report import collector
from deeplab2.report import segments_file
from deeplab2.report import thumbnails
from tests.report import made

HEAD = {
  'step': 3,
  'evaluated': {'set': 'a'},
  'dataset': 'shapes',
  'classes': [{'id': 1, 'name': 'circle', 'isthing': True}],
}
LINE = {
  'image': 'b',
  'size': [2, 3],
  'quality': 0.25,
  'matched': [[1, 9, 0.75, 0.5]],
  'missed': [[1, 4, -1]],
  'extra': [[1, 5, 0.125, 1]],
}


def test_images_come_back(tmp_path):
  collected = collector.Collector(made.INFO)
  images = [made.evaluated_image(number, 0.5) for number in range(3)]
  for image in images:
    collected.update(image)
  path = str(tmp_path / 'segments-3.jsonl')
  classes = [{'id': i, 'name': str(i), 'isthing': i < 6} for i in range(1, 10)]
  segments_file.write(path, {**HEAD, 'classes': classes}, collected.result())
  content = segments_file.read(path)
  assert (content.step, content.dataset, content.evaluated) == (3, 'shapes', {'set': 'a'})
  assert content.classes == classes
  for image, read in zip(images, content.images, strict=True):
    maps = image.maps
    expected = segments.compare(
      image.ground_truth, maps.panoptic, maps.semantic_scores, maps.instance_scores,
      made.INFO.label_space,
    )  # fmt: skip
    assert read.name == image.name and read.size == image.ground_truth.shape
    assert read.quality == pytest.approx(expected.quality(), rel=1e-6)
    for found, value in zip(read.segments, expected, strict=True):
      np.testing.assert_allclose(found, value, rtol=1e-6)
    assert set(read.shown) >= {'worst', 'best', 'random'}
    assert read.panels == thumbnails.draw(image.image, maps.panoptic, image.ground_truth, made.INFO)


def test_an_evaluation_goes_on_from_its_state():
  whole, first = (collector.Collector(made.INFO) for _ in range(2))
  for number in range(6):
    whole.update(made.evaluated_image(number, 0.5))
  for number in range(3):
    first.update(made.evaluated_image(number, 0.5))
  rest = collector.Collector(made.INFO)
  rest.set_state(first.state())
  for number in range(3, 6):
    rest.update(made.evaluated_image(number, 0.5))
  assert rest.result() == whole.result()


def test_images_without_labels_or_segments():
  image = made.evaluated_image(0, 0.0)
  collected = collector.Collector(made.INFO)
  with pytest.raises(ValueError, match='no labels'):
    collected.update(image._replace(ground_truth=None))
  blank = np.zeros_like(image.ground_truth)
  collected.update(image._replace(ground_truth=blank, maps=image.maps._replace(panoptic=blank)))
  (line,) = collected.result()
  assert line['quality'] is None and 'panels' not in line and line['matched'] == []


def test_the_name_belongs_to_the_metrics():
  assert (
    segments_file.beside('/a/metrics-b/metrics-3-0f.json') == '/a/metrics-b/segments-3-0f.jsonl'
  )


@pytest.mark.parametrize(
  ('change', 'expected'),
  [
    (lambda lines: lines[:0] + [{**lines[0], 'format': 2}], 'line 1: format is 2, must be 1'),
    (lambda lines: [{**lines[0], 'classes': [{}]}], "line 1: is not the head .*'id' is missing"),
    (lambda lines: [lines[0], {**LINE, 'matched': [[1, 2]]}], 'line 2: .*rows must be class, ar'),
    (lambda lines: [lines[0], {**LINE, 'missed': [[2, 4, -1]]}], 'line 2: .*missed: there is a c'),
    (lambda lines: [lines[0], {**LINE, 'extra': [[1, 5, -1, 1]]}], 'score must not be negative'),
    (lambda lines: [lines[0], LINE, {'image': 'c'}], "line 3: .*'matched' is missing"),
    (lambda lines: [lines[0], {**LINE, 'panels': {'image': '<'}}], 'line 2: is not the line of'),
    (lambda lines: [lines[0], []], 'line 2: must be an object'),
  ],
)
def test_lines_that_are_none_are_named(tmp_path, change, expected):
  path = tmp_path / 'segments-3.jsonl'
  lines = change([{'format': 1, **HEAD}, LINE])
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  with pytest.raises(errors.UserError, match=expected) as error:
    segments_file.read(str(path))
  assert str(error.value).startswith(f'{path}, line') and '\n' not in str(error.value)


def test_a_file_that_was_cut(tmp_path):
  path = tmp_path / 'segments-3.jsonl'
  text = json.dumps({'format': 1, **HEAD}) + '\n' + json.dumps(LINE)
  path.write_text(text)
  with pytest.raises(errors.UserError, match='ends within a line'):
    segments_file.read(str(path))
  path.write_text(text[:-9])
  with pytest.raises(errors.UserError, match='line 2: is not JSON'):
    segments_file.read(str(path))
