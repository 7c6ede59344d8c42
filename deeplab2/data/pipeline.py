"""TFRecord files -> batches of Sample.

Only serialized records are shuffled, so the shuffle buffer holds compressed pictures. Everything
runs inside tf.data.
"""
from collections.abc import Sequence
import random
import re

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.data import augment
from deeplab2.data import autoaugment
from deeplab2.data import copy_paste
from deeplab2.data import geometry
from deeplab2.data import targets
from deeplab2.data import tfrecord

_INTERLEAVED_FILES = 32
# Added to the seed for what is drawn of the picture that is pasted, and for what is pasted of it.
_OTHER, _PASTE = 1, 2


def training(patterns: Sequence[str], *, label_space: structures.LabelSpace,
             crop_size: tuple[int, int], batch_size: int, resize: geometry.Resize,
             scale: augment.RandomScale, target_options: targets.TargetOptions,
             shuffle_buffer_size: int = 1000, seed: int | None = None,
             policy: autoaugment.Policy | None = None,
             paste: copy_paste.CopyPaste | None = None) -> tf.data.Dataset:
  """Endless batches of augmented pictures with targets; epochs blend into each other.

  Args:
    patterns: TFRecord files or globs of them; a file matched twice is read once.
    label_space: how panoptic ids are numbered.
    crop_size: (H, W).
    batch_size: global batch size.
    resize: range of sizes before random scaling.
    scale: random scale.
    target_options: what targets hold.
    shuffle_buffer_size: records, kept as they are on disk, among which the next one is drawn;
      twice as many with copy-paste.
    seed: makes the stream of batches the same in every run. A run that resumes should take another
      seed than the one before, or it sees the same pictures again.
    policy: of AutoAugment.
    paste: copy-paste from another picture, which is drawn independently from the same files.

  Returns:
    A dataset of Sample with the fields `image` and `targets`.

  Raises:
    UserError: no file matches a pattern, or all files are empty.
  """
  files = find_files(patterns)
  is_seeded = seed is not None
  if not is_seeded:
    seed = random.SystemRandom().getrandbits(31)
  records = [_shuffled(files, shuffle_buffer_size, seed)]
  other_scale = scale
  if paste is not None:
    records.append(_shuffled(files, shuffle_buffer_size, seed + _OTHER))
    other_scale = scale._replace(minimum=paste.scale * scale.minimum,
                                 maximum=paste.scale * scale.maximum)

  def crop(serialized, number, of_seed, random_scale, void_id):
    record = tfrecord.parse_example(serialized, with_label=True)
    draw = augment.draw(tf.stack([tf.constant(of_seed, tf.int64), number]), random_scale)
    image, label = augment.augment(record.image, tf.squeeze(record.label, 2), draw, policy=policy,
                                   crop_size=crop_size, resize=resize, void_id=void_id)
    return record.name, image, label

  def sample(number, serialized):
    name, image, label = crop(serialized[0], number, seed, scale, label_space.void_id)
    if paste is not None:
      _, *other = crop(serialized[1], number, seed + _OTHER, other_scale,
                       copy_paste.padding_id(label_space))
      image, label = copy_paste.paste(
          image, label, *other, name=name, space=label_space, settings=paste,
          seed=tf.stack([tf.constant(seed + _PASTE, tf.int64), number]))
    return structures.Sample(image, targets.make_targets(label, name, label_space, target_options))

  dataset = tf.data.Dataset.zip(tuple(records)).enumerate()
  dataset = dataset.map(sample, num_parallel_calls=tf.data.AUTOTUNE)
  dataset = dataset.batch(batch_size, drop_remainder=True)
  return _finish(dataset, deterministic=is_seeded)


def _shuffled(files, buffer_size, seed):
  """Returns serialized records of all files in random order, endlessly."""
  dataset = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files), seed=seed).repeat()
  dataset = dataset.interleave(
      tf.data.TFRecordDataset, cycle_length=min(len(files), _INTERLEAVED_FILES),
      num_parallel_calls=tf.data.AUTOTUNE)
  return dataset.shuffle(buffer_size, seed=seed)


