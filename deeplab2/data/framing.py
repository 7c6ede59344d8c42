"""The frame around the records of a TFRecord file, read without their content.

A record is its length (uint64, little-endian), a checksum of the length (4 bytes), the content, and
a checksum of the content (4 bytes). TensorFlow's reader believes a length whose checksum is right,
and asks for that much memory at once: a length beyond the file, which no writer makes, would end
the process. So files are looked through before they are given to it.
"""

from collections.abc import Iterator, Sequence
import concurrent.futures
import os
import struct

import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files

_HEADER = struct.Struct('<QI')
_FOOTER_BYTES = 4
FRAME_BYTES = _HEADER.size + _FOOTER_BYTES  # Around the content of each record.
# So much longer than the whole file is no record that was cut: TensorFlow's reader finds those.
_FAR_BEYOND = 2**30
_FILES_AT_A_TIME = 16


def positions(path: str) -> Iterator[int]:
  """Yields where each complete record of a local file begins, in bytes.

  A file that is cut within a record ends before it, and so does one with a length whose checksum is
  wrong, which TensorFlow's reader finds.

  Raises:
    UserError: a record claims to be far longer than the whole file, with the right checksum.
  """
  size = os.path.getsize(path)
  with open(path, 'rb', buffering=0) as file:
    position = number = 0
    while True:
      header = os.pread(file.fileno(), _HEADER.size, position)
      if len(header) < _HEADER.size:
        return
      length, checksum = _HEADER.unpack(header)
      if length > size + _FAR_BEYOND and checksum == masked_crc(header[:8]):
        raise errors.UserError(
          f'{path}, record {number}: claims to have {length} bytes, but the whole file has '
          f'{size}; it is corrupt from here on. Build or copy it again.'
        )
      end = position + _HEADER.size + length + _FOOTER_BYTES
      if end > size:
        return
      yield position
      position, number = end, number + 1


def count(paths: Sequence[str]) -> int:
  """Returns the number of complete records in local files.

  Raises:
    UserError: as `positions`.
  """
  with concurrent.futures.ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
    return sum(pool.map(lambda path: sum(1 for _ in positions(path)), paths))


def records(path: str) -> Iterator[bytes]:
  """Yields the records of a file, which may be remote.

  Raises:
    UserError: the file is missing, or naming the record from which on it is cut or corrupt.
  """
  number = position = 0
  try:
    size = tf.io.gfile.stat(path).length
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
      yield record
      number += 1
      position += len(record) + FRAME_BYTES
  except tf.errors.NotFoundError as error:
    raise errors.UserError(f'{path}: no such file.') from error
  except tf.errors.OpError as error:
    raise errors.UserError(
      f'{path}, record {number}: the file is truncated or corrupt from here on '
      f'({files.reason(error)}); build or copy it again.'
    ) from error
  # TensorFlow takes a file that is cut within the length of a record for one that ends there.
  if position < size:
    raise errors.UserError(
      f'{path}, record {number}: the file is truncated, {size - position} bytes into the record; '
      'build or copy it again.'
    )


def masked_crc(data: bytes) -> int:
  """Returns TFRecord's checksum of some bytes: CRC-32C, rotated by 15 bits, plus a constant."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
  crc ^= 0xFFFFFFFF
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
