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


def test_lines_elsewhere_come_at_first_at_intervals_and_at_the_end(monkeypatch, caplog):
  clock = iter([0.0, 75.0, 80.0, 87.0, 89.0])
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  lines = progress.Lines('train', 100, 'step', 20)
  with caplog.at_level(logging.INFO):
    lines.update(30, {'total_loss': 4.0})
    lines.update(40, {})
    lines.update(54, {'total_loss': 3.0})
    lines.update(100, {'total_loss': 2.0})
  # 24 steps in 12 seconds leave 23 seconds for the other 46; then 46 steps in 2 seconds. The first
  # 10 steps, with the building of the graph, do not count.
  assert caplog.messages == [
    'train: step 30/100, first results after 0:01:15, total_loss 4',
    'train: step 54/100, 2 steps/s, 0:00:23 left, total_loss 3',
    'train: step 100/100, 23 steps/s, total_loss 2',
  ]
