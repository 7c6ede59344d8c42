"""The wheel: configs and commands of an installed package, far from the checkout."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
_COMMANDS = {'train', 'eval', 'predict', 'export', 'convert', 'data', 'inspect', 'config', 'plot'}


@pytest.fixture(name='installed', scope='module')
def _installed(tmp_path_factory):
  """Installs the package, without what it needs, into a directory of its own."""
  source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('installed')
  # What is built lies next to the source.
  for name in ('deeplab2', 'configs', 'web'):
    if (ROOT / name).is_dir():
      ignored = shutil.ignore_patterns('__pycache__')
      shutil.copytree(ROOT / name, source / name, ignore=ignored)
  for name in ('setup.py', 'pyproject.toml', 'README.md'):
    shutil.copy(ROOT / name, source)
  options = ('--no-deps', '--no-build-isolation', '--no-index', '--quiet')
  subprocess.run(
    [sys.executable, '-m', 'pip', 'install', *options, f'--target={target}', str(source)],
    check=True,
    timeout=300,
  )
  return target


def _run(installed, directory, *words, code=0):
  done = subprocess.run(
    [sys.executable, *words],
    cwd=directory,
    env={**os.environ, 'PYTHONPATH': str(installed)},
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == code, done.stderr[-2000:]
  return done


@pytest.mark.slow
def test_an_installed_package_is_complete(installed, tmp_path):
  found = _run(installed, tmp_path, '-c', 'import deeplab2; print(deeplab2.__file__)').stdout
  assert pathlib.Path(found.strip()).is_relative_to(installed)
  assert (installed / 'deeplab2' / 'py.typed').is_file()
  for name in ('configs', 'web'):
    for file in (ROOT / name).rglob('*'):
      assert (installed / 'deeplab2' / name / file.relative_to(ROOT / name)).exists(), file
  (distribution,) = importlib.metadata.distributions(path=[str(installed)])
  commands = {entry.name: entry for entry in distribution.entry_points}
  assert set(commands) >= {f'deeplab2-{name}' for name in _COMMANDS}
  # Every command is there, and says what it is for.
  calls = '; '.join(
    f'import {entry.module}; assert callable({entry.module}.{entry.attr})'
    for entry in commands.values()
  )
  _run(installed, tmp_path, '-c', calls)
  command = installed / 'bin' / 'deeplab2-config'
  said = _run(installed, tmp_path, str(command), '--no_sizes', 'coco/kmax_resnet50').stdout
  assert said.startswith('coco/kmax_resnet50: loads')
  listed = _run(installed, tmp_path, str(command), '--list').stdout.split()
  assert len(listed) == len(list((ROOT / 'configs').rglob('*.textproto')))
  command = installed / 'bin' / 'deeplab2-eval'
  error = _run(installed, tmp_path, str(command), '--mode=train', code=2).stderr
  assert "--mode: invalid choice: 'train' (choose from" in error
