"""Every path option with names that are hostile to patterns, shells and parsers."""

import json
import pathlib

import gin
import pytest

from deeplab2.trainer import train
from tests import eager
from tests import hostile_names
from tests.trainer import runs
from tests.trainer.runs import parts

__all__ = ['parts']
ROOT = pathlib.Path(__file__).parents[1]


def _main(call, *arguments):
  gin.clear_config()
  with eager.functions():  # No path gets into the graphs.
    assert call([str(argument) for argument in arguments]) == 0


QUICK = ('runs[lr=0.1]', 'back\\slash')


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in hostile_names.HOSTILE_NAMES
  ],
)
def test_run_directories_files_and_checkpoints(tmp_path, parts, monkeypatch, name):
  """Trains, resumes, evaluates, and starts other runs from it, all by command lines."""
  monkeypatch.setattr(train.runtime, 'start_logging', lambda: None)
  place = tmp_path / name
  place.mkdir()
  config = place / f'{name}.textproto'
  config.write_text((ROOT / runs.CONFIG).read_text())
  bindings = place / f'{name}.gin'
  bindings.write_text('Lines.seconds_between = 100.0')
  records = place / name
  records.mkdir()
  for split in ('train', 'val'):
    (records / f'{split}-0.tfrecord').write_bytes(b'stands for records')
  monkeypatch.setenv('SHAPES_TFRECORDS', str(records))

  def run(mode, model_dir, *overrides):
    settings = [
      *runs.OVERRIDES,
      'evaluator_options.num_vis_samples=1',
      f'experiment_name="{name}"',
      *overrides,
    ]
    _main(
      train.main,
      f'--config_file={config}',
      f'--mode={mode}',
      f'--model_dir={model_dir}/',
      f'--gin_file={bindings}',
      '--num_gpus=0',
      *(f'--set={setting}' for setting in settings),
    )
    return model_dir / name

  work = run(
    'train_and_eval',
    place / 'runs',
    f'{runs.SOLVER}.training_number_of_steps=4',
    'trainer_options.num_checkpoints_to_keep=2',
  )
  assert (work / 'ckpt-4.index').exists() and not (work / 'ckpt-0.index').exists()
  run('train_and_eval', place / 'runs')
  assert {path.name for path in (work / 'eval').glob('metrics*')} == {
    'metrics-4.json',
    'metrics-6.json',
  }
  run('eval', place / 'runs', f'evaluator_options.override_save_dir="{place / "drawn"}"')
  assert (place / 'drawn' / '000000_panel.png').exists()
  run('continuous_eval', place / 'runs')
  other = run(
    'train',
    place / 'other',
    f'model_options.initial_checkpoint="{work}"',
    f'model_options.backbone.pretrained_weights="{work / "ckpt-6"}"',
  )
  assert (other / 'ckpt-6.index').exists()
  # A file of literally the name of a pattern wins.
  literal = records / f'val-{name}'
  literal.write_bytes(b'x')
  run('eval', place / 'runs', f'eval_dataset_options.file_pattern=["{_escaped(literal)}"]')
  sets = [
    json.loads(path.read_text())['evaluated']['num_bytes']
    for path in (work / 'eval').glob('metrics-6*.json')
  ]
  assert sorted(sets) == [1, 18]


def _escaped(path):
  return str(path).replace('\\', '\\\\')
