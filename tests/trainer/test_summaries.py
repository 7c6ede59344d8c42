"""TensorBoard's files: a failure waits, and is one line."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.trainer import summaries
from tests import hostile_names
from tests.disk import limited_files

__all__ = ['limited_files']


def _step(value=3):
  return tf.Variable(value, dtype=tf.int64, trainable=False)


def _events(directory):
  (file,) = directory.iterdir()
  return [
    (event.step, value.tag)
    for event in tf.compat.v1.train.summary_iterator(str(file))
    for value in event.summary.value
  ]


@pytest.mark.parametrize('name', hostile_names.HOSTILE_NAMES)
def test_values_reach_the_file_at_once(tmp_path, name):
  written = summaries.Summaries(str(tmp_path / name), _step())
  written.image('image', np.zeros([2, 2, 3], np.uint8))
  written.scalars({'a': 1.0, 'b': 2.0})
  written.check()
  assert _events(tmp_path / name) == [(3, 'image'), (3, 'a'), (3, 'b')]


def test_a_full_disk_is_told_when_it_is_asked_for(tmp_path, limited_files):
  written = summaries.Summaries(str(tmp_path), _step())
  written.scalars({'a': 1.0})
  written.check()
  limited_files(200)
  for _ in range(30):
    written.image('noise', np.random.default_rng(0).integers(0, 255, [40, 40, 3], np.uint8))
  written.scalars({'b': 1.0})
  with pytest.raises(errors.UserError, match=f'{tmp_path}: the logs for TensorBoard cannot') as e:
    written.check()
  assert '\n' not in str(e.value)


def test_a_place_that_is_none(tmp_path):
  (tmp_path / 'file').write_text('')
  written = summaries.Summaries(str(tmp_path / 'file' / 'train'), _step())
  written.scalars({'a': 1.0})
  with pytest.raises(errors.UserError, match='file/train: the logs for TensorBoard cannot'):
    written.check()
