"""Images with more segments than the model has mask slots: what is said of them, in numbers.

Segments beyond the slots find no slot in the matching, so that nothing is learned of them.
"""

from collections.abc import Mapping, Sequence
import os

from absl import logging

from deeplab2 import errors
from deeplab2 import files

_SEGMENTS, _IMAGES = 'unmatched_segments', 'images_beyond_slots'  # Of loss/diagnostics.py.


class Beyond:
  """Counts over the training steps of this process; warns the first time, and at the end."""

  def __init__(self):
    self._segments = self._beyond = self._images = 0.0
    self._has_warned = False

  def add(self, ratios: Mapping[str, tuple[float, float]], step: int) -> None:
    """Adds some steps.

    Args:
      ratios: diagnostics by name, as sums of numerators and denominators over images.
      step: the last of these steps.
    """
    if _SEGMENTS not in ratios:
      return
    self._segments += float(ratios[_SEGMENTS][0])
    self._beyond += float(ratios[_IMAGES][0])
    self._images += float(ratios[_IMAGES][1])
    if self._beyond and not self._has_warned:
      self._has_warned = True
      self._warn(f'Up to step {step}')

  def report(self, step: int) -> None:
    """Says at the end of training how many there were."""
    if self._beyond:
      self._warn(f'In the training that ends at step {step}')

  def _warn(self, when):
    logging.warning(
      '%s, %d of %d images had more segments than the model has mask slots: %d segments were not '
      'learned from; a larger model_options.kmax.num_mask_slots takes them in.',
      when,
      self._beyond,
      self._images,
      self._segments,
    )


def most_segments(paths: Sequence[str]) -> tuple[int, str]:
  """Returns the most segments in an image of some TFRecord files, and the manifest that says so.

  That is of the files `manifest-<split>.json` next to them, as build_tfrecords.py writes them;
  (0, '') where none says it.
  """
  found = (0, '')
  names: dict[str, list[str]] = {}
  for path in paths:
    directory, name = os.path.split(path)
    names.setdefault(directory, []).append(name)
  for directory, shards in names.items():
    for manifest in files.matching(directory, r'manifest-.+\.json'):
      split = manifest.removeprefix('manifest-').removesuffix('.json')
      if any(name.startswith(f'{split}-') for name in shards):
        path = os.path.join(directory, manifest)
        found = max(found, (_most_of(path), path))
  return found


def _most_of(path):
  try:
    content = files.read_json(path)
  except errors.UserError as error:
    logging.warning('%s', error)
    return 0
  most = content.get('most_segments') if isinstance(content, dict) else None
  return most if isinstance(most, int) else 0
