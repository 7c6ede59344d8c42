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
