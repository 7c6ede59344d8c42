"""The exported form of a segmenter: a SavedModel, and the classes that its maps speak of."""

from collections.abc import Callable, Iterator
import contextlib
import os
import shutil
import tempfile
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files
from deeplab2.data import datasets
from deeplab2.data import stretched
from deeplab2.inference import functions as functions_lib
from deeplab2.inference import model_files
from deeplab2.inference import segmenter as segmenter_lib

# Where the classes of an exported model are described, relative to the SavedModel.
_DATASET_FILE = os.path.join('assets.extra', 'dataset.json')


class Exported(NamedTuple):
  """An exported model that was loaded."""

  # uint8 image [H0, W0, 3] -> the named maps of `serving_default`.
  segment: Callable[[tf.Tensor], dict[str, tf.Tensor]]
  # uint8 image [H0, W0, 3] -> its panoptic map, the same as `panoptic_pred`.
  panoptic: Callable[[tf.Tensor], stretched.StretchedMap]
  info: datasets.DatasetInfo  # Of the classes.
  fingerprint: str  # Another one for other weights or other classes.
  functions: Any = None  # With the attributes of inference.functions.Functions that it has.


def save(
  segmenter: segmenter_lib.Segmenter,
  info: datasets.DatasetInfo,
  path: str,
  *,
  outputs: tuple[str, ...] = functions_lib.OPTIONAL,
  batch_size: int | None = None,
) -> None:
  """Writes `segmenter` as a SavedModel, whole or not at all.

  Its signatures:

    serving_default   `input_tensor` uint8 [H0, W0, 3] -> `panoptic_pred`, `instance_pred`,
                      `semantic_pred` (int32), `instance_scores` and `semantic_scores` (float32),
                      each [1, H0, W0]; `segment_ids` (int32) and `segment_scores` (float32) [1, N]
    panoptic_in_crop  the same -> int32 `values` [h, w], `rows` [H0] and `columns` [W0], where
                      panoptic_pred[0, i, j] = values[rows[i], columns[j]]
    batch             `images` uint8 [B, H, W, 3], with an image of `sizes` int32 [B, 2] (height,
                      width) at the top left of each -> `panoptic_pred` and `semantic_pred`
                      [B, H, W], void outside of the images; `segment_ids`, `segment_scores` [B, N]
    encoded           `image_bytes` [B] JPEG, PNG, GIF or BMP files -> as `batch`, at the largest
                      height and width, and `sizes`
    logits            as `batch` -> float32 `mask_logits` [B, h, w, N] and `class_logits`
                      [B, N, K + 1], void last; int32 `fitted_sizes` [B, 2], what part of the crop
                      holds the image, which lies at the top left

  Segments are listed in the order of their masks, each once, and filled up with void's id and score
  0. Variables that the signatures do not need are left out.

  Args:
    segmenter: with restored weights.
    info: the dataset it was trained on, written next to it.
    path: directory to write to. A model that was exported there before is replaced.
    outputs: which of the last three signatures to write.
    batch_size: the B that they take; None for any.

  Raises:
    UserError: the directory cannot be written, or holds something else than an exported model.
  """
  path = path.rstrip('/') or '/'
  check_replaceable(path)
  module = functions_lib.Functions(segmenter, info.label_space, outputs, batch_size)
  parent, name = os.path.split(path)
  aside = os.path.join(parent, f'.exporting-{os.getpid()}-{name}')
  try:
    with files.explained(f'{path}: the model cannot be written there'):
      files.make_directory(parent or '.')
      with segmenter.constant_norms():
        tf.saved_model.save(module, aside, signatures=module.signatures())
      files.write_whole(os.path.join(aside, _DATASET_FILE), datasets.to_json(info).encode())
      model_files.write_list(aside)
      _put_in_place(aside, path)
  finally:
    with contextlib.suppress(OSError, tf.errors.OpError):
      tf.io.gfile.rmtree(aside)


def check_replaceable(path: str, overwrite: bool = True) -> None:
  """Raises UserError unless `path` is free, an empty directory, or may be overwritten.

  Args:
    path: of a directory to write.
    overwrite: whether an exported model there may be.
  """
  path = path.rstrip('/') or '/'
  if tf.io.gfile.isdir(path):
    # One file is enough: a model that lost the others is exported again.
    is_model = any(
      tf.io.gfile.exists(os.path.join(path, name))
      for name in (_DATASET_FILE, model_files.LIST_FILE)
    )
    if is_model and not overwrite:
      raise errors.UserError(
        f'{path}: holds an exported model; give --overwrite to replace it, or another directory.'
      )
    if tf.io.gfile.listdir(path) and not is_model:
      raise errors.UserError(
        f'{path}: holds something else than an exported model, which would be '
        'lost; choose another directory.'
      )
  elif tf.io.gfile.exists(path):
    raise errors.UserError(f'{path}: is a file; must be a directory.')


def _put_in_place(aside, path):
  """Renames a directory, in place of an older one."""
  if not tf.io.gfile.isdir(path):
    tf.io.gfile.rename(aside, path)
    return
  old = f'{aside}.old'
  tf.io.gfile.rename(path, old)
  try:
    tf.io.gfile.rename(aside, path)
  except (OSError, tf.errors.OpError):
    tf.io.gfile.rename(old, path)
    raise
  tf.io.gfile.rmtree(old)


def load(path: str) -> Exported:
  """Reads what `save` wrote.

  Raises:
    UserError: `path` holds no such model, or it is damaged.
  """
  needed = (os.path.join(path, name) for name in ('saved_model.pb', _DATASET_FILE))
  if not all(map(tf.io.gfile.exists, needed)):
    raise errors.UserError(
      f'{path}: no exported model; it must be a directory written by deeplab2.inference.export, '
      f'with saved_model.pb and {_DATASET_FILE}.'
    )
  fingerprint = model_files.check(path)
  info = datasets.load(os.path.join(path, _DATASET_FILE))
  try:
    with _without_pattern(path) as literal:
      loaded = tf.saved_model.load(literal)
    _ = loaded.segment
    in_crop = hasattr(loaded, 'panoptic_in_crop')
  # What TensorFlow raises for a SavedModel that is damaged or of another program is not documented.
  except Exception as error:
    raise errors.UserError(
      f'{path}: the exported model cannot be read ({files.reason(error)}); export it again.'
    ) from error

  # The functions below keep `loaded` alive, whose variables its own functions read.
  def panoptic(image):
    if not in_crop:  # It was exported before there was such a function.
      return stretched.unstretched(loaded.segment(image)['panoptic_pred'][0].numpy())
    maps = loaded.panoptic_in_crop(image)
    return stretched.StretchedMap(*(maps[key].numpy() for key in ('values', 'rows', 'columns')))

  return Exported(lambda image: loaded.segment(image), panoptic, info, fingerprint, loaded)


@contextlib.contextmanager
def _without_pattern(path: str) -> Iterator[str]:
  """Yields a path of the same directory that TensorFlow does not take for a pattern.

  It looks up the file of the variables as a pattern.
  """
  if not files.is_pattern(path):
    yield path
    return
  directory = tempfile.mkdtemp()
  try:
    link = os.path.join(directory, 'model')
    os.symlink(os.path.abspath(path), link)
    yield link
  finally:
    shutil.rmtree(directory)
