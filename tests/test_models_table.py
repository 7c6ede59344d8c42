"""The table of models keeps what is written by hand below it."""

import importlib.util
import pathlib

_ROOT = pathlib.Path(__file__).parents[1]


def _script():
  path = _ROOT / 'scripts' / 'models_table.py'
  spec = importlib.util.spec_from_file_location('models_table', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_what_is_written_by_hand_stays(tmp_path):
  script = _script()
  path = tmp_path / 'a.md'
  assert script._by_hand(str(path)) == ''
  path.write_text('# Models\n| a |\n')
  assert script._by_hand(str(path)) == ''
  path.write_text(f'# Models\n| a |\n\n{script._BY_HAND}\nText.\n')
  assert script._by_hand(str(path)) == f'{script._BY_HAND}\nText.\n'
  text = (_ROOT / 'docs' / 'models.md').read_text()
  assert script._BY_HAND in text  # Its heading has not been changed in one place alone.
