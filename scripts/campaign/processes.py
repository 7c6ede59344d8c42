"""Command lines as processes that are timed, weighed and, if need be, killed.

Corrupted inputs go through forks of this process, which has imported TensorFlow but never run it:
a start then costs milliseconds instead of five seconds. Everything else is a process of its own.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import importlib
import io
import multiprocessing
import os
import pathlib
import shlex
import signal
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
  def of(cls, line: str, **places: object) -> 'Command':
    """Returns the command of a line, quoted as in a shell, with `places` in place of `{name}`."""
    module, *arguments = shlex.split(line)
    for name, value in places.items():
      arguments = [argument.replace(f'{{{name}}}', str(value)) for argument in arguments]
    return cls(module, tuple(arguments))

  def words(self) -> list[str]:
    """Returns the words that start it from the root of the repository."""
    start = ['-m', self.module] if '.' in self.module else [f'scripts/{self.module}.py']
    return ['python', *start, *self.arguments]

  def __str__(self):
    return shlex.join(self.words())


class Finished(NamedTuple):
  """The outcome of a process."""

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

  def start():
    os.chdir(ROOT)
    os.execve(sys.executable, [sys.executable, *command.words()[1:]], environment())

  process = _Process(_fork(start, log), log, look, with_workers)
  try:
    while (finished := process.poll()) is None:
      time.sleep(pause)
  except BaseException:
    process.end()
    raise
  return finished


def _kill(process, with_workers=True):
  with contextlib.suppress(ProcessLookupError):
    (os.killpg if with_workers else os.kill)(process, signal.SIGKILL)


@dataclasses.dataclass
class _Process:
  """A child that is watched; see `watch`."""

  child: int
  log: pathlib.Path
  look: Callable[[float, float], str]
  with_workers: bool = True
  started: float = dataclasses.field(default_factory=time.monotonic)
  killed_for: str = ''
  peak_mb: float = 0.0

  def end(self) -> None:
    """Kills it with all that it started."""
    os.kill(self.child, signal.SIGKILL)  # It may not have its group yet.
    _kill(self.child)
    os.waitpid(self.child, 0)

  def poll(self) -> Finished | None:
    """Kills the process if there is reason to; returns what became of it, None while it runs."""
    weight = resident_mb(self.child)
    ended, status, usage = os.wait4(self.child, os.WNOHANG)
    seconds = time.monotonic() - self.started
    self.peak_mb = max(self.peak_mb, weight, usage.ru_maxrss / 1024)
    if not ended:
      self.killed_for = self.killed_for or self.look(seconds, weight)
      if self.killed_for:
        _kill(self.child, self.with_workers)
      return None
    code = os.waitstatus_to_exitcode(status)
    ended_by = {_TRACEBACK: 'traceback', _WRONG: 'wrong'}.get(code, 'exit')
    if code < 0:
      ended_by = code == -signal.SIGKILL and self.killed_for or f'signal {-code}'
    output = self.log.read_text(errors='replace')
    return Finished(None if code < 0 else code, ended_by, seconds, self.peak_mb, output)


class Job(NamedTuple):
  """A command to be run in a fork."""

  command: Command
  directory: pathlib.Path  # Working directory; holds `output.txt` afterwards.
  seconds: float  # The most that it may take.
  megabytes: float  # The same of resident memory.
  prepare: Callable[[], None] = lambda: None  # Makes the input, in a fork of its own.
  # Called in the fork with the exit code and the output; raises for a result that is not
  # right.
  check: Callable[[int, str], None] = lambda code, output: None


def run_forked(jobs: Iterable[Job], at_a_time: int = 1) -> Iterator[tuple[Job, Finished]]:
  """Runs jobs in forks of this process, yields them as they end."""
  waiting = iter(jobs)
  running: list[tuple[Job, _Process]] = []
  try:
    while True:
      while len(running) < at_a_time and (job := next(waiting, None)) is not None:
        running.append((job, _started(job)))
      if not running:
        return
      for job, process in list(running):
        if (finished := process.poll()) is not None:
          running.remove((job, process))
          _kill(process.child)  # Workers that it may have left.
          if finished.ended_by == 'exit' and finished.peak_mb > job.megabytes:
            finished = finished._replace(ended_by='memory')
          yield job, finished
      time.sleep(_POLL_SECONDS)
  finally:
    for _, process in running:
      process.end()


def _started(job):
  """Prepares and starts a job."""

  def look(seconds, megabytes):
    if seconds > job.seconds:
      return 'hang'
    return 'memory' if megabytes > job.megabytes else ''

  job.directory.mkdir(parents=True, exist_ok=True)
  preparing = multiprocessing.get_context('fork').Process(target=job.prepare)
  preparing.start()
  preparing.join()
  if preparing.exitcode:
    raise RuntimeError(f'{job.command}: its input could not be made; see above.')
  log = job.directory / 'output.txt'
  log.unlink(missing_ok=True)
  return _Process(_fork(lambda: _main(job), log), log, look)


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
    with open(log, 'ab') as file, open(os.devnull, 'rb') as nothing:
      for number, stream in enumerate((nothing, file, file)):
        os.dup2(stream.fileno(), number)
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


def _main(job):
  """Runs the command's `main` and checks its result; returns the exit code of the fork."""
  os.environ.update(environment())
  sys.argv = job.command.words()[1:]
  os.chdir(job.directory)
  code = importlib.import_module(job.command.module).main(list(job.command.arguments))
  if code not in (0, 1, 2):
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
