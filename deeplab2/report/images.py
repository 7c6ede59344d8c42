"""The images of a report as data for the page's script: a table of all, panels of few."""

import base64
from collections import Counter
from collections.abc import Sequence
import itertools
from typing import Any

from deeplab2.report import gallery
from deeplab2.report import markup
from deeplab2.report import thumbnails
from deeplab2.report.runs import Run

# Characters of panels in a page: with everything else, it stays below 20 MB.
MOST_CHARACTERS = 15_000_000
_CHANGED = 'changed'
_MOST_CHANGED = 48
_SHARED = ('image', 'ground_truth')


def data(runs: Sequence[Run], most_characters: int = MOST_CHARACTERS) -> dict[str, Any]:
  """Returns what the page's script shows of images.

  Returns:
    `runs`: labels; `classes`: id -> name; `images`: [name, height, width, and of each run
    [PQ of the image in percent or null, TP, FN, FP], or null where it lacks the image];
    `gallery`: {"image": index into `images`, "reasons", "classes": {id: errors}, "panels": of
    each run {name: base64}, "said": of each run, its errors in words}; `left_out`: images whose
    panels found no room.
  """
  kept = [(i, run.label, run.segments) for i, run in enumerate(runs) if run.segments is not None]
  if not kept:
    return {'runs': [], 'classes': {}, 'images': [], 'gallery': [], 'left_out': 0}
  tables = [_by_key(segments.images) for _, _, segments in kept]
  keys = list(dict.fromkeys(itertools.chain.from_iterable(tables)))
  names = {one['id']: one['name'] for one in kept[0][2].classes}
  place = {key: index for index, key in enumerate(keys)}
  shown, left_out = _chosen(tables, most_characters)
  return {
    'runs': [name for _, name, _ in kept],
    'colors': [markup.RUN_COLORS[i % len(markup.RUN_COLORS)] for i, _, _ in kept],
    'classes': names,
    'images': [_row(key, tables) for key in keys],
    'gallery': [_entry(place[key], reasons, key, tables, names) for key, reasons in shown.items()],
    'left_out': left_out,
  }


def _by_key(images):
  """Returns images by name and, of equal names, their number."""
  seen: Counter[str] = Counter()
  found = {}
  for image in images:
    found[image.name, seen[image.name]] = image
    seen[image.name] += 1
  return found


def _row(key, tables):
  found = [table.get(key) for table in tables]
  size = next(image.size for image in found if image is not None)
  return [key[0], *size, *(None if image is None else _numbers(image) for image in found)]


def _numbers(image):
  quality = None if image.quality is None else round(100 * image.quality, 2)
  of = image.segments
  return [quality, len(of.matched_class), len(of.missed_class), len(of.extra_class)]


def _chosen(tables, most_characters):
  """Returns {key: reasons} of the images whose panels are shown, and how many found no room."""
  orders: dict[str, list] = {}
  for table in tables:
    for key, image in table.items():
      if image.panels:
        for reason in image.shown:
          orders.setdefault(reason, []).append(key)
  if len(tables) > 1:
    orders[_CHANGED] = sorted(
      (key for key in tables[0] if _change(key, tables) is not None),
      key=lambda key: -_change(key, tables),
    )[:_MOST_CHANGED]
  qualities = {key: image.quality for table in reversed(tables) for key, image in table.items()}
  for reason, keys in orders.items():
    if reason in ('worst', 'best'):
      keys.sort(key=lambda key: qualities[key] * (1 if reason == 'worst' else -1))
  shown, room, left_out = {}, most_characters, set()
  # In turns, so that no reason is left without images when there is no more room.
  for round_ in itertools.zip_longest(*orders.values()):
    for reason, key in zip(orders, round_, strict=True):
      if key is None:
        continue
      if key not in shown:
        needed = sum(len(content) for of_run in _panels(key, tables) for content in of_run.values())
        if needed > room:
          left_out.add(key)
          continue
        room -= needed
        shown[key] = []
      if reason not in shown[key]:
        shown[key].append(reason)
  return shown, len(left_out)


def _change(key, tables):
  """Returns how far the first two runs differ on an image with panels of both, else None."""
  pair = [table.get(key) for table in tables[:2]]
  if any(image is None or not image.panels or image.quality is None for image in pair):
    return None
  return abs(pair[1].quality - pair[0].quality)


def _entry(index, reasons, key, tables, names):
  found = [table.get(key) for table in tables]
  classes: dict[int, int] = {}
  for image in found:
    if image is not None:
      of = image.segments
      for present in of.matched_class.tolist():
        classes.setdefault(present, 0)
      for wrong in of.missed_class.tolist() + of.extra_class.tolist():
        classes[wrong] = classes.get(wrong, 0) + 1
  return {
    'image': index,
    'reasons': [reason for reason in reasons if not reason.startswith(gallery.CLASS)],
    'classes': classes,
    'panels': _panels(key, tables),
    'said': ['' if image is None else _said(image.segments, names) for image in found],
  }


def _panels(key, tables):
  """Returns {name: base64} of each run; image and ground truth, which they share, once."""
  panels: list[dict[str, str]] = []
  for table in tables:
    given = table[key].panels if key in table else {}
    is_there = any('image' in of_run for of_run in panels)
    names = [n for n in thumbnails.NAMES if n in given and not (is_there and n in _SHARED)]
    panels.append({name: base64.b64encode(given[name]).decode() for name in names})
  return panels


def _said(segments, names):
  """Returns the errors of an image in words."""

  def listed(classes, others, joined):
    pairs = Counter(zip(classes.tolist(), others.tolist(), strict=True))
    parts = []
    for (index, other), number in pairs.most_common():
      there = 'nothing' if other < 0 else 'its own class' if other == index else names[other]
      times = f'{number} × ' if number > 1 else ''
      parts.append(f'{times}{names[index]} ({joined} {there})')
    return ', '.join(parts)

  missed = listed(segments.missed_class, segments.missed_as, 'predicted as')
  extra = listed(segments.extra_class, segments.extra_on, 'on')
  parts = [f'missed: {missed}' if missed else '', f'false: {extra}' if extra else '']
  return '; '.join(filter(None, parts)) or 'no errors'
