"""What is shown of a task's progress."""

import logging
import sys

from deeplab2.trainer import progress


def test_bar_on_a_terminal(monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  bar = progress.create('train', 100, 'step', 20)
  bar.update(70, {'total_loss': 12.3456})
  bar.close()
  shown = capsys.readouterr().err
  assert 'train:  70%' in shown and '70/100' in shown
  assert 'step/s' in shown and 'total_loss=12.35' in shown


def test_lines_elsewhere_come_at_intervals_and_at_the_end(monkeypatch, caplog):
  clock = iter([0.0, 5.0, 12.0, 14.0])
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  lines = progress.Lines('train', 100, 'step', 20)
  with caplog.at_level(logging.INFO):
    lines.update(30, {})
    lines.update(44, {'total_loss': 3.0})
    lines.update(100, {'total_loss': 2.0})
  # 24 steps in 12 seconds leave 28 seconds for the other 56; then 56 steps in 2 seconds.
  assert caplog.messages == [
    'train: step 44/100, 2 steps/s, 0:00:28 left, total_loss 3',
    'train: step 100/100, 28 steps/s, total_loss 2',
  ]
