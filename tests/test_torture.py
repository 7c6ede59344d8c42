"""The campaign's own tools, and a small part of the campaign on the command lines."""

import io
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import time

import PIL.Image
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'scripts'))

from campaign import corrupt  # noqa: E402
from campaign import examples  # noqa: E402
from campaign import images  # noqa: E402
from campaign import kill  # noqa: E402
from campaign import memory  # noqa: E402
from campaign import mutations  # noqa: E402
from campaign import processes  # noqa: E402
from campaign import results  # noqa: E402

from deeplab2 import errors  # noqa: E402


def _png(path=None, size=(20, 10)):
  image = PIL.Image.effect_noise(size, 50).convert('RGB')
  if path is not None:
    image.save(path)
    return path.read_bytes()
  buffer = io.BytesIO()
  image.save(buffer, 'PNG')
  return buffer.getvalue()


def _result(name, outcome='refused', failed=False, seconds=1.0, peak=100.0):
  return results.Result(
    'corrupt', 'images', name, outcome, failed, seconds, peak, 'last\nlines', 'python x'
  )


def test_cases_are_the_same_every_time_and_as_many_as_asked_for():
  found = corrupt.cases(300, 0)
  assert [case.name for case in found] == [case.name for case in corrupt.cases(300, 0)]
  assert len(found) == 300 and len({case.name for case in found}) == 300
  assert [case.name for case in corrupt.cases(300, 1)] != [case.name for case in found]
  assert {case.group for case in found} == {
    'records',
    'images',
    'JSON',
    'textproto',
    'checkpoints',
    'logs',
    'SavedModels',
  }
  assert {case.reader for case in found} == set(corrupt.READERS)
  assert {case.file for case in found} >= {
    'runs/tiny/ckpt-4.index',
    'runs/tiny/ckpt-4.data-00000-of-00001',
    'exported/saved_model.pb',
    'exported/variables/variables.index',
    'exported/variables/variables.data-00000-of-00001',
  }


def test_records_with_right_checksums_are_read_by_tensorflow(tmp_path):
  path = tmp_path / 'records'
  path.write_bytes(b''.join(map(mutations.framed, [b'first', b'', b'x' * 999])))
  assert [r.numpy() for r in tf.data.TFRecordDataset(str(path))] == [b'first', b'', b'x' * 999]
  assert mutations.records_of(path.read_bytes()) == [b'first', b'', b'x' * 999]


def test_a_record_that_claims_too_much_has_a_right_checksum(tmp_path):
  path = tmp_path / 'records'
  # TensorFlow crashes where such a length cannot be allocated: not more than this here.
  path.write_bytes(mutations.claims(2**20)(mutations.framed(b'x' * 99), random.Random(0)))
  with pytest.raises(tf.errors.OpError) as caught:
    next(iter(tf.data.TFRecordDataset(str(path))))
  assert 'corrupted record' not in caught.value.message  # That is a wrong checksum.


@pytest.mark.parametrize(
  'mutation',
  [*mutations.RANDOM, *mutations.ANY_FILE, *images.PNGS[:40], mutations.MARKED],
  ids=lambda mutation: mutation.name,
)
def test_a_mutation_changes_the_file_and_follows_its_seed(mutation):
  data = _png()
  spoiled = mutation.spoil(data, random.Random(5))
  assert spoiled != data
  assert spoiled == mutation.spoil(data, random.Random(5))


