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


def _masked_crc(data):
  """Returns TFRecord's checksum: CRC-32C bit by bit, rotated and shifted."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  crc ^= 0xFFFFFFFF
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_are_counted(tmp_path):
  paths = [_write(tmp_path / 'a', [b'x' * 100, b'', b'y']), _write(tmp_path / 'b', []),
           _write(tmp_path / 'c', [b'z' * 7])]
  assert framing.count(paths) == 4
  assert list(framing.positions(paths[0])) == [0, 116, 132]


@pytest.mark.parametrize('cut', [1, 4, 5, 15, 16, 17])
def test_a_cut_record_does_not_count(tmp_path, cut):
  path = tmp_path / 'a'
  content = open(_write(path, [b'x' * 100, b'y']), 'rb').read()
  path.write_bytes(content[:-cut])
  assert framing.count([str(path)]) == 1


def test_a_length_beyond_the_file_is_refused(tmp_path):
  path = tmp_path / 'a'
  _write(path, [b'x' * 100])
  length = struct.pack('<Q', 2**40)
  with open(path, 'ab') as file:
    file.write(length + struct.pack('<I', _masked_crc(length)) + b'rest')
  with pytest.raises(errors.UserError, match=f'{path}, record 1: claims to have {2**40} bytes'):
    framing.count([str(path)])
