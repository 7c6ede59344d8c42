"""Post-processing against recorded outputs of DeepLab2, and what its batches may not do."""

import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab2 import structures
from deeplab2.data import datasets
from deeplab2.model import postprocess


def _space(num_classes, ignore, divisor, things):
  return structures.LabelSpace(num_classes, ignore, divisor, tuple(things))


def build(case, space):
  areas = {
    'thing_area_limit': case['thing_area_limit'],
    'stuff_area_limit': case['stuff_area_limit'],
  }
  if case['mode'] == 'pixelwise':
    return postprocess.PixelwisePostprocess(
      space,
      case['output_size'],
      pixel_confidence=case['pixel_confidence_threshold'],
      class_confidence=case['transformer_class_confidence_threshold'],
      **areas,
    )
  fields = case['maskwise']
  options = postprocess.MaskwiseOptions(
    fields['transformer_class_confidence_threshold_thing'],
    fields['transformer_class_confidence_threshold_stuff'],
    fields['overlapping_threshold'],
    fields['reorder_class_weight'],
    fields['reorder_mask_weight'],
  )
  return postprocess.MaskwisePostprocess(
    space,
    case['output_size'],
    pixel_confidence=case['pixel_confidence_threshold'],
    options=options,
    **areas,
  )


@pytest.fixture(scope='module')
def recorded(golden):
  arrays = golden('eval_postprocess')
  cases = {case['name']: case for case in json.loads(str(arrays['cases_json']))}
  return arrays, cases


CASES = (
  'pix_default pix_B pix_low_cls pix_area pix_semantic0 pix_rect pix_none pix_void pix_one '
  'pix_mixed_batch mask_default mask_coco mask_cityscapes mask_ade20k mask_overlap_lo '
  'mask_overlap_hi mask_weights mask_rect mask_aniso mask_none mask_void mask_one'
).split()


def space_of(case):
  # 8 classes: 0..7 with 255 as void, or 1..8 with 0 as void.
  ignore = case['void_label']
  return _space(9 if ignore == 0 else 8, ignore, case['label_divisor'], case['thing_class_ids'])


@pytest.mark.usefixtures('each_form')
@pytest.mark.parametrize('name', CASES)
def test_meets_recorded_maps(recorded, name):
  arrays, cases = recorded
  case = cases[name]
  logits = arrays[case['logits']]
  maps = build(case, space_of(case))(logits, arrays[case['classes']][: len(logits)])
  np.testing.assert_array_equal(maps.panoptic, arrays[f'{name}/panoptic'])
  np.testing.assert_array_equal(maps.instance, arrays[f'{name}/mask_id'])
  np.testing.assert_allclose(
    maps.instance_scores[:, ::4, ::4], arrays[f'{name}/instance_score'], atol=1e-5, rtol=0
  )
  np.testing.assert_allclose(
    maps.semantic_scores[:, ::4, ::4], arrays[f'{name}/semantic_score'], atol=1e-5, rtol=0
  )


def _softmax(logits):
  exponentials = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)


def _slot_scores(case, logits_hwn, class_logits_nk):
  """Returns the score of each slot, [N], in plain NumPy."""
  confidence = _softmax(class_logits_nk)[:, :-1].max(-1)
  if case['mode'] == 'pixelwise':
    return confidence
  probability = _softmax(logits_hwn)
  inside = probability > case['pixel_confidence_threshold']
  mask = (probability * inside).sum((0, 1)) / np.maximum(inside.sum((0, 1)), 1)
  fields = case['maskwise']
  return confidence ** fields['reorder_class_weight'] * mask ** fields['reorder_mask_weight']