@pytest.mark.parametrize('mutation', mutations.PLACES, ids=lambda mutation: mutation.name)
def test_something_else_is_put_in_the_place_of_a_file(mutation, tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(b'x')
  mutations.spoil_file(path, mutation, random.Random(0))
  assert not path.is_file() and os.path.lexists(path)


def test_chunks_of_a_png_can_be_put_together_again(tmp_path):
  data = _png(tmp_path / 'a.png')
  assert images._joined(images.chunks(data)) == data
  (tmp_path / 'b.png').write_bytes(images.with_chunk(b'prVt', b'x')(data, random.Random(0)))
  with PIL.Image.open(tmp_path / 'b.png') as image:
    image.load()
    assert image.size == (20, 10)


def test_a_header_is_changed_with_a_right_checksum():
  spoiled = images.header(width=7)(_png(), random.Random(0))
  name, content = images.chunks(spoiled)[0]
  assert name == b'IHDR' and struct.unpack('>II', content[:8]) == (7, 10)
  assert images._joined(images.chunks(spoiled)) == spoiled


def test_a_frame_of_a_jpeg_is_changed(tmp_path):
  data = images.saved_as('JPEG')(_png(), random.Random(0))
  (tmp_path / 'a.jpg').write_bytes(
    images.frame(1, struct.pack('>HH', 16, 24))(data, random.Random(0))
  )
  with PIL.Image.open(tmp_path / 'a.jpg') as image:
    assert image.size == (24, 16)


def test_features_of_a_record_are_changed():
  example = tf.train.Example()
  for key, value in (('image/height', 7), ('image/width', 8)):
    example.features.feature[key].int64_list.value.append(value)
  data = mutations.framed(example.SerializeToString())
  spoil = examples.with_features(height=-1, width=None)
  [record] = mutations.records_of(spoil(data, random.Random(0)))
  features = tf.train.Example.FromString(record).features.feature
  assert features['image/height'].int64_list.value[:] == [-1]
  assert 'image/width' not in features


@pytest.mark.parametrize('seed', range(30))
def test_a_value_of_a_json_is_changed(seed):
  data = json.dumps({'a': [1, 2, {'b': 'c'}], 'd': {'e': 1.5}}).encode()
  spoiled = mutations.json_values(data, random.Random(seed))
  json.loads(spoiled)
  number = mutations.json_numbers(data, random.Random(seed))
  assert number != data


# How the output of a command is judged.
@pytest.mark.parametrize(
  'code, output, expected, outcome',
  [
    (0, 'fine\n', 'any', 'right result'),
    (0, 'fine\n', 'refused', 'accepted, must be refused'),
    (2, 'a\nerror: x/image1.png: broken.\n', 'any', 'refused'),
    (2, 'error: x/image1.png: broken.\n', 'accepted', 'refused, must be accepted'),
    (2, 'error: something is broken.\n', 'any', 'does not name the file'),
    (2, 'error: image1.png:\nbroken\n', 'any', 'not one line'),
    (2, 'error: image1.png: a\nerror: image1.png: b\n', 'any', 'not one line'),
    (2, 'broken\n', 'any', 'not one line'),
    (2, 'error: image1.png ' + 'x' * 3000, 'any', 'a line of more than 2000 letters'),
    (1, 'error: image1.png: broken.\n', 'any', 'exit code 1'),
    (0, 'Traceback (most recent call last)\nfine', 'any', 'traceback'),
  ],
)
def test_outcome(code, output, expected, outcome, tmp_path):
  case = corrupt.Case(
    'images', 'own/images/image1.png', mutations.Mutation('', bytes, expected), corrupt.BUILD, 0
  )
  finished = processes.Finished(code, 'exit', 1.0, 1.0, output)
  job = processes.Job(processes.Command('m', ()), tmp_path, 1, 1)
  result = corrupt._judged(case, job, finished)
  assert result.outcome == outcome
  assert result.failed == (outcome not in ('right result', 'refused'))


_COMMANDS = {
  'ends': 'return 0',
  'refuses': 'print("error: no", file=sys.stderr); return 2',
  'raises': 'raise ValueError("here")',
  # Pytest's fault handler would print all its stacks between the dots.
  'aborts': 'faulthandler.disable(); os.abort()',
  'hangs': 'time.sleep(60)',
  'grows': 'kept = bytearray(os.urandom(1)) * (1200 << 20); time.sleep(60)',
  'exits': 'sys.exit(3)',
}


@pytest.mark.parametrize(
  'name, ended_by, code',
  [
    ('ends', 'exit', 0),
    ('refuses', 'exit', 2),
    ('raises', 'traceback', 70),
    ('aborts', f'signal {signal.SIGABRT:d}', None),
    ('hangs', 'hang', None),
    ('grows', 'memory', None),
    ('exits', 'traceback', 70),
  ],
)
def test_forks_end_as_they_end(name, ended_by, code, tmp_path, monkeypatch):
  (tmp_path / f'made_{name}.py').write_text(
    f'import faulthandler, os, sys, time\ndef main(arguments):\n  {_COMMANDS[name]}\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  here = processes.resident_mb(os.getpid())
  seconds = 1.0 if name == 'hangs' else 30.0
  command = processes.Command(f'made_{name}', ())
  job = processes.Job(command, tmp_path / 'job', seconds, here + 200)
  [(done, finished)] = processes.run_forked([job])
  assert done is job
  assert (finished.ended_by, finished.code) == (ended_by, code)
  assert finished.seconds < 20
  if name == 'raises':
    assert 'ValueError: here' in finished.output


def test_a_wrong_result_is_found_in_the_fork(tmp_path, monkeypatch):
  (tmp_path / 'made_good.py').write_text('def main(arguments):\n  print(*arguments)\n  return 0\n')
  monkeypatch.syspath_prepend(tmp_path)

  def check(code, output):
    assert (code, output) == (0, 'as given\n'), 'of another kind'

  for arguments, ended_by in ((('as', 'given'), 'exit'), (('else',), 'wrong')):
    command = processes.Command('made_good', arguments)
    job = processes.Job(command, tmp_path / 'job', 30, 10**6, check=check)
    [(_, finished)] = processes.run_forked([job])
    assert finished.ended_by == ended_by
  assert 'of another kind' in finished.output


def test_a_journal_goes_on_after_a_kill(tmp_path):
  path = tmp_path / 'journal'
  journal = results.Journal(path)
  journal.begin({'seed': 0})
  journal.add(_result('a'))
  journal.add(_result('b'))
  path.write_text(path.read_text() + '{"part": "cor')  # Cut within a line.
  again = results.Journal(path)
  assert list(again.results) == ['a', 'b']
  again.begin({'seed': 0})
  again.add(_result('c', 'traceback', True))
  assert list(results.Journal(path).results) == ['a', 'b', 'c']


def test_results_of_other_settings_are_kept(tmp_path):
  path = tmp_path / 'journal'
  journal = results.Journal(path)
  journal.begin({'seed': 0})
  journal.add(_result('a'))
  with pytest.raises(errors.UserError, match='seed'):
    results.Journal(path).begin({'seed': 1})
  assert list(results.Journal(path).results) == ['a']


def test_table_and_failures():
  found = [_result('a'), _result('b', 'traceback', True, 7.4, 3000.4), _result('c', 'refused')]
  last = results.table(found).splitlines()[-1]
  assert last == '| corrupt | images | 3 | refused 2, traceback 1 | 1 | 7 | 3000 |'
  shown = results.failures(found)
  assert shown.count('* corrupt') == 1 and '`python x`' in shown and '    lines' in shown


def test_differences():
  wanted = {'a': 1, 'b': {'c': [1], 'd': 2}, 'e': 5}
  assert not kill.differences(wanted, dict(wanted))
  found = kill.differences({'a': 1, 'b': {'c': [1], 'd': 3}, 'f': 5}, wanted)
  assert found == ['missing: e', 'surplus: f', 'different: b.d: 3 instead of 2']


@pytest.mark.parametrize(
  'weights, outcome',
  [
    ([500, 600, 600, 600, 600], 'does not grow'),
    ([500, 600, 650, 680, 700.1], 'grows'),
    ([500, 600, 900, 700, 650], 'does not grow'),
    ([900, 600, 600, 600, 701], 'grows'),
  ],
)
def test_memory_is_judged_from_a_quarter_on(weights, outcome):
  samples = [(25 * index or 1, weight) for index, weight in enumerate(weights)]
  # At the end it is given back.
  assert memory.judge([*samples, (100, 300)], 100)[0] == outcome


def test_memory_that_was_not_seen_is_no_success():
  assert memory.judge([(10, 500.0), (40, 500.0)], 100)[0] == 'not seen'


# Writes ten files, one a moment, and goes on where it stopped.
_COUNTER = """
import os, sys, time
directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
{start}
for number in range(10):
  path = os.path.join(directory, f'{{number}}.txt')
  if not os.path.exists(path):
    time.sleep(0.05)
    with open(path + '.tmp', 'w') as file:
      file.write({content})
    os.replace(path + '.tmp', path)
"""
_STARTS = """
with open(os.path.join(directory, '..', 'starts'), 'a') as file:
  file.write('x')
starts = os.path.getsize(os.path.join(directory, '..', 'starts'))
"""


@pytest.mark.parametrize(
  'start, content, outcome',
  [
    ('', 'str(number)', 'equal'),
    (_STARTS, 'str(starts)', 'different'),
    (_STARTS + 'if starts > 1: sys.exit(2)', '""', 'refuses to go on'),
  ],
)
def test_a_command_is_killed_until_it_ends(start, content, outcome, tmp_path, monkeypatch):
  (tmp_path / 'scripts').mkdir()
  (tmp_path / 'scripts' / 'counter.py').write_text(_COUNTER.format(start=start, content=content))
  monkeypatch.setattr(processes, 'ROOT', tmp_path)
  one = kill.Long(
    *('counter', 'own', 'counter {here}/made'),
    *(r'.*\d\.txt', r'.*\.(tmp|txt)'),
    kill._of_files('made'),
  )
  started = time.monotonic()
  reference = kill.refer(one, tmp_path / 'reference', tmp_path)
  assert len(reference.results) == 10
  # The other nine files come later, one every 0.05 s.
  assert 0 < reference.seconds_to_save < time.monotonic() - started - 0.2
  result = kill.run(one, 1, 4, reference, tmp_path / 'run', tmp_path, seed=0)
  assert result.outcome == outcome
  number, moments = result.details.splitlines()[0].split(' kills: ')
  kills = len(moments.split(', '))
  assert 1 <= kills <= 4 and (kills == 4 or outcome == 'refuses to go on')
  assert number == str(kills)


@pytest.mark.slow
def test_a_small_part_of_the_campaign(tmp_path):
  """Kills of conversion, and corrupted inputs of the commands that need no model."""
  environment = processes.environment()
  for part, arguments in (
    ('corrupt', ['--cases=60', '--only=(build_tfrecords)', '--only=instances.json']),
    ('kill', ['--kills=1', '--only=conversion of own data']),
  ):
    done = subprocess.run(
      [sys.executable, 'scripts/torture.py', part, f'--work_dir={tmp_path}', *arguments],
      cwd=ROOT,
      env=environment,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
  found = [json.loads(line) for line in (tmp_path / 'corrupt.jsonl').read_text().splitlines()[1:]]
  assert len(found) >= 15, len(found)
  assert {result['outcome'] for result in found} == {'refused', 'right result'}
