"""Predictions in files against the published algorithms and pycocotools, and bad files."""

import copy
import json

import numpy as np
from pycocotools import coco
from pycocotools import cocoeval
from pycocotools import mask as coco_mask
import pytest

from deeplab2.evaluation import evaluate_predictions
from tests.evaluation import files
from tests.evaluation import oracle


def _run(directory, *flags, truth='true.json', predictions='predicted.json'):
  """Returns the exit code; the numbers are in numbers.json."""
  return evaluate_predictions.main(
    [
      f'--ground_truth={directory / truth}',
      f'--predictions={directory / predictions}',
      f'--output={directory / "numbers.json"}',
      '--num_workers=1',
      *flags,
    ]
  )


def _numbers(directory, *flags, **names):
  assert _run(directory, *flags, **names) == 0
  return json.loads((directory / 'numbers.json').read_text())


def _refused(directory, capsys, *flags, **names):
  assert _run(directory, *flags, **names) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1, error
  return error


def _changed(path, change):
  content = json.loads(path.read_text())
  change(content)
  files.save(path, content)


@pytest.fixture
def made(tmp_path):
  """Returns four images, which are written to tmp_path."""
  images = files.images()
  files.write(tmp_path, images)
  return images


def _qualities(counts):
  """Returns PQ, SQ and RQ of the categories that occur, in percent."""
  rows = []
  for iou, tp, fp, fn in counts.values():
    if tp + fp + fn:
      rq = tp / (tp + fp / 2 + fn / 2)
      sq = iou / tp if tp else 0.0
      rows.append((sq * rq, sq, rq))
  return 100 * np.mean(rows, 0)


@pytest.mark.parametrize('all_crowds', [False, True])
def test_equal_to_the_published_algorithms(tmp_path, made, all_crowds):
  numbers = _numbers(tmp_path, *(['--all_crowds'] if all_crowds else []))
  counts = oracle.panoptic_counts(made, all_crowds=all_crowds)
  for entry in numbers['per_class']:
    iou, tp, fp, fn = counts[entry['id']]
    assert (entry['TP'], entry['FP'], entry['FN']) == (tp, fp, fn), entry
    assert entry['SQ'] == pytest.approx(100 * iou / max(tp, 1), abs=1e-12)
  expected = _qualities(counts)
  assert [numbers[key] for key in ('PQ', 'SQ', 'RQ')] == pytest.approx(expected, abs=1e-12)
  boundary = _qualities(oracle.panoptic_counts(made, boundary=True, all_crowds=all_crowds))
  found = [numbers['boundary'][key] for key in ('PQ', 'SQ', 'RQ')]
  assert found == pytest.approx(boundary, abs=1e-12)
  assert 0 < found[0] < expected[0] < 100
  assert numbers['crowds'].startswith('all crowd regions' if all_crowds else 'the last crowd')


def test_the_two_countings_of_crowds_differ(made):
  last, every = (
    sum(entry[2] for entry in oracle.panoptic_counts(made, all_crowds=flag).values())
    for flag in (False, True)
  )
  assert every < last, 'or the test above says little'


def test_mean_iou_pixel_by_pixel(tmp_path, made):
  maps = [[], []]
  for image in made:
    for side, classes in enumerate(maps):
      ids, segments = image[2 * side : 2 * side + 2]
      table = {segment['id']: segment['category_id'] for segment in segments}
      classes.append(np.vectorize(lambda value, t=table: t.get(value, 0))(ids))
  truth, prediction = map(np.stack, maps)
  prediction = np.where(truth > 0, prediction, -1)
  ious = [
    ((truth == c) & (prediction == c)).sum() / ((truth == c) | (prediction == c)).sum()
    for c in (3, 5, 90, 91)
  ]
  assert _numbers(tmp_path)['mIoU'] == pytest.approx(100 * np.mean(ious), abs=1e-12)


def test_several_processes_count_the_same(tmp_path):
  files.write(tmp_path, files.images(20))
  alone = _numbers(tmp_path)
  assert _numbers(tmp_path, '--num_workers=2') == alone
  assert alone['num_images'] == 20


def _coco_numbers(truths, detections, sizes):
  api = coco.COCO()
  api.dataset = {
    'info': {},
    'images': [{'id': key, 'height': h, 'width': w} for key, (h, w) in sizes.items()],
    'annotations': truths,
    'categories': [{'id': 3}, {'id': 5}],
  }
  api.createIndex()
  evaluation = cocoeval.COCOeval(api, api.loadRes(detections), 'segm')
  evaluation.evaluate()
  evaluation.accumulate()
  evaluation.summarize()
  return [100 * value if value >= 0 else None for value in evaluation.stats]


