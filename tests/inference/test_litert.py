"""LiteRT models: the same maps as TensorFlow's, formats, files, and flags of the export."""

import io
import json
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import deeplab2
from deeplab2 import errors
from deeplab2.data import datasets
from deeplab2.data import geometry
from deeplab2.inference import export
from deeplab2.inference import litert
from deeplab2.inference import litert_export
from deeplab2.inference import litert_file
from deeplab2.inference import litert_graph
from deeplab2.inference import litert_model
from deeplab2.inference import segmenter as segmenter_lib
from tests.inference import color_model
from tests.inference import test_loading

pytest.importorskip('ai_edge_litert', reason='the extra litert is not installed')

SIZES = [(40, 60), (65, 65), (131, 77), (1, 1), (3, 200), (333, 500)]
_INFO = datasets.get('shapes')


def _settings(segmenter, outputs, quantize='none'):
  return litert_file.Settings(
    outputs, quantize, segmenter.crop_size, segmenter.resize, segmenter.merging
  )


def _image(size, seed=0):
  return color_model.image(*size, seed) if min(size) > 1 else np.zeros([*size, 3], np.uint8)


@pytest.fixture(name='segmenter', scope='module')
def _segmenter():
  return color_model.create()


@pytest.fixture(name='files', scope='module')
def _files(segmenter, tmp_path_factory):
  """The files of a model without a network, by what they give."""
  directory = tmp_path_factory.mktemp('litert')
  paths = {}
  for outputs in litert.GRAPHS:
    paths[outputs] = str(directory / f'{outputs}.tflite')
    model = litert.convert(segmenter, outputs)
    litert_file.write(paths[outputs], model, _settings(segmenter, outputs), _INFO)
  return paths


@pytest.fixture(name='copy')
def _copy(files, tmp_path):
  path = tmp_path / 'model.tflite'
  path.write_bytes(pathlib.Path(files['panoptic']).read_bytes())
  return path


@pytest.mark.parametrize('outputs', list(litert.GRAPHS))
def test_maps_of_images_of_any_size_are_tensorflows_to_the_last_bit(segmenter, files, outputs):
  model = deeplab2.load(files[outputs])
  assert model.classes == _INFO.class_names
  images = [_image(size, seed) for seed, size in enumerate(SIZES)]
  for image, result in zip(images, model(images), strict=True):
    maps = segmenter(tf.constant(image))
    np.testing.assert_array_equal(result.panoptic, maps.panoptic[0])
    if outputs == 'logits':
      np.testing.assert_array_equal(result.semantic, maps.semantic[0])
    fitted, _ = segmenter.fit(tf.constant(image))
    _, segments = segmenter.merged(segmenter.infer(fitted[tf.newaxis]))
    scores = dict(zip(segments.ids[0].numpy().tolist(), segments.scores[0].numpy(), strict=True))
    for segment in result.segments:
      assert segment['score'] == pytest.approx(scores[segment['id']], abs=1e-6)
      assert segment['class_name'] == _INFO.class_names[segment['class_id']]
  assert len(model(images[2]).segments) >= 3


@pytest.mark.parametrize(
  'resize',
  [
    geometry.Resize((65, 65), (65, 65)),
    geometry.Resize(None, None),
    geometry.Resize((33, 33), (49, 65), 16),
  ],
)
def test_images_are_fit_into_the_crop_as_everywhere(resize):
  for size in (*SIZES[:5], (65, 40), (48, 64)):
    if resize.max_size is None and max(size) > 65:
      continue
    image = np.random.default_rng(0).integers(0, 256, [*size, 3], np.uint8)
    expected, placement = geometry.fit_image(tf.constant(image), (65, 65), resize)
    fitted, found = litert_graph.fit(tf.constant(image[np.newaxis]), (65, 65), resize)
    np.testing.assert_array_equal(fitted[0], expected)
    np.testing.assert_array_equal(found.resized_size, placement.resized_size)


def test_the_file_is_an_archive_with_the_classes(copy):
  listed = subprocess.run(
    [sys.executable, '-m', 'zipfile', '-t', str(copy)], capture_output=True, text=True, check=True
  )
  assert 'Done testing' in listed.stdout
  described = litert_file.read(str(copy))
  assert described.info == _INFO
  assert described.settings.crop_size == color_model.CROP
  assert described.settings.resize == geometry.Resize(color_model.CROP, color_model.CROP)


