"""Results of the campaign: one JSON line each as they come, and the table of them all."""

import collections
from collections.abc import Iterable
import contextlib
import json
import pathlib
from typing import Any, NamedTuple

from deeplab2 import errors
from deeplab2 import files


class Result(NamedTuple):
  """The outcome of one case."""

  part: str  # 'kill', 'corrupt' or 'memory'
  group: str  # What was tortured: 'images', 'training', ...
  name: str  # Unique in its part.
  outcome: str  # 'refused', 'right result', 'equal', ...
  failed: bool
  seconds: float
  peak_mb: float
  details: str  # Last lines of the output of a failure, or numbers.
  command: str  # Reproduces it.


class Journal:
  """The results of one part in a file that is added to, so that a campaign can go on."""

  def __init__(self, path: pathlib.Path):
    """Reads what an earlier campaign has left."""
    self._path = path
    lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    entries = []
    for line in lines:
      with contextlib.suppress(ValueError):  # Cut when the campaign was killed.
        entries.append(json.loads(line))
    self._settings, *found = entries or [None]
    self.results = {entry['name']: Result(**entry) for entry in found}

  def begin(self, settings: dict[str, Any]) -> None:
    """Starts, or goes on, with results of these settings.

    Raises:
      UserError: those that are there are of other settings.
    """
    if self.results and self._settings != settings:
      raise errors.UserError(
        f'{self._path}: holds results of {self._settings}, not {settings}; take another --work_dir.'
      )
    # Without the line that was cut, if there is one.
    lines = [settings, *(result._asdict() for result in self.results.values())]
    files.write_whole(str(self._path), ''.join(f'{json.dumps(line)}\n' for line in lines).encode())

  def add(self, result: Result) -> None:
    """Adds a result, which replaces an older one of that name."""
    self.results[result.name] = result
    with open(self._path, 'a', encoding='utf-8') as file:
      file.write(json.dumps(result._asdict()) + '\n')


def table(results: Iterable[Result]) -> str:
  """Returns the Markdown table of the results by part and group."""
  groups = collections.defaultdict(list)
  for result in results:
    groups[result.part, result.group].append(result)
  rows = [
    '| part | what | cases | outcomes | failed | longest (s) | most memory (MB) |',
    '|---|---|---|---|---|---|---|',
  ]
  for (part, group), found in sorted(groups.items()):
    counts = collections.Counter(result.outcome for result in found)
    outcomes = ', '.join(f'{outcome} {count}' for outcome, count in counts.most_common())
    rows.append(
      f'| {part} | {group} | {len(found)} | {outcomes} | {sum(r.failed for r in found)} | '
      f'{max(r.seconds for r in found):.0f} | {max(r.peak_mb for r in found):.0f} |'
    )
  return '\n'.join(rows)


def failures(results: Iterable[Result]) -> str:
  """Returns the failures as text, each with the command that reproduces it."""
  parts = []
  for result in results:
    if result.failed:
      shown = '\n'.join(f'    {line[:300]}' for line in result.details.splitlines()[-8:])
      parts.append(
        f'* {result.part} {result.group}: {result.name}: **{result.outcome}**\n'
        f'  `{result.command}`\n{shown}'
      )
  return '\n'.join(parts)