def _instances(made):
  """Returns annotations, results and sizes of the things of the images."""
  truths, detections, sizes = [], [], {}
  for number, image in enumerate(made, 1):
    sizes[number] = image[0].shape
    for ids, segments, found in ((*image[:2], truths), (*image[2:], detections)):
      for segment in segments:
        if segment['category_id'] in (3, 5):
          mask = coco_mask.encode(np.asfortranarray(ids == segment['id'], np.uint8))
          mask['counts'] = mask['counts'].decode()
          instance = {'image_id': number, 'category_id': segment['category_id']}
          instance |= {'segmentation': mask}
          if found is truths:
            instance |= {'id': len(truths) + 1, 'iscrowd': segment['iscrowd']}
            instance |= {'area': segment['area'], 'bbox': [0, 0, 1, 1]}
          else:
            instance |= {'score': segment['score']}
          found.append(instance)
  return truths, detections, sizes


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_precision_of_all_kinds_of_files(tmp_path, made):
  truths, detections, sizes = _instances(made)
  expected = _coco_numbers(truths, copy.deepcopy(detections), sizes)
  things = [category for category in files.CATEGORIES if category['isthing']]
  files.save(
    tmp_path / 'instances.json',
    {
      'images': json.loads((tmp_path / 'true.json').read_text())['images'],
      'annotations': truths,
      'categories': things,
    },
  )
  files.save(tmp_path / 'results.json', detections)
  for truth in ('true.json', 'instances.json'):
    for predictions in ('predicted.json', 'results.json'):
      if (truth, predictions) == ('instances.json', 'predicted.json'):
        continue  # Stuff is no category of the instances: below.
      numbers = _numbers(tmp_path, truth=truth, predictions=predictions)
      assert list(numbers['AP'].values()) == expected, (truth, predictions)
      assert numbers['num_images'] == 4
  description = {
    'dataset': 'pets',
    'num_classes': 5,
    'ignore_label': 0,
    'panoptic_label_divisor': 100,
    'original_ignore_id': 0,
    'splits': {},
    'categories': [
      {'id': 0, 'original_id': None, 'name': 'void', 'isthing': 0, 'color': [0, 0, 0]},
      *(
        {**category, 'id': index, 'original_id': category['id'], 'color': [index, 0, 0]}
        for index, category in enumerate(files.CATEGORIES, 1)
      ),
    ],
  }
  files.save(tmp_path / 'pets.json', description)
  pets = f'--dataset={tmp_path / "pets.json"}'
  numbers = _numbers(tmp_path, pets, truth='instances.json')
  assert list(numbers['AP'].values()) == expected


def test_without_scores_there_is_no_precision(tmp_path, made):
  def without(content):
    for annotation in content['annotations']:
      for segment in annotation['segments_info']:
        del segment['score']

  _changed(tmp_path / 'predicted.json', without)
  assert 'AP' not in _numbers(tmp_path)


def test_ids_of_images_may_be_texts(tmp_path, made):
  expected = _numbers(tmp_path)

  def as_text(content):
    for annotation in content['annotations']:
      annotation['image_id'] = str(annotation['image_id'])

  _changed(tmp_path / 'predicted.json', as_text)
  assert _numbers(tmp_path) == expected


def test_missing_images_and_the_advice_works(tmp_path, made, capsys):
  _changed(tmp_path / 'predicted.json', lambda content: content['annotations'].pop(1))
  error = _refused(tmp_path, capsys)
  assert 'predicted.json: has no prediction of 1 of the 4 images of' in error
  assert 'true.json: 2; add them' in error and '--only_predicted' in error
  numbers = _numbers(tmp_path, '--only_predicted')
  assert numbers['num_images'] == 3
  counts = oracle.panoptic_counts([made[0], *made[2:]])
  assert numbers['PQ'] == pytest.approx(_qualities(counts)[0], abs=1e-12)


def test_surplus_images_are_named(tmp_path, made, capsys):
  _changed(tmp_path / 'true.json', lambda content: content['annotations'].pop(2))
  numbers = _numbers(tmp_path)
  note = 'true.json: does not have 1 of the 4 predicted images: 3; they are left out.'
  assert numbers['notes'][0].endswith(note)
  assert capsys.readouterr().err.endswith(f'{note}\n')


