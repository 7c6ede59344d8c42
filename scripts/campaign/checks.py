"""Checks the results of each command line after it has ended in order."""

import contextlib
import hashlib
import json
import pathlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import tensorflow as tf

from deeplab2.config import load
from deeplab2.data import coco_panoptic
from deeplab2.data import datasets
from deeplab2.data import framing
from deeplab2.data import tfrecord


def digests(directory: pathlib.Path) -> dict[str, str]:
  """Returns a digest of every file below `directory` by its path."""
  return {
    str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(directory.rglob('*'))
    if path.is_file()
  }


def built(directory: pathlib.Path, code: int, output: str) -> None:
  """The records can be read, and hold ids of the set; every image is there or was named."""
  shards = sorted((directory / 'out').glob('train-*.tfrecord'))
  if code:
    assert not shards, 'refused, but there are shards'
    return
  info = datasets.load(str(directory / 'own' / 'dataset.json'))
  names = set()
  for shard in shards:
    for serialized in framing.records(str(shard)):
      record = tfrecord.check_record(serialized, str(shard), label_space=info.label_space)
      names.add(record.name.numpy().decode())
  for image in (directory / 'own' / 'images').iterdir():
    assert image.stem in names or image.name in output, f'{image.name} is lost without a word'


def inspected(directory: pathlib.Path, code: int, output: str) -> None:
  """The statistics are JSON; if there is something wrong, it is more than the last line."""
  path = directory / 'out' / 'inspected.json'
  if path.exists():
    json.loads(path.read_text(encoding='utf-8'))
  assert output.strip(), 'no output'


def converted_instances(directory: pathlib.Path, code: int, output: str) -> None:
  """The panoptic JSON and its PNGs agree, also those of the images before a refusal."""
  path = directory / 'out' / 'made.json'
  if code and not path.exists():
    return
  info = datasets.load(str(directory / 'own' / 'dataset.json'))
  for annotation in coco_panoptic.read_annotations(str(path), info).values():
    png = str(path.with_suffix('') / annotation.file_name)
    coco_panoptic.read_label(png, annotation, info, treat_crowd_as_ignore=False)


def evaluated(directory: pathlib.Path, code: int, output: str) -> None:
  """There are metrics, which are numbers."""
  if not code:
    found = sorted((directory / 'runs' / 'tiny' / 'eval').glob('metrics-*.json'))
    assert found, 'no metrics'
    for path in found:
      assert np.isfinite(json.loads(path.read_text(encoding='utf-8'))['PQ'])


def trained(directory: pathlib.Path, code: int, output: str) -> None:
  """A resumed run has come from step 4, or an earlier checkpoint, to step 6."""
  if not code:
    assert (directory / 'runs' / 'tiny' / 'ckpt-6.index').exists(), 'there is no ckpt-6'
    assert 'from scratch' not in output, 'the run was not resumed'


def _tensors(prefix, part):
  """Returns digests of the tensors of a checkpoint whose keys contain `part`."""
  reader = tf.train.load_checkpoint(str(prefix))
  return {
    _digest(reader.get_tensor(key)) for key in reader.get_variable_to_shape_map() if part in key
  }


def _digest(values):
  return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _of_norms(prefix, epsilon):
  """Returns digests of scale and offset of all batch norms of a checkpoint."""
  reader, ending = tf.train.load_checkpoint(str(prefix)), '/.ATTRIBUTES/VARIABLE_VALUE'
  found = set()
  for key in reader.get_variable_to_shape_map():
    if key.startswith('model/') and key.endswith(f'/moving_mean{ending}'):
      norm = key.removesuffix(f'moving_mean{ending}')
      gamma, beta, mean, variance = (
        tf.constant(reader.get_tensor(f'{norm}{name}{ending}'))
        for name in ('gamma', 'beta', 'moving_mean', 'moving_variance')
      )
      scale = gamma * tf.math.rsqrt(variance + epsilon)
      found |= {_digest(scale.numpy()), _digest((beta - mean * scale).numpy())}
  return found


def _assert_saved(found, directory, epsilon=None):
  """Compares digests with those of the checkpoints as they were made, spoiled or not.

  Args:
    found: digests.
    directory: of the job.
    epsilon: of batch norms, if their scale and offset are among those found.
  """
  saved = set()
  for step in (0, 2, 4):
    with contextlib.suppress(tf.errors.OpError):
      path = directory.parents[1] / 'assets' / 'runs' / 'tiny' / f'ckpt-{step}'
      saved |= _tensors(path, 'model/')
      if epsilon is not None:
        saved |= _of_norms(path, epsilon)
  assert found <= saved, 'values are not those of the checkpoint'


def exported(directory: pathlib.Path, code: int, output: str) -> None:
  """The exported values are those of a checkpoint that was saved."""
  path = directory / 'out' / 'exported'
  if code:
    assert not (path / 'saved_model.pb').exists(), 'refused, but there is a SavedModel'
  else:
    config = load.parse(str(directory.parents[1] / 'assets' / 'tiny.textproto'))
    epsilon = config.value('trainer_options.solver_options.batchnorm_epsilon')
    found = _tensors(path / 'variables' / 'variables', 'read_variables')
    assert found, 'no variables were exported'
    _assert_saved(found, directory, epsilon)


def converted(directory: pathlib.Path, code: int, output: str) -> None:
  """The converted values are those of a checkpoint that was saved."""
  found = list((directory / 'out' / 'converted').glob('*.index'))
  if code:
    assert not found, 'refused, but there is a checkpoint'
  else:
    [index] = found
    _assert_saved(_tensors(index.with_suffix(''), 'model/'), directory)


def predicted(directory: pathlib.Path, code: int, output: str) -> None:
  """Every image has a PNG of its size and an entry in the JSON, or is named in the output."""
  images = sorted((directory / 'own' / 'images').iterdir())
  out = directory / 'out'
  if code and not any(image.name in output for image in images):
    return  # The model is refused.
  content = json.loads((out / 'panoptic.json').read_text(encoding='utf-8'))
  listed = {entry['file_name'] for entry in content['images']}
  for image in images:
    png = out / 'panoptic' / f'{image.stem}.png'
    if image.name in listed:
      with PIL.Image.open(png) as prediction:
        assert prediction.size == _upright_size(image), f'{png} has size {prediction.size}'
    else:
      assert image.name in output, f'{image.name} is lost without a word'
  assert len(listed) >= len(images) - 1, 'images that are fine were left out'


def _upright_size(path):
  """Returns (width, height) after EXIF's orientation."""
  try:
    opened = PIL.Image.open(path)
  except PIL.UnidentifiedImageError:  # Broken metadata: Pillow gives up, TensorFlow need not.
    opened = PIL.Image.open(path.parents[4] / 'assets' / 'own' / 'images' / path.name)
  with opened as image:
    try:
      return PIL.ImageOps.exif_transpose(image).size
    except Exception:  # Broken EXIF turns nothing.
      return image.size


def plotted(directory: pathlib.Path, code: int, output: str) -> None:
  """The curves that are there are drawn: of a run, either metrics or logs are always fine."""
  with PIL.Image.open(directory / 'out' / 'curves.png') as image:
    image.load()
