"""Draws ReMask's gates over an image: of some classes, at every relaxed layer, as training goes on.

  python scripts/draw_gates.py --config_file=CONFIG --image=FILE --output=gates.png
      --checkpoints=RUN/ckpt-100,RUN/ckpt-500 [--classes=person,grass] [--set a.b=c ...]

CONFIG must have `trainer_options.loss_options.remask.enable`, and the checkpoints its semantic
heads. A row of the drawing is a class in a checkpoint, a column a relaxed layer. It shows the gate
of the slot to which the layer gives most of the class, at each pixel: by 1 + gate, its mask logits
are multiplied in training (docs/remax.md). The title of a panel names the slot and what the layer
makes of it. One scale of colour holds for all panels, so that a gate that is the same everywhere
looks so. Without --classes, those of the two most confident slots of the last checkpoint are shown.
With --gates_alone, nothing of the image is drawn, for images that may not be published.

To have checkpoints of several moments, train with `trainer_options.save_checkpoints_steps` and
`trainer_options.num_checkpoints_to_keep`.
"""

from collections.abc import Mapping, Sequence
import os
import sys
from typing import NamedTuple

from comparison import plots
from matplotlib import figure as figure_lib
from matplotlib import pyplot
import numpy as np
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import command_line
from deeplab2 import errors
from deeplab2 import files
from deeplab2 import resampling
from deeplab2 import structures
from deeplab2.checkpoint import restore
from deeplab2.config import load
from deeplab2.data import datasets
from deeplab2.data import images
from deeplab2.inference import segmenter
from deeplab2.loss import relaxation

_ENABLE = 'trainer_options.loss_options.remask.enable'
_SHOWN_CLASSES = 2
_OPACITY = 0.65


class Layer(NamedTuple):
  """What a relaxed layer makes of an image."""

  gate_hwn: np.ndarray  # [h, w, N] float32 on the grid of the masks, which spans the crop
  class_nk: np.ndarray  # [N, K] float32 probabilities of the real classes of each slot


def layers_of(
  prediction: structures.Prediction, class_order: Sequence[int], settings: relaxation.ReMask
) -> list[Layer]:
  """Returns the relaxed layers of a prediction of one image, the first one first.

  Args:
    prediction: with its auxiliary ones.
    class_order: dataset id of each class channel.
    settings: of ReMask.
  """
  found = []
  for layer in prediction.auxiliary[: settings.num_layers]:
    logits = layer.semantic_logits
    _, height, width, channels = logits.shape
    gate_bps = relaxation.gate(
      tf.reshape(logits, [1, height * width, channels]), layer.class_logits, class_order, settings
    )
    gate_hwn = tf.reshape(gate_bps, [height, width, -1])
    probability_nk = tf.nn.softmax(layer.class_logits[0])[:, :-1]
    found.append(Layer(gate_hwn.numpy(), probability_nk.numpy()))
  return found


def confident_classes(class_logits_nk: np.ndarray, count: int) -> list[int]:
  """Returns the channels of the most confident slots' classes, each once.

  Args:
    class_logits_nk: [N, K + 1], void last.
    count: number of classes.
  """
  probability_nk = tf.nn.softmax(class_logits_nk).numpy()[:, :-1]
  ranking = np.argsort(-probability_nk.max(axis=1), kind='stable')
  return list(dict.fromkeys(probability_nk[ranking].argmax(axis=1).tolist()))[:count]


def within_image(
  gate_hw: np.ndarray, crop_size: tuple[int, int], image_size: tuple[int, int]
) -> np.ndarray:
  """Returns what a gate is at every pixel of the image, which stands at the crop's top left.

  Args:
    gate_hw: [h, w] float32 on the grid of the masks, corners on the crop's corners.
    crop_size: (H, W).
    image_size: (height, width) of the image in the crop, without its padding.
  """
  whole = resampling.resize_bilinear(gate_hw[np.newaxis, ..., np.newaxis], crop_size)
  return whole.numpy()[0, : image_size[0], : image_size[1], 0]


class Panel(NamedTuple):
  """A relaxed layer in a row of the drawing."""

  gate_hw: np.ndarray  # [H', W'] float32, of the image alone
  slot: int
  probability: float  # Of the row's class, that the layer gives the slot.


def panels_of(
  layers: Sequence[Layer], channel: int, crop_size: tuple[int, int], image_size: tuple[int, int]
) -> list[Panel]:
  """Returns the panels of a class: of each layer, the slot to which it gives most of the class.

  Args:
    layers: relaxed layers.
    channel: of the class.
    crop_size, image_size: as of `within_image`.
  """
  found = []
  for layer in layers:
    slot = int(layer.class_nk[:, channel].argmax())
    gate_hw = within_image(layer.gate_hwn[..., slot], crop_size, image_size)
    found.append(Panel(gate_hw, slot, float(layer.class_nk[slot, channel])))
  return found


