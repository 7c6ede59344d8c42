"""Tests for configs that are found by name."""

import pathlib

import pytest

from deeplab2 import errors
from deeplab2.config import load
from deeplab2.config import shipped

ROOT = pathlib.Path(__file__).parents[2] / 'configs'


def test_names_are_those_of_the_files():
  found = shipped.names()
  assert len(found) == len(list(ROOT.rglob('*.textproto')))
  assert {'coco/kmax_resnet50', 'shapes/kmax_mobilenet_v3_small'} <= set(found)
  for name in found:
    assert (ROOT / f'{name}.textproto').is_file()


@pytest.mark.parametrize(
  'name',
  ['coco/kmax_resnet50', 'coco/kmax_resnet50.textproto', 'configs/coco/kmax_resnet50.textproto'],
)
def test_found_from_anywhere(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = load.load(name)
  assert config.path == str(ROOT / 'coco' / 'kmax_resnet50.textproto')
  assert config.value('eval_dataset_options.dataset') == 'coco_panoptic'


def test_a_file_of_that_name_has_precedence(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'coco').mkdir()
  (tmp_path / 'coco' / 'kmax_resnet50').write_text('experiment_name: "mine"')
  assert load.parse('coco/kmax_resnet50').options.experiment_name == 'mine'


@pytest.mark.parametrize(
  'path,words',
  [
    ('coco/kmax_resnet5', 'no such file, and no config of the package; similar are coco/'),
    ('nothing_like_it', 'no config of the package; deeplab2-config --list names all.'),
    ('../configs/coco/kmax_resnet50', 'no config of the package; similar are'),
    ('/none/coco/kmax_resnet50', '/none/coco/kmax_resnet50: no such file.'),
    ('coco', 'no config of the package'),
  ],
)  # fmt: skip
def test_what_is_none(path, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.UserError, match=words) as caught:
    load.load(path)
  assert '\n' not in str(caught.value)
