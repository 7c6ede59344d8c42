"""The page in a browser: read, sorted, filtered, looked at; alone and of two runs."""

import json
import pathlib
import re

import numpy as np
import pytest

from deeplab2.report import images
from deeplab2.report import page as page_lib
from deeplab2.report import runs as runs_lib
from deeplab2.report import write
from tests import browser
from tests.report import made


@pytest.fixture(scope='module')
def files(run, other_run, tmp_path_factory):
  """The report of one run, and that of two."""
  directory = tmp_path_factory.mktemp('reports')
  paths = directory / 'one.html', directory / 'two.html'
  write.write([str(run)], str(paths[0]))
  write.write([str(run), str(other_run)], str(paths[1]))
  return paths


@pytest.fixture(scope='module')
def chromium():
  """A window of a browser that must not ask for anything but files."""
  with browser.open_page() as opened:
    asked = []
    opened.on('request', lambda request: asked.append(request.url))
    yield opened
    assert not [url for url in asked if not url.startswith(('file:', 'data:', 'blob:'))]


def _column(page, table, number):
  """Returns the texts of a column of a table, from 1."""
  return page.locator(f'{table} tbody tr > :nth-child({number})').all_inner_texts()


def test_numbers_and_classes(files, run, chromium):
  chromium.goto(files[0].as_uri())
  metrics = json.loads((run / 'eval' / 'metrics-30.json').read_text())
  assert chromium.locator('.tile.main dd').inner_text() == f'{metrics["PQ"]:.1f}'
  # The best class first, as the metrics have it.
  expected = sorted(metrics['per_class'], key=lambda row: -row['PQ'])
  assert _column(chromium, '#class-table', 1) == [row['name'] for row in expected]
  assert _column(chromium, '#class-table', 8) == [str(row['TP']) for row in expected]
  # By false positives: from the most, then from the fewest.
  button = chromium.locator('#class-table thead button', has_text='FP')
  for signs, said in ((-1, 'descending'), (1, 'ascending')):
    button.press('Enter')
    shown = [int(text) for text in _column(chromium, '#class-table', 10)]
    assert shown == sorted(shown, key=lambda number, sign=signs: sign * number)
    assert chromium.locator(f'#class-table th[aria-sort="{said}"]').count() == 1
  chromium.locator('[data-filters]').fill('stuff')
  visible = chromium.locator('#class-table tbody tr:visible')
  assert visible.count() == sum(not row['isthing'] for row in metrics['per_class'])


def test_confusion_is_the_same_as_pairs_and_as_a_matrix(files, run, chromium):
  chromium.goto(files[0].as_uri())
  (found,) = runs_lib.read([str(run)])
  missed = sum(len(image.segments.missed_class) for image in found.segments.images)
  details = chromium.locator('#confusion details').first
  details.locator('summary').click()
  cells = details.locator('td').all_inner_texts()
  assert sum(int(text) for text in cells if text) == missed
  pairs = chromium.locator('#confusion table').first
  counts = [int(text) for text in pairs.locator('tbody tr > :nth-child(3)').all_inner_texts()]
  assert counts == sorted(counts, reverse=True) and 0 < sum(counts) <= missed


def test_values_under_the_pointer(files, run, chromium):
  chromium.goto(files[0].as_uri())
  chart = chromium.locator('svg[data-chart]').first
  box = chart.bounding_box()
  chromium.mouse.move(box['x'] + box['width'] * 0.97, box['y'] + 80)
  reading = chromium.locator('.reading:visible')
  metrics = json.loads((run / 'eval' / 'metrics-30.json').read_text())
  assert 'step 30' in reading.inner_text()
  assert f'all {metrics["PQ"]:.4g}' in reading.inner_text()


