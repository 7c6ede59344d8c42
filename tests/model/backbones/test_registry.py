"""Every backbone by name gives a pyramid of the right sizes; wrong names are refused."""
import pytest
import tensorflow as tf

from deeplab2 import errors
from deeplab2 import resampling
from deeplab2.model.backbones import registry
from tests.model import builders


@pytest.mark.parametrize('name', sorted(registry.BACKBONES))
@pytest.mark.parametrize('size', [(33, 65), (50, 70)])
def test_sizes(name, size):
  pyramid = registry.create(name, norm=builders.NORM)(tf.zeros([1, *size, 3]))
  for level in range(5):
    expected = resampling.feature_size(size, 2**(level + 1))
    assert tuple(pyramid[level].shape[1:3]) == expected
    assert tuple(pyramid[level + 5].shape[1:3]) == expected


def test_unknown_name():
  with pytest.raises(ValueError, match="'resnet51' is no backbone.*'mobilenet_v3_large'"):
    registry.create('resnet51', norm=builders.NORM)


def test_drop_path_where_there_is_none():
  with pytest.raises(errors.UserError, match='0.9'):
    registry.create('mobilenet_v3_small', norm=builders.NORM, drop_path_keep_prob=0.9)
