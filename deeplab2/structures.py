"""READ FIRST: the tensors that travel between data, model, loss, metrics and inference.

Every structure is a NamedTuple of tensors, so it passes through tf.data, tf.function,
`strategy.run` and SavedModels as it is. Axis names used throughout the package:

  b  image of the batch          s  mask slot (query) of the model, N of them
  p  pixel, row-major              r  row of the ground truth: T things, then U stuff classes
  h, w  output grid                k  real class (K of them, void excluded)
  H, W  crop; H0, W0 the image   d  channel

Two orders of classes exist. *Dataset ids* are what label maps and semantic logits use. *Class
channels* are what the class head uses: things in the dataset's order, then stuff ids ascending,
then void last. `LabelSpace.class_order` maps channel -> dataset id.
"""

from typing import NamedTuple

import tensorflow as tf


class LabelSpace(NamedTuple):
  """The numbering of class and panoptic ids. Plain python values, fixed when a model is built.

  A panoptic id is `class_id * label_divisor + instance`: things count instances from 1 per class
  and image; stuff, void and crowd have instance 0. Crowd is a thing class with instance 0.
  """

  num_classes: int  # Number of dataset ids, void included where it is one of them (COCO: 134).
  ignore_label: int  # Dataset id of unlabelled pixels (COCO, ADE20K: 0; Cityscapes: 255).
  label_divisor: int
  thing_ids: tuple[int, ...]  # Dataset ids of countable classes, in the dataset's order.

  @property
  def stuff_ids(self) -> tuple[int, ...]:
    """Dataset ids that are neither things nor the ignore label, ascending."""
    ids = set(range(self.num_classes)) - set(self.thing_ids) - {self.ignore_label}
    return tuple(sorted(ids))

  @property
  def class_order(self) -> tuple[int, ...]:
    """Dataset id of each real class channel: things, then stuff. Length K."""
    return tuple(self.thing_ids) + self.stuff_ids

  @property
  def num_real_classes(self) -> int:
    """K, the number of classes without void."""
    return len(self.class_order)

  @property
  def void_id(self) -> int:
    """The panoptic id of pixels without a label."""
    return self.ignore_label * self.label_divisor


class Conventions(NamedTuple):
  """What a model computes that its variables do not show. Plain python values.

  Checkpoints of other programs can fit all variables of a model and be of another one.
  """

  label_space: LabelSpace
  stem_max_pool: bool = False  # Of a ResNet.
  # Fields of Pyramid: of every stage of the pixel decoder, and of the semantic branch, from stride
  # 32 on. () without a semantic branch.
  pixel_decoder_features: tuple[str, ...] = ()
  semantic_features: tuple[str, ...] = ()
  pixel_decoder_dilation: int = 2  # In bottleneck blocks.


class Placement(NamedTuple):
  """The place of an evaluation image in the crop: resized, then padded at the bottom and right."""

  raw_size: tf.Tensor  # [B, 2] int32, (H0, W0) of the image. (0, 0) marks a padding example.
  resized_size: tf.Tensor  # [B, 2] int32, size inside the crop before padding.


class Targets(NamedTuple):
  """Training targets of a batch at crop size, as label maps."""

  semantic: tf.Tensor  # [B, H, W] int32 dataset ids; crowd keeps its thing class.
  thing_id_mask: tf.Tensor  # [B, H, W] int32, 0..T-1 for instances, -1 elsewhere.
  thing_id_class: tf.Tensor  # [B, T] int32 dataset id of each instance, -1 where unused.
  semantic_weight: tf.Tensor  # [B, H, W] float32 weight of the semantic loss.


class Sample(NamedTuple):
  """One batch of the input pipeline. Fields that a mode does not have are None."""

  image: tf.Tensor  # [B, H, W, 3] float32 RGB, 0..255, padded with 127.5.
  targets: Targets | None = None  # None without labels.
  placement: Placement | None = None  # Evaluation only.
  name: tf.Tensor | None = None  # [B] string, file stem; of a padding example for a corrupt
  # record, its file and place; of others, empty. Evaluation only.
  panoptic: tf.Tensor | None = None  # [B, H, W] int32 ids in the crop. Evaluation only.
  panoptic_raw: tf.Tensor | None = None  # [B, H0, W0] int32 at the largest H0, W0 of the batch,
  # padded with void at the bottom and right. Evaluation only.


class Pyramid(NamedTuple):
  """Features of a backbone. `stageK` is not activated, `resK` is activated, both at stride 2**K.

  Sizes are ceil(crop / stride). (ConvNeXt's stage1 and res1 are at stride 4. So are those of a
  ResNet whose stem ends in a max-pooling, where both are activated.)
  """

  stage1: tf.Tensor
  stage2: tf.Tensor
  stage3: tf.Tensor
  stage4: tf.Tensor
  stage5: tf.Tensor
  res1: tf.Tensor
  res2: tf.Tensor
  res3: tf.Tensor
  res4: tf.Tensor
  res5: tf.Tensor


class MaskPrediction(NamedTuple):
  """Masks and classes of one predictor (the final one, or one of a decoder layer)."""

  mask_logits: tf.Tensor  # [B, h, w, N]
  class_logits: tf.Tensor  # [B, N, K + 1], void last
  pixel_feature: tf.Tensor  # [B, h, w, D], unit norm at the predictor's own resolution
  semantic_logits: tf.Tensor | None = None  # [B, h, w, num_classes], ReMask layers, training


class Prediction(NamedTuple):
  """Everything that the loss needs from the model."""

  final: MaskPrediction
  auxiliary: tuple[MaskPrediction, ...] = ()  # One per decoder layer, resized to final's h x w.
  semantic_logits: tf.Tensor | None = None  # [B, h', w', num_classes] by dataset id


class PanopticMap(NamedTuple):
  """A segmentation, at crop size after post-processing, at the image's size after `restore`."""

  panoptic: tf.Tensor  # [B, H, W] int32, class_id * label_divisor + instance
  instance: tf.Tensor  # [B, H, W] int32, mask id + 1, on every pixel
  semantic: tf.Tensor  # [B, H, W] int32 dataset ids of the semantic pass, never void
  instance_scores: tf.Tensor  # [B, H, W] float32
  semantic_scores: tf.Tensor  # [B, H, W] float32


class Segments(NamedTuple):
  """The segments of a PanopticMap, each once: things, and all of a stuff class."""

  ids: tf.Tensor  # [B, N] int32 panoptic ids in the order of their masks, then void's
  scores: tf.Tensor  # [B, N] float32, by which masks were ranked, 0 for void; of a stuff class, the
  # mean over its pixels