def test_images_are_chosen_and_looked_at(files, run, chromium):
  chromium.goto(files[0].as_uri())
  (found,) = runs_lib.read([str(run)])
  order = sorted(found.segments.images, key=lambda image: image.quality)
  titles = chromium.locator('.card h3')
  assert titles.all_inner_texts() == [image.name for image in order[:12]]
  chromium.locator('#more').click()
  assert titles.count() == 24
  chromium.locator('#show').select_option('best')
  assert titles.first.inner_text() == order[-1].name
  # Images with errors of a class, wherever they rank.
  chromium.locator('#class').select_option(label='ring')
  wrong = [
    image.name
    for image in order
    if 5 in image.segments.missed_class or 5 in image.segments.extra_class
  ]
  assert chromium.locator('#found').inner_text() == f'{len(wrong)} images'
  assert set(titles.all_inner_texts()) == set(wrong[::-1][:12])
  chromium.locator('#name').fill(wrong[0])
  assert titles.all_inner_texts() == [wrong[0]]
  # Every panel is drawn: image, prediction, ground truth, errors.
  shown = chromium.locator('.card img')
  assert shown.count() == 7
  sizes = {tuple(shown.nth(i).evaluate('i => [i.naturalWidth, i.naturalHeight]')) for i in range(7)}
  height, width = next(image.size for image in order if image.name == wrong[0])
  assert sizes == {(width, height)}


def test_keys_move_through_the_images(files, chromium):
  chromium.goto(files[0].as_uri())
  chromium.locator('.card button').first.press('Enter')
  title = chromium.locator('#viewer strong')
  first = title.inner_text()
  assert ' · image · PQ' in first
  for key, expected in (('ArrowRight', 'prediction'), ('ArrowRight', 'ground truth')):
    chromium.keyboard.press(key)
    assert f' · {expected} · PQ' in title.inner_text()
  chromium.keyboard.press('ArrowDown')
  assert title.inner_text().split(' · ')[0] == chromium.locator('.card h3').nth(1).inner_text()
  chromium.keyboard.press('Escape')
  assert not chromium.locator('#viewer').is_visible()


def test_two_runs_side_by_side(files, run, other_run, chromium):
  chromium.goto(files[1].as_uri())
  contents = [
    json.loads((path / 'eval' / 'metrics-30.json').read_text()) for path in (run, other_run)
  ]
  change = contents[1]['PQ'] - contents[0]['PQ']
  cells = chromium.locator('#numbers table').first.locator('tbody tr').first.locator('td')
  assert cells.all_inner_texts() == [
    f'{contents[0]["PQ"]:.2f}', f'{contents[1]["PQ"]:.2f}', f'{change:+.2f}'.replace('-', '−')
  ]  # fmt: skip
  # Classes: the greatest loss first.
  changes = [float(text.replace('−', '-')) for text in _column(chromium, '#class-table', 6)]
  assert changes == sorted(changes) and len(changes) == 9
  # Images: their differences, of all of them.
  runs = runs_lib.read([str(run), str(other_run)])
  qualities = [{i.name: i.quality for i in one.segments.images} for one in runs]
  expected = {name: 100 * (qualities[1][name] - qualities[0][name]) for name in qualities[0]}
  names = _column(chromium, '#image-table', 1)
  assert len(names) == 30 and names == sorted(names, key=lambda name: round(expected[name], 2))
  shown = [float(text.replace('−', '-')) for text in _column(chromium, '#image-table', 7)]
  assert shown == pytest.approx([expected[name] for name in names], abs=0.06)
  # A link leads to the panels: those of both runs, image and ground truth once.
  chromium.locator('#image-table a').first.click()
  card = chromium.locator('.card:focus')
  assert card.locator('h3').inner_text() == names[0]
  assert card.locator('figcaption').all_inner_texts() == [
    'image', 'ground truth', 'prediction A', 'errors A', 'prediction B',
    'errors B',
  ]  # fmt: skip


def test_narrow_windows_do_not_scroll_sideways(files, chromium):
  chromium.set_viewport_size({'width': 390, 'height': 800})
  chromium.goto(files[1].as_uri())
  assert chromium.evaluate('document.documentElement.scrollWidth') <= 390
  chromium.set_viewport_size({'width': 1280, 'height': 900})


