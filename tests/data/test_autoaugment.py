"""AutoAugment: every operation against DeepLab2's goldens, the draw by its distribution."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab2.data import autoaugment
from tests import conftest
from tests.goldens import fill

_OPERATIONS = {
  'Sharpness': autoaugment.sharpness,
  'Brightness': autoaugment.brightness,
  'Equalize': autoaugment.equalize,
  'Contrast': autoaugment.contrast,
  'Color': autoaugment.color,
  'Solarize': autoaugment.solarize,
}
_POLICIES = {
  'scale1': 'simple_classification_policy',
  'scale02': 'simple_classification_policy_magnitude_scale_0.2',
}
_KEYS = [
  key
  for key in np.load(conftest.GOLDENS / 'data_autoaugment.npz')
  if key.startswith(('scale', 'extra', 'const_E'))
  # No policy has these.
  and not any(name in key for name in ('AutoContrast', 'Invert', 'Posterize'))
]


@pytest.mark.parametrize('key', _KEYS)
def test_golden(golden, key):
  golden = golden('data_autoaugment')
  kind, *rest = key.split('_')
  image = golden['const_image' if kind == 'const' else 'image']
  if kind in _POLICIES:
    place, name = rest
    step = autoaugment.POLICIES[_POLICIES[kind]][int(place[1])][int(place[2])]
    assert step.operation is _OPERATIONS[name]
    level = step.level
  else:
    name, level = rest[0], float(rest[1]) if kind == 'extra' else 5.0
  result = _OPERATIONS[name](tf.constant(image), level).numpy()
  assert result.dtype == np.uint8
  np.testing.assert_array_equal(result, golden[key])


def test_contrast_and_equalize_of_a_large_image(golden):
  golden = golden('data_autoaugment')
  image = tf.constant(fill.image(300, 300, int(golden['big_image_seed']))[0], tf.uint8)
  np.testing.assert_array_equal(
    autoaugment.contrast(image, 10)[:24, :32], golden['big_Contrast_10']
  )
  np.testing.assert_array_equal(
    autoaugment.equalize(image, 9)[100:132, 100:140], golden['big_Equalize']
  )


@pytest.mark.parametrize('size', [(1, 1), (2, 5), (5, 1), (3, 3)])
@pytest.mark.parametrize('name', sorted(_OPERATIONS))
def test_tiny_images(name, size):
  image = tf.cast(fill.image(*size)[0], tf.uint8)
  change = tf.function(
    lambda x: _OPERATIONS[name](x, 5.0), input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)]
  )
  assert change(image).shape == image.shape


@pytest.mark.parametrize('name', sorted(autoaugment.POLICIES))
def test_the_draw(golden, name):
  policy = autoaugment.POLICIES[name]
  image = tf.constant(golden('data_autoaugment')['image'])
  apply = tf.function(lambda uniform: autoaugment.apply(image, policy, uniform))
  # Nothing happens while u + p < 1; what happens is the golden's step.
  for number, (first, second) in enumerate(policy):
    middle = (number + 0.5) / 5
    for step, uniform in (
      (first, [middle, 1.0 - 0.5 * first.probability, 0.0]),
      (second, [middle, 0.0, 1.0 - 0.5 * second.probability]),
    ):
      expected = step.operation(image, step.level) if step.probability else image
      np.testing.assert_array_equal(apply(tf.constant(uniform, tf.float32)), expected)
    np.testing.assert_array_equal(apply(tf.constant([middle, 0.0, 0.0])), image)
  # 0.576 of images stay as they are, by the table of probabilities.
  unchanged = np.mean(
    [(1 - first.probability) * (1 - second.probability) for first, second in policy]
  )
  assert unchanged == pytest.approx(0.576)
