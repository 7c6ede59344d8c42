"""Results of the campaign: one JSON line each as they come, and the table of them all."""
import collections
from collections.abc import Iterable
import json
import pathlib
from typing import Any, NamedTuple


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

  def __init__(self, path: pathlib.Path, settings: dict[str, Any]):
    """Reads what an earlier campaign of the same settings has left."""
    self._path = path
    self.results: dict[str, Result] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    entries = [entry for entry in map(_parsed, lines) if entry]
    if entries[:1] != [settings]:
      entries = [settings]
    for entry in entries[1:]:
      self._keep(Result(**entry))
    # Without the line that was cut, if there is one.
    temporary = path.with_suffix('.tmp')
    temporary.write_text(''.join(f'{json.dumps(entry)}\n' for entry in entries), encoding='utf-8')
    temporary.replace(path)

  def add(self, result: Result) -> None:
    """Adds a result, which replaces an older one of that name."""
    self._keep(result)
    with open(self._path, 'a', encoding='utf-8') as file:
      file.write(json.dumps(result._asdict()) + '\n')

  def _keep(self, result):
    self.results[result.name] = result


def _parsed(line):
  try:
    return json.loads(line)
  except ValueError:  # Cut when the campaign was killed.
    return None


def table(results: Iterable[Result]) -> str:
  """Returns the Markdown table of the results by part and group."""
  groups = collections.defaultdict(list)
  for result in results:
    groups[result.part, result.group].append(result)
  rows = ['| part | what | cases | outcomes | failed | longest (s) | most memory (MB) |',
          '|---|---|---|---|---|---|---|']
  for (part, group), found in sorted(groups.items()):
    counts = collections.Counter(result.outcome for result in found)
    outcomes = ', '.join(f'{outcome} {count}' for outcome, count in counts.most_common())
    rows.append(
        f'| {part} | {group} | {len(found)} | {outcomes} | {sum(r.failed for r in found)} | '
        f'{max(r.seconds for r in found):.0f} | {max(r.peak_mb for r in found):.0f} |')
  return '\n'.join(rows)


def failures(results: Iterable[Result]) -> str:
  """Returns what failed, each with the command that reproduces it."""
  parts = []
  for result in results:
    if result.failed:
      shown = '\n'.join(f'    {line[:300]}' for line in result.details.splitlines()[-8:])
      parts.append(f'* {result.part} {result.group}: {result.name}: **{result.outcome}**\n'
                   f'  `{result.command}`\n{shown}')
  return '\n'.join(parts)
