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

from collections.abc import Sequence
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

  gate_hwn: np.ndarray  # [h, w, N] float32, within the image
  class_nk: np.ndarray  # [N, K] float32 probabilities of the real classes of each slot


def layers_of(
  prediction, shown: tuple[int, int], class_order: Sequence[int], settings: relaxation.ReMask
) -> list[Layer]:
  """Returns the relaxed layers of a prediction of one image, the first one first.

  Args:
    prediction: structures.Prediction with its auxiliary ones.
    shown: rows and columns of the grid of masks that hold the image, not padding.
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
    gate_hwn = tf.reshape(gate_bps, [height, width, -1])[: shown[0], : shown[1]]
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


def draw(
  image: np.ndarray, rows: Sequence[tuple[str, int, Sequence[Layer]]], gates_alone: bool = False
) -> figure_lib.Figure:
  """Draws gates over an image.

  Args:
    image: [H, W, 3] uint8.
    rows: of the drawing: title, class channel, relaxed layers.
    gates_alone: whether the image itself is left out.
  """
  height, width = image.shape[:2]
  columns = 1 + max(len(layers) for _, _, layers in rows)
  figure, panels = pyplot.subplots(
    len(rows),
    columns,
    figsize=(2.6 * columns + 1.0, (2.6 * height / width + 0.45) * len(rows)),
    squeeze=False,
    layout='constrained',
  )
  slots = [
    [int(layer.class_nk[:, channel].argmax()) for layer in layers] for _, channel, layers in rows
  ]
  largest = max(
    float(layer.gate_hwn[..., slot].max())
    for (_, _, layers), of_row in zip(rows, slots, strict=True)
    for layer, slot in zip(layers, of_row, strict=True)
  )
  grey = image.mean(axis=2)
  mesh = None
  for axes, (title, channel, layers), of_row in zip(panels, rows, slots, strict=True):
    for panel in axes:
      panel.set_axis_off()
    if gates_alone:
      axes[0].text(0.5, 0.5, title.replace(', ', '\n'), ha='center', va='center')
    else:
      axes[0].imshow(image)
      axes[0].set_title(title, fontsize='small')
    for number, (panel, layer, slot) in enumerate(zip(axes[1:], layers, of_row, strict=False)):
      place = {'extent': (0, width, height, 0)}
      if not gates_alone:
        panel.imshow(grey, cmap='gray', vmin=0, vmax=255, **place)
      mesh = panel.imshow(
        layer.gate_hwn[..., slot],
        cmap='magma',
        vmin=0.0,
        vmax=largest,
        alpha=1.0 if gates_alone else _OPACITY,
        interpolation='bilinear',
        **place,
      )
      panel.set_title(
        f'layer {number}: slot {slot}, {layer.class_nk[slot, channel]:.2f}', fontsize='small'
      )
  figure.colorbar(mesh, ax=panels.ravel().tolist(), label='gate', shrink=0.8, aspect=40)
  return figure


def _channels(names, info):
  """Returns the class channels of names; UserError naming one that there is not."""
  order = info.label_space.class_order
  known = {info.class_names[dataset_id]: channel for channel, dataset_id in enumerate(order)}
  for name in names:
    if name not in known:
      raise errors.UserError(f'--classes: {name!r} is none of {", ".join(known)}.')
  return [known[name] for name in names]


def _grid_of_image(placement, crop_size, grid):
  """Returns rows and columns of the mask grid that hold the image, at the top left of the crop."""
  inside = (int(size) for size in placement.resized_size)
  return tuple(
    min(cells, -(-size * cells // whole))
    for size, cells, whole in zip(inside, grid, crop_size, strict=True)
  )


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

  def draw_gates():
    options = parser.parse_args(arguments)
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
    found = []
    for path in options.checkpoints.split(','):
      prefix = restore.restore_model(model, path, semantic_heads=True)
      prediction = model(fitted[tf.newaxis], training=False, auxiliary=True)
      grid = prediction.final.mask_logits.shape[1:3]
      shown = _grid_of_image(placement, segment.crop_size, grid)
      layers = layers_of(prediction, shown, info.label_space.class_order, settings)
      found.append((os.path.basename(prefix), layers))
    if chosen is None:
      chosen = confident_classes(prediction.final.class_logits[0].numpy(), _SHOWN_CLASSES)
    rows = [
      (f'{_name(info, channel)}, {name}', channel, layers)
      for channel in chosen
      for name, layers in found
    ]
    figure = draw(image, rows, options.gates_alone)
    files.write_whole(options.output, plots.png(figure))
    print(options.output)

  return command_line.run(draw_gates)


def _name(info: datasets.DatasetInfo, channel: int) -> str:
  return info.class_names[info.label_space.class_order[channel]]


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
