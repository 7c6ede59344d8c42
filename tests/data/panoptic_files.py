"""Annotations in COCO's panoptic format, written for tests: a JSON and PNGs of label maps."""

import json
import os

import PIL.Image

from deeplab2.data import coco_panoptic


class Writer:
  """Collects label maps.

  writer = Writer('out/panoptic', info)
  writer.add(name, panoptic)        # out/panoptic/<name>.png
  writer.save('out/panoptic.json')
  """

  def __init__(self, directory, info):
    self._directory, self._info = directory, info
    self._images, self._annotations = [], []
    os.makedirs(directory, exist_ok=True)

  def add(self, name, panoptic):
    """Writes the PNG of a map [H, W]; returns its path."""
    path = os.path.join(self._directory, f'{name}.png')
    rgb, segments = coco_panoptic.encode(panoptic, self._info)
    PIL.Image.fromarray(rgb).save(path)
    image_id = int(name) if name.isdecimal() else name
    height, width = panoptic.shape
    self._images.append(
      {'id': image_id, 'file_name': f'{name}.jpg', 'height': height, 'width': width}
    )
    self._annotations.append(
      {'image_id': image_id, 'file_name': f'{name}.png', 'segments_info': segments}
    )
    return path

  def save(self, path):
    """Writes the JSON."""
    space = self._info.label_space
    categories = [
      {
        'id': original,
        'name': self._info.class_names[index],
        'isthing': int(index in space.thing_ids),
      }
      for original, index in self._info.dataset_ids.items()
      if index != space.ignore_label
    ]
    with open(path, 'w', encoding='utf-8') as file:
      json.dump(
        {'images': self._images, 'annotations': self._annotations, 'categories': categories}, file
      )
