"""Panoptic ground truths and predictions of other programs in files, made for tests."""

import json

import numpy as np
import PIL.Image

CATEGORIES = [
  {'id': 3, 'name': 'cat', 'isthing': 1},
  {'id': 5, 'name': 'dog', 'isthing': 1},
  {'id': 90, 'name': 'sky', 'isthing': 0},
  {'id': 91, 'name': 'grass', 'isthing': 0},
]
_SIZE = (60, 80)


def images(count=4):
  """Returns (true ids, true segments, predicted ids, predicted segments) of images.

  They have void, several crowds of a class, wrong classes, and stuff in several segments.
  """
  made = []
  for seed in range(count):
    generator = np.random.default_rng(seed)
    sides = []
    centers = generator.uniform(size=(12, 2)) * _SIZE
    categories = generator.choice([3, 5, 90, 91], 12).tolist()
    for side in range(2):
      moved = centers + side * generator.normal(size=centers.shape) * 2
      rows, columns = np.mgrid[: _SIZE[0], : _SIZE[1]]
      distance = (rows[..., None] - moved[:, 0]) ** 2 + (columns[..., None] - moved[:, 1]) ** 2
      cell = distance.argmin(-1)
      table = generator.choice(2**24 - 1, 12, replace=False) + 1
      table[generator.choice(12, 2, replace=False)] = 0
      ids = table[cell]
      segments = []
      for index in np.unique(cell).tolist():
        if not table[index]:
          continue
        category = categories[index]
        if side and generator.uniform() < 0.25:
          category = int(generator.choice([3, 5, 90, 91]))
        segment = {'id': int(table[index]), 'category_id': category}
        if side:
          segment |= {'score': float(generator.uniform(0.2, 1))}
        else:
          crowd = category in (3, 5) and generator.uniform() < 0.4
          segment |= {'area': int((cell == index).sum()), 'iscrowd': int(crowd)}
        segments.append(segment)
      sides += [ids, segments]
    made.append(tuple(sides))
  return made


def write(directory, made, categories=CATEGORIES):
  """Writes true.json, true/*.png, predicted.json and predicted/*.png."""
  for name, offset in (('true', 0), ('predicted', 2)):
    (directory / name).mkdir(parents=True)
    content = {'images': [], 'annotations': [], 'categories': categories}
    for number, image in enumerate(made, 1):
      ids, segments = image[offset : offset + 2]
      rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
      PIL.Image.fromarray(rgb).save(directory / name / f'{number:04d}.png')
      size = {'height': ids.shape[0], 'width': ids.shape[1]}
      content['images'].append({'id': number, 'file_name': f'{number:04d}.jpg', **size})
      content['annotations'].append(
        {'image_id': number, 'file_name': f'{number:04d}.png', 'segments_info': segments}
      )
    save(directory / f'{name}.json', content)


def save(path, content):
  """Writes a JSON file."""
  path.write_text(json.dumps(content))
