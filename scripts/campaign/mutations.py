"""Ways to spoil a file: bytes of any file, JSON, text, TFRecords. Everything follows a seed.

A `Mutation` turns the bytes of a good file into those of a bad one. `images.py` has those of PNG
and JPEG.
"""

from collections.abc import Callable, Mapping, Sequence
import copy
import json
import pathlib
import random
import struct
from typing import Any, NamedTuple
import zlib

from deeplab2.data import framing

# Good bytes, random numbers -> bad bytes, or what puts something else in the place of the file.
Spoil = Callable[[bytes, random.Random], bytes | Callable[[pathlib.Path], None]]


class Mutation(NamedTuple):
  """One way to spoil a file."""

  name: str
  spoil: Spoil
  # 'any': a line that names the file, or a right result; 'refused' or 'accepted': only that.
  expected: str = 'any'


def flip_bits(data: bytes, rng: random.Random) -> bytes:
  """Flips one to three bits anywhere."""
  spoiled = bytearray(data)
  for _ in range(rng.randint(1, 3)):
    spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
  return bytes(spoiled)


def cut(data: bytes, rng: random.Random) -> bytes:
  """Cuts the end off, at least one byte."""
  return data[: rng.randrange(len(data))]


def scramble(data: bytes, rng: random.Random) -> bytes:
  """Replaces a stretch by noise."""
  start = rng.randrange(len(data))
  length = rng.randint(1, min(64, len(data) - start))
  return data[:start] + rng.randbytes(length) + data[start + length :]


def repeat_part(data: bytes, rng: random.Random) -> bytes:
  """Repeats a stretch, as interrupted copies do."""
  start = rng.randrange(len(data))
  length = rng.randint(1, len(data) - start)
  return data[: start + length] + data[start:]


def becomes(content: bytes) -> Spoil:
  """Returns a mutation to fixed bytes."""
  return lambda data, rng: content


def named(spoils: Mapping[str, Spoil], expected: str = 'any') -> tuple[Mutation, ...]:
  """Returns the mutations of a table from name to spoil."""
  return tuple(Mutation(name, spoil, expected) for name, spoil in spoils.items())


