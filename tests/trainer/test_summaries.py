"""TensorBoard's files and writers of the user's own: a failure waits, and is one line."""

import argparse
import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.trainer import summaries
from deeplab2.trainer import train
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


class LinesWriter:
  """Writes what it gets as lines of JSON; a writer as a user would have it."""

  def __init__(self, path):
    self._file = open(path, 'w')

  def scalars(self, step, values):
    self._file.write(json.dumps({'step': step, **values}) + '\n')

  def images(self, step, images):
    sizes = {tag: pixels.shape for tag, pixels in images.items()}
    self._file.write(json.dumps({'step': step, **sizes}) + '\n')

  def close(self):
    self._file.close()


def test_writers_get_what_tensorboard_gets(tmp_path):
  writer = LinesWriter(tmp_path / 'lines.jsonl')
  written = summaries.Summaries(str(tmp_path / 'eval'), _step(), [writer])
  written.image('images/0', np.zeros([2, 4, 3], np.uint8))
  written.scalars({'a': np.float32(0.5), 'b/c': 2.0})
  written.check()
  writer.close()
  assert [json.loads(line) for line in (tmp_path / 'lines.jsonl').open()] == [
    {'step': 3, 'eval/images/0': [2, 4, 3]},
    {'step': 3, 'eval/a': 0.5, 'eval/b/c': 2.0},
  ]
  assert _events(tmp_path / 'eval') == [(3, 'images/0'), (3, 'a'), (3, 'b/c')]


def test_a_writer_that_fails_is_named_when_it_is_asked_for(tmp_path):
  writers = [LinesWriter(tmp_path / name) for name in ('first', 'second')]
  writers[0].close()
  written = summaries.Summaries(str(tmp_path / 'train'), _step(), writers)
  written.scalars({'a': 1.0})
  written.scalars({'a': 2.0})
  with pytest.raises(errors.UserError, match='summary_writers: LinesWriter failed') as error:
    written.check()
  assert 'ValueError: I/O operation on closed file' in str(error.value)
  writers[1].close()
  # After a failure nothing is written.
  assert _events(tmp_path / 'train') == [(3, 'a')]
  assert (tmp_path / 'second').read_text() == ''


def test_writers_are_closed_however_a_run_ends(tmp_path):
  writer = LinesWriter(tmp_path / 'lines.jsonl')
  arguments = argparse.Namespace(
    config_file=str(tmp_path / 'none.textproto'), set=[], mode='train', report=False
  )
  with pytest.raises(errors.UserError, match='none.textproto'):
    train.run(arguments, [writer])
  with pytest.raises(ValueError, match='closed file'):
    writer.scalars(0, {})
