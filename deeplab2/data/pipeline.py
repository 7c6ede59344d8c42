"""TFRecord files -> batches of Sample.

Only serialized records are shuffled, so the shuffle buffer holds compressed images. Everything
runs inside tf.data.
"""

import collections
from collections.abc import Sequence
import random
import re
from typing import NamedTuple

from absl import logging
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import files as file_paths
from deeplab2 import randomness
from deeplab2 import structures
from deeplab2.data import augment
from deeplab2.data import autoaugment
from deeplab2.data import copy_paste
from deeplab2.data import framing
from deeplab2.data import geometry
from deeplab2.data import reading
from deeplab2.data import service
from deeplab2.data import targets
from deeplab2.data import tfrecord

_INTERLEAVED_FILES = 32
# Streams of random numbers (randomness.stream), of each host for itself.
_ORDERS = ('order', 'order of other images')  # The latter are those that are pasted.
_AUGMENTATION, _OTHER_AUGMENTATION, _PASTE = 'augmentation', 'augmentation of others', 'paste'


class Shard(NamedTuple):
  """Which part of the input one pipeline makes, where several hosts or replicas divide it."""

  host: int = 0
  hosts: int = 1
  replicas: int = 1  # Of the host.

  def files(self, files: Sequence[str]) -> list[str]:
    """Returns the files of this host: every file belongs to one host.

    Raises:
      UserError: there are fewer files with records than hosts.
    """
    if self.hosts == 1:
      return list(files)
    files = [file for file in files if tf.io.gfile.stat(file).length]
    if len(files) < self.hosts:
      raise errors.UserError(
        f'{len(files)} files with records cannot be shared by {self.hosts} '
        'hosts; write more shards, a multiple of the hosts.'
      )
    return files[self.host :: self.hosts]

  def batch_size(self, global_size: int) -> int:
    """Returns the size of one replica's part of a batch."""
    return global_size // (self.hosts * self.replicas)


