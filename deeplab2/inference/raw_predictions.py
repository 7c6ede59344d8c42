"""Writes label maps as files for other programs, in DeepLab2's layout.

  raw_semantic/NAME.png     8-bit grey, class of each pixel (semantic pass)
  raw_panoptic/NAME.png     two_channel_png: R class, G instance; three_channel_png: R class,
                            G instance // 256, B instance % 256
  raw_panoptic/NAME.npy     two_channel_numpy_array: int32 [H, W, 3], class, instance, 0
  raw_instance/NAME.txt     Cityscapes' instance format: one line `mask-file class score` for each
                            thing, masks in raw_instance/instance_masks/

Instances are numbered from 1 within their class. Unlike DeepLab2's, the instances of
`raw_instance` are the things of the panoptic map.
"""

import io
import os
from typing import NamedTuple

import numpy as np

from deeplab2 import errors
from deeplab2 import files
from deeplab2 import structures
from deeplab2.data import images

# The largest instance that fits next to its class.
PANOPTIC_FORMATS = {
  'two_channel_png': 2**8 - 1,
  'three_channel_png': 2**16 - 1,
  'two_channel_numpy_array': 2**31 - 1,
}


class _Thing(NamedTuple):
  """A thing of a panoptic map."""

  class_id: int  # dataset id
  instance: int  # from 1 within its class
  mask: np.ndarray  # [H, W] bool


class RawPredictions:
  """Writes the maps of images below one directory."""

  def __init__(
    self,
    directory: str,
    label_space: structures.LabelSpace,
    *,
    panoptic_format: str,
    class_table: np.ndarray | None = None,
    instance_files: bool = False,
  ):
    """Creates the directories.

    Args:
      directory: where to write.
      label_space: the numbering of the maps.
      panoptic_format: one of PANOPTIC_FORMATS.
      class_table: [more than every dataset id, the ignore label included] integers, dataset id ->
        id to write; None writes dataset ids.
      instance_files: whether to write `raw_instance`.

    Raises:
      UserError: if the format is unknown, or the directory cannot be written.
    """
    if panoptic_format not in PANOPTIC_FORMATS:
      raise errors.UserError(
        f'raw_panoptic_format is {panoptic_format!r}; choose from {", ".join(PANOPTIC_FORMATS)}.'
      )
    self._space = label_space
    self._format = panoptic_format
    self._class_table = (
      np.arange(max(label_space.num_classes, label_space.ignore_label + 1))
      if class_table is None
      else np.asarray(class_table)
    )
    self._semantic, self._panoptic, self._instance = (
      os.path.join(directory, name) for name in ('raw_semantic', 'raw_panoptic', 'raw_instance')
    )
    self._instance_files = instance_files
    directories = [self._semantic, self._panoptic]
    if instance_files:
      directories.append(os.path.join(self._instance, 'instance_masks'))
    for path in directories:
      files.make_directory(path)

  def add(self, name: str, maps: structures.PanopticMap) -> None:
    """Writes one image.

    Args:
      name: the image's file name without extension; may have directories before it.
      maps: arrays [H, W].

    Raises:
      UserError: if an id does not fit its format, the name leads elsewhere, or a file cannot be
        written.
    """
    if os.path.isabs(name) or os.pardir in name.split('/'):
      raise errors.UserError(
        f'image {name!r}: its predictions would be written outside of '
        f'{os.path.dirname(self._semantic)}.'
      )
    semantic, panoptic = np.asarray(maps.semantic), np.asarray(maps.panoptic)
    path = os.path.join(self._semantic, f'{name}.png')
    semantic = self._class_table[semantic]
    _check_fits(semantic, 255, 'class', path, 'set save_raw_predictions to false')
    files.write_whole(path, _png(semantic))

    things = self._things(panoptic)
    classes = self._class_table[panoptic // self._space.label_divisor]
    instances = np.zeros_like(classes)
    for thing in things:
      instances[thing.mask] = thing.instance
    self._write_panoptic(name, classes, instances)
    if self._instance_files:
      self._write_instances(name, things, maps)

  def _things(self, panoptic):
    """Returns the things of a map, ascending by class and instance, as _Thing."""
    things, counts = [], {}
    for panoptic_id in np.unique(panoptic).tolist():
      class_id, instance = divmod(panoptic_id, self._space.label_divisor)
      if instance and class_id in self._space.thing_ids:
        counts[class_id] = counts.get(class_id, 0) + 1
        things.append(_Thing(class_id, counts[class_id], panoptic == panoptic_id))
    return things

  def _write_panoptic(self, name, classes, instances):
    zeros = np.zeros_like(classes)
    if self._format == 'two_channel_numpy_array':
      buffer = io.BytesIO()
      np.save(buffer, np.stack([classes, instances, zeros], -1).astype(np.int32))
      files.write_whole(os.path.join(self._panoptic, f'{name}.npy'), buffer.getvalue())
      return
    path = os.path.join(self._panoptic, f'{name}.png')
    advice = 'choose raw_panoptic_format "two_channel_numpy_array"'
    _check_fits(classes, 255, 'class', path, advice)
    _check_fits(instances, PANOPTIC_FORMATS[self._format], 'instance', path, advice)
    if self._format == 'two_channel_png':
      channels = [classes, instances, zeros]
    else:
      channels = [classes, instances // 256, instances % 256]
    files.write_whole(path, _png(np.stack(channels, -1)))

  def _write_instances(self, name, things, maps):
    lines = []
    for thing in things:
      written = self._class_table[thing.class_id]
      mask_file = f'instance_masks/{name}_class_{written}_instance_{thing.instance}.png'
      score = np.mean(maps.instance_scores[thing.mask]) * np.mean(maps.semantic_scores[thing.mask])
      lines.append(f'{mask_file} {written} {score:f}\n')
      files.write_whole(os.path.join(self._instance, mask_file), _png(thing.mask))
    files.write_whole(os.path.join(self._instance, f'{name}.txt'), ''.join(lines).encode())


def _check_fits(values, largest, what, path, advice):
  worst = values.min(initial=0) if values.min(initial=0) < 0 else values.max(initial=0)
  if not 0 <= worst <= largest:
    raise errors.UserError(f'{path}: {what} {worst} does not fit, 0 to {largest} do; {advice}.')


def _png(values):
  return images.encode(values.astype(np.uint8), 'png').data
