"""Tests for deeplab2.command_line: how commands end."""

import os
import sys

from deeplab2 import command_line


def test_output_that_nobody_reads_any_more(monkeypatch):
  """`| head` ends before the command does."""
  read, write = os.pipe()
  os.close(read)
  with os.fdopen(write, 'w') as stdout:
    monkeypatch.setattr(sys, 'stdout', stdout)
    assert command_line.run(lambda: print('line')) == 1
    stdout.write('more')  # Closing is no error either.


def test_an_old_name_of_a_flag_works_with_a_warning(capsys):
  parser = command_line.Parser('')
  parser.add_path('--images')
  parser.add_argument('--other')
  parser.add_old_name('--pictures', '--images')
  assert parser.parse_args(['--pictures=a=b', '--other=--pictures']).images == 'a=b'
  assert 'warning: --pictures is called --images now' in capsys.readouterr().err