def test_predictions_of_another_set(tmp_path, made, capsys):
  def renamed(content):
    for annotation in content['annotations']:
      annotation['image_id'] += 100

  _changed(tmp_path / 'predicted.json', renamed)
  error = _refused(tmp_path, capsys)
  assert 'none of its 4 images (101, 102, 103, 104) is one of the 4 of' in error
  assert '(1, 2, 3, 4); they are of another data set or split.' in error


def test_predictions_of_other_classes(tmp_path, made, capsys):
  def other(content):
    for index, category in enumerate(content['categories']):
      category['name'] = f'road{index}'

  _changed(tmp_path / 'predicted.json', other)
  error = _refused(tmp_path, capsys)
  assert "(3 'road0' is 'cat' there, and 4 of 4 like it)" in error


def test_unknown_category(tmp_path, made, capsys):
  def unknown(content):
    content['annotations'][1]['segments_info'][0]['category_id'] = 77

  _changed(tmp_path / 'predicted.json', unknown)
  error = _refused(tmp_path, capsys)
  assert 'predicted.json, image 2, segment' in error
  assert 'category_id 77 is not a class of true (4 ids between 3 and 91)' in error


def test_png_and_json_that_disagree(tmp_path, made, capsys):
  def without(content):
    content['annotations'][0]['segments_info'].pop()

  _changed(tmp_path / 'predicted.json', without)
  error = _refused(tmp_path, capsys)
  assert '0001.png, segment' in error and 'pixels, but is not listed' in error
  assert f'must agree with {tmp_path / "predicted.json"}, image 1.' in error


def test_listed_areas_and_the_advice_works(tmp_path, capsys):
  """As ADE20K: the sky's area was counted before something covered it, the grass is covered."""
  ids = np.full((6, 10), 8)
  truths = [
    {'id': 8, 'category_id': 90, 'area': 80, 'iscrowd': 0},
    {'id': 9, 'category_id': 91, 'area': 12, 'iscrowd': 0},
  ]
  files.write(tmp_path, [(ids, truths, ids, [{'id': 8, 'category_id': 90}])])
  error = _refused(tmp_path, capsys)
  assert 'covers 60 pixels, but its annotated area is 80' in error
  assert '--listed_areas takes areas from the JSON, as panopticapi does.' in error
  listed = _numbers(tmp_path, '--listed_areas')
  assert listed['areas'] == 'listed'
  sky, grass = listed['per_class'][2:]
  assert (sky['PQ'], grass['FN'], listed['PQ']) == (75.0, 1, 37.5)  # 60 / (80 + 60 - 60).


def test_wrong_sizes(tmp_path, made, capsys):
  image = made[3]
  made[3] = (*image[:2], np.pad(image[2], ((0, 1), (0, 0))), image[3])
  other = tmp_path / 'other'
  files.write(other, made)
  error = _refused(other, capsys)
  assert '0004.png: is 61x80 (height x width), but its ground truth' in error
  assert 'true/0004.png 60x80; must be equal.' in error


def test_missing_pngs(tmp_path, made, capsys):
  (tmp_path / 'predicted' / '0002.png').unlink()
  error = _refused(tmp_path, capsys)
  assert 'predicted: lacks 1 of the 4 PNGs that' in error and ': 0002.png;' in error
  assert '--prediction_masks names the right one' in error
  (tmp_path / 'predicted').rename(tmp_path / 'elsewhere')
  assert '--prediction_masks: no such directory' in _refused(tmp_path, capsys)


@pytest.mark.parametrize(
  'truth, predictions, words',
  [
    ('results.json', 'predicted.json', 'holds detection results; must hold panoptic or instances'),
    ('true.json', 'text.json', 'not a JSON file'),
    ('true.json', 'number.json', "has no list 'annotations'"),
    ('true.json', 'results.json', "results.json, [0]: field 'image_id' is missing"),
    ('without.json', 'predicted.json', "has no list 'categories'; --dataset names the classes"),
  ],
)
def test_other_files(tmp_path, made, capsys, truth, predictions, words):
  for name, text in (
    ('results', '[{"score": 1}]'),
    ('text', 'x'),
    ('number', '{"annotations": 1}'),
  ):
    (tmp_path / f'{name}.json').write_text(text)
  content = json.loads((tmp_path / 'true.json').read_text())
  del content['categories']
  files.save(tmp_path / 'without.json', content)
  assert words in _refused(tmp_path, capsys, truth=truth, predictions=predictions)
