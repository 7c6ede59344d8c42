"""The modes with a tiny model and dataset in place of the configured ones, in seconds."""

import types

import pytest
import tensorflow as tf

from deeplab2 import assemble
from deeplab2.config import load
from deeplab2.data import datasets
from deeplab2.data import geometry
from deeplab2.inference import segmenter
from deeplab2.trainer import train
from tests import eager
from tests.trainer import fakes

CONFIG = 'configs/shapes/kmax_mobilenet_v3_small.textproto'
SOLVER = 'trainer_options.solver_options'
OVERRIDES = [
  f'{SOLVER}.training_number_of_steps=6',
  f'{SOLVER}.warmup_steps=0',
  f'{SOLVER}.backbone_learning_rate_multiplier=0.1',
  'trainer_options.steps_per_loop=2',
  'trainer_options.save_summaries_steps=2',
  'trainer_options.save_checkpoints_steps=2',
  'evaluator_options.eval_interval=4',
  'evaluator_options.continuous_eval_timeout=1',
  'train_dataset_options.batch_size=4',
]


@pytest.fixture
def parts(monkeypatch, tmp_path_factory):
  """Puts the fakes in place of what the configuration describes."""
  records = tmp_path_factory.mktemp('records')
  for split in ('train', 'val'):
    (records / f'{split}-0.tfrecord').write_bytes(b'stands for records')
  monkeypatch.setenv('SHAPES_TFRECORDS', str(records))
  info = datasets.DatasetInfo(
    'made',
    fakes.SPACE,
    ('void', 'thing', 'stuff'),
    ((0, 0, 0), (255, 0, 0), (0, 255, 0)),
    (0, 1, 2),
    0,
    {1: 1, 2: 2},
    {},
  )

  def model(config, training=False, precision=None):
    del config, training, precision
    built = fakes.TinyModel()
    built(tf.zeros([1, fakes.SIZE, fakes.SIZE, 3]))
    return built

  def create_segmenter(config, built):
    del config
    return segmenter.Segmenter(
      built, fakes.post_process, resize=geometry.Resize(), crop_size=(fakes.SIZE, fakes.SIZE)
    )

  monkeypatch.setattr(assemble, 'model', model)
  monkeypatch.setattr(assemble, 'dataset_info', lambda config: info)
  for name in ('loss', 'evaluation_loss'):
    monkeypatch.setattr(assemble, name, lambda config: types.SimpleNamespace(score=fakes.loss))
  monkeypatch.setattr(assemble, 'train_dataset', lambda config, shard, first_step: fakes.dataset())
  monkeypatch.setattr(
    assemble, 'eval_dataset', lambda config, skip=0: fakes.eval_dataset().skip(skip)
  )
  monkeypatch.setattr(segmenter, 'create', create_segmenter)


def run(mode, directory, *overrides):
  """Runs a mode in the work directory of a run."""
  with eager.functions():
    train.MODES[mode](load.load(CONFIG, [*OVERRIDES, *overrides]), str(directory))