def draw(
  image: np.ndarray, rows: Mapping[str, Sequence[Panel]], gates_alone: bool = False
) -> figure_lib.Figure:
  """Draws gates over an image.

  Args:
    image: [H, W, 3] uint8.
    rows: title -> panels, of the same number of layers.
    gates_alone: whether the image itself is left out.
  """
  height, width = image.shape[:2]
  columns = 1 + max(map(len, rows.values()))
  figure, axes = pyplot.subplots(
    len(rows),
    columns,
    figsize=(2.6 * columns + 1.0, (2.6 * height / width + 0.45) * len(rows)),
    squeeze=False,
    layout='constrained',
  )
  largest = max(float(panel.gate_hw.max()) for panels in rows.values() for panel in panels)
  place = {'extent': (0, width, height, 0)}
  shown = {'cmap': 'magma', 'vmin': 0.0, 'vmax': largest, **place}
  for of_row, (title, panels) in zip(axes, rows.items(), strict=True):
    for one in of_row:
      one.set_axis_off()
    if gates_alone:
      of_row[0].text(0.5, 0.5, title.replace(', ', '\n'), ha='center', va='center')
    else:
      of_row[0].imshow(image)
      of_row[0].set_title(title, fontsize='small')
    for number, (one, panel) in enumerate(zip(of_row[1:], panels, strict=True)):
      if not gates_alone:
        one.imshow(image.mean(axis=2), cmap='gray', vmin=0, vmax=255, **place)
      mesh = one.imshow(panel.gate_hw, alpha=1.0 if gates_alone else _OPACITY, **shown)
      one.set_title(f'layer {number}: slot {panel.slot}, {panel.probability:.2f}', fontsize='small')
  figure.colorbar(mesh, ax=axes.ravel().tolist(), label='gate', shrink=0.8, aspect=40)
  return figure


def _channels(names, info):
  """Returns the class channels of names; UserError naming one that there is not."""
  order = info.label_space.class_order
  known = {info.class_names[dataset_id]: channel for channel, dataset_id in enumerate(order)}
  for name in names:
    if name not in known:
      raise errors.UserError(f'--classes: {name!r} is none of {", ".join(known)}.')
  return [known[name] for name in names]


def _run(options):
  """Does what the flags ask for.

  Raises:
    UserError: the config has no ReMask, a class is unknown, or an image or checkpoint is wrong.
  """
  config = load.load(options.config_file, options.set)
  settings = assemble.remask(config)
  if settings is None:
    raise config.error(_ENABLE, 'is false: without ReMask there are no gates; set it to true.')
  info = assemble.dataset_info(config)
  chosen = _channels(options.classes.split(','), info) if options.classes else None
  image = images.read(options.image)
  model = assemble.model(config, training=True, drawn=False)
  segment = segmenter.create(config, model)
  fitted, placement = segment.fit(tf.constant(image))
  image_size = tuple(placement.resized_size.numpy().tolist())
  found = {}
  for path in options.checkpoints.split(','):
    prefix = restore.restore_model(model, path, semantic_heads=True)
    prediction = model(fitted[tf.newaxis], training=False, auxiliary=True)
    found[prefix] = layers_of(prediction, info.label_space.class_order, settings)
  if chosen is None:
    chosen = confident_classes(prediction.final.class_logits[0].numpy(), _SHOWN_CLASSES)
  names = {prefix: os.path.basename(prefix) for prefix in found}
  if len(set(names.values())) < len(names):
    names = {prefix: prefix for prefix in found}  # Of several runs.
  rows = {
    f'{_name(info, channel)}, {names[prefix]}': panels_of(
      layers, channel, segment.crop_size, image_size
    )
    for channel in chosen
    for prefix, layers in found.items()
  }
  files.write_whole(options.output, plots.png(draw(image, rows, options.gates_alone)))
  print(options.output)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  parser = command_line.Parser(__doc__)
  parser.add_path('--config_file', required=True, help='Textproto of the experiment.')
  parser.add_path('--image', required=True, help='Image file.')
  parser.add_path('--output', required=True, help='PNG file to write.')
  parser.add_argument('--checkpoints', required=True, help='Prefixes, separated by commas.')
  parser.add_argument('--classes', help='Names of classes, separated by commas.')
  parser.add_argument('--gates_alone', action='store_true', help='Draw nothing of the image.')
  parser.add_argument(
    '--set', action='append', default=[], metavar='a.b.c=value', help='Override one option.'
  )

  return command_line.run(lambda: _run(parser.parse_args(arguments)))


def _name(info: datasets.DatasetInfo, channel: int) -> str:
  return info.class_names[info.label_space.class_order[channel]]


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