def test_files_that_are_damaged_or_of_something_else_are_one_line(copy):
  data = copy.read_bytes()
  for content, words in (
    (None, 'no such file'),
    (b'', 'is no LiteRT model'),
    (b'PNG or so, but no model', 'is no LiteRT model'),
    (data[: len(data) // 2], 'the classes of the model are not in the file'),
    (data[:1000] + bytes([data[1000] ^ 1]) + data[1001:], 'is damaged; export it again'),
  ):
    if content is None:
      copy.unlink()
    else:
      copy.write_bytes(content)
    with pytest.raises(errors.UserError, match=words) as caught:
      deeplab2.load(copy)
    assert '\n' not in str(caught.value) and str(copy) in str(caught.value)
  with pytest.raises(errors.UserError, match='a LiteRT model has none'):
    deeplab2.load(copy, overrides=['a.b=c'])


def test_what_could_be_larger_than_the_file_is_not_read(copy):
  with zipfile.ZipFile(copy) as archive:
    texts = {name: archive.read(name) for name in archive.namelist()}
    size = json.loads(texts['model.json'])['size']
  data = io.BytesIO(copy.read_bytes()[:size])
  with zipfile.ZipFile(data, 'a', zipfile.ZIP_DEFLATED) as archive:
    for name, text in texts.items():
      archive.writestr(name, text)
  copy.write_bytes(data.getvalue())
  with pytest.raises(errors.UserError, match='the classes of the model are not in the file'):
    litert_file.read(str(copy))


def test_without_the_package_it_is_named_with_the_command(copy, monkeypatch):
  for name in list(sys.modules):
    if name.partition('.')[0] == 'ai_edge_litert':
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'ai_edge_litert', None)
  with pytest.raises(errors.UserError, match=r'pip install "deeplab2-remax\[litert\]"') as caught:
    deeplab2.load(copy)
  assert '\n' not in str(caught.value)


class _Unsupported(litert_graph.Graph):
  """A graph with an operation that LiteRT does not have."""

  def __init__(self, segmenter):
    super().__init__(
      lambda image: {'class_logits': tf.cast(tf.bitwise.invert(image), tf.float32)},
      tf.TensorSpec([1, *segmenter.crop_size, 3], tf.uint8, 'image'),
    )


def test_an_operation_that_litert_does_not_have_is_named(segmenter, monkeypatch):
  monkeypatch.setitem(litert.GRAPHS, 'panoptic', _Unsupported)
  with pytest.raises(errors.UserError, match='needs Invert, .*; --outputs=logits leaves') as caught:
    litert.convert(segmenter, 'panoptic')
  assert '\n' not in str(caught.value)


@pytest.fixture(name='network', scope='module')
def _network(tmp_path_factory):
  """A network with random weights, and its LiteRT model."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('SHAPES_TFRECORDS', 'nowhere')
    from deeplab2 import assemble
    from deeplab2.config import load

    config = load.load(str(test_loading.CONFIG), test_loading.OVERRIDES)
    segmenter = segmenter_lib.create(config, assemble.model(config))
  return segmenter, litert.convert(segmenter, 'logits')


# Tolerances: of the spread of the class logits. Random weights amplify rounding more than trained
# ones do; docs/deploy.md has the panoptic qualities of a trained model.
@pytest.mark.parametrize(
  'form,size,tolerance',
  [('none', 1.0, 1e-4), ('float16', 0.6, 0.01), ('dynamic_int8', 0.4, 0.3), ('int8', 0.4, 0.5)],
)
def test_formats_of_a_network(network, tmp_path, form, size, tolerance):
  segmenter, model = network
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, [40, 50, 3], np.uint8) for _ in range(4)]
  fitted = [segmenter.fit(tf.constant(image))[0].numpy() for image in images]
  quantized = litert.quantize(model, form, fitted)
  assert len(quantized) <= size * len(model)
  expected = segmenter.infer(fitted[0][np.newaxis])
  found = litert.runner(quantized)(image=fitted[0][np.newaxis])
  for key, value in (
    ('class_logits', expected.class_logits.numpy()),
    ('mask_logits', expected.mask_logits.numpy()),
  ):
    assert np.median(np.abs(found[key] - value)) < tolerance * value.std(), key
  path = str(tmp_path / 'model.tflite')
  litert_file.write(path, quantized, _settings(segmenter, 'logits', form), _INFO)
  assert litert_model.LiteRTModel(path)(images[0]).panoptic.shape == (40, 50)


@pytest.mark.parametrize(
  'flags,words',
  [
    (['--quantize=int8'], '--calibration is missing; give some'),
    (['--quantize=int8', '--calibration=nowhere'], '--calibration=nowhere: no image; must be one'),
    (['--quantize=int8', '--calibration=.'], '--calibration=.: no image; must be one'),
    (['--calibration=x'], '--calibration=x: is for --quantize=int8, not none.'),
    (['--outputs=batch'], '--outputs=batch: must be one of panoptic, logits for --format=litert.'),
    (['--batch=2'], '--batch=2: is for --format=saved_model; LiteRT models take one image.'),
    (['--input_size=640,640'], 'the next such size is 641,641.'),
    (['--export_path=model'], '--export_path=model: must be a file that ends in .tflite'),
    (['--export_path=made.tflite'], 'made.tflite: exists; give --overwrite to replace it'),
    (['--format=saved_model', '--quantize=int8'], '--quantize=int8: is for --format=litert'),
  ],
)
def test_wrong_flags_are_one_line(tmp_path, monkeypatch, capsys, flags, words):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('SHAPES_TFRECORDS', 'nowhere')
  (tmp_path / 'made.tflite').write_bytes(b'')
  arguments = [
    f'--config_file={test_loading.CONFIG}',
    '--checkpoint_path=none',
    '--format=litert',
    '--export_path=new.tflite',
    *flags,
  ]
  assert export.main(arguments) == 2
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1 and words in said[0], said


def test_calibration_images_are_spread_over_the_directory(tmp_path, monkeypatch):
  monkeypatch.setattr(litert_export, '_MOST_CALIBRATION_IMAGES', 4)
  for number in range(10):
    PIL.Image.fromarray(_image((8, 8))).save(tmp_path / f'{number}.png')
  options = export.flags().parse_args(
    ['--config_file=c', '--checkpoint_path=c', '--export_path=m.tflite', '--format=litert']
    + ['--quantize=int8', f'--calibration={tmp_path}']
  )
  chosen = litert_export.check(options)
  assert [pathlib.Path(path).name for path in chosen] == ['0.png', '2.png', '5.png', '7.png']
