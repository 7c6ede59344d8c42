"""Where the weights of a backbone are, as `pretrained_weights` names it."""

import hashlib
import pathlib
import urllib.error

import pytest
import tensorflow as tf

from deeplab2.checkpoint import keras_weights
from deeplab2.checkpoint import pretrained
from deeplab2.checkpoint import restore
from deeplab2.model.backbones import registry
from tests.checkpoint import files
from tests.checkpoint import keras_files
from tests.model import builders


@pytest.mark.parametrize(
  'source, meant',
  [
    ('imagenet', True),
    ('./imagenet', False),
    ('keras:/a/b', True),
    ('/a/b.weights.h5', True),
    ('b.h5', True),
    ('b.npz', True),
    ('b.pkl', False),
    ('/nowhere/b.safetensors', False),
    ('/a/ckpt-7', False),
    ('/a/ckpt-7.index', False),
  ],
)
def test_what_is_meant(source, meant):
  assert pretrained.is_meant(source) == meant


def test_files_must_be_there(tmp_path):
  pretrained.check_there('imagenet')
  (tmp_path / 'x.h5').write_bytes(b'')
  for source in (f'{tmp_path}/x.h5', f'keras:{tmp_path}/x.h5'):
    pretrained.check_there(source)
  files.refused(lambda: pretrained.check_there('keras:/nowhere/x.h5'), '/nowhere/x.h5: no such')


@pytest.fixture(scope='module')
def backbone():
  built = registry.create(
    'mobilenet_v3_small', norm=builders.NORM, squeeze_excite_gate='HARD_SIGMOID'
  )
  built(tf.zeros([1, 33, 33, 3]))
  return built


@pytest.fixture(scope='module')
def small_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('keras') / 'small.h5'
  keras_files.mobilenet(include_top=False).save_weights(str(path))
  return path


def test_a_home_directory_behind_keras(backbone, small_file, monkeypatch):
  monkeypatch.setenv('HOME', str(small_file.parent))
  assert restore.initialize_backbone(backbone, 'keras:~/small.h5') == str(small_file)


def test_without_network_and_the_advice_works(backbone, small_file, tmp_path, monkeypatch):
  """Through Keras's own downloader and its cache, where the network alone is made to fail."""

  def fails(url, *arguments, **settings):
    raise urllib.error.URLError('no network')

  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / '.keras').mkdir()
  monkeypatch.setattr('tf_keras.src.utils.data_utils.urlretrieve', fails)
  url, _ = keras_weights.PUBLISHED['mobilenet_v3_small', 1.0]
  files.refused(
    lambda: restore.initialize_backbone(backbone, 'imagenet'), url, 'no network', 'keras:FILE'
  )
  # Put into the cache by hand, with the hash that belongs to it.
  content = small_file.read_bytes()
  name = pathlib.PurePath(url).name
  (tmp_path / '.keras' / 'models' / name).write_bytes(content)
  files.refused(lambda: restore.initialize_backbone(backbone, 'imagenet'), 'cannot be had')
  hashes = {name: hashlib.md5(content).hexdigest()}
  monkeypatch.setattr(keras_weights, 'HASHES', hashes)
  monkeypatch.setitem(keras_weights.PUBLISHED, ('mobilenet_v3_small', 1.0), (url, hashes[name]))
  (tmp_path / '.keras' / 'models' / name).write_bytes(content)
  found = restore.initialize_backbone(backbone, 'imagenet')
  assert found == str(tmp_path / '.keras' / 'models' / name)
  # Or named.
  assert restore.initialize_backbone(backbone, f'keras:{small_file}') == str(small_file)


def test_pickles_are_refused_by_name(backbone):
  files.refused(
    lambda: restore.initialize_backbone(backbone, '/a/weights.pkl'), 'a pickle, whose code'
  )


def test_weights_given_as_a_checkpoint_and_the_advice_works(backbone, small_file):
  model = tf.Module()
  model.backbone = backbone
  given = f'keras:{small_file}'
  option = f'model_options.backbone.pretrained_weights={given}.'
  files.refused(lambda: restore.initialize_model(model, given), option)
  assert restore.initialize_backbone(backbone, given) == str(small_file)
