"""Command lines as processes that are timed, weighed and, if need be, killed.

Corrupted inputs go through forks of this process, which has imported TensorFlow but never run it:
a start then costs milliseconds instead of five seconds. Everything else is a process of its own.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import importlib
import io
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
import traceback
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Exit codes of a fork that no command line uses.
_TRACEBACK = 70
_WRONG = 71
_POLL_SECONDS = 0.02


class Command(NamedTuple):
  """A command line of the project."""

  module: str  # 'deeplab2.inference.export', or the name of a file in `scripts` without ending.
  arguments: tuple[str, ...]

  @classmethod
  def of(cls, line: str) -> 'Command':
    """Returns the command of a line of words, quoted as in a shell."""
    module, *arguments = shlex.split(line)
    return cls(module, tuple(arguments))

  def words(self) -> list[str]:
    """Returns the words that start it from the root of the repository."""
    start = ['-m', self.module] if '.' in self.module else [f'scripts/{self.module}.py']
    return ['python', *start, *self.arguments]

  def __str__(self):
    return shlex.join(self.words())

  def within(self, **places: object) -> 'Command':
    """Returns the command with values in the place of `{name}`, like `{here}`."""
    arguments = self.arguments
    for name, value in places.items():
      arguments = tuple(argument.replace(f'{{{name}}}', str(value)) for argument in arguments)
    return self._replace(arguments=arguments)


class Limits(NamedTuple):
  """What a process may take."""

  seconds: float
  megabytes: float


class Finished(NamedTuple):
  """What became of a process."""

  code: int | None  # Exit code; None if it was killed by a signal.
  ended_by: str  # 'exit', 'traceback', 'wrong' (a bad result), 'signal N', 'hang', 'memory', ...
  seconds: float
  peak_mb: float  # Largest resident memory, TensorFlow's half a gigabyte included.
  output: str  # Standard output and error.


def environment() -> dict[str, str]:
  """Returns the environment of processes: this tree's package, a quiet TensorFlow."""
  own = {'PYTHONPATH': str(ROOT), 'TF_CPP_MIN_LOG_LEVEL': '3', 'CUDA_VISIBLE_DEVICES': ''}
  return {**os.environ, **own}


def watch(
  command: Command,
  log: pathlib.Path,
  look: Callable[[float, float], str] = lambda seconds, megabytes: '',
  *,
  pause: float = _POLL_SECONDS,
  with_workers: bool = True,
) -> Finished:
  """Runs a command in a process group of its own until it ends or is killed.

  Args:
    command: of the project.
    log: file that its output is added to.
    look: called while it runs, with seconds since the start and resident MB. A text that it
      returns kills the process and becomes `ended_by`; an exception ends the process too.
    pause: seconds between two looks.
    with_workers: whether a kill hits the workers too.
  """
  started, peak, why = time.monotonic(), 0.0, ''
  with open(log, 'ab') as file:
    process = subprocess.Popen(
      [sys.executable, *command.words()[1:]],
      cwd=ROOT,
      env=environment(),
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=file,
      start_new_session=True,
    )
  try:
    while not why and process.poll() is None:
      weight = resident_mb(process.pid)
      peak = max(peak, weight)
      why = look(time.monotonic() - started, weight)
      if not why:
        time.sleep(pause)
    if why and with_workers:
      _kill_group(process.pid)
    elif why:
      process.kill()
  except BaseException:
    _kill_group(process.pid)
    raise
  finally:
    code = process.wait()
  ended_by = 'exit' if code >= 0 else f'signal {-code}'
  if why and code == -signal.SIGKILL:
    ended_by = why
  seconds = time.monotonic() - started
  return Finished(
    None if code < 0 else code, ended_by, seconds, peak, log.read_text(errors='replace')
  )


def _kill_group(process):
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process, signal.SIGKILL)


class Job(NamedTuple):
  """A command to be run in a fork."""

  name: str
  command: Command
  directory: pathlib.Path  # Working directory; holds `output.txt` afterwards.
  limits: Limits
  prepare: Callable[[], None] = lambda: None  # Makes the input, in a fork of its own.
  # Called in the fork with the exit code 0 or 2 and the output; raises for a result that is not
  # right.
  check: Callable[[int, str], None] = lambda code, output: None


