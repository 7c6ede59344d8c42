"""Files that an evaluation leaves behind."""

import json
import logging
import os

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.trainer import reports
from deeplab2.trainer import summaries
from tests.trainer import test_scores

INFO = datasets.DatasetInfo(
  'made',
  test_scores.SPACE,
  test_scores.NAMES,
  ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)),
  (0, 1, 2, 3),
  0,
  {1: 1, 2: 2, 3: 3},
  {},
)
GROUND_TRUTH = [[20, 20, 30, 0]]
PREDICTION = [[20, 20, 20, 11]]


def _step(value):
  return tf.Variable(value, dtype=tf.int64, trainable=False)


def _summaries(directory, step=0):
  return summaries.Summaries(str(directory), _step(step))


def _write(directory, losses=None, *, prediction=PREDICTION, num_corrupt=0):
  """Writes the report of one image; returns (scalars, content of the file)."""
  report = reports.Report(INFO, str(directory), _step(7), with_ap=True, detailed_ap=False)
  image = test_scores.image(GROUND_TRUTH, prediction)
  metrics = report.metrics()
  for metric in metrics.values():
    metric.update(image._replace(losses=losses or {}))
  scalars = report.write({name: m.result() for name, m in metrics.items()}, num_corrupt)
  return scalars, json.loads((directory / 'metrics-7.json').read_text())


def test_json_is_written_whole_and_afresh(tmp_path, caplog):
  losses = {'total_loss': np.float32(2.5), 'bad_loss': np.float32('nan')}
  with caplog.at_level(logging.INFO):
    scalars, content = _write(tmp_path / 'eval', losses)
  assert {
    'step',
    'PQ',
    'SQ',
    'RQ',
    'PQ_things',
    'PQ_stuff',
    'per_class',
    'protocol',
    'crop',
  } <= set(content)
  assert content['step'] == 7
  # Class 2: IoU 2/3; class 3 missed; class 1 on void, so not counted.
  assert content['PQ'] == pytest.approx(100 * (2 / 3) / 2)
  assert scalars['evaluation/pq/PQ'] == pytest.approx(1 / 3)
  assert content['losses'] == {'total_loss': 2.5, 'bad_loss': None}
  assert 'Not finite' in caplog.text and 'Evaluation of step 7' in caplog.text
  _, content = _write(tmp_path / 'eval', prediction=GROUND_TRUTH)
  assert content['PQ'] == 100  # A second evaluation knows nothing of the first.
  assert os.listdir(tmp_path / 'eval') == ['metrics-7.json']


def test_skipped_records_are_in_the_json(tmp_path):
  assert _write(tmp_path, num_corrupt=3)[1]['skipped_records'] == 3
  assert 'skipped_records' not in _write(tmp_path)[1]


def test_unwritable_directory_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UserError, match='file/eval: the directory cannot be made'):
    _write(tmp_path / 'file' / 'eval')
  visualizer = reports.Visualizer(INFO, str(tmp_path / 'file' / 'vis'), _summaries(tmp_path), 1)
  with pytest.raises(errors.UserError, match='file/vis: the directory cannot be made'):
    visualizer.update(test_scores.image(GROUND_TRUTH, PREDICTION))


def test_first_images_are_painted_and_go_to_tensorboard(tmp_path):
  written = _summaries(tmp_path / 'log', 3)
  visualizer = reports.Visualizer(INFO, str(tmp_path / 'vis'), written, 2)
  for index in range(4):
    visualizer.update(test_scores.image(GROUND_TRUTH, PREDICTION, index=index))
  written.flush()
  names = sorted(os.listdir(tmp_path / 'vis'))
  assert len(names) == 2 * 7 and names[7].startswith('000001')
  label = np.asarray(PIL.Image.open(tmp_path / 'vis' / '000000_panoptic_label.png'))
  np.testing.assert_array_equal(label, [[[0, 255, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]])
  prediction = np.asarray(PIL.Image.open(tmp_path / 'vis' / '000000_semantic_prediction.png'))
  np.testing.assert_array_equal(prediction[0, :3], [[0, 255, 0]] * 3)
  error = np.asarray(PIL.Image.open(tmp_path / 'vis' / '000000_semantic_error.png'))
  np.testing.assert_array_equal(error, [[0, 0, 255, 0]])
  (file,) = (tmp_path / 'log').iterdir()
  events = list(tf.compat.v1.train.summary_iterator(str(file)))
  tags = [value.tag for event in events for value in event.summary.value]
  assert tags == ['images/000000', 'images/000001']
  assert events[-1].step == 3


def test_images_without_labels_are_painted_too(tmp_path):
  visualizer = reports.Visualizer(INFO, str(tmp_path / 'vis'), _summaries(tmp_path / 'log'), 1)
  visualizer.update(test_scores.image(GROUND_TRUTH, PREDICTION)._replace(ground_truth=None))
  assert sorted(name.partition('_')[2] for name in os.listdir(tmp_path / 'vis')) == [
    'image.png',
    'panel.png',
    'panoptic_prediction.png',
    'semantic_prediction.png',
  ]


def test_evaluations_of_some_images_are_told_from_others(tmp_path):
  """Also where the set of the training images would be taken for its name."""
  (tmp_path / 'eval').mkdir()
  for name, pattern in (('3', 'val'), ('3-0b', 'train'), ('5-0b', 'train')):
    evaluated = {'set': {'val': 'a', 'train': 'b'}[pattern], 'file_pattern': [pattern]}
    content = {'step': int(name[0]), 'evaluated': evaluated}
    (tmp_path / 'eval' / f'metrics-{name}.json').write_text(json.dumps(content))
  assert list(reports.read_all(str(tmp_path))) == [3, 5]
  unseen = reports.read_all(str(tmp_path), besides=('train',))
  assert [entry['evaluated']['set'] for entry in unseen.values()] == ['a']
  assert list(reports.read_images(str(tmp_path), ('train',))) == [3, 5]
  assert reports.read_images(str(tmp_path), ()) == {}