# Of any file.
RANDOM = named(
  {
    'bits flipped': flip_bits,
    'cut': cut,
    'noise in the middle': scramble,
    'a part repeated': repeat_part,
  }
)
ANY_FILE = named(
  {
    'empty': becomes(b''),
    'one byte': becomes(b'\0'),
    'zeros': lambda data, rng: bytes(len(data)),
    'noise': lambda data, rng: rng.randbytes(len(data)),
    'text': becomes(b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n'),
    'HTML': becomes(b'<!DOCTYPE html><html><body>404 Not Found</body></html>\n'),
  }
)
# Of any path.
PLACES = named(
  {
    'a directory in its place': lambda data, rng: pathlib.Path.mkdir,
    'a link to nothing': lambda data, rng: lambda path: path.symlink_to('nowhere'),
    'a link to itself': lambda data, rng: lambda path: path.symlink_to(path.name),
  }
)


def spoil_file(path: pathlib.Path, mutation: Mutation, rng: random.Random) -> None:
  """Applies a mutation to a file."""
  spoiled = mutation.spoil(path.read_bytes(), rng)
  if callable(spoiled):
    path.unlink()
    spoiled(path)
  else:
    path.write_bytes(spoiled)


# What a value of a JSON becomes.
_VALUES: list[Any] = json.loads(
  '[null, true, false, 0, -1, 1, 16777216, 2147483648, 9223372036854775808, 18446744073709551616, '
  '-9223372036854775808, 1000000000000000000000000000000, 1e308, -0.5, 0.5, "", "0", "text", '
  '"a\\u0000b", "../../escaped", "/etc/passwd", "\\ud800", [], {}, [[]], [0], [null], {"id": 0}, '
  '[1e308, -1e308]]'
) + ['x' * 100000]


def json_values(data: bytes, rng: random.Random) -> bytes:
  """Changes the type or size of one value, removes a field, or repeats an entry."""
  content = json.loads(data)
  places = list(_places(content))
  # As likely near the root as in one of the many leaves.
  depth = rng.choice(sorted({len(place) for place in places}))
  place = rng.choice([place for place in places if len(place) == depth])
  parent = content
  for key in place[:-1]:
    parent = parent[key]
  action = rng.randrange(6)
  if action == 0:
    del parent[place[-1]]
  elif action == 1 and isinstance(parent, list):
    parent.append(copy.deepcopy(parent[place[-1]]))
  else:
    parent[place[-1]] = rng.choice(_VALUES)
  return json.dumps(content).encode()


def _numbers(hostile: str) -> Spoil:
  """Returns a mutation that puts one of some words in the place of a number of a text."""

  def spoil(data, rng):
    text = data.decode()
    starts = [i for i in range(1, len(text)) if text[i].isdigit() and text[i - 1] in ' [']
    end = start = rng.choice(starts)
    while text[end] in '0123456789.':
      end += 1
    return (text[:start] + rng.choice(hostile.split()) + text[end:]).encode()

  return spoil


json_numbers = _numbers(
  f'NaN Infinity -Infinity 1e999 {"9" * 400} {"9" * 5000} -1e400 1{"0" * 30} 0x10 1.5 007'
)


def _places(content, path=()):
  """Yields the keys that lead to every value."""
  entries = ()
  if isinstance(content, dict):
    entries = content.items()
  elif isinstance(content, list):
    entries = enumerate(content)
  for key, value in entries:
    yield (*path, key)
    yield from _places(value, (*path, key))


def _encoded(name: str) -> Spoil:
  return lambda data, rng: data.decode().encode(name)


def _appended(more: bytes) -> Spoil:
  return lambda data, rng: data + more


def _replaced(old: bytes, new: bytes) -> Spoil:
  return lambda data, rng: data.replace(old, new, 1)


def _with_field(more: bytes) -> Spoil:
  """Returns a mutation that adds to the end of a JSON object."""
  return lambda data, rng: data.rstrip()[:-1] + more + b'}'


# With a byte-order mark, a file is as good as without.
MARKED = Mutation('byte-order mark', lambda data, rng: b'\xef\xbb\xbf' + data, 'accepted')
TEXTS = (
  MARKED,
  *named({'UTF-16': _encoded('utf-16'), 'UTF-32': _encoded('utf-32')}, 'refused'),
  Mutation('a byte that is not UTF-8', lambda data, rng: data[:9] + b'\xe9' + data[9:]),
  Mutation('NUL characters at the end', _appended(bytes(100))),
  Mutation('Windows line ends', lambda data, rng: data.replace(b'\n', b'\r\n'), 'accepted'),
)
_DEEP = 100000
_JSONS_REFUSED = {
  'null': becomes(b'null'),
  'a list': becomes(b'[]'),
  'a number': becomes(b'1'),
  'an empty object': becomes(b'{}'),
  'nested 100,000 deep': becomes(b'[' * _DEEP + b']' * _DEEP),
  'objects nested 100,000 deep': becomes(b'{"annotations":' * _DEEP + b'1' + b'}' * _DEEP),
  'more behind the end': _appended(b'{}'),
  'a comma too many': _with_field(b','),
}
_JSONS_ANY = {
  'a field nested 100,000 deep': _with_field(b', "extra": ' + b'[' * _DEEP + b']' * _DEEP),
  'a number of 10,000 digits': _with_field(b', "extra": ' + b'9' * 10000),
  # With another value than the later one.
  'a field twice': _replaced(b'{', b'{"annotations": 1, "images": 2, '),
}
JSONS = (*TEXTS, *ANY_FILE, *PLACES, *named(_JSONS_REFUSED, 'refused'), *named(_JSONS_ANY))
JSON_RANDOM = (
  *(Mutation('a value changed', json_values),) * 3,
  Mutation('a hostile number', json_numbers),
  Mutation('bits flipped', flip_bits),
  Mutation('cut', cut, 'refused'),
)


textproto_numbers = _numbers(
  '-1 0 nan inf -inf 1e39 1e400 2147483647 2147483648 -2147483648 '
  f'{"9" * 30} "1" true 0.5 1e-46 0x7fffffff -0.0'
)


def textproto_lines(data: bytes, rng: random.Random) -> bytes:
  """Removes, repeats, or moves a line."""
  lines = data.decode().splitlines(keepends=True)
  index = rng.randrange(len(lines))
  line = lines.pop(index)
  if rng.randrange(3) == 0:
    lines[index:index] = [line, line]
  elif rng.randrange(2) == 0:
    lines.insert(rng.randrange(len(lines)), line)
  return ''.join(lines).encode()


def textproto_words(data: bytes, rng: random.Random) -> bytes:
  """Puts hostile text in the place of a string."""
  words = (
    f'{"x" * 100000} ../../../etc/passwd \\000 \\377 ${{ ${{HOME ${{NOWHERE}} ~nobody/x [ * ünï'
  )
  parts = data.decode().split('"')
  parts[rng.randrange(len(parts) // 2) * 2 + 1] = rng.choice(['', *words.split()])
  return '"'.join(parts).encode()


_TEXTPROTOS_REFUSED = {
  'a message nested 100,000 deep': becomes(b'model_options {' * _DEEP),
  'lists nested 100,000 deep': _appended(b'experiment_name: ' + b'[' * _DEEP),
  'a name without end': _appended(b'\nexperiment_name: "'),
  'a hundred thousand stages': _replaced(
    b'  kmax {', b'  kmax {' + b'pixel_decoder_stages { filters: 16 } ' * 100000
  ),
  'an unknown field': _appended(b'\ncolour: "red"'),
}
TEXTPROTOS = (
  *TEXTS,
  *ANY_FILE,
  *PLACES,
  *named(_TEXTPROTOS_REFUSED, 'refused'),
  Mutation('a name of a path', _replaced(b'"tiny"', b'"../../escaped"')),
  Mutation('an empty name', _replaced(b'"tiny"', b'""')),
)
TEXTPROTO_RANDOM = (
  Mutation('a hostile number', textproto_numbers),
  Mutation('lines moved', textproto_lines),
  Mutation('a hostile number', textproto_numbers),
  Mutation('hostile text', textproto_words),
  Mutation('bits flipped', flip_bits),
  Mutation('cut', cut),
)


def framed(record: bytes, length: int | None = None) -> bytes:
  """Returns a record of a TFRecord file; `length` is what it claims, its own if None."""
  head = struct.pack('<Q', len(record) if length is None else length)
  return b''.join(part + struct.pack('<I', framing.masked_crc(part)) for part in (head, record))


def records_of(data: bytes) -> list[bytes]:
  """Returns the records of a good TFRecord file."""
  records = []
  position = 0
  while position < len(data):
    [length] = struct.unpack_from('<Q', data, position)
    records.append(data[position + 12 : position + 12 + length])
    position += 16 + length
  return records


def claims(length: int) -> Spoil:
  """Returns a mutation to a file whose first record claims a length, with the right checksum."""
  return lambda data, rng: framed(records_of(data)[0][:1000], length)


def record_bytes(spoil: Spoil) -> Spoil:
  """Returns a mutation of the first record, with the right checksums."""

  def change(data, rng):
    first, *others = records_of(data)
    return b''.join(map(framed, [spoil(first, rng), *others]))

  return change


_RECORD_FILES_REFUSED = {
  **{
    f'a record of {length} bytes': claims(length)
    for length in (0, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**64 - 1)
  },
  'compressed': lambda data, rng: zlib.compress(data),
  'an empty record': record_bytes(becomes(b'')),
  'a record of noise': record_bytes(lambda data, rng: rng.randbytes(500)),
  'an Example of bytes that end early': record_bytes(cut),
}
RECORD_FILES = (*ANY_FILE, *PLACES, *named(_RECORD_FILES_REFUSED, 'refused'))
RECORD_FILES_RANDOM = (
  *RANDOM,
  Mutation('bits of a record flipped, checksums right', record_bytes(flip_bits)),
  Mutation('noise in a record, checksums right', record_bytes(scramble)),
)


def choose(
  fixed: Sequence[Mutation], drawn: Sequence[Mutation], count: int, rng: random.Random
) -> list[Mutation]:
  """Returns `count` mutations: two thirds fixed ones as far as they go, drawn ones by turns."""
  chosen = list(fixed)
  rng.shuffle(chosen)
  chosen = chosen[: -(-2 * count // 3)]
  return chosen + [drawn[index % len(drawn)] for index in range(count - len(chosen))]