def run_forked(jobs: Iterable[Job], at_a_time: int = 1) -> Iterator[tuple[Job, Finished]]:
  """Runs jobs in forks of this process, yields them as they end."""
  waiting = iter(jobs)
  running: dict[int, _Running] = {}
  try:
    while True:
      while len(running) < at_a_time and (job := next(waiting, None)) is not None:
        job.directory.mkdir(parents=True, exist_ok=True)
        _await(_fork(lambda job=job: job.prepare(), job.directory / 'prepare.txt'), job)
        child = _fork(lambda job=job: _main(job), job.directory / 'output.txt')
        running[child] = _Running(job)
      if not running:
        return
      for child in list(running):
        finished = running[child].look_at(child)
        if finished is not None:
          yield running.pop(child).job, finished
      time.sleep(_POLL_SECONDS)
  finally:
    for child in running:
      _kill_group(child)
      os.waitpid(child, 0)


class _Running:
  """A fork that is watched."""

  def __init__(self, job):
    self.job = job
    self._started = time.monotonic()
    self._killed_for = ''
    self._peak = 0.0

  def look_at(self, child: int) -> Finished | None:
    """Kills the process if it takes too much; returns what became of it, None while it runs."""
    ended, status, usage = os.wait4(child, os.WNOHANG)
    seconds = time.monotonic() - self._started
    limits = self.job.limits
    if not ended:
      self._peak = max(self._peak, resident_mb(child))
      if seconds > limits.seconds or self._peak > limits.megabytes:
        self._killed_for = self._killed_for or ('hang' if seconds > limits.seconds else 'memory')
        _kill_group(child)
      return None
    code = os.waitstatus_to_exitcode(status)
    ended_by = {_TRACEBACK: 'traceback', _WRONG: 'wrong'}.get(code, 'exit')
    if code < 0:
      ended_by = self._killed_for or f'signal {-code}'
    peak = max(self._peak, usage.ru_maxrss / 1024)
    if ended_by == 'exit' and peak > limits.megabytes:
      ended_by = 'memory'
    _kill_group(child)  # Workers that it may have left.
    output = (self.job.directory / 'output.txt').read_text(errors='replace')
    return Finished(None if code < 0 else code, ended_by, seconds, peak, output)


def resident_mb(process: int) -> float:
  """Returns the resident memory of a process in MB, 0 if it is gone."""
  try:
    with open(f'/proc/{process}/statm', encoding='ascii') as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20
  except (OSError, IndexError):
    return 0.0


def _fork(function, log: pathlib.Path) -> int:
  """Calls `function` in a fork whose output goes to `log`; returns the process."""
  sys.stdout.flush()
  sys.stderr.flush()
  child = os.fork()
  if child:
    return child
  code = _TRACEBACK
  try:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(log, 'wb') as file, open(os.devnull, 'rb') as nothing:
      os.dup2(nothing.fileno(), 0)
      os.dup2(file.fileno(), 1)
      os.dup2(file.fileno(), 2)
    # Whatever else they were, as in tests.
    settings = {'encoding': 'utf-8', 'errors': 'backslashreplace', 'line_buffering': True}
    sys.stdout, sys.stderr = (
      io.TextIOWrapper(open(number, 'wb', closefd=False), **settings) for number in (1, 2)
    )
    code = function() or 0
  except BaseException:  # Also SystemExit: no command line calls it from `main`.
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _await(child, job):
  _, status = os.waitpid(child, 0)
  if status:
    log = (job.directory / 'prepare.txt').read_text(errors='replace')
    raise RuntimeError(f'{job.name}: its input could not be made: {log[-2000:]}')


def _main(job):
  """Runs the command's `main` and checks its result; returns the exit code of the fork."""
  os.environ.update(environment())
  sys.argv = job.command.words()[1:]
  os.chdir(job.directory)
  code = importlib.import_module(job.command.module).main(list(job.command.arguments))
  if code not in (0, 2):
    return code
  sys.stdout.flush()
  sys.stderr.flush()
  output = pathlib.Path('output.txt').read_text(encoding='utf-8', errors='replace')
  try:
    job.check(code, output)
  except Exception as error:  # Whatever reads the result raises if it cannot.
    print(f'not right: {type(error).__name__}: {error}', file=sys.stderr)
    return _WRONG
  return code
