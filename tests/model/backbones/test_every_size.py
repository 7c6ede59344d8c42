"""Every size of every family of backbones."""

import pytest
import tensorflow as tf

from deeplab2.checkpoint import native
from deeplab2.model.backbones import registry
from tests import weights
from tests.model import builders
from tests.model.backbones import pyramids

# ConvNeXt: Liu et al. 2022, table 9, gives 28, 50, 89 and 198 million with the classifier.
_PARAMETERS = {
  'convnext_tiny': 27_818_592,
  'convnext_small': 49_453_152,
  'convnext_base': 87_564_416,
  'convnext_large': 196_227_264,
  'tiny_moat0_pretrain_256_1k': 3_127_404,
  'tiny_moat1_pretrain_256_1k': 4_838_215,
  'tiny_moat2_pretrain_256_1k': 9_374_589,
  'tiny_moat3_pretrain_256_1k': 18_966_030,
  'moat0_pretrain_224_1k': 27_164_932,
  'moat1_pretrain_224_1k': 40_975_240,
}


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', [name for name in sorted(set(registry.BACKBONES)) if '_no_pe_' not in name]
)
def test_sizes_of_a_family_are_stored_whole(name):
  with weights.without_memory():
    backbone = registry.create(name, norm=builders.NORM)
    pyramids.check_sizes(name, backbone(tf.zeros([1, 33, 47, 3])), 1, (33, 47))
  stored = native.variable_keys({'backbone': backbone}).values()
  assert {variable.ref() for variable in stored} == {v.ref() for v in backbone.variables}
  if name in _PARAMETERS:
    assert backbone.count_params() == _PARAMETERS[name]
