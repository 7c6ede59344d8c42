"""Merging in NumPy against recorded maps of DeepLab2, and against merging in TensorFlow."""

import numpy as np
import pytest

from deeplab2.inference import merging
from tests.model import test_postprocess

recorded = test_postprocess.recorded


@pytest.mark.parametrize('name', test_postprocess.CASES)
def test_meets_recorded_maps_and_the_scores_of_tensorflow(recorded, name):
  arrays, cases = recorded
  case = cases[name]
  space = test_postprocess.space_of(case)
  rule = test_postprocess.build(case, space)
  logits = arrays[case['logits']]
  classes = arrays[case['classes']][: len(logits)]
  maps, segments = rule.with_segments(logits, classes)
  for number in range(len(logits)):
    merged = merging.merge(
      logits[number], classes[number], case['output_size'], space, rule.settings
    )
    np.testing.assert_array_equal(merged.panoptic, arrays[f'{name}/panoptic'][number])
    np.testing.assert_array_equal(merged.semantic, maps.semantic[number])
    ids, scores = segments.ids[number].numpy().tolist(), segments.scores[number].numpy().tolist()
    expected = {key: score for key, score in zip(ids, scores, strict=True) if key != space.void_id}
    assert merged.scores == pytest.approx(expected, abs=1e-5)
