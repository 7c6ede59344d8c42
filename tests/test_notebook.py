"""The notebook runs from its first cell to its last, with a training of a few steps."""

import os
import pathlib
import re

import nbformat
import pytest

_PATH = pathlib.Path(__file__).parents[1] / 'docs' / 'notebooks' / 'quickstart.ipynb'


def _notebook():
  return nbformat.read(_PATH, as_version=4)


def test_outputs_are_kept_and_speak_of_no_machine():
  cells = [cell for cell in _notebook().cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
  assert (
    sum('image/png' in output.get('data', {}) for cell in cells for output in cell.outputs) == 4
  )
  text = _PATH.read_text()
  assert str(_PATH.parents[2]) not in text and not re.search('/(home|root|tmp|Users)/', text)
  assert _PATH.stat().st_size < 2**20


@pytest.mark.slow
def test_runs(tmp_path, monkeypatch):
  nbclient = pytest.importorskip('nbclient')
  monkeypatch.setenv('NOTEBOOK_DIR', str(tmp_path))
  monkeypatch.setenv('NOTEBOOK_STEPS', '1')
  monkeypatch.setenv('PYTHONPATH', os.fspath(_PATH.parents[2]))
  notebook = _notebook()
  nbclient.NotebookClient(notebook, timeout=1000, kernel_name='python3').execute()
  shown = notebook.cells[-2].outputs[0]
  assert shown['output_type'] == 'execute_result' and 'image/png' in shown['data']
  assert (tmp_path / 'exported' / 'saved_model.pb').exists()