def training(
  patterns: Sequence[str],
  *,
  label_space: structures.LabelSpace,
  crop_size: tuple[int, int],
  batch_size: int,
  resize: geometry.Resize,
  scale: augment.RandomScale,
  target_options: targets.TargetOptions,
  shuffle_buffer_size: int = 1000,
  seed: int | None = None,
  policy: autoaugment.Policy | None = None,
  paste: copy_paste.CopyPaste | None = None,
  reader: reading.Fail | reading.Skip = reading.Fail(),  # noqa: B008
  shard: Shard = Shard(),  # noqa: B008
  data_service: str | None = None,
  first_step: int = 0,
) -> tf.data.Dataset:
  """Endless batches of augmented images with targets, every epoch in a new order.

  Args:
    patterns: TFRecord files or globs of them; a file matched twice is read once.
    label_space: how panoptic ids are numbered.
    crop_size: (H, W).
    batch_size: global batch size, a multiple of all replicas.
    resize: range of sizes before random scaling.
    scale: random scale.
    target_options: what targets hold.
    shuffle_buffer_size: records, kept as they are on disk, among which the next one is drawn;
      twice as many with copy-paste.
    seed: makes the stream of batches the same in every run; None draws one. Not with
      `data_service`.
    policy: of AutoAugment.
    paste: copy-paste from another image, which is drawn independently from the same files.
    reader: what becomes of records that cannot be read.
    shard: the part of the input that this pipeline makes: of every hosts-th file, batches for one
      replica.
    data_service: dispatcher of the tf.data service that makes the batches, see service.py.
    first_step: number of global batches that an earlier run has taken of the stream of this seed:
      they are passed over without being made. Exact unless `reader` leaves records out. Has no
      meaning without a seed.

  Returns:
    A dataset of Sample with the fields `image` and `targets`.

  Raises:
    UserError: no file matches a pattern, all files are empty or they are fewer than the hosts, or
      the data service cannot be reached.
  """
  files = shard.files(find_files(patterns))
  taken = 0 if seed is None else first_step * (batch_size // shard.hosts)
  epoch, taken_of_epoch = divmod(taken, count_records(files)) if taken else (0, 0)
  maker = _SampleMaker(
    label_space, crop_size, resize, scale, policy, paste, target_options, shard.host
  )

  def records(order, seed):
    """Returns the usable records (tfrecord.Record) in an order of `seed`, from `taken` on."""
    stored = shuffled(
      files, reader, shuffle_buffer_size, seed, epoch, order=_of_host(shard.host, order)
    ).skip(taken_of_epoch)
    decoded = reader.decode(stored, with_label=True, void_id=label_space.void_id)
    return decoded.filter(lambda record: ~reading.is_blank(record))

  def batches(seed):
    """Returns the batches [B, ...] of Sample that `seed`, an int or [] int64, decides."""
    orders = _ORDERS[:1] if paste is None else _ORDERS
    stored = tuple(records(order, seed) for order in orders)
    dataset = tf.data.Dataset.zip(stored).enumerate(taken)
    dataset = dataset.map(
      lambda number, records: maker.sample(seed, number, records),
      num_parallel_calls=tf.data.AUTOTUNE,
    )
    return dataset.batch(shard.batch_size(batch_size), drop_remainder=True)

  if data_service is not None:
    return _finish(service.distribute(batches, data_service), deterministic=False)
  first_seed = random.SystemRandom().getrandbits(31) if seed is None else seed
  return _finish(batches(first_seed), deterministic=seed is not None)


class _SampleMaker(NamedTuple):
  """Makes samples for training of records; the fields are arguments of `training`, and the host."""

  label_space: structures.LabelSpace
  crop_size: tuple[int, int]
  resize: geometry.Resize
  scale: augment.RandomScale
  policy: autoaugment.Policy | None
  paste: copy_paste.CopyPaste | None
  target_options: targets.TargetOptions
  host: int

  def sample(self, seed, number, records) -> structures.Sample:
    """Returns the sample of one image: cropped, pasted over, with targets; without batch axis.

    Args:
      seed: int or [] int64, of the run.
      number: [] int64, of the sample in the run. It and `seed` decide everything that is drawn.
      records: tfrecord.Record of the image and, with copy-paste, of the other image.
    """
    space, name = self.label_space, records[0].name

    def key(stream):
      return randomness.stream(_of_host(self.host, stream), seed, number)

    image, label = self._crop(records[0], key(_AUGMENTATION), self.scale, space.void_id)
    if self.paste is not None:
      smaller = self.scale.times(self.paste.scale)
      padding = copy_paste.padding_id(space)
      other = self._crop(records[1], key(_OTHER_AUGMENTATION), smaller, padding)
      image, label = copy_paste.paste(
        image, label, *other, name=name, space=space, settings=self.paste, seed=key(_PASTE)
      )
    made = targets.make_targets(label, name, space, self.target_options)
    return structures.Sample(image, made)

  def _crop(self, record, key, scale, void_id):
    """Returns the augmented image [H, W, 3] float32 and label [H, W] int32 of a record."""
    return augment.augment(
      record.image,
      tf.squeeze(record.label, 2),
      augment.draw(key, scale),
      policy=self.policy,
      crop_size=self.crop_size,
      resize=self.resize,
      void_id=void_id,
    )


def _of_host(host, stream):
  return f'input of host {host}: {stream}'


def shuffled(
  files: Sequence[str],
  reader: reading.Fail | reading.Skip,
  buffer_size: int,
  seed: int | tf.Tensor,
  first_epoch: int = 0,
  order: str = _of_host(0, _ORDERS[0]),
) -> tf.data.Dataset:
  """Returns stored records of all files in random order, endlessly, as `reader.decode` takes them.

  Every epoch holds every record once, in an order that seed and number of the epoch alone decide:
  so a run can go on in the middle of its input, and it is known whose sample is whose
  (inspect_data.py).

  Args:
    files: TFRecord files.
    reader: reads them.
    buffer_size: records among which the next one is drawn.
    seed: of the run.
    first_epoch: number of the epoch to begin with.
    order: stream of random numbers that decides; by default that of the images of a first host.
  """

  def epoch(number):
    """Returns the stored records of epoch `number`, [] int64, each once."""
    # Of this function's graph alone: orders do not depend on the seed of the model.
    tf.random.set_seed(1)
    file_seed, record_seed = tf.unstack(
      tf.random.stateless_uniform(
        [2], randomness.stream(order, seed, number), 1, tf.int64.max, tf.int64
      )
    )
    dataset = reading.sources(files).shuffle(
      len(files), seed=file_seed, reshuffle_each_iteration=False
    )
    dataset = dataset.interleave(
      reader.read,
      cycle_length=min(len(files), _INTERLEAVED_FILES),
      num_parallel_calls=tf.data.AUTOTUNE,
    )
    return dataset.shuffle(buffer_size, seed=record_seed, reshuffle_each_iteration=False)

  return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch)


