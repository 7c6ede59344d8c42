"""Evaluation: the segmenter on every picture of a dataset, and what is made of its maps."""
from collections.abc import Callable, Mapping, Sequence
import time
from typing import NamedTuple

from absl import logging
import numpy as np
import orbit
import tensorflow as tf
import tf_keras

from deeplab2 import errors
from deeplab2 import structures
from deeplab2.inference import segmenter as segmenter_lib
from deeplab2.trainer import diagnostics
from deeplab2.trainer import progress

SKIPPED = 'skipped_records'  # Tag of the number of corrupt records.


class Picture(NamedTuple):
  """One evaluated picture on the host; arrays, without batch axis."""
  name: str
  image: np.ndarray  # [h, w, 3] float32 0..255, resized for the crop, without its padding.
  raw_size: tuple[int, int]  # (H0, W0)
  maps: structures.PanopticMap  # [H0, W0]
  crop_maps: structures.PanopticMap  # [H, W]
  truth: np.ndarray | None  # [H0, W0] int32, None without labels.
  crop_truth: np.ndarray | None  # [H, W] int32


class Evaluator(orbit.StandardEvaluator):
  """Segments every picture and hands the maps on, picture by picture."""

  def __init__(self, dataset, *, model: tf_keras.Model, segmenter: segmenter_lib.Segmenter,
               loss: Callable | None, sinks: Sequence[Callable[[int, Picture], None]],
               begin: Callable[[], None],
               end: Callable[[Mapping[str, float]], Mapping[str, float]],
               num_pictures: int | None = None, use_tf_function: bool = True):
    """Creates an evaluator inside the strategy's scope.

    Args:
      dataset: distributed dataset of structures.Sample of an evaluation, on the host.
      model: images, training -> structures.Prediction.
      segmenter: of that model.
      loss: (Prediction, Targets) -> (losses {name: [B]}, diagnostics {name: (numerator [B],
        denominator [B])}); None where the dataset has no labels.
      sinks: called with (index, Picture) for every picture, in order.
      begin: called before the first picture of every evaluation.
      end: called with mean losses and diagnostics by tag, and SKIPPED if there are any, after the
        last one; returns more scalars by tag.
      num_pictures: how many there will be, if known, for the progress shown.
      use_tf_function: False runs model and loss op by op, to look into them.
    """
    # Only the replicas' part of a step is a graph; the rest handles pictures of any size.
    super().__init__(dataset, orbit.StandardEvaluatorOptions(use_tf_function=False))
    self._strategy = tf.distribute.get_strategy()
    self._model = model
    self._segmenter = segmenter
    self._loss = loss
    self._sinks = tuple(sinks)
    self._begin = begin
    self._end = end
    self._num_pictures = num_pictures
    self._run = self._run_replicas
    if use_tf_function:
      self._run = tf.function(self._run_replicas, autograph=False)

  def eval_begin(self):
    """Starts an evaluation; returns the sums of losses and parts of diagnostics, empty."""
    self._begin()
    self._done = 0
    self._skipped = 0
    self._started = time.monotonic()
    self._progress = progress.create('eval', self._num_pictures, 'picture')
    return {}, {}

  def eval_step(self, iterator):
    """Segments one global batch; returns ([Sample], [(maps, sums)]), one entry per replica."""
    sample = next(iterator)
    targets = sample.targets if self._loss is not None else None
    results = self._run(sample.image, targets)
    return self._per_replica(sample), self._per_replica(results)

  def eval_reduce(self, state, step_outputs):
    """Hands the pictures of a batch to the sinks; returns the state with theirs added."""
    for sample, (maps, scored) in zip(*step_outputs, strict=True):
      is_picture = sample.placement.raw_size.numpy().all(axis=1)
      self._skipped += int(np.sum((sample.name.numpy() != b'') & ~is_picture))
      for index in np.flatnonzero(is_picture):
        picture = self._picture(sample, maps, int(index))
        for sink in self._sinks:
          sink(self._done, picture)
        for sums, found in zip(state, scored, strict=True):
          for name, values in found.items():
            sums[name] = sums.get(name, 0.0) + np.asarray(values)[..., index]
        self._done += 1
    self._progress.update(self._done, {})
    return state

  def eval_end(self, state):
    """Returns the scalars: mean losses, throughput, and what `end` returns.

    Raises:
      UserError: there was no picture, but corrupt records only.
    """
    self._progress.close()
    if not self._done:
      raise errors.UserError(f'There is no picture to evaluate: all {self._skipped} records are '
                             'corrupt.')
    if self._skipped:
      logging.warning('%d corrupt records were skipped: the numbers are of the other %d.',
                      self._skipped, self._done)
    speed = self._done / (time.monotonic() - self._started)
    losses, ratios = state
    scalars = {f'losses/eval_{name}': float(total) / self._done for name, total in losses.items()}
    if ratios:
      numerators, denominators = zip(*ratios.values(), strict=True)
      scalars.update(diagnostics.scalars(ratios, numerators, denominators))
    if self._skipped:
      scalars[SKIPPED] = float(self._skipped)
    return {**scalars, 'images_per_second': speed, **self._end(scalars)}

  def _run_replicas(self, images, targets):
    """Returns what `_replica_step` does on every replica."""
    return self._strategy.run(self._replica_step, args=(images, targets))

  def _replica_step(self, images, targets):
    """Returns (maps at crop size, (losses, diagnostics)) of one replica's part of a batch."""
    prediction = self._model(images, training=False)
    scored = {}, {}
    if self._loss is not None:
      # Auxiliary outputs serve training alone.
      scored = self._loss(prediction._replace(auxiliary=()), targets)
    return self._segmenter.maps(prediction.final), scored

  def _picture(self, sample, maps, index):
    """Returns picture `index` of a batch with its maps at both sizes."""
    height, width = sample.placement.raw_size[index].numpy().tolist()
    rows, columns = sample.placement.resized_size[index].numpy().tolist()
    restored = self._segmenter.restore(maps, sample.placement, index)
    has_truth = sample.panoptic_raw is not None
    return Picture(
        name=sample.name[index].numpy().decode(),
        image=sample.image[index, :rows, :columns].numpy(),
        raw_size=(height, width),
        maps=structures.PanopticMap(*(m[0].numpy() for m in restored)),
        crop_maps=structures.PanopticMap(*(m[index].numpy() for m in maps)),
        truth=sample.panoptic_raw[index, :height, :width].numpy() if has_truth else None,
        crop_truth=sample.panoptic[index].numpy() if has_truth else None)

  def _per_replica(self, values):
    """Returns a list with each replica's part of the nested `values`."""
    def part(value, replica):
      return None if value is None else self._strategy.experimental_local_results(value)[replica]

    return [tf.nest.map_structure(lambda value, r=replica: part(value, r), values)
            for replica in range(self._strategy.num_replicas_in_sync)]