def test_names_are_text_whatever_they_hold(tmp_path, chromium):
  """Names of images, classes and runs come from data that anyone may have made."""
  bad = '</script><img src=x onerror=alert(1)>"\'&'
  run = made.make_run(tmp_path / 'a<b>&', images=3)
  path = run / 'eval' / 'segments-30.jsonl'
  text = path.read_text().replace('"val_000001"', json.dumps(bad))
  path.write_text(text.replace('"ring"', json.dumps(bad)))
  metrics = run / 'eval' / 'metrics-30.json'
  metrics.write_text(metrics.read_text().replace('"ring"', json.dumps(bad)))
  output = tmp_path / 'report.html'
  write.write([str(run)], str(output))
  chromium.goto(output.as_uri())
  assert bad in chromium.locator('.card h3').all_inner_texts()
  assert bad in _column(chromium, '#class-table', 1)
  assert chromium.locator('img[src=x]').count() == 0
  assert chromium.title() == 'Report: a<b>&'


def test_a_run_without_segments_shows_the_rest(tmp_path, chromium):
  run = made.make_run(tmp_path / 'old', images=2, keep=False)
  output = tmp_path / 'report.html'
  write.write([str(run)], str(output))
  chromium.goto(output.as_uri())
  assert '--mode=eval' in chromium.locator('.warning').inner_text()
  links = chromium.locator('nav a').all_inner_texts()
  assert links == ['Numbers', 'Curves', 'Classes', 'Definitions']


def test_nothing_is_fetched(files):
  for path in files:
    text = re.sub(r'http://www\.w3\.org/2000/svg', '', path.read_text())
    assert not re.search(r'https?://|@import|url\([\'"h]', text)


def _of_coco(run, count, panel):
  """Returns a run with `count` images, 133 classes, and panels of such sizes in its gallery."""
  random = np.random.default_rng(0)
  classes = [{'id': i, 'name': f'class {i}', 'isthing': i <= 80} for i in range(1, 134)]
  content = run.segments
  shown = [image for image in content.images if image.panels]
  made_images = []
  for number in range(count):
    one = shown[number % len(shown)]
    is_shown = number < 261  # 128 by quality or chance, and one of each of 133 classes.
    reason = ('worst', 'best', 'random', 'class 1')[number % 4]
    panels = {
      name: random.bytes(size) for name, size in panel.items()
    }  # What is compressed is as good as random.
    made_images.append(
      one._replace(
        name=f'{number:012d}',
        size=(480, 640),
        shown=(reason,) if is_shown else (),
        panels=panels if is_shown else {},
      )
    )
  return run._replace(segments=content._replace(images=made_images, classes=classes))


@pytest.mark.parametrize('count', [1, 2])
def test_coco_val_fits_in_20_megabytes(run, count):
  """5,000 images and 133 classes, panels of the sizes that docs/report.md gives."""
  (found,) = runs_lib.read([str(run)])
  panel = {'image': 16_000, 'prediction': 7_000, 'ground_truth': 7_000, 'errors': 5_000}
  whole = [_of_coco(found, 5000, panel)._replace(name=f'run {number}') for number in range(count)]
  size = len(page_lib.render(whole).encode())
  assert 10e6 < size < 20e6
  if count == 2:
    # What has no room is counted, and no reason is left without images.
    data = images.data(whole, 5_000_000)
    assert data['left_out'] > 0
    assert {reason for entry in data['gallery'] for reason in entry['reasons']} >= {
      'worst', 'best', 'random', 'changed'
    }  # fmt: skip


def test_output_must_be_html(run, tmp_path):
  with pytest.raises(Exception, match='must end in .html'):
    write.write([str(run)], str(tmp_path / 'report.pdf'))
  assert not list(pathlib.Path(tmp_path).iterdir())
