"""The HTML page of a comparison: one file with tables, curves and images, without network."""

import base64
from collections.abc import Mapping, Sequence
import html
import io
import os
import re
from typing import NamedTuple
import urllib.parse

import PIL.Image

_WIDTH = 420  # Pixels of an embedded image of a run; the link leads to the whole one.
_STYLE = """
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 1250px; padding: 0 1em; }
table { border-collapse: collapse; } td, th { border: 1px solid #ccc; padding: 3px 8px; }
th { background: #f2f2f2; } td { text-align: right; } td:first-child { text-align: left; }
pre { background: #f6f6f6; padding: 0.7em; white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; } figure { display: inline-block; margin: 4px; vertical-align: top; }
figcaption { font-size: 12px; color: #555; } summary { cursor: pointer; }
"""


class Section(NamedTuple):
  """The part of one row."""

  name: str
  settings: Sequence[str]  # Overrides.
  curves: bytes | None  # PNG
  images: Mapping[str, str]  # Caption -> path of an image file; those that are gone are left out.
  notes: Sequence[str] = ()


def render(
  title: str,
  command: str,
  tables: Mapping[str, str],
  figures: Mapping[str, bytes],
  sections: Sequence[Section],
  directory: str,
) -> str:
  """Returns the page; rows without a finished run are folded away at its end.

  Args:
    title: of the page.
    command: that made it.
    tables: heading -> table in Markdown.
    figures: heading -> PNG file.
    sections: of the rows, in their order.
    directory: that the page is written to; links to images are relative to it.
  """
  parts = [
    '<!DOCTYPE html>',
    f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
    f'<style>{_STYLE}</style></head><body>',
    f'<h1>{html.escape(title)}</h1>',
    f'<h2>Command</h2><pre>{html.escape(command)}</pre>',
  ]
  for heading, table in tables.items():
    parts += [f'<h2>{html.escape(heading)}</h2>', _table(table)]
  for heading, content in figures.items():
    parts += [f'<h2>{html.escape(heading)}</h2>', _embedded(content, 'png', heading)]
  parts.append('<h2>Runs</h2>')
  waiting = [section for section in sections if not (section.curves or section.notes)]
  for section in sections:
    if section not in waiting:
      parts += _section(section, directory)
  if waiting:
    parts.append(f'<details><summary>{len(waiting)} rows without a finished run</summary>')
    for section in waiting:
      parts += _section(section, directory)
    parts.append('</details>')
  return '\n'.join([*parts, '</body></html>']) + '\n'


def _section(section, directory):
  """Returns the elements of the part of one row."""
  parts = [f'<h3 id="{html.escape(section.name)}">{html.escape(section.name)}</h3>']
  settings = '\n'.join(section.settings)
  if settings:
    parts.append(f'<pre>{html.escape(settings)}</pre>')
  parts += [f'<p>{html.escape(note)}</p>' for note in section.notes]
  if section.curves is not None:
    parts.append(_embedded(section.curves, 'png', f'curves of {section.name}'))
  images = (_linked(caption, path, directory) for caption, path in section.images.items())
  return parts + list(filter(None, images))


def _table(markdown):
  """Returns a table of Markdown as HTML; **bold** is kept."""
  rows = [
    [re.sub(r'\*\*(.+?)\*\*', r'<b>\1</b>', html.escape(cell.strip())) for cell in cells]
    for cells in (line.strip('|').split('|') for line in markdown.splitlines())
    if set(''.join(cells)) != {'-'}
  ]
  tags = ['th', *['td'] * (len(rows) - 1)]
  lines = [
    '<tr>' + ''.join(f'<{tag}>{cell}</{tag}>' for cell in row) + '</tr>'
    for tag, row in zip(tags, rows, strict=True)
  ]
  return '\n'.join(['<table>', *lines, '</table>'])


def _embedded(content, kind, alternative):
  data = base64.b64encode(content).decode()
  return f'<img alt="{html.escape(alternative)}" src="data:image/{kind};base64,{data}">'


def _linked(caption, path, directory):
  """Returns a small copy of an image that links to the file; '' if it cannot be read."""
  try:
    with PIL.Image.open(path) as image:
      small = image.convert('RGB')
      small.thumbnail((_WIDTH, 10 * _WIDTH))
  except OSError:
    return ''
  buffer = io.BytesIO()
  small.save(buffer, 'JPEG', quality=80)
  link = urllib.parse.quote(os.path.relpath(path, directory))
  return (
    f'<figure><a href="{link}">{_embedded(buffer.getvalue(), "jpeg", caption)}</a>'
    f'<figcaption>{html.escape(caption)}</figcaption></figure>'
  )