def count_records(files: Sequence[str]) -> int:
  """Returns the number of records in TFRecord files; remote ones are read through for it.

  Raises:
    UserError: naming a file that is corrupt.
  """
  logging.info(
    'Counting the records of %d files, to go on with the input where the run stopped.', len(files)
  )
  if not any('://' in file for file in files):
    return framing.count(files)
  records = tf.data.TFRecordDataset(files, num_parallel_reads=min(len(files), _INTERLEAVED_FILES))
  try:
    return int(records.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))
  except tf.errors.DataLossError as error:
    raise explain(error, files) from error


def evaluation(
  patterns: Sequence[str],
  *,
  label_space: structures.LabelSpace,
  crop_size: tuple[int, int],
  batch_size: int,
  resize: geometry.Resize,
  target_options: targets.TargetOptions,
  decode_labels: bool = True,
  skip: int = 0,
  reader: reading.Fail | reading.Skip = reading.Fail(),  # noqa: B008
) -> tf.data.Dataset:
  """Every image once, in the order of files and records, as batches of fixed size.

  The last batch is filled up with padding examples: their `placement.raw_size` is (0, 0), their
  label maps are void. They do not count as images. A record that `reader` skips becomes one too;
  its name is its place, while that of other padding examples is empty.

  Several hosts divide the batches, not the files (see trainer/runtime.py): so all get equally many,
  and no image comes twice.

  Args:
    patterns: TFRecord files or globs of them; a file matched twice is read once.
    label_space: how panoptic ids are numbered.
    crop_size: (H, W). Images are shrunk to fit into it.
    batch_size: global batch size.
    resize: range of sizes.
    target_options: what targets hold.
    decode_labels: whether records have labels that are wanted.
    skip: number of records to leave out at the beginning; they are read, but not decoded.
    reader: what becomes of records that cannot be read.

  Returns:
    A dataset of Sample; `targets`, `panoptic` and `panoptic_raw` are None without labels. Once a
    strategy has distributed it, the batch axis is of unknown static size where labels are decoded
    (the size of `panoptic_raw` varies); all replicas still get full batches.

  Raises:
    UserError: no file matches a pattern, or all files are empty.
  """
  void_id = label_space.void_id

  def sample(record):
    """Returns the sample of a tfrecord.Record, without batch axis."""
    image, placement = geometry.fit_image(record.image, crop_size, resize)
    is_image = tf.cast(~reading.is_blank(record), tf.int32)
    placement = structures.Placement(*(size * is_image for size in placement))
    unlabelled = structures.Sample(image, placement=placement, name=record.name)
    if not decode_labels:
      return unlabelled
    raw = tf.squeeze(record.label, 2)
    label = geometry.fit_label(raw, placement, crop_size, void_id)
    return unlabelled._replace(
      targets=targets.make_targets(label, record.name, label_space, target_options),
      panoptic=label,
      panoptic_raw=raw,
    )

  def padding_example(_):
    return sample(reading.blank('', with_label=decode_labels, void_id=void_id))

  stored = reading.sources(find_files(patterns)).flat_map(reader.read).skip(skip)
  dataset = reader.decode(stored, with_label=decode_labels, void_id=void_id)
  dataset = dataset.map(sample, num_parallel_calls=tf.data.AUTOTUNE)
  # Always batch_size - 1 of them: the batch that drop_remainder then drops holds nothing else.
  dataset = dataset.concatenate(tf.data.Dataset.range(batch_size - 1).map(padding_example))
  if decode_labels:
    padding = tf.nest.map_structure(lambda spec: tf.zeros([], spec.dtype), dataset.element_spec)
    dataset = dataset.padded_batch(
      batch_size,
      drop_remainder=True,
      padding_values=padding._replace(panoptic_raw=tf.constant(void_id)),
    )
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
    UserError: there is no pattern, a pattern matches no file, all files are empty, or a record of a
      local file claims to be far longer than its file.
  """
  if not patterns:
    raise errors.UserError('No file pattern is given; name the TFRecord files to read.')
  files: set[str] = set()
  for pattern in patterns:
    if tf.io.gfile.isdir(pattern):
      raise errors.UserError(
        f'File pattern {pattern!r} is a directory; write {pattern}/*.tfrecord.'
      )
    matches = file_paths.expand_pattern(pattern)
    if not matches:
      raise errors.UserError(f'No file matches the pattern {pattern!r}.')
    # build_tfrecords.py leaves a manifest next to the shards, and unfinished ones until it is done.
    files.update(file for file in matches if not file.endswith(('.json', '.part', '.tmp')))
  if not files:
    raise errors.UserError(
      f'Only an unfinished run of build_tfrecords.py matches {", ".join(patterns)}; run it again.'
    )
  # Single shards may be empty. If all were, reading them over and over would never end.
  if not any(tf.io.gfile.stat(file).length for file in files):
    raise errors.UserError(
      f'The {len(files)} files that match {", ".join(patterns)} hold no record.'
    )
  framing.count([file for file in files if '://' not in file])
  return sorted(files)


def explain(
  error: tf.errors.OpError | UnicodeDecodeError,
  patterns: Sequence[str],
  *,
  with_labels: bool = True,
) -> Exception:
  """Says in terms of files and records why reading failed, for `raise explain(...) from error`.

  Reads through the files to find the place, which takes minutes where the set is large.

  Args:
    error: what was raised when a batch was taken. TensorFlow's messages can quote the bytes of a
      record that is no tf.Example, which Python then fails to decode.
    patterns: as given to the pipeline.
    with_labels: whether the pipeline decoded labels.

  Returns:
    A UserError that names file and record; or `error` itself, if it is not about the data.
  """
  message = 'GetNext' if isinstance(error, UnicodeDecodeError) else error.message
  too_many = re.search(r'assertion failed: \[(Corrupt records: .*?\.)\]', message)
  if too_many:
    return errors.UserError(too_many[1])
  problem = re.search(r'assertion failed: \[(Image (.*?): .*?\.)\]', message)
  if not problem and 'GetNext' not in message:
    return error
  files = find_files(patterns)
  logging.info('Reading failed; looking for the place in %d files.', len(files))
  if problem:
    return errors.UserError(_where_is(problem[2], files) + problem[1])
  try:
    if isinstance(error, tf.errors.DataLossError):
      # Faster than decoding the images before. Where no file is broken, a compressed label map is.
      for file in files:
        collections.deque(framing.records(file), maxlen=0)
    tfrecord.scan(files, with_label=with_labels)
  except errors.UserError as found:
    return found
  return error


def _where_is(name, files):
  """Returns 'FILE, record NUMBER: ' of the image, or '' if there is none of that name."""
  features = {'image/filename': tf.io.FixedLenFeature([], tf.string)}
  for file in files:
    # There may be corrupt records too, if these are skipped.
    for number, serialized in enumerate(tf.data.TFRecordDataset(file).ignore_errors()):
      try:
        example = tf.io.parse_single_example(serialized, features)
      except (tf.errors.OpError, UnicodeDecodeError):
        continue
      if example['image/filename'].numpy().decode(errors='replace') == name:
        return f'{file}, record {number}: '
  return ''
