"""Ways to spoil a COCO instances JSON where others have failed: polygons, run lengths, sizes."""

import json
from typing import Any

from campaign import mutations


def _first(part: str, **changes: Any) -> mutations.Spoil:
  """Returns a mutation of fields of the first of a list."""

  def spoil(data, rng):
    content = json.loads(data)
    content[part][0].update(changes)
    return json.dumps(content).encode()

  return spoil


def _segmentation(value: Any) -> mutations.Spoil:
  return _first('annotations', segmentation=value)


def _run_lengths(counts: Any, *size: Any) -> mutations.Spoil:
  """Returns a mutation to a mask of run lengths, of its image's size unless one is given."""

  def spoil(data, rng):
    image = json.loads(data)['images'][0]
    wanted = list(size) or [image['height'], image['width']]
    return _segmentation({'counts': counts, 'size': wanted})(data, rng)

  return spoil


_POLYGONS: dict[str, Any] = {
  'of one point': [[1, 1]],
  'of two points': [[1, 1, 2, 2]],
  'of an odd number': [[1] * 7],
  'of nothing': [[]],
  'missing': [],
  'null': None,
  'text': 'polygon',
  'of texts': [['1'] * 6],
  'of huge numbers': [[1e308, -1e308] * 3],
  'of 2**31': [[0, 0, 2**31, 0, 2**31, 2**31]],
  'far outside': [[5000, 5000, 6000, 5000, 6000, 6000]],
  'of NaN': [[float('nan')] * 6],
  'far to the left': [[-1e9, 0, -1e9, 9, -2e9, 9]],
  'of 100,000 points': [[1, 2, 9, 3] * 50000],
  'nested': [[[1, 1, 9, 1, 9, 9]]],
  'of booleans': [[True] * 6],
  'a number': 5,
  'an object': {},
}
_COUNTS: dict[str, Any] = {
  'a billion': [10**9],
  'negative': [-5, 10],
  'of 2**63': [2**63],
  'of halves': [0.5, 2.5],
  'of texts': ['1', '2'],
  'none': [],
  'too few': [3, 4],
  'a letter': 'z',
  'letters': 'zzzzzzzz',
  'letters without end': 'o' * 1000,
  'no letters': '\u00e9\u0000\x7f',
  'null': None,
  'a number': 7,
}
_IMAGES: dict[str, dict[str, Any]] = {
  **{
    f'an image of {height} x {width}': {'height': height, 'width': width}
    for height, width in ((100_000, 100_000), (10**9, 10**9), (2**63, 2), (0, 5), (1, 10**8))
  },
  'a path as image': {'file_name': '../../escaped.png'},
  'an absolute path as image': {'file_name': '/tmp/escaped.png'},
  'a name of dots': {'file_name': '..'},
  'a NUL in a name': {'file_name': 'a\0b.png'},
  'a name of 300 letters': {'file_name': 'x' * 300 + '.png'},
  'half a letter as name': {'file_name': '\ud800.png'},
  'an id that is a number elsewhere': {'id': 1},
}
INSTANCES = mutations.named(
  {f'a polygon {what}': _segmentation(value) for what, value in _POLYGONS.items()}
  | {f'run lengths: {what}': _run_lengths(counts) for what, counts in _COUNTS.items()}
  | {
    f'run lengths of size {size}': _run_lengths([4, 4], *size)
    for size in ((0, 0), (-1, -1), (10**6, 10**6), (2**31, 2**31), ('1', '1'), (4,))
  }
  | {what: _first('images', **changes) for what, changes in _IMAGES.items()}
)
