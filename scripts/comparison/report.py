"""What a comparison writes of its finished runs: tables, images, JSON, and a page of it all."""

from collections.abc import Sequence
import os

from comparison import page
from comparison import plots
from comparison import runs as runs_lib
from comparison import summary
from deeplab2 import files


def write(runs: Sequence[runs_lib.Run], found: Sequence[dict], options) -> None:
  """Writes table.md, differences.md, results.json, the images and the page.

  Args:
    runs: all of the comparison.
    found: as of `results`.
    options: the parsed flags.

  Raises:
    UserError: one of them cannot be written.
  """
  directory, baseline = options.output_dir, options.baseline
  compared = summary.differences(found, baseline)
  tables = {
    'Means': summary.table(found),
    'Differences': summary.differences_table(found, baseline),
  }
  diverged = divergences(runs, directory)
  content = {
    'runs': list(found),
    'baseline': baseline,
    'differences': {
      measure: {
        name: None if difference is None else difference._asdict()
        for name, difference in of_rows.items()
      }
      for measure, of_rows in compared.items()
    },
    'diverged': diverged,
  }
  files.write_whole(os.path.join(directory, 'table.md'), tables['Means'].encode())
  ending = ''.join(f'\n{line}\n' for line in diverged)
  files.write_whole(
    os.path.join(directory, 'differences.md'), (tables['Differences'] + ending).encode()
  )
  files.write_json(os.path.join(directory, 'results.json'), content)
  figures = {}
  drawn = {
    title: compared[name] for name, title in summary.DRAWN.items() if any(compared[name].values())
  }
  if drawn:
    figures['Differences drawn'] = plots.png(plots.differences(drawn, baseline))
    files.write_whole(os.path.join(directory, 'differences.png'), figures['Differences drawn'])
  figures['Curves'] = plots.png(plots.means(found, summary.CURVES))
  files.write_whole(os.path.join(directory, 'curves.png'), figures['Curves'])
  text = page.render(
    f'Variants of {os.path.basename(options.config_file)}',
    options.command,
    tables,
    figures,
    _sections(runs, found, directory),
    directory,
  )
  files.write_whole(os.path.join(directory, 'index.html'), text.encode())


def divergences(runs: Sequence[runs_lib.Run], directory: str) -> list[str]:
  """Returns a line for each row that diverged with some seed."""
  steps: dict[str, list[int]] = {}
  counts: dict[str, int] = {}
  for run in runs:
    counts[run.row.name] = counts.get(run.row.name, 0) + 1
    step = runs_lib.diverged_at(directory, run)
    if step is not None:
      steps.setdefault(run.row.name, []).append(step)
  return [
    f'{name}: diverged with {len(at)} of {counts[name]} seeds, at step '
    f'{", ".join(map(str, sorted(at)))}.'
    for name, at in steps.items()
  ]


def _sections(runs, found, directory):
  """Returns the parts of the page, one for each row."""
  sections = []
  for row in dict.fromkeys(run.row for run in runs):
    of_row = [run for run in runs if run.row == row]
    finished = [result for result in found if result['row'] == row.name]
    panels = {
      curve: {f'seed {result["seed"]}': result['curves'][curve] for result in finished}
      for curve in (*summary.CURVES, *summary.MORE_CURVES)
      if any(value is not None for result in finished for _, value in result['curves'][curve])
    }
    if any(result['gates'] for result in finished):
      # One run is enough for the eye; lines of all layers of all seeds would cover one another.
      panels[f'mean gates, seed {finished[0]["seed"]}'] = finished[0]['gates']
    images = {}
    for run in of_row:
      for name in files.matching(runs_lib.directory(directory, run), 'vis(-.*)?'):
        panel = os.path.join(runs_lib.directory(directory, run), name, '000000_panel.png')
        images[f'{run.name}, {name}'] = panel
    sections.append(
      page.Section(
        row.name,
        row.overrides(),
        plots.png(plots.curves(panels)) if panels else None,
        images,
        divergences(of_row, directory),
      )
    )
  return sections
