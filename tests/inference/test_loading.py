"""deeplab2.load: every kind of source gives the same model, and wrong ones are told from it."""

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import deeplab2
from deeplab2 import assemble
from deeplab2.config import changes
from deeplab2.config import load
from deeplab2.data import images as images_lib
from deeplab2.inference import saved_model
from deeplab2.inference import segmenter
from tests.inference import color_model
from tests.inference import small_config
from tests.inference.small_config import CONFIG

OVERRIDES = [
  *small_config.OVERRIDES,
  # So that random weights find segments.
  'evaluator_options.maskwise_postprocessing.transformer_class_confidence_threshold_thing=0',
  'evaluator_options.maskwise_postprocessing.transformer_class_confidence_threshold_stuff=0',
  'evaluator_options.maskwise_postprocessing.overlapping_threshold=0',
  'evaluator_options.pixel_confidence_threshold=0.01',
]
SIZES = ((40, 60), (65, 65), (131, 77))


@pytest.fixture(name='exported', scope='module')
def _exported(tmp_path_factory):
  return color_model.export(str(tmp_path_factory.mktemp('export') / 'model'))


@pytest.fixture(name='model', scope='module')
def _model(exported):
  return deeplab2.load(exported)


def test_one_image_and_several(model, exported, tmp_path):
  pixels = [color_model.image(*size, seed=n) for n, size in enumerate(SIZES)]
  path = tmp_path / 'image.png'
  PIL.Image.fromarray(pixels[0]).save(path)
  # Each form of an image, in two batches.
  results = model([str(path), PIL.Image.fromarray(pixels[1]), tf.constant(pixels[2])], batch_size=2)
  assert isinstance(results, list) and len(results) == 3
  maps = saved_model.load(exported).segment
  for image, result in zip(pixels, results, strict=True):
    assert isinstance(result, deeplab2.Result)
    expected = maps(tf.constant(image))
    np.testing.assert_array_equal(result.panoptic, expected['panoptic_pred'][0])
    np.testing.assert_array_equal(result.semantic, expected['semantic_pred'][0])
    np.testing.assert_array_equal(result.image, image)
    alone = model(image)
    np.testing.assert_array_equal(alone.panoptic, result.panoptic)
    assert alone.segments == result.segments
    assert {segment['class_name'] for segment in result.segments} >= {'circle', 'triangle'}
    # The class logits of this model are 20 and zeros, and masks have no weight in the ranking.
    for segment in result.segments:
      assert segment['score'] == pytest.approx(1 / (1 + 9 * np.exp(-20)), abs=1e-6)
      assert segment['area'] == (result.panoptic == segment['id']).sum()
  assert model([]) == [] and model((pixels[0],))[0].segments == model(pixels[0]).segments
  assert model.classes[1] == 'circle' and model.info.name == 'shapes'


def test_models_of_earlier_versions_have_no_scores(exported, tmp_path):
  path = color_model.export_as_first_version(str(tmp_path / 'earlier'))
  image = color_model.image(131, 77)
  results = deeplab2.load(path)([image, image])
  for result in results:
    np.testing.assert_array_equal(result.panoptic, deeplab2.load(exported)(image).panoptic)
    assert {segment['score'] for segment in result.segments} == {None}


def test_a_run_and_a_checkpoint_give_what_the_exported_model_gives(tmp_path):
  config = load.load(str(CONFIG), OVERRIDES)
  built = assemble.model(config)
  run = tmp_path / 'runs' / 'run'
  tf.train.Checkpoint(model=built).write(str(run / 'ckpt-1'))
  (run / changes.OF_RUN).write_text(changes.as_text(config))
  info = assemble.dataset_info(config)
  saved_model.save(segmenter.create(config, built), info, str(tmp_path / 'exported'), outputs=())
  images = [color_model.image(*size) for size in SIZES]
  expected = deeplab2.load(tmp_path / 'exported')(images)
  assert sum(len(result.segments) for result in expected) >= 3
  for model in (
    deeplab2.load(run),
    deeplab2.load(CONFIG, run / 'ckpt-1', overrides=OVERRIDES),
    deeplab2.load((str(run / changes.OF_RUN), str(run))),
  ):
    for result, one in zip(model(images), expected, strict=True):
      np.testing.assert_array_equal(result.panoptic, one.panoptic)
      assert [s['id'] for s in result.segments] == [s['id'] for s in one.segments]
  for place, words in (
    (run.parent, f'holds several things; is it {run}; give the directory of a SavedModel'),
    (run / 'ckpt-1', 'is a checkpoint without its config; give'),
    (CONFIG, 'is a config without its checkpoint; give'),
  ):
    with pytest.raises(deeplab2.UserError, match=f'{place}: {words}'):
      deeplab2.load(place)
  with pytest.raises(deeplab2.UserError, match='overrides are for a config'):
    deeplab2.load(tmp_path / 'exported', overrides=OVERRIDES)
  (run / changes.OF_RUN).unlink()
  with pytest.raises(deeplab2.UserError, match='holds checkpoints, but no config.textproto that'):
    deeplab2.load(run)


@pytest.mark.parametrize(
  'arguments,words',
  [
    ((3,), 'source is of type int; give the directory of a SavedModel'),
    ((None,), 'source is of type NoneType'),
    (('',), 'an empty path'),
    (('none.textproto', 3), 'checkpoint is of type int'),
    (('none.textproto', 'none'), 'none.textproto'),
    ((('a', 'b', 'c'),), 'source is of type tuple'),
  ],
)
def test_sources_that_are_none(arguments, words):
  with pytest.raises(deeplab2.UserError, match=words) as caught:
    deeplab2.load(*arguments)
  assert '\n' not in str(caught.value)


def test_overrides_are_a_list():
  with pytest.raises(deeplab2.UserError, match=r"must be a list, \['a=b'\]"):
    deeplab2.load('x', 'y', overrides='a=b')


def test_wrong_images_are_named(model, tmp_path):
  image = color_model.image()
  with pytest.raises(deeplab2.UserError, match=r'images\[2\]: an array .* is grey; give'):
    model([image, image, image[..., 0]], batch_size=1)
  with pytest.raises(deeplab2.UserError, match='batch_size=0: must be an integer from 1'):
    model([image], batch_size=0)
  with pytest.raises(deeplab2.UserError, match='image: is of type generator; give a path'):
    model(one for one in [image])
  (tmp_path / 'cut.png').write_bytes(images_lib.encode(image, 'png').data[:99])
  with pytest.raises(deeplab2.UserError, match='cut.png: the image cannot be decoded'):
    model(tmp_path / 'cut.png')
