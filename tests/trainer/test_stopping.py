"""SIGTERM and Ctrl-C: what is at hand is finished and saved; the exit code tells."""

import os
import signal
import subprocess
import sys
import time

import pytest

from deeplab2 import command_line
from deeplab2 import errors
from deeplab2.trainer import stopping


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_a_request_with_an_exit_code(number, code, capsys):
  before = signal.getsignal(number)
  request = stopping.Request()

  def run():
    with stopping.heeded(request):
      request.check('Nothing yet.')
      os.kill(os.getpid(), number)
      assert request.is_made()
      assert signal.getsignal(number) is before  # A second one is none of ours.
      request.check('Step 3 is saved.')

  if before is signal.SIG_IGN:
    pytest.skip('this shell has the signal ignored, which stays so')
  assert command_line.run(run) == code
  assert capsys.readouterr().err.endswith(f'Stopped by {number.name}. Step 3 is saved.\n')
  assert signal.getsignal(number) is before


def test_signals_that_are_ignored_stay_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    request = stopping.Request()
    with stopping.heeded(request):
      os.kill(os.getpid(), signal.SIGINT)
    assert not request.is_made()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_without_a_request_nothing_is_raised_and_a_request_raises():
  request = stopping.Request()
  request.check('unused')
  request.make(signal.SIGTERM)
  with pytest.raises(errors.Stopped, match='Stopped by SIGTERM. All is saved.') as stopped:
    request.check('All is saved.')
  assert stopped.value.exit_code == 143


_WAITING = """
import time
from deeplab2.trainer import stopping
with stopping.heeded(stopping.Request()):
  print('ready', flush=True)
  while True:
    time.sleep(0.01)
"""


def test_a_second_signal_ends_the_process_at_once():
  process = subprocess.Popen(
    [sys.executable, '-c', _WAITING],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)},
  )
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGTERM)
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=60) == -signal.SIGTERM
