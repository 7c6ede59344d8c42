"""The HTML page of a report: one file, which needs no network and fetches nothing."""

from collections.abc import Sequence
import importlib.resources
import json

from deeplab2.report import images
from deeplab2.report import markup
from deeplab2.report import sections
from deeplab2.report import thumbnails
from deeplab2.report.runs import Run

# Nothing is loaded from anywhere, whatever a name in the data says.
_POLICY = (
  "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def render(runs: Sequence[Run]) -> str:
  """Returns the page of one run, or of several side by side."""
  listed = [run.name if len(runs) == 1 else f'{run.label} {run.name}' for run in runs]
  title = f'Report: {", ".join(listed)}'
  panels = images.data(runs)
  shown = {
    'Numbers': sections.headline(runs),
    'Curves': sections.curves(runs),
    'Classes': sections.classes(runs),
    'Sizes': sections.sizes(runs),
    'Confusion': sections.confusion(runs),
    'Scores': sections.scores(runs),
    'Images': _gallery(panels) if panels['images'] else '',
    'Definitions': _definitions(),
  }
  shown = {name: content for name, content in shown.items() if content}
  links = ''.join(
    markup.element('a', name, href=f'#{_anchor(content)}') for name, content in shown.items()
  )
  notes = ''.join(markup.note(said, 'warning') for run in runs for said in run.notes)
  data = json.dumps(panels, separators=(',', ':'), allow_nan=False).replace('<', '\\u003c')
  return '\n'.join(
    [
      '<!DOCTYPE html>',
      '<html lang="en"><head><meta charset="utf-8">',
      f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f'<title>{markup.text(title)}</title>',
      f'<style>{_file("page.css")}</style></head><body>',
      '<a class="skip" href="#numbers">Skip to the numbers</a>',
      f'<header><h1>{markup.text(title)}</h1><nav aria-label="Sections">{links}</nav></header>',
      f'<main>{notes}',
      *shown.values(),
      '</main>',
      f'<script type="application/json" id="data">{data}</script>',
      f'<script>{_file("page.js")}</script>',
      '</body></html>\n',
    ]
  )


def _anchor(content):
  return content.split('id="', 1)[1].split('"', 1)[0]


def _file(name):
  return (importlib.resources.files('deeplab2.report') / name).read_text(encoding='utf-8')


def _gallery(panels):
  total = len(panels['images'])
  said = f'{len(panels["gallery"])} of {total} images are shown.'
  if panels['left_out']:
    said += f' {panels["left_out"]} more found no room.'
  choices = [('worst', 'the worst'), ('best', 'the best'), ('random', 'random')]
  if len(panels['runs']) > 1:
    choices.insert(0, ('changed', 'the most changed'))
  choices.append(('all', 'all that are shown'))
  used = {int(index) for entry in panels['gallery'] for index in entry['classes']}
  options = ''.join(
    markup.element('option', markup.text(panels['classes'][index]), value=index)
    for index in sorted(used, key=lambda index: panels['classes'][index])
  )
  key = ''.join(
    f'<li style="--c:rgb{color}"><span></span>{name}</li>'
    for name, color in thumbnails.ERRORS.items()
  )
  tools = f"""<div class="tools" role="group" aria-label="Choose images">
<label>Show <select id="show">{
    ''.join(markup.element('option', name, value=value) for value, name in choices)
  }</select></label>
<label>with class <select id="class"><option value="">any</option>{options}</select></label>
<label><input type="checkbox" id="wrong" checked> only with errors of it</label>
<label>name <input type="search" id="name" placeholder="part of a name"></label>
<label>maps over the image <input type="range" id="opacity" min="0" max="100" value="60"></label>
<output id="found" aria-live="polite"></output>
</div>
<ul class="legend">{key}</ul>"""
  body = '<div id="cards"></div><p><button type="button" id="more" hidden>Show more</button></p>'
  table = (
    '<h3 id="all-images">All images</h3><div class="scroll"><table id="image-table"></table></div>'
    '<p class="tools"><button type="button" id="previous">Previous</button>'
    '<button type="button" id="next">Next</button>'
    '<output id="page" aria-live="polite"></output></p>'
  )
  dialog = (
    '<dialog id="viewer" aria-label="Image"><div class="bar-of-viewer"><strong></strong>'
    '<button type="button" data-step="-1">← previous</button>'
    '<button type="button" data-step="1">next →</button>'
    '<button type="button" data-close>close</button></div><div class="canvas"></div>'
    '<p class="note">Arrow keys: left and right another panel, up and down another image.</p>'
    '</dialog>'
  )
  no_script = '<noscript><p class="warning">Images need JavaScript, which is off.</p></noscript>'
  return markup.section(
    'images', 'Images', markup.note(said), no_script, tools, body, table, dialog
  )


def _definitions():
  terms = {
    'PQ, SQ, RQ': 'A predicted and a true segment of one class match if their IoU exceeds 0.5. '
    'Per class, SQ is the mean IoU of matches, RQ is TP / (TP + FN / 2 + FP / 2), PQ their '
    'product. The number of a set is the mean over the classes that occur (Kirillov et al., '
    'CVPR 2019).',
    'PQ of an image': 'The same of that image alone: a mean over the classes in it.',
    'What does not count': 'Pixels without a label, and crowd regions: they are never missed, and '
    'a segment that lies on them by more than half is no false positive.',
    'Sizes': 'small below 32² pixels, medium below 96², large above, at the size of the image.',
    'Score': 'Of a segment: mean class confidence times mean mask confidence of its pixels.',
    'Expected calibration error': 'Over ten bins of scores, the mean of |part that matches − mean '
    'score|, weighted by the segments of the bin (Guo et al., ICML 2017).',
    'Errors on pixels': 'missed: of a true segment without a match. false positive: of a predicted '
    'one. both: of both, such as a segment of a wrong class. outline: of a match, in one map only.',
  }
  listed = ''.join(
    markup.element('dt', markup.text(term)) + markup.element('dd', markup.text(said))
    for term, said in terms.items()
  )
  return markup.section('definitions', 'Definitions', markup.element('dl', listed, class_='terms'))