@pytest.mark.parametrize(
  'name', ['pix_default', 'pix_area', 'mask_coco', 'mask_weights', 'mask_void', 'mask_none']
)
def test_segments_are_those_of_the_map_with_the_scores_of_their_masks(recorded, name):
  arrays, cases = recorded
  case = cases[name]
  space = space_of(case)
  logits = arrays[case['logits']]
  classes = arrays[case['classes']][: len(logits)]
  maps, segments = build(case, space).with_segments(logits, classes)
  for number in range(len(logits)):
    panoptic, masks = maps.panoptic[number].numpy(), maps.instance[number].numpy() - 1
    expected = _slot_scores(case, logits[number], classes[number])
    if case['mode'] == 'maskwise':  # The masks of the map are ranks.
      expected = expected[np.argsort(-expected, kind='stable')]
    found = set(np.unique(panoptic).tolist()) - {space.void_id}
    ids = segments.ids[number].numpy().tolist()
    assert set(ids[: len(found)]) == found
    assert ids[len(found) :] == [space.void_id] * (len(ids) - len(found))
    for panoptic_id, score in zip(ids, segments.scores[number].numpy(), strict=True):
      mean = expected[masks[panoptic == panoptic_id]].mean() if panoptic_id in found else 0
      assert score == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize(
  'name', ['pix_default', 'pix_area', 'mask_coco', 'mask_weights', 'mask_none']
)
def test_compiled_maps_are_the_same(recorded, name):
  """Under XLA, as a TPU needs it: all shapes are known."""
  arrays, cases = recorded
  case = cases[name]
  logits = arrays[case['logits']]
  arguments = tf.constant(logits), tf.constant(arrays[case['classes']][: len(logits)])
  built = build(case, space_of(case))
  maps, segments = tf.function(built.with_segments, jit_compile=True)(*arguments)
  for compiled, plain in zip(segments, built.with_segments(*arguments)[1], strict=True):
    np.testing.assert_allclose(compiled, plain, atol=1e-5, rtol=0)
  for compiled, plain in zip(maps[:3], built(*arguments)[:3], strict=True):
    np.testing.assert_array_equal(compiled, plain)
  np.testing.assert_array_equal(maps.panoptic, arrays[f'{name}/panoptic'])
  np.testing.assert_array_equal(maps.instance, arrays[f'{name}/mask_id'])
  for compiled, plain in zip(maps[3:], built(*arguments)[3:], strict=True):
    np.testing.assert_allclose(compiled, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize('name', ['pix_default', 'mask_default'])
def test_semantic_map_comes_from_the_pass_without_thresholds(recorded, name):
  arrays, cases = recorded
  maps = build(cases[name], space_of(cases[name]))(arrays['logits_L33'], arrays['class_graded'])
  np.testing.assert_array_equal(maps.semantic, arrays['pix_semantic0/semantic'])


@pytest.mark.parametrize(
  'dataset, space',
  [
    ('cityscapes_panoptic', _space(19, 255, 1000, range(11, 19))),
    ('coco_panoptic', _space(134, 0, 256, range(1, 81))),
    ('ade20k_panoptic', datasets.get('ade20k_panoptic').label_space),
  ],
)
def test_meets_recorded_layer(recorded, dataset, space):
  arrays, cases = recorded
  name = f'layer_{dataset}'
  maps = build(cases[name], space)(arrays['logits_L33'][:1], arrays[f'{name}/class_logits'])
  np.testing.assert_array_equal(maps.panoptic, arrays[f'{name}/panoptic_pred'])
  np.testing.assert_array_equal(maps.instance, arrays[f'{name}/instance_pred'])
  np.testing.assert_array_equal(maps.semantic, arrays[f'{name}/semantic_pred'])
  np.testing.assert_allclose(
    maps.instance_scores[:, ::4, ::4], arrays[f'{name}/instance_scores'], atol=1e-5, rtol=0
  )
  np.testing.assert_allclose(
    maps.semantic_scores[:, ::4, ::4], arrays[f'{name}/semantic_scores'], atol=1e-5, rtol=0
  )


def _paste_by_hand(logits_hwn, class_logits, space, pixel_confidence, options):
  """Pastes masks one after the other over a whole map, in numpy; logits at output size."""
  exp = np.exp(logits_hwn - logits_hwn.max(-1, keepdims=True))
  probability = exp / exp.sum(-1, keepdims=True)
  exp = np.exp(class_logits - class_logits.max(-1, keepdims=True))
  real = (exp / exp.sum(-1, keepdims=True))[:, :-1]
  channel, confidence = real.argmax(-1), real.max(-1)
  masks = probability > pixel_confidence
  inside = np.where(masks, probability, 0)
  mask_confidence = inside.sum((0, 1)) / np.maximum(masks.sum((0, 1)), 1)
  score = confidence**options.class_weight * mask_confidence**options.mask_weight
  canvas = np.zeros(masks.shape[:2], np.int32)
  panoptic = np.full_like(canvas, space.void_id)
  for rank, slot in enumerate(np.argsort(-score, kind='stable')):
    is_thing = channel[slot] < len(space.thing_ids)
    free = masks[..., slot] & (canvas == 0)
    if (
      confidence[slot] >= (options.thing_confidence if is_thing else options.stuff_confidence)
      and free.sum() > masks[..., slot].sum() * options.overlap
    ):
      canvas[free] = rank + 1
      panoptic[free] = space.class_order[channel[slot]] * space.label_divisor + (
        rank + 1 if is_thing else 0
      )
  return panoptic, np.maximum(canvas, 1)


@pytest.mark.usefixtures('each_form')
def test_many_overlapping_masks_are_pasted_as_by_hand():
  rng = np.random.default_rng(1)
  space = _space(9, 0, 256, (1, 2, 3, 4))
  options = postprocess.MaskwiseOptions(0.3, 0.3, 0.2, 1.0, 1.0)
  coarse = rng.normal(0, 2, (8, 8, 70)).repeat(4, 0).repeat(4, 1)
  logits = (coarse + rng.normal(0, 0.3, (32, 32, 70))).astype(np.float32)
  classes = rng.normal(0, 1.5, (70, 9)).astype(np.float32)
  built = postprocess.MaskwisePostprocess(space, (32, 32), pixel_confidence=0.1, options=options)
  maps = built(logits[None], classes[None])
  panoptic, instance = _paste_by_hand(logits, classes, space, 0.1, options)
  assert instance.max() > 48, 'masks must fill more than two columns of bits'
  np.testing.assert_array_equal(maps.panoptic[0], panoptic)
  np.testing.assert_array_equal(maps.instance[0], instance)


@pytest.mark.parametrize('name', ['pix_area', 'mask_coco'])
def test_images_of_a_batch_are_independent_and_batches_of_any_size(recorded, name):
  arrays, cases = recorded
  built = build(cases[name], space_of(cases[name]))
  logits, classes = arrays['logits_L33'], arrays['class_graded']
  function = tf.function(
    built, input_signature=[tf.TensorSpec([None, 33, 33, 16]), tf.TensorSpec([None, 16, 9])]
  )
  both = function(logits, classes)
  assert both.panoptic.shape == (2, 129, 129)
  swapped = function(logits[[1, 1, 0]], classes[[1, 1, 0]])
  for one, other in zip(both, swapped, strict=True):
    np.testing.assert_array_equal(one.numpy()[[1, 1, 0]], other)
  assert function.get_concrete_function().output_shapes.panoptic.as_list() == [None, 129, 129]


def test_no_confident_pixel_passes_a_threshold_of_one():
  """With a threshold that no probability exceeds, nothing is pasted, and all is void."""
  space = _space(3, 255, 10, (2,))
  built = postprocess.MaskwisePostprocess(
    space, (5, 5), pixel_confidence=1.0, options=postprocess.MaskwiseOptions()
  )
  classes = np.array([[[9, 0, 0, 0], [0, 9, 0, 0]]], np.float32)
  maps = built(np.zeros((1, 5, 5, 2), np.float32), classes)
  assert np.unique(maps.panoptic) == [2550]
  assert np.unique(maps.instance) == [1]
  np.testing.assert_allclose(maps.instance_scores, 0.5)
  assert np.unique(maps.semantic_scores) == [0]


def test_wrong_shapes_are_refused():
  built = postprocess.PixelwisePostprocess(
    _space(3, 255, 10, (2,)), (5, 5), pixel_confidence=0.4, class_confidence=0.7
  )
  with pytest.raises(ValueError, match='have 5 channels; the label space needs 3 classes'):
    built(np.zeros((1, 5, 5, 2), np.float32), np.zeros((1, 2, 5), np.float32))
  with pytest.raises(ValueError, match='12 masks need a label divisor above 12, not 10'):
    built(np.zeros((1, 5, 5, 12), np.float32), np.zeros((1, 12, 4), np.float32))
