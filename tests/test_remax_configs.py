"""Every ReMaX config assembles and takes a training step, at a small crop."""
import importlib.util
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2.config import load

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIGS = sorted(
    str(path.relative_to(_ROOT)) for path in _ROOT.glob('configs/*/remax/*.textproto'))
_SMALL = [f'{field}.{name}' for field in ('train_dataset_options', 'eval_dataset_options')
          for name in ('crop_size=65,65', 'min_resize_value=65', 'max_resize_value=65')]


def _benchmark():
  spec = importlib.util.spec_from_file_location('benchmark', _ROOT / 'scripts' / 'benchmark.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_there_are_all_of_them():
  assert len(_CONFIGS) == 10


@pytest.mark.parametrize('path', _CONFIGS)
def test_one_config_per_dataset_is_the_paper_s(path):
  config = load.load(str(_ROOT / path))
  losses = config.value('trainer_options.loss_options')
  assert losses.remask.enable and losses.reclass.enable
  assert losses.remask.num_relaxed_layers == 4 and losses.reclass.eta == pytest.approx(0.1)
  faithful = losses.mask_loss_activation == losses.SIGMOID
  assert faithful == ('mobilenet_v3_small' in path)
  if faithful:
    assert losses.remask.semantic_activation == losses.remask.class_activation == losses.SIGMOID
    assert losses.reclass.normalization == losses.reclass.CLASS_AREA
    assert not config.value('trainer_options.solver_options.use_gradient_clipping')


@pytest.mark.slow
@pytest.mark.parametrize('path', _CONFIGS)
def test_a_training_step(path):
  config = load.load(str(_ROOT / path), [*_SMALL, 'train_dataset_options.batch_size=1'])
  tf.config.run_functions_eagerly(True)
  try:
    logs = _benchmark().made_trainer(config).train(tf.constant(1))
  finally:
    tf.config.run_functions_eagerly(False)
  for layer in range(4):
    assert logs[f'losses/train_aux_{layer}semantic_loss'] > 0.0
    assert logs[f'diagnostics/aux_{layer}gate_other_class'] >= 0.0
  assert all(np.isfinite(value) for value in logs.values())
  assert assemble.dataset_info(config).label_space.num_classes in (19, 134, 151)
