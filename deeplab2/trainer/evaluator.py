"""Evaluation: the segmenter on every image of a dataset, and what is computed from its maps."""

from collections.abc import Callable, Mapping, Sequence
import time
from typing import NamedTuple, Protocol

from absl import logging
import numpy as np
import orbit
import tensorflow as tf
import tf_keras

from deeplab2 import errors
from deeplab2 import randomness
from deeplab2 import structures
from deeplab2.inference import segmenter as segmenter_lib
from deeplab2.trainer import diagnostics
from deeplab2.trainer import progress
from deeplab2.trainer import unfinished as unfinished_lib

SKIPPED = 'skipped_records'  # Tag of the number of corrupt records.


class EvaluatedImage(NamedTuple):
  """One evaluated image on the host; arrays, without batch axis."""

  name: str
  image: np.ndarray  # [h, w, 3] float32 0..255, resized for the crop, without its padding.
  raw_size: tuple[int, int]  # (H0, W0)
  maps: structures.PanopticMap  # [H0, W0]
  crop_maps: structures.PanopticMap  # [H, W]
  ground_truth: np.ndarray | None  # [H0, W0] int32, None without labels.
  crop_ground_truth: np.ndarray | None  # [H, W] int32


class Report(Protocol):
  """What measures the images."""

  def begin(self) -> None:
    """Forgets the evaluation before."""

  def add(self, index: int, image: EvaluatedImage) -> None:
    """Adds one image."""

  def end(self, measured: Mapping[str, float]) -> Mapping[str, float]:
    """Returns more scalars by tag, given mean losses and diagnostics, and SKIPPED if any are."""

  def state(self) -> Mapping[str, np.ndarray]:
    """Returns what was measured so far."""

  def set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Goes on from what `state` returned."""


class Evaluator(orbit.StandardEvaluator):
  """Segments every image and hands the maps on, image by image.

  The report comes first. If another callback fails, none gets anything more, and `check` tells
  after   the evaluation.
  """

  def __init__(
    self,
    dataset: Callable[[int], tf.distribute.DistributedDataset],
    *,
    model: tf_keras.Model,
    segmenter: segmenter_lib.Segmenter,
    loss: Callable | None,
    callbacks: Sequence[Callable[[int, EvaluatedImage], None]],
    report: Report | None = None,
    unfinished: unfinished_lib.Unfinished | None = None,
    num_images: int | None = None,
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
      callbacks: called with (index, EvaluatedImage) for every image, in order.
      report: of images with labels.
      unfinished: keeps the state on the way; None: an interrupted evaluation starts over.
      num_images: how many there will be, if known, for the progress shown.
      use_tf_function: False runs model and loss op by op, to look into them.
    """
    # Only the replicas' part of a step is a graph; the rest handles images of any size.
    super().__init__(None, orbit.StandardEvaluatorOptions(use_tf_function=False))
    self._strategy = tf.distribute.get_strategy()
    self._model = model
    self._segmenter = segmenter
    self._loss = loss
    self._dataset = dataset
    self._callbacks = tuple(callbacks)
    self._report = report
    self._unfinished = unfinished
    self._num_images = num_images
    self._run = self._run_replicas
    if use_tf_function:
      self._run = tf.function(self._run_replicas, autograph=False)

  def evaluate(self, num_steps):
    """Evaluates `num_steps` batches, -1 for all, those of an interrupted evaluation included.

    Raises:
      UserError: as `eval_end`.
    """
    self._batches = self._done = self._skipped = 0
    self._sums = {}, {}
    self._failure = None
    if self._report is not None:
      self._report.begin()
    if self._unfinished is not None:
      stored = self._unfinished.begin()
      if stored is not None:
        self._set_state(stored)
    self._done_before = self._done
    with self._strategy.scope():
      self.eval_dataset = self._dataset(self._batches)
    self._wanted = num_steps = int(num_steps)
    return super().evaluate(
      tf.constant(num_steps if num_steps == -1 else max(num_steps - self._batches, 0))
    )

  def check(self) -> None:
    """Raises the UserError of a callback that failed in the last evaluation, if one did."""
    if self._failure is not None:
      raise self._failure

  def eval_begin(self):
    """Starts the clock; returns the sums of losses and parts of diagnostics so far."""
    self._started = time.monotonic()
    self._progress = progress.create('eval', self._num_images, 'image', self._done)
    return self._sums

  def eval_step(self, iterator):
    """Segments one global batch; returns ([Sample], [(maps, sums)]), one entry per replica."""
    sample = next(iterator)
    targets = sample.targets if self._loss is not None else None
    results = self._run(sample.image, targets, tf.constant(self._batches))
    return self._per_replica(sample), self._per_replica(results)

  def eval_reduce(self, state, step_outputs):
    """Hands the images of a batch to the callbacks; returns the state with theirs added."""
    for sample, (maps, scored) in zip(*step_outputs, strict=True):
      is_image = sample.placement.raw_size.numpy().all(axis=1)
      self._skipped += int(np.sum((sample.name.numpy() != b'') & ~is_image))
      for index in np.flatnonzero(is_image):
        self._hand_on(self._image(sample, maps, int(index)))
        for sums, found in zip(state, scored, strict=True):
          for name, values in found.items():
            sums[name] = sums.get(name, 0.0) + np.asarray(values)[..., index]
        self._done += 1
    self._progress.update(self._done, {})
    self._batches += 1
    if self._unfinished is not None:
      self._unfinished.save(self._state)
    return state

  def _hand_on(self, image):
    """Gives an image to report and callbacks."""
    if self._report is not None:
      self._report.add(self._done, image)
    if self._failure is not None:
      return
    try:
      for callback in self._callbacks:
        callback(self._done, image)
    except errors.UserError as error:
      logging.warning('%s Nothing more is written of single images; the evaluation goes on.', error)
      self._failure = error
      if self._unfinished is not None:
        # Started again, it shall write what is missing.
        self._unfinished.freeze()

  def _state(self):
    """Returns the state after a batch, which `_set_state` takes."""
    losses, ratios = self._sums
    measured = {} if self._report is None else self._report.state()
    return {
      'counts': np.array([self._batches, self._done, self._skipped]),
      **{f'losses/{name}': np.asarray(value) for name, value in losses.items()},
      **{f'ratios/{name}': np.asarray(value) for name, value in ratios.items()},
      **{f'report/{name}': value for name, value in measured.items()},
    }

  def _set_state(self, arrays):
    def below(prefix):
      return {
        key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)
      }

    self._batches, self._done, self._skipped = map(int, arrays['counts'])
    # Scalars again: one rank less than what the file holds them as.
    self._sums = ({name: value[()] for name, value in below('losses/').items()}, below('ratios/'))
    if self._report is not None:
      self._report.set_state(below('report/'))
    logging.info('The evaluation goes on after %d images, where it was interrupted.', self._done)

  def eval_end(self, state):
    """Returns the scalars: mean losses, throughput, and what `end` returns.

    Raises:
      UserError: there was no image, but corrupt records only.
    """
    self._progress.close()
    if not self._done:
      raise errors.UserError(
        f'There is no image to evaluate: all {self._skipped} records are corrupt.'
      )
    if self._skipped:
      logging.warning(
        '%d corrupt records were skipped: the numbers are of the other %d.',
        self._skipped,
        self._done,
      )
    if self._batches < self._wanted:
      logging.warning(
        'The set has %d batches, fewer than eval_steps = %d: all were evaluated.',
        self._batches,
        self._wanted,
      )
    speed = (self._done - self._done_before) / (time.monotonic() - self._started)
    losses, ratios = state
    scalars = {f'losses/eval_{name}': float(total) / self._done for name, total in losses.items()}
    if ratios:
      numerators, denominators = zip(*ratios.values(), strict=True)
      scalars.update(diagnostics.scalars(ratios, numerators, denominators))
    if self._skipped:
      scalars[SKIPPED] = float(self._skipped)
    more = {} if self._report is None else self._report.end(scalars)
    if self._unfinished is not None:
      self._unfinished.end()
    return {**scalars, 'images_per_second': speed, **more}

  def _run_replicas(self, images, targets, batch):
    """Returns what `_replica_step` does on every replica."""
    return self._strategy.run(self._replica_step, args=(images, targets, batch))

  def _replica_step(self, images, targets, batch):
    """Returns (maps at crop size, (losses, diagnostics)) of one replica's part of a batch."""
    prediction = self._model(images, training=False)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    scored = {}, {}
    if self._loss is not None:
      # Auxiliary outputs serve training alone.
      # Pixels are sampled alike in every evaluation, an interrupted one included.
      with randomness.keyed(tf.stack([batch, replica])):
        scored = self._loss(prediction._replace(auxiliary=()), targets)
    return self._segmenter.maps(prediction.final), scored

  def _image(self, sample, maps, index):
    """Returns image `index` of a batch with its maps at both sizes."""
    height, width = sample.placement.raw_size[index].numpy().tolist()
    rows, columns = sample.placement.resized_size[index].numpy().tolist()
    restored = self._segmenter.restore(maps, sample.placement, index)
    has_ground_truth = sample.panoptic_raw is not None
    return EvaluatedImage(
      name=sample.name[index].numpy().decode(),
      image=sample.image[index, :rows, :columns].numpy(),
      raw_size=(height, width),
      maps=structures.PanopticMap(*(m[0].numpy() for m in restored)),
      crop_maps=structures.PanopticMap(*(m[index].numpy() for m in maps)),
      ground_truth=sample.panoptic_raw[index, :height, :width].numpy()
      if has_ground_truth
      else None,
      crop_ground_truth=sample.panoptic[index].numpy() if has_ground_truth else None,
    )

  def _per_replica(self, values):
    """Returns a list with each replica's part of the nested `values`."""

    def part(value, replica):
      return None if value is None else self._strategy.experimental_local_results(value)[replica]

    return [
      tf.nest.map_structure(lambda value, r=replica: part(value, r), values)
      for replica in range(self._strategy.num_replicas_in_sync)
    ]
