"""The images of a dataset, segmented: the devices work ahead of what is done with the results."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import itertools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from deeplab2 import randomness
from deeplab2 import structures
from deeplab2.data import geometry
from deeplab2.inference import segmenter as segmenter_lib
from deeplab2.trainer import hosts

_AHEAD = 2  # Batches: one being computed, one ready.
_END = object()


class EvaluatedImage(NamedTuple):
  """One evaluated image on the host; arrays, without batch axis."""

  number: int  # Of images before it in its evaluation.
  name: str
  image: np.ndarray  # [h, w, 3] float32 0..255, resized for the crop, without its padding.
  maps: structures.PanopticMap  # [H0, W0]
  crop_maps: structures.PanopticMap  # [H, W]
  ground_truth: np.ndarray | None = None  # [H0, W0] int32, None without labels.
  crop_ground_truth: np.ndarray | None = None  # [H, W] int32
  losses: Mapping[str, np.ndarray] = {}  # Float32 scalars.
  diagnostics: Mapping[str, np.ndarray] = {}  # [2] float32, numerator and denominator.


class Part(NamedTuple):
  """The results of one replica for its part of a batch; arrays."""

  sample: Any  # structures.Sample of arrays, without targets.
  maps: structures.PanopticMap  # [B, H, W]
  losses: Mapping[str, np.ndarray]  # [B]
  diagnostics: Mapping[str, np.ndarray]  # [2, B]

  @property
  def is_image(self) -> np.ndarray:
    """[B] bool, False for padding examples."""
    return self.sample.placement.raw_size.all(axis=1)

  @property
  def num_corrupt(self) -> int:
    """The number of padding examples that stand for a corrupt record."""
    return int(np.sum((self.sample.name != b'') & ~self.is_image))

  def images(self, first: int) -> Iterator[EvaluatedImage]:
    """Yields the images in order, at both sizes; the first one gets number `first`."""
    sample = self.sample
    for index, i in enumerate(np.flatnonzero(self.is_image), first):
      height, width = sample.placement.raw_size[i]
      h, w = sample.placement.resized_size[i]
      # As geometry.restore, but the indices are computed once for all maps.
      one = structures.Placement(*(tf.constant(size[i]) for size in sample.placement))
      rows, columns = (indices.numpy() for indices in geometry.restore_indices(one))
      crop_maps = structures.PanopticMap(*(m[i] for m in self.maps))
      has_ground_truth = sample.panoptic_raw is not None
      yield EvaluatedImage(
        index,
        sample.name[i].decode(),
        sample.image[i, :h, :w],
        structures.PanopticMap(*(m.take(rows, 0).take(columns, 1) for m in crop_maps)),
        crop_maps,
        sample.panoptic_raw[i, :height, :width] if has_ground_truth else None,
        sample.panoptic[i] if has_ground_truth else None,
        {name: value[i] for name, value in self.losses.items()},
        {name: value[:, i] for name, value in self.diagnostics.items()},
      )


class Evaluator:
  """Segments the batches of a dataset and scores them by the loss."""

  def __init__(
    self,
    dataset: Callable[[int], tf.distribute.DistributedDataset],
    *,
    model: tf_keras.Model,
    segmenter: segmenter_lib.Segmenter,
    loss: Callable | None,
    batch_size: int | None = None,
    use_tf_function: bool = True,
  ):
    """Creates an evaluator inside the strategy's scope.

    Args:
      dataset: number of batches to pass over -> distributed dataset of structures.Sample of an
        evaluation, on the host.
      model: images, training -> structures.Prediction.
      segmenter: of that model.
      loss: (Prediction, Targets) -> (losses {name: [B]}, diagnostics {name: (numerator [B],
        denominator [B])}); None where the dataset has no labels.
      batch_size: of all replicas, where it is known: distributed batches have lost it, and a TPU
        needs it to compile.
      use_tf_function: False runs model and loss op by op, to look into them.
    """
    self._strategy = tf.distribute.get_strategy()
    self._dataset = dataset
    self._model = model
    self._segmenter = segmenter
    self._loss = loss
    self._batch_size = batch_size
    self._run = self._run_replicas
    if use_tf_function:
      self._run = tf.function(self._run_replicas, autograph=False)

  def batches(self, first: int = 0, limit: int | None = None) -> Iterator[list[Part]]:
    """Yields what each replica of all hosts has of every batch; a thread is two batches ahead.

    Args:
      first: number of batches to pass over.
      limit: most batches, None for all.
    """
    return _ahead(self._batches(first, limit))

  def _batches(self, first, limit):
    with self._strategy.scope():
      samples = iter(self._dataset(first))
    for number, sample in enumerate(itertools.islice(samples, limit), first):
      targets = sample.targets if self._loss is not None else None
      results = self._run(sample.image, targets, tf.constant(number))
      parts = (sample._replace(targets=None), *results)
      with self._strategy.scope():  # Which this thread has not entered.
        local = [
          Part(*tf.nest.map_structure(lambda value, r=replica: self._on_host(value, r), parts))
          for replica in range(self._strategy.num_replicas_in_sync // hosts.count())
        ]
        of_hosts = hosts.gathered(local)
      yield [part for of_host in of_hosts for part in of_host]

  def _on_host(self, value, replica):
    if value is None:
      return None
    return self._strategy.experimental_local_results(value)[replica].numpy()

  def _run_replicas(self, images, targets, batch):
    """Runs `_replica_step` on every replica and returns the results."""
    return self._strategy.run(self._replica_step, args=(images, targets, batch))

  def _replica_step(self, images, targets, batch):
    """Returns maps at crop size, losses and diagnostics of one replica's part of a batch."""
    if self._batch_size is not None:
      size = self._batch_size // self._strategy.num_replicas_in_sync

      def with_size(value):
        return None if value is None else tf.ensure_shape(value, [size, *value.shape[1:]])

      images, targets = tf.nest.map_structure(with_size, (images, targets))
    prediction = self._model(images, training=False)
    losses, ratios = {}, {}
    if self._loss is not None:
      replica = tf.distribute.get_replica_context().replica_id_in_sync_group
      # Auxiliary outputs serve training alone.
      # Pixels are sampled alike in every evaluation, an interrupted one included.
      with randomness.keyed(tf.stack([batch, replica])):
        losses, ratios = self._loss(prediction._replace(auxiliary=()), targets)
    ratios = {name: tf.stack(ratio) for name, ratio in ratios.items()}
    final = self._segmenter.averaged(images, prediction.final)
    return self._segmenter.maps(final), losses, ratios


def _ahead(items):
  """Yields `items`, which a thread computes up to _AHEAD of them before they are asked for."""
  with futures.ThreadPoolExecutor(1) as pool:
    pending = deque(pool.submit(next, items, _END) for _ in range(_AHEAD))
    try:
      while (item := pending.popleft().result()) is not _END:
        pending.append(pool.submit(next, items, _END))
        yield item
    finally:
      for future in pending:
        future.cancel()
