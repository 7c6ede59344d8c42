"""Records are counted by their frames; lengths beyond the file are refused."""

import struct

import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2.data import framing


def _write(path, records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
  return str(path)


def test_records_are_counted(tmp_path):
  paths = [
    _write(tmp_path / 'a', [b'x' * 100, b'', b'y']),
    _write(tmp_path / 'b', []),
    _write(tmp_path / 'c', [b'z' * 7]),
  ]
  assert framing.count(paths) == 4
  assert list(framing.positions(paths[0])) == [0, 116, 132]


@pytest.mark.parametrize('cut', [1, 4, 5, 15, 16, 17])
def test_a_cut_record_does_not_count(tmp_path, cut):
  path = tmp_path / 'b'
  path.write_bytes(open(_write(path, [b'x' * 100]), 'rb').read()[:-cut])
  assert framing.count([str(path)]) == 0
  path = tmp_path / 'a'
  content = open(_write(path, [b'x' * 100, b'y']), 'rb').read()
  path.write_bytes(content[:-cut])
  assert framing.count([str(path)]) == 1


@pytest.mark.parametrize('size', [0, 1, 100, 70000])
def test_the_checksum_is_that_of_tensorflow(tmp_path, size):
  with open(_write(tmp_path / 'a', [b'x' * size]), 'rb') as file:
    header = file.read(12)
  assert struct.unpack('<QI', header) == (size, framing.masked_crc(header[:8]))


def test_what_is_no_tfrecord_file_is_left_to_the_reader(tmp_path):
  path = tmp_path / 'a'
  path.write_text('some text, which is long enough for a header')
  assert framing.count([str(path)]) == 0


def test_a_length_beyond_the_file_is_refused(tmp_path):
  path = tmp_path / 'a'
  _write(path, [b'x' * 100])
  with open(path, 'ab') as file:
    file.write(struct.pack('<QI', 2**40, 0xE46B3DAA) + b'rest')
  with pytest.raises(errors.UserError, match=f'{path}, record 1: claims to have {2**40} bytes'):
    framing.count([str(path)])