def evaluation(patterns: Sequence[str], *, label_space: structures.LabelSpace,
               crop_size: tuple[int, int], batch_size: int, resize: geometry.Resize,
               target_options: targets.TargetOptions,
               decode_labels: bool = True) -> tf.data.Dataset:
  """Every picture once, in the order of files and records, as batches of fixed size.

  The last batch is filled up with fillers: their `placement.raw_size` is (0, 0) and their label
  maps are void; whoever counts pictures leaves them out.

  Args:
    patterns: TFRecord files or globs of them; a file matched twice is read once.
    label_space: how panoptic ids are numbered.
    crop_size: (H, W). Pictures are shrunk to fit into it.
    batch_size: global batch size.
    resize: range of sizes.
    target_options: what targets hold.
    decode_labels: whether records have labels that are wanted.

  Returns:
    A dataset of Sample; `targets`, `panoptic` and `panoptic_raw` are None without labels. Once a
    strategy has distributed it, the batch axis is of unknown static size where labels are decoded
    (the size of `panoptic_raw` varies); all replicas still get full batches.

  Raises:
    UserError: no file matches a pattern, or all files are empty.
  """
  void_id = label_space.void_id

  def sample(record):
    image, placement = geometry.fit_picture(record.image, crop_size, resize)
    unlabelled = structures.Sample(image, placement=placement, name=record.name)
    if not decode_labels:
      return unlabelled
    raw = tf.squeeze(record.label, 2)
    label = geometry.fit_label(raw, placement, crop_size, void_id)
    return unlabelled._replace(
        targets=targets.make_targets(label, record.name, label_space, target_options),
        panoptic=label, panoptic_raw=raw)

  def read(serialized):
    return sample(tfrecord.parse_example(serialized, with_label=decode_labels))

  def filler(_):
    blank = tfrecord.Record(tf.zeros([1, 1, 3], tf.uint8), tf.fill([1, 1, 1], void_id), '', 1, 1)
    nowhere = structures.Placement(tf.zeros([2], tf.int32), tf.zeros([2], tf.int32))
    return sample(blank)._replace(placement=nowhere)

  dataset = tf.data.TFRecordDataset(find_files(patterns))
  dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
  # Always batch_size - 1 fillers: the batch that drop_remainder then drops holds nothing else.
  dataset = dataset.concatenate(tf.data.Dataset.range(batch_size - 1).map(filler))
  if decode_labels:
    padding = tf.nest.map_structure(lambda spec: tf.zeros([], spec.dtype), dataset.element_spec)
    dataset = dataset.padded_batch(
        batch_size, drop_remainder=True,
        padding_values=padding._replace(panoptic_raw=tf.constant(void_id)))
  else:
    dataset = dataset.batch(batch_size, drop_remainder=True)
  return _finish(dataset, deterministic=True)


def _finish(dataset, deterministic):
  options = tf.data.Options()
  options.deterministic = deterministic
  return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def find_files(patterns: Sequence[str]) -> list[str]:
  """Returns the files that match, sorted.

  Raises:
    UserError: there is no pattern, a pattern matches no file, or all files are empty.
  """
  if not patterns:
    raise errors.UserError('No file pattern is given; name the TFRecord files to read.')
  files = set()
  for pattern in patterns:
    if tf.io.gfile.isdir(pattern):
      raise errors.UserError(f'File pattern {pattern!r} is a folder; write {pattern}/*.tfrecord.')
    matches = tf.io.gfile.glob(pattern)
    if not matches:
      raise errors.UserError(f'No file matches the pattern {pattern!r}.')
    # build_tfrecords.py leaves a manifest beside the shards, and unfinished ones until it is done.
    files.update(file for file in matches if not file.endswith(('.json', '.part')))
  # Single shards may be empty. If all were, reading them over and over would never end.
  if not any(tf.io.gfile.stat(file).length for file in files):
    raise errors.UserError(
        f'The {len(files)} files that match {", ".join(patterns)} hold no record.')
  return sorted(files)


def explain(error: tf.errors.OpError, patterns: Sequence[str], *,
            with_labels: bool = True) -> Exception:
  """Says in terms of files and records why reading failed, for `raise explain(...) from error`.

  Reads through the files to find the place, which takes minutes where the set is large.

  Args:
    error: what was raised when a batch was taken.
    patterns: as given to the pipeline.
    with_labels: whether the pipeline decoded labels.

  Returns:
    A UserError that names file and record; or `error` itself, if it is not about the data.
  """
  problem = re.search(r'assertion failed: \[(Picture (.*?): .*?\.)\]', error.message)
  if not problem and 'GetNext' not in error.message:
    return error
  files = find_files(patterns)
  logging.info('Reading failed; looking for the place in %d files.', len(files))
  if problem:
    return errors.UserError(_where_is(problem[2], files) + problem[1])
  if isinstance(error, tf.errors.DataLossError):
    files = [file for file in files if _is_broken(file)]
  try:
    tfrecord.scan(files, with_label=with_labels)
  except errors.UserError as found:
    return found
  return error


def _where_is(name, files):
  """Returns 'FILE, record NUMBER: ' of the picture, or '' if there is none of that name."""
  features = {'image/filename': tf.io.FixedLenFeature([], tf.string)}
  for file in files:
    for number, serialized in enumerate(tf.data.TFRecordDataset(file)):
      example = tf.io.parse_single_example(serialized, features)
      if example['image/filename'].numpy().decode(errors='replace') == name:
        return f'{file}, record {number}: '
  return ''


def _is_broken(file):
  """Returns whether the framing or a checksum of a TFRecord file is wrong."""
  try:
    tf.data.TFRecordDataset(file).reduce(0, lambda count, _: count + 1)
  except tf.errors.DataLossError:
    return True
  return False
