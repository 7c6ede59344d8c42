"""How long an ablation takes: what is left, and what is not started for want of time."""

import json

from tests import test_ablation

_STEPS = test_ablation.STEPS


def _record(directory, name, seconds, *evaluations):
  """Writes the record of a training of so many seconds, and of evaluations after it."""
  modes = [('train_and_eval', seconds), *(('eval', taken) for taken in evaluations)]
  starts = [
    {
      'mode': mode,
      'started': '2020-01-01 00:00:00 +0000',
      'ended': f'2020-01-01 0{taken // 3600}:{taken // 60 % 60:02}:{taken % 60:02} +0000',
      'outcome': 'finished',
    }
    for mode, taken in modes
  ]
  (directory / 'runs' / name / 'run.json').write_text(json.dumps({'starts': starts}))


def test_dry_run_says_what_is_left_and_how_long(tmp_path, capsys):
  plan = test_ablation._variants(tmp_path, plain=[], other=[])
  flags = ('--seeds=0,1', '--jobs=1', '--dry_run')
  assert test_ablation._call(tmp_path, plan, *flags) == 0
  assert '4 runs of unknown time: give --seconds_per_step.' in capsys.readouterr().out
  assert not (tmp_path / 'out').exists()
  assert test_ablation._call(tmp_path, plan, *flags, '--seconds_per_step=3.6') == 0
  assert f'{4 * _STEPS / 1000:.1f} hours are left' in capsys.readouterr().out
  out = tmp_path / 'out'
  test_ablation._write_run(out, 'plain-seed0', 40.0)
  _record(out, 'plain-seed0', 7200)
  (out / 'runs' / 'plain-seed1').mkdir()
  (out / 'runs' / 'plain-seed1' / f'ckpt-{_STEPS // 2}.index').touch()
  assert test_ablation._call(tmp_path, plan, *flags) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines == [
    'plain-seed0  finished',
    f'other-seed0  step 0 of {_STEPS}, 2.00 h',
    f'plain-seed1  step {_STEPS // 2} of {_STEPS}, 1.00 h',
    f'other-seed1  step 0 of {_STEPS}, 2.00 h',
    '5.0 hours are left with --jobs=1.',
  ]
  assert test_ablation._call(tmp_path, plan, *flags, '--only=other') == 0
  assert '4.0 hours are left' in capsys.readouterr().out


def test_the_hours_hold_evaluations_on_the_training_images(tmp_path, capsys):
  plan = test_ablation._variants(tmp_path, plain=[])
  flags = ('--seeds=0,1,2', '--jobs=1', '--dry_run', '--train_eval', '--seconds_per_step=3.6')
  out = tmp_path / 'out'
  for name, evaluations in (('plain-seed0', [1800]), ('plain-seed1', [])):
    test_ablation._write_run(out, name, 40.0)
    _record(out, name, 7200, *evaluations)
  evaluated = {'set': 'train', 'file_pattern': ['${SHAPES_TFRECORDS}/train-*.tfrecord']}
  content = {
    'step': _STEPS,
    'evaluated': {**evaluated, 'dataset': 'shapes'},
    'PQ': 70.0,
  }
  (out / f'runs/plain-seed0/eval/metrics-{_STEPS}-0a.json').write_text(json.dumps(content))
  assert test_ablation._call(tmp_path, plan, *flags) == 0
  assert capsys.readouterr().out.splitlines() == [
    'plain-seed0  finished',
    'plain-seed1  trained; to be evaluated on the training images',
    f'plain-seed2  step 0 of {_STEPS}, 2.50 h',
    '3.0 hours are left with --jobs=1.',
  ]


def test_nothing_is_started_that_would_not_end_in_time(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(test_ablation.ablation.report_lib, 'write', lambda *_: None)
  plan = test_ablation._variants(tmp_path, plain=[], other=[])
  assert test_ablation._call(tmp_path, plan, '--seeds=0', '--hours=1') == 2
  assert 'give --seconds_per_step' in capfd.readouterr().err
  started = []

  def train(run, options, _):
    started.append(run.name)
    test_ablation._write_run(tmp_path / 'out', run.name, 40.0)
    _record(tmp_path / 'out', run.name, 7200)
    return True

  monkeypatch.setattr(test_ablation.ablation, 'train', train)
  rate = 3600 / _STEPS  # A run of an hour; the first one then shows that it is two.
  flags = ('--seeds=0,1', '--hours=1.5', '--jobs=1', f'--seconds_per_step={rate}')
  assert test_ablation._call(tmp_path, plan, *flags, '--only=plain') == 0
  assert started == ['plain-seed0']
  assert '1 runs were not started, for want of time: plain-seed1.' in capfd.readouterr().out
