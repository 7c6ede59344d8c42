"""Gates over an image: what is drawn, by hand, and the command with checkpoints of two moments."""

import pathlib
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2 import structures
from deeplab2.checkpoint import run_checkpoints
from deeplab2.config import load
from deeplab2.loss import relaxation

_ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(_ROOT / 'scripts'))  # As for a script that is run.
import draw_gates  # noqa: E402

CONFIG = str(_ROOT / 'configs/shapes/kmax_mobilenet_v3_small.textproto')
_REMASK = 'trainer_options.loss_options.remask'
_SIZES = [
  f'{part}_dataset_options.{option}=65'
  for part in ('train', 'eval')
  for option in ('min_resize_value', 'max_resize_value')
]
OVERRIDES = [
  *_SIZES,
  'train_dataset_options.crop_size=65,65',
  'eval_dataset_options.crop_size=65,65',
  'model_options.kmax.decoder_layers=1,1,0',
  'model_options.decoder.atrous_rates=1,2,3',
  f'{_REMASK}.enable=true',
  f'{_REMASK}.num_relaxed_layers=2',
  f'{_REMASK}.head_channels=16',
]


def _softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def test_layers_hold_the_gates():
  random = np.random.default_rng(0)
  semantic = random.normal(size=(1, 3, 4, 5)).astype(np.float32)
  classes = random.normal(size=(1, 6, 4)).astype(np.float32)
  layer = structures.MaskPrediction(None, tf.constant(classes), None, tf.constant(semantic))
  prediction = structures.Prediction(None, (layer, layer), None)
  settings = relaxation.ReMask(
    num_layers=1, semantic_activation=tf.nn.softmax, class_activation=tf.nn.softmax
  )
  order = (4, 0, 2)
  [found] = draw_gates.layers_of(prediction, order, settings)
  slots = _softmax(classes[0])[:, :3]
  expected = _softmax(semantic[0])[..., list(order)] @ slots.T
  np.testing.assert_allclose(found.gate_hwn, expected, rtol=1e-5)
  np.testing.assert_allclose(found.class_nk, slots, rtol=1e-5)


def test_panels_show_the_slot_with_most_of_the_class_within_the_image():
  # Over a crop of 5 x 9 pixels, in steps of 2 pixels: 10 a pixel down, 1 to the right.
  gate = np.stack([np.zeros([3, 5]), 20.0 * np.arange(3)[:, None] + 2.0 * np.arange(5)], axis=-1)
  layer = draw_gates.Layer(gate.astype(np.float32), np.array([[0.7, 0.1], [0.2, 0.3]]))
  [panel] = draw_gates.panels_of([layer], 1, (5, 9), (4, 7))
  assert (panel.slot, panel.probability) == (1, 0.3)
  expected = 10.0 * np.arange(4)[:, None] + np.arange(7)
  np.testing.assert_allclose(panel.gate_hw, expected, atol=1e-5)


def test_classes_of_the_most_confident_slots():
  # Void, last, is no class: the slot that is most certain of it has the least of any other.
  logits = np.log([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3], [0.2, 0.75, 0.05], [0.01, 0.01, 0.98]])
  assert draw_gates.confident_classes(logits.astype(np.float32), 1) == [1]
  assert draw_gates.confident_classes(logits.astype(np.float32), 3) == [1, 0]


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
  """Two checkpoints of an untrained model with semantic heads; one without; an image."""
  directory = tmp_path_factory.mktemp('gates')
  model = assemble.model(load.load(CONFIG, OVERRIDES), training=True)
  step = tf.Variable(1, dtype=tf.int64)
  found = []
  for name, training in (('run', {}), ('plain', None)):
    kept = run_checkpoints.Checkpoints(
      str(directory / name), model=model, global_step=step, training=training
    )
    found.append(kept.save())
    if name == 'run':
      step.assign(2)
      found.append(kept.save())
  pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
  PIL.Image.fromarray(pixels).save(directory / 'image.png')
  return found, str(directory / 'image.png')


def _main(image, checkpoints, *arguments, overrides=OVERRIDES):
  return draw_gates.main(
    [
      f'--config_file={CONFIG}',
      f'--image={image}',
      f'--checkpoints={",".join(checkpoints)}',
      *(f'--set={override}' for override in overrides),
      *arguments,
    ]
  )


def test_a_row_for_every_class_and_checkpoint(checkpoints, tmp_path, monkeypatch):
  (first, second, _), image = checkpoints
  drawn = []
  monkeypatch.setattr(
    draw_gates, 'draw', lambda *args, real=draw_gates.draw: drawn.append(args) or real(*args)
  )
  output = tmp_path / 'gates.png'
  assert _main(image, [first, second], f'--output={output}', '--classes=star,sky') == 0
  [(pixels, rows, gates_alone)] = drawn
  assert not gates_alone
  assert pixels.shape == (40, 60, 3)
  titles = [f'{name}, {moment}' for name in ('star', 'sky') for moment in ('ckpt-1', 'ckpt-2')]
  assert list(rows) == titles
  # Two thirds of the crop's height hold the image.
  assert {panel.gate_hw.shape for panels in rows.values() for panel in panels} == {(43, 65)}
  assert {len(panels) for panels in rows.values()} == {2}
  width, height = PIL.Image.open(output).size
  assert width > 700 and height > 700
  alone = tmp_path / 'alone.png'
  flags = (f'--output={alone}', '--classes=star,sky', '--gates_alone')
  assert _main(image, [first, second], *flags) == 0
  # Where the image was, there is paper and the title in black: no colour.
  left = np.asarray(PIL.Image.open(alone).convert('RGB'))[:, :150].astype(int)
  assert np.ptp(left, axis=2).max() == 0


@pytest.mark.parametrize(
  'taken, flags, overrides, message',
  [
    (0, ['--classes=horse'], OVERRIDES, "--classes: 'horse' is none of"),
    (2, [], OVERRIDES, 'it lacks remask_semantic_heads/'),
    (0, [], [*OVERRIDES, f'{_REMASK}.enable=false'], f'{_REMASK}.enable'),
  ],
)
def test_mistakes_are_one_line(checkpoints, tmp_path, capsys, taken, flags, overrides, message):
  prefixes, image = checkpoints
  output = f'--output={tmp_path / "gates.png"}'
  assert _main(image, [prefixes[taken]], output, *flags, overrides=overrides) == 2
  [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error:')]
  assert message in line
