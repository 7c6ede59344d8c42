"""What a run says about itself, and which changes of its configuration it is resumed with."""

import json
import logging
import signal

from google.protobuf import text_format
import pytest

from deeplab2 import errors
from deeplab2.config import config_pb2
from deeplab2.config import load
from deeplab2.trainer import stopping
from deeplab2.trainer import train
from tests.trainer import runs

_with_fakes = pytest.mark.usefixtures('parts')
_SLOTS = 'model_options.kmax.num_mask_slots'
_RATE = f'{runs.SOLVER}.base_learning_rate'


def _starts(directory):
  return json.loads((directory / 'run.json').read_text())['starts']


@_with_fakes
def test_configuration_and_starts_are_kept(tmp_path):
  runs.run('train', tmp_path)
  runs.run('train_and_eval', tmp_path, f'{_RATE}=0.002')
  config = load.load(runs.CONFIG, [*runs.OVERRIDES, f'{_RATE}=0.002'])
  text = (tmp_path / 'config.textproto').read_text()
  assert text_format.Parse(text, config_pb2.ExperimentOptions()) == config.options
  assert '${' not in text
  first, second = _starts(tmp_path)
  assert (first['mode'], second['mode']) == ('train', 'train_and_eval')
  assert first['outcome'] == second['outcome'] == 'finished'
  assert first['ended'] >= first['started']
  assert first['versions']['tensorflow'].startswith('2.20')
  assert any('CPU' in device for device in first['devices']) and first['replicas'] == 1
  # What is kept is a configuration like any other.
  assert load.load(str(tmp_path / 'config.textproto')).options == config.options


@_with_fakes
def test_how_a_run_ended(tmp_path):
  request = stopping.Request()
  request.make(signal.SIGTERM)
  config = load.load(runs.CONFIG, runs.OVERRIDES)
  with pytest.raises(errors.Stopped):
    train.MODES['train'](config, str(tmp_path), request)
  (entry,) = _starts(tmp_path)
  assert entry['outcome'].startswith('Stopped: Stopped by SIGTERM. Step 1 is saved')


@_with_fakes
def test_another_model_is_refused_by_name_and_the_advice_works(tmp_path):
  runs.run('train', tmp_path / 'a')
  before = (tmp_path / 'a' / 'config.textproto').read_bytes()
  slots = load.load(runs.CONFIG, runs.OVERRIDES).value(_SLOTS)
  with pytest.raises(errors.UserError) as refused:
    runs.run('train', tmp_path / 'a', f'{_SLOTS}={slots - 1}', f'{_RATE}=0.1')
  message = str(refused.value)
  assert message.startswith('--set: the run in ')
  assert f'{_SLOTS} = {slots}, now {slots - 1}. A run keeps its model' in message
  assert _RATE not in message
  assert (tmp_path / 'a' / 'config.textproto').read_bytes() == before
  runs.run('train', tmp_path / 'a')
  runs.run('train', tmp_path / 'b', f'{_SLOTS}={slots - 1}')


@_with_fakes
@pytest.mark.parametrize(
  'name, value, shown',
  [
    ('squeeze_excite_gate', 'HARD_SIGMOID', 'SIGMOID, now HARD_SIGMOID'),
    ('backbone_width_multiplier', '0.75', '1, now 0.75'),
  ],
)
def test_another_gate_or_width_is_another_model(tmp_path, name, value, shown):
  runs.run('train', tmp_path)
  option = f'model_options.backbone.{name}'
  with pytest.raises(errors.UserError, match=f'another model: {option} = {shown}. A run keeps'):
    runs.run('train', tmp_path, f'{option}={value}')


@_with_fakes
def test_other_changes_are_logged(tmp_path, caplog):
  runs.run('train', tmp_path)
  keep = 'model_options.kmax.decoder_drop_path_keep_prob'
  with caplog.at_level(logging.INFO):
    runs.run('train', tmp_path, f'{_RATE}=0.25', f'{keep}=0.5')
  said = [message for message in caplog.messages if 'when the run was started' in message]
  assert len(said) == 2
  assert any(_RATE in line and line.endswith('and is 0.25 now.') for line in said)
  assert any(keep in line for line in said)


@_with_fakes
def test_files_of_no_use(tmp_path, caplog):
  (tmp_path / 'config.textproto').write_text('left by a start that saved nothing')
  (tmp_path / 'run.json').write_text('[]')
  runs.run('train', tmp_path)
  assert 'run.json: cannot be read' in caplog.text and len(_starts(tmp_path)) == 1
  (tmp_path / 'config.textproto').write_text('model_options { kmax {')
  with pytest.raises(errors.UserError, match='config.textproto: cannot be read .*or delete it'):
    runs.run('train', tmp_path)
  (tmp_path / 'config.textproto').unlink()
  runs.run('train', tmp_path)
