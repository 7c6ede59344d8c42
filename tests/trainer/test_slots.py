"""Images with more segments than mask slots are warned of, in numbers."""

import json

import pytest

from deeplab2.trainer import slots
from tests.trainer import runs


def test_steps_are_counted(caplog):
  beyond = slots.Beyond()
  beyond.add({'unmatched_segments': (0.0, 8.0), 'images_beyond_slots': (0.0, 8.0)}, 4)
  beyond.add({'other': (1.0, 1.0)}, 4)
  assert not caplog.messages
  beyond.add({'unmatched_segments': (5.0, 8.0), 'images_beyond_slots': (2.0, 8.0)}, 6)
  beyond.add({'unmatched_segments': (1.0, 8.0), 'images_beyond_slots': (1.0, 8.0)}, 8)
  (first,) = caplog.messages
  assert first.startswith('Up to step 6, 2 of 16 images had more segments than the model has mask')
  assert '5 segments were not' in first
  beyond.report(8)
  assert caplog.messages[1].startswith('In the training that ends at step 8, 3 of 24 images had')
  assert ': 6 segments were not' in caplog.messages[1]


@pytest.mark.parametrize(
  'content, wanted',
  [
    ('{"most_segments": 200}', 200),
    ('{"records": 3}', 0),
    ('{', 0),
    ('[]', 0),
    ('{"most_segments": null}', 0),
  ],
)
def test_manifests_beside_the_files(tmp_path, content, wanted):
  (tmp_path / 'manifest-train.json').write_text(content)
  (tmp_path / 'manifest-val.json').write_text('{"most_segments": 999}')
  shard = f'{tmp_path}/train-00000-of-00001.tfrecord'
  assert slots.most_segments([shard])[0] == wanted
  others = ['elsewhere/train-0.tfrecord', f'{tmp_path}/other.tfrecord']
  assert slots.most_segments(others) == (0, '')


def test_a_training_says_it_at_its_start_and_the_advice_works(tmp_path, parts, caplog):
  records = tmp_path / 'records'
  records.mkdir()
  (records / 'train-0.tfrecord').write_bytes(b'x')
  (records / 'manifest-train.json').write_text(json.dumps({'most_segments': 300}))
  pattern = f'train_dataset_options.file_pattern={records}/train-*'
  runs.run('train', tmp_path / 'run', pattern)
  message = 'num_mask_slots=300 would be enough'
  assert message in caplog.text and 'an image has 300 segments' in caplog.text
  caplog.clear()
  runs.run('train', tmp_path / 'other', pattern, 'model_options.kmax.num_mask_slots=300')
  assert message not in caplog.text
