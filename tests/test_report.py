"""The command line of reports."""

import pytest

from deeplab2.commands import report
from tests.disk import limited_files
from tests.report import made

__all__ = ['limited_files']


def _main(*arguments):
  return report.main(list(map(str, arguments)))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of two images."""
  return made.make_run(tmp_path_factory.mktemp('runs') / 'small', images=2)


def test_the_path_is_the_last_line(run, tmp_path, capsys):
  assert _main(run) == 0
  assert capsys.readouterr().out == f'{run}/report.html\n'
  assert _main(run, f'--output={tmp_path}/new/a.html') == 0
  assert (tmp_path / 'new' / 'a.html').read_bytes() == (run / 'report.html').read_bytes()


def test_mistakes_are_one_line(run, tmp_path, capsys):
  other = made.make_run(tmp_path / 'coco', images=2, evaluated={'dataset': 'coco_panoptic'})
  for arguments, words in (
    ([], ['RUN']),
    ([tmp_path / 'none'], ['none: there is no such directory']),
    ([tmp_path], ['is no run, but holds runs', str(other)]),
    ([run / 'eval'], ['eval: is no run']),
    ([run, other], [str(other), 'coco_panoptic', str(run), 'shapes']),
    ([run, f'--output={tmp_path}/report.pdf'], ['report.pdf: must end in .html']),
    ([run, f'--output={run}/eval/metrics-30.json/a.html'], ['metrics-30.json']),
  ):
    assert _main(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    for word in words:
      assert word in line


def test_a_full_disk(run, tmp_path, capsys, limited_files):
  limited_files(1000)
  code = _main(run, f'--output={tmp_path}/a.html')
  limited_files()
  assert code == 2 and 'a.html: cannot be written' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())
